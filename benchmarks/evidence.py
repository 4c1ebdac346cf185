"""The tables of docs/evidence.md: `python -m benchmarks.evidence --recipe muted [--folder evidence]`

Each recipe of `prepare synthetic` (all by default) has two studies of the same methods, with other seeds:

    evidence-muted-selection      searches the hyperparameters of each method, and trains the chosen ones with new
                                  seeds. Decisions, such as which method to recommend, are made on its results.
    evidence-muted-confirmation   trains the same configurations with seeds on which nothing was decided

`joint_unimodal` is searched like the others, and its loss weight too. Both are ordinary studies in FOLDER/workspace,
whose files are in FOLDER: rerun the command to resume, and raise `--seeds` to extend them. `remix-study status`,
`report` and `export` read them. The tables are printed, and written to FOLDER as Markdown; `--tables` prints those of
what has been run, and `--plan` what the studies of each recipe cost. `--encoder resnet18` trains a ResNet-18 of
width 16 on two recipes, with two trials and five seeds of all methods but three. `--quick` shows in minutes that all
works; its numbers mean nothing.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from benchmarks.combinations import markdown
from benchmarks.evidence_tables import page
from remix_study.api import Study
from remix_study.config.yaml_source import dump
from remix_study.datasets.corpus import prepare_synthetic
from remix_study.datasets.synthetic import RECIPES, spec_of
from remix_study.errors import RemixStudyError
from remix_study.files.disk import write_atomically
from remix_study.study.ledger import Ledger, read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.tasks import Outcome, Task

Stage = Literal["selection", "confirmation"]
Encoder = Literal["tiny", "resnet18"]
SHARES = ("progress", "calibrated_progress", "held_out_progress", "by_score", "block_gain")
JUDGES = ("truth", "history")  # the upper bound, and the detector that came close to it
UMT_WEIGHT = {"kind": "float", "low": 1.0, "high": 50.0, "log": True}
FIRST_WEIGHTS = {"method.weight": 1.0, "method.with.umt.weight": 10.0}
LARGE_RECIPES = ("demo", "muted")
# Left out with ResNet-18, whose runs take four times as long.
NOT_LARGE = ("remix_random_at_mean_share", "share_calibrated_progress_abstain_history", "random_umt")


class Scale(NamedTuple):
    """Sizes of the corpus and of the studies of a recipe.

    Attributes:
        train, val, test, classes: of the corpus.
        epochs, warmup: of each run.
        trials: of each method, in the selection.
        seeds_per_trial: of the selection.
        seeds: replicates of each method, in each study.
    """

    train: int = 1000
    val: int = 500
    test: int = 2000
    classes: int = 8
    epochs: int = 14
    warmup: int = 3
    trials: int = 6
    seeds_per_trial: int = 2
    seeds: int = 10


FULL = Scale()
LARGE = Scale(trials=2, seeds_per_trial=1, seeds=5)
QUICK = Scale(48, 24, 24, 4, epochs=2, warmup=1, trials=1, seeds_per_trial=1, seeds=2)


def methods(recipe: str, warmup: int) -> dict[str, dict[str, Any]]:
    """The methods of the selection, as in a study file."""
    remix = {"name": "remix", "warmup": warmup, "warmup_weight": 1.0}
    random = {**remix, "filter": {"rule": "random"}}
    weight = {"kind": "float", "low": 0.25, "high": 4.0, "log": True}
    unimodal = {"set": {"method": {"name": "joint_unimodal"}}, "space": {"method.weight": weight}}
    found: dict[str, dict[str, Any]] = {
        "joint": {"set": {"method": {"name": "joint"}}},
        "joint_unimodal": unimodal,
        "remix": {"set": {"method": remix}},
        "remix_random_at_share": {"random_at_share_of": "remix"},
        "remix_random_at_mean_share": {"random_at_mean_share_of": "remix"},
        "random": {"set": {"method": random}, "control_of": "choosing samples by their scores"},
    }
    for kind in SHARES:
        found[f"share_{kind}"] = {"set": {"method": {**random, "share": {"kind": kind}}}}
    for judge in JUDGES:
        for name in ("joint_unimodal", "random"):
            method = {**found[name], "set": {**found[name]["set"], "targets": {"of": judge}}}
            method.pop("control_of", None)
            found[f"{name}_abstain_{judge}"] = method
    # What the earlier measurements favour, together: a controller with random samples, and the detector.
    both = {**found["share_calibrated_progress"]["set"], "targets": {"of": "history"}}
    found["share_calibrated_progress_abstain_history"] = {"set": both}
    # The only method that gained from Remix and to which Remix added, in the study of all methods. The teachers are the
    # ceilings, so that it costs nothing more than the unimodal networks of every study.
    space = {"method.with.umt.weight": dict(UMT_WEIGHT)}
    found["umt"] = {"set": {"method": {"name": "umt"}}, "space": {"method.weight": dict(UMT_WEIGHT)}}
    for name in ("random", "share_calibrated_progress"):
        method = {**found[name]["set"]["method"], "with": ["umt"]}
        found[f"{name}_umt"] = {"set": {"method": method}, "space": space}
    for m in spec_of(recipe).modalities:
        found[f"{m}_alone"] = {"set": {"method": {"name": "unimodal", "modality": m}}, "ceiling_of": m}
    return found


def selection(recipe: str, corpus: Path, scale: Scale = FULL, encoder: Encoder = "tiny") -> dict[str, Any]:
    """The content of the study file of the selection."""
    rates = [{"optimizer.learning_rate": rate, "loss.label_smoothing": 0.0} for rate in (1e-3, 3e-3)][: scale.trials]
    every = methods(recipe, scale.warmup)
    for name in NOT_LARGE if encoder == "resnet18" else ():
        del every[name]
    for method in every.values():
        if "set" in method:
            own = {key: FIRST_WEIGHTS[key] for key in method.get("space", {})}
            method["first"] = [{**rate, **own} for rate in rates]
    width = {"width": 16} if encoder == "resnet18" else {}
    return {
        "name": study_name(recipe, encoder, "selection"),
        "question": f"On the recipe {recipe}, which ways of training and of combining the heads win?",
        "base": {
            "corpus": str(corpus),
            # The logits of `concat` are a sum over the modalities, which cannot express an interaction.
            "model": {"encoder": {"name": encoder, **width}, "fusion": "gated" if recipe == "xor" else "concat"},
            "optimizer": {"name": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4},
            "rate": {"name": "step", "every": 0.67, "factor": 0.1},
            "epochs": scale.epochs,
            "global_batch": 64,
            "evaluation": {"select": "last"},
            "tracking": {"uri": "off"},
        },
        "space": {
            "optimizer.learning_rate": {"kind": "float", "low": 5e-4, "high": 1e-2, "log": True},
            "loss.label_smoothing": {"kind": "choice", "of": [0.0, 0.1]},
        },
        "methods": every,
        "unequal": [{"key": "targets", "reason": "whether heads abstain is one of the questions"}],
        "reference": "joint_unimodal",
        "objective": "last/val_accuracy",
        "trials": scale.trials,
        "seeds_per_trial": scale.seeds_per_trial,
        "replicates": scale.seeds,
        "seed": 0,
    }


def confirmation(
    selected: Mapping[str, Any], chosen: Mapping[str, Mapping[str, Any]], encoder: Encoder = "tiny"
) -> dict[str, Any]:
    """The content of the study file of the confirmation.

    Args:
        selected: the content of the selection.
        chosen: method -> its chosen hyperparameters, dotted key -> value.
    """
    recipe = str(selected["name"]).split("-")[1]
    return {
        **selected,
        "name": study_name(recipe, encoder, "confirmation"),
        "question": f"On the recipe {recipe}, do the same configurations win with seeds on which nothing was decided?",
        # Still a search, of one trial: what a search chose is no difference in settings.
        "methods": {
            name: {**method, "first": [chosen[name]]} if name in chosen else method
            for name, method in selected["methods"].items()
        },
        "trials": 1,
        "seeds_per_trial": 1,
        "seed": 1,
    }


def study_name(recipe: str, encoder: Encoder, stage: Stage) -> str:
    """The name of a study, such as `evidence-muted-selection`."""
    return f"evidence-{recipe}-{stage}" if encoder == "tiny" else f"evidence-{recipe}-{encoder}-{stage}"


class Place(NamedTuple):
    """The folder of all files: corpora, study files, the workspace and tables."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def corpus(self, recipe: str, scale: Scale) -> Path:
        """Render a recipe, and return the folder of its corpus."""
        corpus = self.folder / "corpora" / recipe
        spec = spec_of(recipe, train=scale.train, val=scale.val, test=scale.test, classes=scale.classes)
        prepare_synthetic(corpus, spec, preset="tiny")
        return corpus

    def write(self, content: Mapping[str, Any]) -> Study:
        """Write a study file, and open its study."""
        path = self.folder / f"{content['name']}.yaml"
        write_atomically(path, f"# Written by `python -m benchmarks.evidence`\n{dump(content)}")
        return Study(path, workspace=self.workspace)

    def ledgers(self, recipes: Iterable[str], encoder: Encoder) -> dict[str, dict[str, Ledger]]:
        """Recipe -> stage -> what the study has recorded, of those that were started."""
        found: dict[str, dict[str, Ledger]] = {}
        for recipe, stage in product(recipes, get_args(Stage)):
            folder = self.workspace / "studies" / study_name(recipe, encoder, stage)
            if (folder / "study.yaml").exists():
                found.setdefault(recipe, {})[stage] = read_ledger(folder)
        return found


