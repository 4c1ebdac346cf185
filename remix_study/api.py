"""Studies from Python: what the commands do, as methods with typed results

    from remix_study import Study

    study = Study("search_spaces/demo.yaml", corpus="corpus")
    result = study.run()
    study.trials().query("state == 'complete'").sort_values("values.best/val_accuracy")

Every method reads the study's own folder, so that a notebook may look at what another process runs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.files import DEFAULT_WORKSPACE
from remix_study.files.mirror import workspace_at
from remix_study.files.urls import corpus_at
from remix_study.study.status import Best, StudyStatus, ask_to_stop, best_run, existing, method_of, names, study_status
from remix_study.study.storage import study_folder

if TYPE_CHECKING:
    import pandas as pd

    from remix_study.study.ledger import Ledger
    from remix_study.study.listener import StudyListener
    from remix_study.study.plan import Plan
    from remix_study.study.results import StudyResult


class Study:
    """One study: a file that asks a question, in a workspace where the answer grows.

    Args:
        study: a YAML file (see search_spaces/), or a `StudyConfig` made in Python.
        corpus: another corpus than the file names: a folder, relative to where you are, or a URL.
        workspace: where the study's folder, its runs and MLflow's database lie: a folder or a URL.

    Raises:
        ConfigError: the file is not a study; all problems at once.
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
        """A study that has begun, as it was last run.

        Raises:
            StudyError: there is none of this name in the workspace.
        """
        return cls(load_study(existing(workspace_at(workspace), name) / "study.yaml"), workspace=workspace)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def corpus(self) -> str:
        """What its runs train on: a folder or a URL."""
        return self._settings["corpus"]

    @property
    def folder(self) -> Path:
        """Everything of the study lies here."""
        return study_folder(self.workspace.resolve(), self.name)

    def plan(self, *, timed: bool = True, progress: Callable[[int, int], None] | None = None) -> "Plan":
        """What `run` would do and cost; starts nothing."""
        from remix_study.study.plan import make_plan

        more = {} if progress is None else {"progress": progress}
        return make_plan(self.config, self._settings, self.workspace, timed=timed, **more)

    def run(self, *, retry_failed: bool = False, watch: "StudyListener | None" = None) -> "StudyResult | None":
        """Run the study to its end; again: go on, or extend it where `trials` or `replicates` have grown.

        None where no method has a result (all of its runs failed, or the budget ended first).

        Raises:
            ConfigError, StudyError, TrackingError: before anything starts, where possible.
            StudyStopped: somebody asked it to stop; `run` goes on.
        """
        from remix_study.report.page import write_report
        from remix_study.study.study import StudyRun

        run = StudyRun(self.config, self._settings, self.workspace, watch, retry_failed=retry_failed)
        return run.run(write_report)

    def retrain(self, seeds: int, method: str | None = None, *, watch: "StudyListener | None" = None) -> "pd.DataFrame":
        """The best point of `method` (default: the reference) with so many further seeds; one row per run.

        Raises:
            StudyError: no such method, or none of its trials is complete.
        """
        import pandas as pd

        from remix_study.report.page import write_report
        from remix_study.study.study import StudyRun

        name = method_of(self.config, method)
        summaries = StudyRun(self.config, self._settings, self.workspace, watch).retrain(name, seeds, write_report)
        return pd.DataFrame([{"number": number, **summary} for number, summary in sorted(summaries.items())])

    def status(self) -> StudyStatus:
        """How it stands now, whoever runs it."""
        return study_status(existing(self.workspace, self.name))

    def stop(self) -> str:
        """Ask the process that runs it to stop after the epochs under way; the process's id."""
        return ask_to_stop(existing(self.workspace, self.name))

    def result(self) -> "StudyResult | None":
        """The comparison of what is complete."""
        from remix_study.study.results import result_of

        return result_of(self.ledger())

    def best(self, method: str | None = None) -> Best:
        """The chosen point so far of `method` (default: the reference) as a run configuration."""
        return best_run(existing(self.workspace, self.name), method)

    def ledger(self, *, intermediate: bool = False) -> "Ledger":
        """All that is on record, as plain rows."""
        from remix_study.study.ledger import read_ledger

        return read_ledger(existing(self.workspace, self.name), intermediate=intermediate)

    def trials(self) -> "pd.DataFrame":
        """One row per trial, replicate and retrained run, with its point (`params.*`) and summary (`summary.*`)."""
        from remix_study.study.export import trial_rows, with_summaries

        return _frame(with_summaries(trial_rows(self.ledger())))

    def epochs(self) -> "pd.DataFrame":
        """One row per epoch of every run; columns as docs/metrics.md names them."""
        from remix_study.study.export import epoch_rows, trial_rows

        return _frame(list(epoch_rows(trial_rows(self.ledger()))))

    def report(self, out: Path | str | None = None) -> list[Path]:
        """Write the report; its files, the page first."""
        from remix_study.report.page import write_report

        return write_report(existing(self.workspace, self.name), None if out is None else Path(out))

    def export(self, out: Path | str | None = None) -> list[Path]:
        """`trials` and `epochs` as Parquet and CSV; the files written."""
        from remix_study.study.export import export

        folder = existing(self.workspace, self.name)
        return export(folder, folder / "export" if out is None else Path(out))


def studies(workspace: Path | str = DEFAULT_WORKSPACE) -> list[StudyStatus]:
    """How every study of a workspace stands."""
    place = workspace_at(workspace)
    return [study_status(existing(place, name)) for name in names(place)]


def _read(path: Path, settings: Mapping[str, Any]) -> StudyConfig:
    from remix_study.study.study_file import read_study

    return read_study(path, settings)


def _frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    from remix_study.study.export import columns

    return pd.DataFrame(columns(rows))
