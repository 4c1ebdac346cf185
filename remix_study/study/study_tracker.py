"""The study's own MLflow run: the parent of all its runs, the question, the answer, and the report

Everything is told by file, like the runs' own tracking, and sent by the driver's syncer: a server that is down while
the study works, or when it ends, loses nothing and holds up nothing.
"""

import json
import logging
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import dump
from remix_study.credentials import redact
from remix_study.files.disk import write_atomically
from remix_study.launch.folder import RunFolder
from remix_study.media.store import ClipStore
from remix_study.patience import PATIENCE
from remix_study.study.ledger import REPLICATE, SEARCH, Ledger, chosen_replicates
from remix_study.study.results import StudyResult
from remix_study.tracking.address import explain
from remix_study.tracking.client import GONE, close_stale
from remix_study.tracking.mlflow import send
from remix_study.tracking.review import MODALITIES, NOTE, SEARCHED, STAGE
from remix_study.tracking.spool import Spool, SpoolTracker, end_unfinished_run, run_id_of
from remix_study.tracking.syncer import Syncer
from remix_study.tracking.tracker import RunInfo, finishing
from remix_study.version import __version__

_PROGRESS_EVERY_S = PATIENCE.study_progress_s
_PATIENCE_S = PATIENCE.tracking_close_s
_log = logging.getLogger(__name__)


@dataclass
class StudyTracker:
    """Writes nothing where the study is not tracked."""

    folder: Path
    experiment: str = ""
    tracker: SpoolTracker | None = None
    syncer: Syncer | None = None
    _step: int = 0
    _told: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, float] = field(default_factory=dict)
    _next_s: float = 0.0

    @property
    def run_id(self) -> str | None:
        """None also while no server has heard of the study; its runs find their parent all the same."""
        return None if self.tracker is None else self.tracker.run_id

    def watch(self, run_folder: Path) -> None:
        """A run of the study begins: what it writes is sent from now on."""
        if self.syncer is not None:
            self.syncer.watch(run_folder)

    def send_soon(self) -> None:
        """A run has ended: send it soon."""
        if self.syncer is not None:
            self.syncer.wake()

    def mark_failed(self, run_folder: Path, reason: str, cause: str) -> None:
        """A run whose process died without a word has failed; one that told its end itself keeps that."""
        if self.tracker is not None and end_unfinished_run(run_folder, reason, cause):
            self.watch(run_folder)

    def mark_superseded(self, run_folder: Path) -> None:
        """A replicate of a point that is no longer the chosen one: it must not be read as part of the comparison."""
        if self.tracker is not None and Spool(run_folder / "tracking").size:
            self._tag(run_folder, {STAGE: "superseded", "is_best": "false"})

    def log_progress(self, counts: Mapping[str, float]) -> None:
        """Metrics of the study, at most every two seconds; the last ones are never lost."""
        if self.tracker is None:
            return
        self._waiting = dict(counts)
        if time.monotonic() >= self._next_s:
            self._tell_progress()
            self._next_s = time.monotonic() + _PROGRESS_EVERY_S

    def conclude(self, result: StudyResult | None, files: Sequence[Path], ledger: Ledger) -> None:
        """The answer and the report on the parent; the best trials and the chosen replicates marked as such.

        Args:
            result: None where no method has a result yet.
            files: the report's; they keep their place below `report/`.
        """
        if self.tracker is None:
            return
        self._tell_progress()
        for path in files:
            self.tracker.log_file(path, _name(path, self.folder / "report"))
        study = ledger.study
        answer = result.sentence if result is not None else "No method has a result yet."
        report = "The report is among the artifacts of the study's own run: `report/report.html`." if files else ""
        note = f"{study.question} {answer}\n\n{report}".strip()  # one line: what MLflow shows of it unopened
        self.tracker.set_tags({NOTE: note, **_best_points(ledger)})
        self.tracker.log_metrics(_final(result, ledger), self._step)
        self._step += 1
        self._mark_best(ledger)
        if result is not None:
            self._tell_sufficiency(result, ledger)
        self._share_view()

    def _tell_progress(self) -> None:
        if self.tracker is not None and self._waiting and self._waiting != self._told:
            self.tracker.log_metrics(self._waiting, self._step)
            self._told, self._step = self._waiting, self._step + 1

    def _mark_best(self, ledger: Ledger) -> None:
        """On the chosen points' runs; an extended study may have chosen others before."""
        notes = self.folder / "tracking" / "best.json"
        before = set(json.loads(notes.read_text())) if notes.exists() else set()
        now: dict[str, str] = {}
        for method in ledger.study.methods:
            if (chosen := ledger.chosen(method)) is not None:
                now |= dict.fromkeys(chosen.folders, SEARCH)
                now |= {replicate.folder: REPLICATE for replicate in chosen_replicates(ledger, method)}
        for folder in sorted(before ^ now.keys()):
            if Spool(Path(folder) / "tracking").size:
                # The stage again: a replicate may have been superseded in the meantime, and be chosen once more.
                tags = {"is_best": "true", STAGE: now[folder]} if folder in now else {"is_best": "false"}
                self._tag(Path(folder), tags)
        write_atomically(notes, json.dumps(sorted(now)))

    def _tell_sufficiency(self, result: StudyResult, ledger: Ledger) -> None:
        """Known once the ceilings are; on every replicate, where a reviewer sorts by it."""
        for method in result.methods:
            for replicate in chosen_replicates(ledger, method.name):
                summary = method.seeds.get(replicate.number, {})
                found = {key: value for key, value in summary.items() if key.startswith("sufficiency/")}
                folder = Path(replicate.folder)
                if found and Spool(folder / "tracking").size:
                    SpoolTracker(folder, self.experiment).log_metrics(found, 0)
                    self.watch(folder)

    def _tag(self, run_folder: Path, tags: Mapping[str, str]) -> None:
        SpoolTracker(run_folder, self.experiment).set_tags(tags)
        self.watch(run_folder)

    def _share_view(self) -> None:
        Spool(self.folder / "tracking").append({"view": True})