def run(place: Place, recipe: str, scale: Scale, encoder: Encoder) -> None:
    """Run both studies of a recipe to their ends, or resume them.

    Raises:
        RemixStudyError: a study cannot run, or a method has no result.
    """
    selected = selection(recipe, place.corpus(recipe, scale).resolve(), scale, encoder)
    first = place.write(selected)
    first.run(watch=_progress(first.name))
    second = place.write(confirmation(selected, _chosen(first, selected), encoder))
    second.run(watch=_progress(second.name))


def _chosen(study: Study, selected: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The chosen hyperparameters of each method that has a search of its own."""
    found = {}
    for name in (name for name, method in selected["methods"].items() if "set" in method):
        best = study.best(name)
        content = best.run.model_dump(mode="json")
        found[name] = {key: _at(content, key) for key in sorted(best.params)}
    return found


def _at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[part]
    return content


def _progress(name: str) -> StudyListener:
    def done(task: Task, outcome: Outcome, ended: int, total: int) -> None:  # noqa: ARG001 - signature of StudyListener
        _show(f"{name}: {ended} of {total} runs")

    return StudyListener(done=done, say=_show)


def plans(place: Place, recipes: Iterable[str], scale: Scale, encoder: Encoder) -> str:
    """What the studies of each recipe cost, from a few epochs of each method; a table in Markdown.

    A run of the confirmation is taken to cost as much as one of the selection.
    """
    rows = [["recipe", "methods", "runs", "hours of this machine"]]
    for recipe in recipes:
        content = selection(recipe, place.corpus(recipe, scale).resolve(), scale, encoder)
        _show(f"timing {recipe}")
        plan = place.write(content).plan()
        runs = _runs(content)
        every = runs + _runs(confirmation(content, {}, encoder))
        hours = "" if plan.seconds is None else f"{plan.seconds / 3600 * every / max(1, plan.runs_left):.1f}"
        rows.append([recipe, str(len(content["methods"])), str(every), hours])
    return markdown(rows)


def _runs(content: Mapping[str, Any]) -> int:
    searched = sum("set" in method for method in content["methods"].values())
    trials = content["trials"] * content["seeds_per_trial"]
    return int(searched * trials + len(content["methods"]) * content["replicates"])


def _show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the studies and print their tables. Returns 1 if a study cannot run or lacks a result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="repeatable; default: all")
    parser.add_argument("--folder", type=Path, default=Path("evidence"), help="default: evidence")
    parser.add_argument("--encoder", choices=("tiny", "resnet18"), default="tiny")
    parser.add_argument("--seeds", type=int, help="of each method in each study; default: 10, or 5 with resnet18")
    parser.add_argument("--trials", type=int, help="of each method in the selection; default: 6, or 2 with resnet18")
    parser.add_argument("--plan", action="store_true", help="estimate the cost, and run nothing")
    parser.add_argument("--tables", action="store_true", help="print the tables of what has been run, and run nothing")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works")
    given = parser.parse_args(arguments)
    place = Place(given.folder / "quick" if given.quick else given.folder)
    scale = QUICK if given.quick else FULL if given.encoder == "tiny" else LARGE
    changes = {key: getattr(given, key) for key in ("seeds", "trials") if getattr(given, key) is not None}
    if any(value < 1 for value in changes.values()):
        parser.error("--seeds and --trials must be at least 1.")
    scale = scale._replace(**changes)
    recipes = given.recipe or list(RECIPES if given.encoder == "tiny" else LARGE_RECIPES)
    try:
        if given.plan:
            print(plans(place, recipes, scale, given.encoder))
            return 0
        if not given.tables:
            for recipe in recipes:
                run(place, recipe, scale, given.encoder)
        text = page(place.ledgers(recipes, given.encoder))
        if not text:
            _show(f"error: {place.workspace} has no results of {', '.join(recipes)}. Run them first.")
            return 1
        write_atomically(place.folder / f"tables-{given.encoder}.md", text)
        print(text, end="")
    except RemixStudyError as error:
        _show(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
