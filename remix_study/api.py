"""Studies in Python: the commands of the CLI as methods with typed results

    from remix_study import Study

    study = Study("search_spaces/demo.yaml", corpus="corpus")
    result = study.run()
    study.trials().query("state == 'complete'").sort_values("values.best/val_accuracy")

Every method reads the study's folder, so that a notebook can show a study that another process runs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.files import DEFAULT_WORKSPACE
from remix_study.files.mirror import workspace_at
from remix_study.files.urls import corpus_at
from remix_study.study.status import (
    Best,
    StudyStatus,
    ask_to_stop,
    best_run,
    existing,
    method_of,
    study_names,
    study_status,
)
from remix_study.study.storage import study_folder

if TYPE_CHECKING:
    import pandas as pd

    from remix_study.study.comparison import StudyResult
    from remix_study.study.ledger import Ledger
    from remix_study.study.listener import StudyListener
    from remix_study.study.plan import Plan


class Study:
    """A study: its configuration and its workspace.

    Args:
        study: a YAML file (see search_spaces/), or a `StudyConfig`.
        corpus: overrides the corpus of the file: a folder, relative to the working directory, or a URL.
        workspace: a folder or URL that holds the study's folder, its runs and MLflow's database.

    Raises:
        ConfigError: the file is not a valid study. Lists all problems.
    """

    def __init__(
        self, study: StudyConfig | Path | str, *, corpus: Path | str | None = None,
        workspace: Path | str = DEFAULT_WORKSPACE,
    ) -> None:  # fmt: skip
        self.workspace = workspace_at(workspace)
        given = {} if corpus is None else {"corpus": corpus_at(corpus)}
        self.config = study if isinstance(study, StudyConfig) else _read(Path(study), given)
        place = str(self.config.base.get("corpus", ""))
        self._settings = given or {"corpus": corpus_at(place)}

    @classmethod
    def open(cls, name: str, workspace: Path | str = DEFAULT_WORKSPACE) -> "Study":
        """A study that was started before, with the configuration of its last run.

        Raises:
            StudyError: the workspace has no study of this name.
        """
        return cls(load_study(existing(workspace_at(workspace), name) / "study.yaml"), workspace=workspace)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config.name

    @property
    def corpus(self) -> str:
        """Folder or URL of the corpus that its runs train on."""
        return self._settings["corpus"]

    @property
    def folder(self) -> Path:
        """Folder with all files of the study."""
        return study_folder(self.workspace.resolve(), self.name)

    def plan(self, *, timed: bool = True, progress: Callable[[int, int], None] | None = None) -> "Plan":
        """What `run` would do and how long it would take. Starts no run of the study.

        Args:
            timed: train up to three epochs of each method in a temporary folder, to estimate the duration and the disk
                space.
            progress: called with the number of methods that are timed, and of all.

        Raises:
            ConfigError, StudyError: `run` would refuse to start.
        """
        from remix_study.study.plan import make_plan

        more = {} if progress is None else {"progress": progress}
        return make_plan(self.config, self._settings, self.workspace, timed=timed, **more)

    def run(self, *, retry_failed: bool = False, watch: "StudyListener | None" = None) -> "StudyResult":
        """Run the study to its end. Call it again to resume, or to extend a study with more `trials` or `replicates`.

        Args:
            retry_failed: run failed trials again, with the same hyperparameters.
            watch: callbacks that show the progress.

        Returns:
            The comparison of the methods.

        Raises:
            IncompleteStudyError: the study has ended, but a method has no result, because all its runs failed or the
                budget ended first. Its `result` compares the other methods.
            ConfigError, StudyError, TrackingError: the study cannot run; before any run starts, where possible.
            StudyStopped: the study was asked to stop.
        """
        from remix_study.report.page import write_report
        from remix_study.study.ledger import read_ledger
        from remix_study.study.results import require_every_method
        from remix_study.study.study import StudyRun

        run = StudyRun(self.config, self._settings, self.workspace, watch, retry_failed=retry_failed)
        return require_every_method(run.run(write_report), read_ledger(run.folder))

    def retrain(
        self, seeds: int, method: str | None = None, *, with_control: bool = False,
        watch: "StudyListener | None" = None,
    ) -> "pd.DataFrame":  # fmt: skip
        """Train the best configuration of a method with further seeds.

        Args:
            seeds: number of runs.
            method: name of the method; default: the reference.
            with_control: train on the whole training split, control clips included.
            watch: callbacks that show the progress.

        Returns:
            One row per run: its number and its summary (docs/metrics.md).

        Raises:
            StudyError: the study has no such method, or none of its trials is complete; or, `with_control`, the method
                reads the control clips while it trains, or the study has none.
            StudyStopped: the study was asked to stop.
        """
        import pandas as pd

        from remix_study.report.page import write_report
        from remix_study.study.study import StudyRun

        name = method_of(self.config, method)
        run = StudyRun(self.config, self._settings, self.workspace, watch)
        summaries = run.retrain(name, seeds, write_report, with_control=with_control)
        return pd.DataFrame([{"number": number, **summary} for number, summary in sorted(summaries.items())])

    def status(self) -> StudyStatus:
        """The current status of the study, whichever process runs it."""
        return study_status(existing(self.workspace, self.name))

    def stop(self) -> str:
        """Ask the process that runs the study to stop after its current epochs.

        Returns:
            The id of that process.

        Raises:
            StudyError: no process runs the study.
        """
        return ask_to_stop(existing(self.workspace, self.name))

    def result(self) -> "StudyResult | None":
        """The comparison of the methods, from all complete runs; None if no method has a result."""
        from remix_study.study.results import result_of
        from remix_study.study.shown import note_shown

        ledger = self.ledger()
        result = result_of(ledger)
        if result is not None:
            with suppress(OSError):  # a folder that may only be read
                note_shown(ledger.folder, ledger.study)
        return result

    def best(self, method: str | None = None) -> Best:
        """The best configuration so far of a method (default: the reference).

        Raises:
            StudyError: the study has no such method, or none of its trials is complete.
        """
        return best_run(existing(self.workspace, self.name), method)

    def ledger(self, *, intermediate: bool = False) -> "Ledger":
        """All recorded trials and replicates.

        Args:
            intermediate: also read the values after each epoch that trials reported to the pruner.
        """
        from remix_study.study.ledger import read_ledger

        return read_ledger(existing(self.workspace, self.name), intermediate=intermediate)

    def trials(self) -> "pd.DataFrame":
        """One row per trial, replicate and retrained run: hyperparameters (`params.*`) and summary (`summary.*`)."""
        from remix_study.study.export import trial_rows, with_summaries

        return _frame(with_summaries(trial_rows(self.ledger())))

    def epochs(self) -> "pd.DataFrame":
        """One row per epoch of every run, with the metrics of docs/metrics.md as columns."""
        from remix_study.study.export import epoch_rows, trial_rows

        return _frame(list(epoch_rows(trial_rows(self.ledger()))))

    def report(self, out: Path | str | None = None) -> list[Path]:
        """Write the report.

        Args:
            out: the folder to write to; default: `report/` in the study's folder.

        Returns:
            The files written, the page first.
        """
        from remix_study.report.page import write_report

        return write_report(existing(self.workspace, self.name), None if out is None else Path(out))

    def export(self, out: Path | str | None = None) -> list[Path]:
        """Write `trials` and `epochs` as Parquet and CSV.

        Args:
            out: the folder to write to; default: `export/` in the study's folder.

        Returns:
            The files written.
        """
        from remix_study.study.export import export

        folder = existing(self.workspace, self.name)
        return export(folder, folder / "export" if out is None else Path(out))


def studies(workspace: Path | str = DEFAULT_WORKSPACE) -> list[StudyStatus]:
    """The status of every study of a workspace.

    Raises:
        StudyError: there is no workspace.
    """
    place = workspace_at(workspace)
    return [study_status(existing(place, name)) for name in study_names(place)]


def _read(path: Path, settings: Mapping[str, Any]) -> StudyConfig:
    from remix_study.study.study_file import read_study

    return read_study(path, settings)


def _frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    from remix_study.study.export import columns

    return pd.DataFrame(columns(rows))