@contextmanager
def recording(
    uri: str | None,
    experiment: str,
    study: StudyConfig,
    store: ClipStore,
    folder: Path,
    tags: Mapping[str, str] | None = None,
) -> Iterator[StudyTracker]:
    """The study's parent run, opened or found again, and ended as what it was; no child of it stays RUNNING.

    `folder` is the study's own: its runs lie in `runs/`, its tracking in `tracking/`. A server that is down is waited
    for while the study works, and told the rest at the study's next start.
    """
    if uri is None:
        yield StudyTracker(folder)
        return
    tracker = SpoolTracker(folder, experiment)
    tracker.start(_info(study, store, folder, tags or {}))
    tracker.set_tags(_extent(study))
    tracker.log_text(dump(study.model_dump(mode="json")), "study.yaml")
    try:
        send(uri, folder)
    except Exception as error:
        _log.warning("%s does not take the study now (%s); it is sent later", redact(uri), explain(uri, error))
    with Syncer(uri, parent=folder) as syncer:
        record = StudyTracker(folder, experiment, tracker, syncer, _step=_next_step(folder))
        record._share_view()
        _end_runs(folder)  # what a driver that was killed left open; runs that are taken up again open themselves
        syncer.watch_unsent(folder / "runs")
        try:
            with finishing(tracker):
                yield record
                record._tell_progress()
        finally:
            for ended in _end_runs(folder):
                syncer.watch(ended)
            left = syncer.close(_PATIENCE_S)
            if left:
                _log.warning(
                    "%s does not have all of %d runs of the study yet; what is missing is kept in %s, and sent at the "
                    "study's next start",
                    redact(uri),
                    left,
                    folder / "runs",
                )
            else:
                _end_orphans(uri, experiment, folder)


