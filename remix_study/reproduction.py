"""Repeat a published protocol: its lists, the released recipe, and published values beside the result

The study is search_spaces/cremad_ogm.yaml with the methods that were asked for. The released code uses one recipe for
all corpora.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from remix_study.config.balancing import Additions
from remix_study.config.load import load_study, put
from remix_study.config.problems import closest_match
from remix_study.config.study import MethodSpace, StudyConfig
from remix_study.config.yaml_source import load
from remix_study.datasets.corpus import Found, prepare
from remix_study.datasets.protocols import PROTOCOLS, require_published
from remix_study.demo import shipped
from remix_study.errors import ConfigError
from remix_study.files.disk import write_atomically
from remix_study.media.presets import preset_named
from remix_study.report.page import write_report
from remix_study.report.published import FILE, Reproduction
from remix_study.study.comparison import StudyResult
from remix_study.study.listener import StudyListener
from remix_study.study.search_space import configure
from remix_study.study.study import StudyRun
from remix_study.study.study_file import check_study

_ALWAYS = ("joint", "joint_unimodal", "remix")
_CEILINGS = ("audio_alone", "video_alone")


def reproduction_study(
    protocol: str, methods: Sequence[str], seeds: int, *, ceilings: bool, changes: Sequence[str] = ()
) -> StudyConfig:
    """The study that repeats a protocol.

    Args:
        protocol: a key of `PROTOCOLS`.
        methods: names of added methods; each is run alone and, if it can be, with Remix.
        seeds: replicates of each method.
        ceilings: also train each modality alone.
        changes: `key=value` each, applied to the released recipe. A key of `method` changes the methods that set it.

    Raises:
        ConfigError: an unknown method, a change that is not valid, or a recipe that is not valid with the changes.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"The protocol must be one of {', '.join(PROTOCOLS)}, but is {protocol}.")
    recipe = load_study(shipped("cremad_ogm.yaml"))
    base: dict[str, Any] = {**recipe.base, "tracking": {"experiment": f"remix-reproduce-{protocol}"}}
    in_base: dict[str, Any] = {}
    in_methods: dict[str, Any] = {}
    for change in changes:
        key, found, value = change.partition("=")
        if not found:
            raise ConfigError(f"Cannot apply `--set {change}`: it has no `=`. For example: --set epochs=30")
        of_methods = key.strip().startswith("method.")
        (in_methods if of_methods else in_base)[key.strip()] = load(value)
    for key, value in in_base.items():
        put(base, key, value)
    chosen = {name: recipe.methods[name] for name in (*_ALWAYS, *(_CEILINGS if ceilings else ()))}
    remix = recipe.methods["remix"].set["method"]
    for name in methods:
        if name not in Additions.model_fields:
            near = closest_match(name, Additions.model_fields)
            helps = f" Did you mean {near}?" if near else " `remix-study methods` lists them."
            raise ConfigError(f"`--methods` must name added methods, but {name} is none.{helps}")
        chosen[name] = MethodSpace(set={"method": {"name": name}})
        combined = MethodSpace(set={"method": {**remix, "with": [name]}})
        if _valid(recipe, f"remix_{name}", combined):
            chosen[f"remix_{name}"] = combined
    for key, value in in_methods.items():
        setting = [method.set for method in chosen.values() if key.split(".")[1] in method.set["method"]]
        if not setting:
            raise ConfigError(f"Cannot apply `--set {key}`: no method of this recipe sets it.")
        for settings in setting:
            put(settings, key, value)
    content = recipe.model_dump() | {
        "name": f"reproduce_{protocol}",
        "question": f"On {PROTOCOLS[protocol].corpus}, does the released recipe of Data Remixing beat joint training?",
        "base": base,
        "methods": {name: method.model_dump() for name, method in chosen.items()},
        "unequal": [],
        "replicates": seeds,
    }
    study = StudyConfig.model_validate(content)
    check_study(study, {"corpus": "corpus"})  # before clips are decoded
    return study


def _valid(recipe: StudyConfig, name: str, method: MethodSpace) -> bool:
    """Whether the configuration of a method is valid; not every method can be added to Remix."""
    try:
        configure(recipe.model_copy(update={"methods": {name: method}}), name, {}, 0, {"corpus": "corpus"})
    except ConfigError:
        return False
    return True


def run_reproduction(
    study: StudyConfig,
    protocol: str,
    found: Found,
    corpus: Any,
    workspace: Path,
    watch: StudyListener,
    on_decode: Callable[[int, int], None],
    changed: Sequence[str],
) -> tuple[StudyResult | None, Path]:
    """Prepare the corpus and run the study in `workspace`; return the result and the study's folder."""
    out = workspace.resolve() / f"corpus-{protocol}"
    prepare(corpus, out, found=found, progress=on_decode)
    run = StudyRun(study, {"corpus": str(out)}, workspace, watch)
    run.folder.mkdir(parents=True, exist_ok=True)
    of = Reproduction(protocol, PROTOCOLS[protocol].corpus, len(found.listed), len(found.absent), tuple(changed))
    write_atomically(run.folder / FILE, of.to_json())
    return run.run(write_report), run.folder


def find_published(protocol: str, root: str, lists: Path | None, preset: str | None) -> tuple[Any, Found]:
    """The corpus of a protocol and its clips, whose lists are the published ones.

    Raises:
        ManifestError: the root has another layout, or the lists are other ones.
    """
    of = PROTOCOLS[protocol]
    corpus = of.make(root, lists, preset_named(preset or of.preset))
    found = corpus.find()
    require_published(of, found)
    return corpus, found
