"""The section on reproduction: commands, versions, and the study file"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from remix_study.report.blocks import Code, Note, Section, section
from remix_study.study.ledger import Ledger
from remix_study.study.question import CONFIG, corpus_digest

_PACKAGES = ("remix-study", "torch", "ray", "optuna", "mlflow", "numpy")


def reproduce(ledger: Ledger) -> Section:
    name = ledger.study.name
    commands = [
        (f"remix-study run {CONFIG}", "the file below; with --corpus FOLDER where the corpus lies elsewhere"),
        (f"remix-study report {name}", "this page"),
        (f"remix-study best {name}", "the chosen point as a run, and the command that trains it"),
        (f"remix-study retrain {name} --seeds {ledger.study.replicates}", "the chosen point with further seeds"),
    ]
    commit = git_commit()
    if commit is not None:
        commands.insert(0, (f"git checkout {commit.removesuffix('-dirty')}", "the code"))
    wide = max(len(command) for command, _ in commands)
    digest = corpus_digest(ledger.folder)
    facts = [f"{package} {found}" for package in _PACKAGES if (found := _version(package)) is not None]
    facts += [
        f"Python {platform.python_version()}",
        f"corpus digest {digest}" if digest else "corpus digest not recorded",
    ]
    if commit is not None and commit.endswith("-dirty"):
        facts.append("the checkout had changes that were not committed")
    written = (ledger.folder / CONFIG).read_text(encoding="utf-8")
    return section(
        "reproduce", "Reproduce", "How to get these numbers again",
        [
            Code("Commands", "\n".join(f"{command:{wide}}  # {what}" for command, what in commands)),
            Note(f"Versions where this page was written: {', '.join(facts)}."),
            Note(
                "On a CPU the same commit, corpus and file give the same numbers; what the sampler suggests depends on "
                "the study's seed and the trials on record, and with several runs at once on the order of their ends."
            ),
            Code(CONFIG, written, folded=True),
        ],
    )  # fmt: skip


def git_commit() -> str | None:
    """Of the checkout that this package runs from, `-dirty` where it has changes; None where it is installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=root, capture_output=True,
            text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no git here, or none that may read this checkout
        return None
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
