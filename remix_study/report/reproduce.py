"""The section on reproduction: commands, versions, and the study file"""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from remix_study.files.command_line import own_command
from remix_study.report.blocks import Code, Note, Section, section
from remix_study.study.ledger import Ledger
from remix_study.study.question import CONFIG, corpus_digest
from remix_study.study.storage import workspace_of

_PACKAGES = ("remix-study", "torch", "ray", "optuna", "mlflow", "numpy")


def reproduce(ledger: Ledger) -> Section:
    name, workspace = ledger.study.name, workspace_of(ledger.folder.resolve())
    more = str(ledger.study.replicates)
    commands = [
        (
            own_command("run", ledger.folder / CONFIG, workspace=workspace),
            "run the study file below; add --corpus FOLDER if the corpus is elsewhere",
        ),
        (own_command("report", name, workspace=workspace), "write this report"),
        (
            own_command("best", name, workspace=workspace),
            "print the chosen configuration as a run, and the command that trains it",
        ),
        (
            own_command("retrain", name, "--seeds", more, workspace=workspace),
            "train the chosen configuration with more seeds",
        ),
    ]
    commit = git_commit()
    if commit is not None:
        commands.insert(0, (f"git checkout {commit.removesuffix('-dirty')}", "check out the code"))
    wide = max(len(command) for command, _ in commands)
    digest = corpus_digest(ledger.folder)
    facts = [f"{package} {found}" for package in _PACKAGES if (found := _version(package)) is not None]
    facts += [
        f"Python {platform.python_version()}",
        f"corpus digest {digest}" if digest else "corpus digest not recorded",
    ]
    if commit is not None and commit.endswith("-dirty"):
        facts.append("the checkout had uncommitted changes")
    written = (ledger.folder / CONFIG).read_text(encoding="utf-8")
    return section(
        "reproduce", "Reproduce", "Reproducing these numbers",
        [
            Code("Commands", "\n".join(f"{command:{wide}}  # {what}" for command, what in commands)),
            Note(f"Versions on the machine that wrote this report: {', '.join(facts)}."),
            Note(
                "On a CPU, equal commit, corpus and study file give the same numbers. The sampler's suggestions depend "
                "on the study's seed and on recorded trials; with parallel runs, also on the order in which runs end."
            ),
            Code(CONFIG, written, folded=True),
        ],
    )  # fmt: skip


def git_commit() -> str | None:
    """The commit of this package's checkout, with `-dirty` if it has changes; None if it is an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=root, capture_output=True,
            text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # git is not installed, or may not read this checkout
        return None
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