def _end_runs(folder: Path) -> list[Path]:
    """End the runs that nobody works on, on file."""
    return [
        run
        for run in sorted((folder / "runs").glob("*"))
        if (run / "tracking").exists() and not RunFolder(run).is_held() and end_unfinished_run(run, GONE)
    ]


def _end_orphans(uri: str, experiment: str, folder: Path) -> None:
    """Runs whose folder was removed are open on the server alone."""
    parent = run_id_of(folder)
    if parent is None:
        return
    held = {run_id_of(run) for run in (folder / "runs").glob("*") if RunFolder(run).is_held()}
    try:
        close_stale(uri, experiment, {"mlflow.parentRunId": parent}, keep={run for run in held if run is not None})
    except Exception as error:
        _log.warning("runs without a folder may stay open at %s (%s)", redact(uri), explain(uri, error))


def _info(study: StudyConfig, store: ClipStore, folder: Path, tags: Mapping[str, str]) -> RunInfo:
    commit = _commit()
    points = dict.fromkeys([*study.space, *(path for method in study.methods.values() for path in method.space)])
    params: dict[str, str | int] = {
        "question": study.question,
        "methods": ", ".join(study.methods),
        "reference": study.reference,
        "seeds_per_trial": study.seeds_per_trial,
        "sampler": study.sampler,
        "pruner": study.pruner.name,
        "objective": ", ".join(f"{each.direction} {each.metric}" for each in study.objective),
        "corpus": store.name,
        "corpus_digest": store.digest,
    }
    return RunInfo(
        name=study.name,
        tags={
            "remix_study.study": study.name,
            STAGE: "study",
            "remix_study.folder": str(folder),
            "remix_study.version": __version__,
            MODALITIES: ",".join(store.modalities),
            SEARCHED: ",".join(f"point.{path}" for path in points),
            NOTE: f"{study.question} The study is at work.",
            **({} if commit is None else {"mlflow.source.git.commit": commit}),
            **tags,
        },
        params=params,
        config_yaml="",  # the study's file is told as study.yaml
        dataset_name=store.name,
        dataset_digest=store.digest,
        dataset_source=str(store.path),
        dataset_profile=store.card,
    )


def _extent(study: StudyConfig) -> dict[str, str]:
    """What may be raised and still be the same study; as tags, since MLflow's parameters cannot change."""
    found = {
        "trials": study.trials,
        "replicates": study.replicates,
        "concurrency": study.concurrency,
        **{f"budget.{key}": value for key, value in study.budget.model_dump().items()},
    }
    return {key: str(value) for key, value in found.items() if value is not None}


def _commit() -> str | None:
    """Of the checkout that this program runs from; None for an installed one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _next_step(folder: Path) -> int:
    """After all steps that the study's run has: a metric has one value per step."""
    lines = (line for line, _ in Spool(folder / "tracking").read() if line is not None)
    return 1 + max((line["step"] for line in lines if "metrics" in line), default=-1)


def _best_points(ledger: Ledger) -> dict[str, str]:
    """As tags: MLflow's parameters cannot change, and an extended study may choose another point."""
    chosen = {method: ledger.chosen(method) for method in ledger.study.methods}
    return {
        f"best/{method}": ", ".join(f"{key} = {value}" for key, value in trial.params.items()) or "nothing searched"
        for method, trial in chosen.items()
        if trial is not None
    }


def _final(result: StudyResult | None, ledger: Ledger) -> dict[str, float]:
    found = {
        f"best/{method}": trial.values[0]
        for method in ledger.study.methods
        if (trial := ledger.chosen(method)) is not None
    }
    for method in result.methods if result is not None else ():
        spread = method.spread("test/accuracy")
        if spread is not None:
            found |= {
                f"test_accuracy_mean/{method.name}": spread.mean,
                f"test_accuracy_std/{method.name}": spread.std,
            }
    return found


def _name(path: Path, report: Path) -> str:
    path = path.resolve()
    inside = path.relative_to(report.resolve()) if path.is_relative_to(report.resolve()) else Path(path.name)
    return str(Path("report") / inside)
