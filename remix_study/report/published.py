"""Published accuracies beside those of a study that repeats a published protocol (`remix-study reproduce`)

The values are taken from tables of papers and of independent reproductions. They were measured with other frames, audio
front ends and learning rates, and choose the epoch on the test set, so they are an orientation and not a target.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from remix_study.errors import StudyError
from remix_study.report.blocks import Note, Section, section
from remix_study.report.table import Table
from remix_study.study.comparison import Method, StudyResult

FILE = "reproduction.json"


class Published(NamedTuple):
    """A published test accuracy in percent.

    Attributes:
        method: as in the configuration; `joint` is the baseline of its source.
        accuracy: with its spread, as its source writes it.
        source: who measured it, and how.
        kind: the method's own paper, or an independent measurement.
    """

    method: str
    accuracy: str
    source: str
    kind: Literal["paper", "independent"] = "independent"


_ASGML = "reproduction in the log of ASGML, 5 seeds, 3 frames"
_ONE_FRAME = "reproduction in the log of ASGML, 5 seeds, 1 frame"
_BB = "BalanceBenchmark (arXiv 2502.10816), 1 seed"
_PRETRAINED = "reproduction in the log of ASGML, 5 seeds, pretrained encoders, other lists (12,892 / 1,228)"
PUBLISHED: Mapping[str, tuple[Published, ...]] = {
    "cremad": (
        Published("remix", "+6.50 % over its base", "Data Remixing (arXiv 2506.11550), abstract", "paper"),
        Published("joint", "61.59 ± 0.80", _ASGML),
        Published("joint", "60.30 ± 0.70", _ONE_FRAME),
        Published("joint", "65.50", _BB),
        Published("ogm_ge", "69.14 ± 1.13", _ASGML),
        Published("ogm_ge", "62.47 ± 1.42", _ONE_FRAME),
        Published("ogm", "67.76", _BB),
        Published("inforeg", "67.72 ± 0.83", _ASGML),
        Published("miles", "61.05 ± 2.52", _ASGML),
        Published("opm", "68.75", _BB),
        Published("agm", "71.59", _BB),
        Published("pmr", "67.19", _BB),
        Published("mla", "72.30", _BB),
        Published("smv", "75.85", f"{_BB}, its modality-level variant"),
    ),
    "kinetics_sounds": (
        Published("remix", "+3.41 % over its base", "Data Remixing (arXiv 2506.11550), abstract", "paper"),
        Published("joint", "65.63", _BB),
        Published("joint", "79.05 ± 0.40", _PRETRAINED),
        Published("ogm", "67.04", _BB),
        Published("ogm_ge", "77.25 ± 0.79", _PRETRAINED),
        Published("opm", "66.89", _BB),
        Published("agm", "66.62", _BB),
        Published("pmr", "67.11", _BB),
        Published("mla", "69.05", _BB),
        Published("smv", "68.01", f"{_BB}, its modality-level variant"),
    ),
}
"""Protocol -> published values. BalanceBenchmark's MMPareto has errors (docs/methods/mmpareto.md) and is left out."""


class Reproduction(NamedTuple):
    """What a study repeats.

    Attributes:
        protocol: its key in `PUBLISHED`.
        corpus: name of the corpus in sentences.
        listed, missing: number of clips in the published lists, and of those without a file.
        changed: differences from the released recipe, such as `epochs: 2`.
    """

    protocol: str
    corpus: str
    listed: int
    missing: int
    changed: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(self._asdict(), indent=1) + "\n"


def reproduction_of(folder: Path) -> Reproduction | None:
    """What the study in `folder` repeats; None if it is a study of its own.

    Raises:
        StudyError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Reproduction(**content | {"changed": tuple(content["changed"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StudyError(f"Cannot read {path}: it is damaged. Rerun `remix-study reproduce`.") from error


def published_table(result: StudyResult, of: Reproduction) -> Table:
    """The test accuracies of the study and the published ones, in percent."""
    rows = []
    for method in result.others:
        ours = method.estimate("test/accuracy")
        if ours is None:
            continue
        half = f" ± {100 * (ours.high - ours.low) / 2:.1f}" if ours.high - ours.low < 1 else ""
        rows.append((method.name, f"{100 * ours.mean:.1f}{half}", "this study", f"{len(method.seeds)} seeds"))
        rows += [(method.name, p.accuracy, p.kind, p.source) for p in PUBLISHED[of.protocol] if p.method == method.name]
    return Table(
        "Test accuracy in % (± of this study: half of the 95 % interval)",
        ("method", "accuracy", "measured by", "how"),
        tuple(rows),
    )


def published_sentence(result: StudyResult, of: Reproduction) -> str:
    """Our difference between Remix and joint training beside the published one, and what limits the comparison."""
    joint = next((m for m in result.methods if m.name == "joint"), None)
    said = [_difference(joint, of)] if joint is not None and joint.ahead is not None and joint.ahead.seeds else []
    if of.missing:
        said.append(f"{of.missing} of {of.listed} listed clips have no file, which the published results include.")
    if of.changed:
        said.append(
            f"The released recipe was changed ({', '.join(of.changed)}), so this is a test and no reproduction."
        )
    said.append(
        "The published runs choose the epoch on the test set; here it is chosen on validation clips that are held out "
        "from training. Frames, audio front end and learning rate differ between sources."
    )
    return " ".join(said)


def _difference(joint: Method, of: Reproduction) -> str:
    assert joint.ahead is not None
    paper = next(p.accuracy for p in PUBLISHED[of.protocol] if p.method == "remix")
    return (
        f"Remix minus joint training: {joint.ahead.mean:+.1f} percentage points here. The paper reports {paper}; its "
        "abstract does not say whether in points."
    )


def published_section(result: StudyResult | None, folder: Path) -> Section | None:
    """The section of the report; None if the study repeats no protocol."""
    of = reproduction_of(folder)
    if of is None or result is None:
        return None
    return section(
        "published", "Published values", f"{of.corpus}: this study beside published values",
        [Note(published_sentence(result, of)), published_table(result, of)],
    )  # fmt: skip
