"""The study's own MLflow run: the parent of all its runs, with the question, the result and the report

All data is written to files first, like that of the runs, and the driver's syncer sends it. An MLflow server that is
down neither loses data nor delays the study.
"""

import json
import logging
import math
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from remix_study.config.study import StudyConfig
from remix_study.config.yaml_source import dump
from remix_study.credentials import redact
from remix_study.figures.quantities import quantities
from remix_study.files.disk import write_atomically
from remix_study.launch.folder import RunFolder
from remix_study.media.store import ClipStore
from remix_study.mlflow_private import TAG_LENGTH
from remix_study.patience import PATIENCE
from remix_study.statistics import Estimate
from remix_study.study.comparison import StudyResult
from remix_study.study.ledger import REPLICATE, SEARCH, Ledger, chosen_replicates
from remix_study.study.outcomes import Paired
from remix_study.tracking.address import explain
from remix_study.tracking.client import GONE, close_stale
from remix_study.tracking.mlflow import send
from remix_study.tracking.review import MODALITIES, NOTE, QUANTITIES, SEARCHED, STAGE
from remix_study.tracking.spool import Spool, SpoolTracker, end_unfinished_run, run_id_of
from remix_study.tracking.syncer import Syncer
from remix_study.tracking.tracker import RunInfo, finishing
from remix_study.version import __version__

_log = logging.getLogger(__name__)


@dataclass
class StudyTracker:
    """The MLflow run of a study; its methods do nothing if the study is not tracked."""

    folder: Path
    experiment: str = ""
    tracker: SpoolTracker | None = None
    syncer: Syncer | None = None
    _step: int = 0
    _logged: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, float] = field(default_factory=dict)
    _next_s: float = 0.0

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; None before a server has created it. Runs of the study are linked to it later."""
        return None if self.tracker is None else self.tracker.run_id

    def watch(self, run_folder: Path) -> None:
        """Send what a run of the study writes, from now on."""
        if self.syncer is not None:
            self.syncer.watch(run_folder)

    def send_soon(self) -> None:
        """Send soon, because a run has ended."""
        if self.syncer is not None:
            self.syncer.wake()

    def mark_failed(self, run_folder: Path, reason: str, cause: str) -> None:
        """Record a run as failed, unless it has recorded its end itself."""
        if self.tracker is not None and end_unfinished_run(run_folder, reason, cause):
            self.watch(run_folder)

    def mark_superseded(self, run_folder: Path) -> None:
        """Mark a replicate of hyperparameters that are no longer the chosen ones, so that it is not compared."""
        if self.tracker is not None and Spool(run_folder / "tracking").size:
            self._tag(run_folder, {STAGE: "superseded", "is_best": "false"})

    def mark_current(self, run_folder: Path, stage: str) -> None:
        """Mark a replicate that was superseded, if it is one of the chosen hyperparameters again."""
        if self.tracker is not None and _stage_tag(run_folder) == "superseded":
            self._tag(run_folder, {STAGE: stage})

    def log_progress(self, counts: Mapping[str, float]) -> None:
        """Log metrics of the study, at most every two seconds; the last values are always logged."""
        if self.tracker is None:
            return
        self._waiting = dict(counts)
        if time.monotonic() >= self._next_s:
            self._log_waiting()
            self._next_s = time.monotonic() + PATIENCE.study_progress_s

    def conclude(self, result: StudyResult | None, files: Sequence[Path], ledger: Ledger) -> None:
        """Log the result and the report, and mark the best trials and their replicates.

        Args:
            result: None if no method has a result yet.
            files: of the report; logged below `report/`.
        """
        if self.tracker is None:
            return
        self._log_waiting()
        for path in files:
            self.tracker.log_file(path, _name(path, self.folder / "report"))
        study = ledger.study
        answer = result.sentence if result is not None else "No method has a result yet."
        report = "The report is among the artifacts of the study's own run: `report/report.html`." if files else ""
        note = f"{study.question} {answer}\n\n{report}".strip()  # one paragraph, which MLflow shows in its list of runs
        self.tracker.set_tags({NOTE: note, QUANTITIES: _quantities(ledger), **_best_params(ledger)})
        self.tracker.log_metrics(_final(result, ledger), self._step)
        self._step += 1
        self._mark_best(ledger)
        if result is not None:
            self._log_sufficiency(result, ledger)
        self._share_view()

    def _log_waiting(self) -> None:
        if self.tracker is not None and self._waiting and self._waiting != self._logged:
            self.tracker.log_metrics(self._waiting, self._step)
            self._logged, self._step = self._waiting, self._step + 1

    def _mark_best(self, ledger: Ledger) -> None:
        """Mark the runs of the chosen hyperparameters, and unmark those that an extended study had chosen before."""
        notes = self.folder / "tracking" / "best.json"
        before = set(json.loads(notes.read_text())) if notes.exists() else set()
        now: dict[str, str] = {}
        for method in ledger.study.methods:
            if (chosen := ledger.chosen(method)) is not None:
                now |= dict.fromkeys(chosen.folders, SEARCH)
                now |= {replicate.folder: REPLICATE for replicate in chosen_replicates(ledger, method)}
        for folder in sorted(before ^ now.keys()):
            if Spool(Path(folder) / "tracking").size:
                # Set the stage again, because a superseded replicate may be chosen once more.
                tags = {"is_best": "true", STAGE: now[folder]} if folder in now else {"is_best": "false"}
                self._tag(Path(folder), tags)
        write_atomically(notes, json.dumps(sorted(now)))

    def _log_sufficiency(self, result: StudyResult, ledger: Ledger) -> None:
        """Log the sufficiency, which needs the unimodal ceilings, with every replicate.

        An extended study may have other ceilings. MLflow shows the value of the last step.
        """
        for method in result.methods:
            for replicate in chosen_replicates(ledger, method.name):
                summary = method.seeds.get(replicate.number, {})
                found = {key: value for key, value in summary.items() if key.startswith("sufficiency/")}
                folder = Path(replicate.folder)
                if found and Spool(folder / "tracking").size:
                    logged, step = _last_logged(folder, "sufficiency/")
                    if found != logged:
                        SpoolTracker(folder, self.experiment).log_metrics(found, step)
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
    """Open or resume the study's MLflow run, and end it and all its child runs when the context ends.

    If the server is down, data is sent when it is back, or at the study's next start.

    Args:
        uri: MLflow tracking URI; None: the study is not tracked.
        folder: the study's.
        tags: further tags of the run.
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
    except Exception as error:  # MLflow raises errors of many libraries, and the study does not depend on it
        _log.warning("Cannot send the study to %s now: %s. It is sent later.", redact(uri), explain(uri, error))
    with Syncer(uri, parent=folder) as syncer:
        record = StudyTracker(folder, experiment, tracker, syncer, _step=_next_step(folder))
        record._share_view()
        _end_runs(folder)  # of a killed driver; resumed runs open themselves again
        syncer.watch_unsent(folder / "runs")
        try:
            with finishing(tracker):
                yield record
                record._log_waiting()
        finally:
            for ended in _end_runs(folder):
                syncer.watch(ended)
            left = syncer.close(PATIENCE.tracking_close_s)
            if left:
                _log.warning(
                    "%s does not have all data of %d runs yet. The rest is kept in %s and is sent at the study's next "
                    "start.",
                    redact(uri),
                    left,
                    folder / "runs",
                )
            else:
                _end_orphans(uri, experiment, folder)


def _end_runs(folder: Path) -> list[Path]:
    """Record the end of runs that no process runs, in their tracking files."""
    return [
        run
        for run in sorted((folder / "runs").glob("*"))
        if (run / "tracking").exists() and not RunFolder(run).is_held() and end_unfinished_run(run, GONE)
    ]


def _end_orphans(uri: str, experiment: str, folder: Path) -> None:
    """End runs on the server whose folder was removed."""
    parent = run_id_of(folder)
    if parent is None:
        return
    held = {run_id_of(run) for run in (folder / "runs").glob("*") if RunFolder(run).is_held()}
    try:
        close_stale(uri, experiment, {"mlflow.parentRunId": parent}, keep={run for run in held if run is not None})
    except Exception as error:  # as above
        _log.warning("Runs without a folder may stay open at %s: %s", redact(uri), explain(uri, error))


def _info(study: StudyConfig, store: ClipStore, folder: Path, tags: Mapping[str, str]) -> RunInfo:
    commit = _commit()
    paths = dict.fromkeys([*study.space, *(path for method in study.methods.values() for path in method.space)])
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
            SEARCHED: ",".join(f"point.{path}" for path in paths),
            NOTE: f"{study.question} The study is running.",
            **({} if commit is None else {"mlflow.source.git.commit": commit}),
            **tags,
        },
        params=params,
        config_yaml="",  # logged as study.yaml
        dataset_name=store.name,
        dataset_digest=store.digest,
        dataset_source=str(store.path),
        dataset_profile=store.card,
    )


def _extent(study: StudyConfig) -> dict[str, str]:
    """Settings that may change in a later start, as tags, because MLflow's parameters cannot change."""
    found = {
        "trials": study.trials,
        "replicates": study.replicates,
        "concurrency": study.concurrency,
        **{f"budget.{key}": value for key, value in study.budget.model_dump().items()},
    }
    return {key: "none" if value is None else str(value) for key, value in found.items()}


def _commit() -> str | None:
    """Git commit of the checkout that this package runs from; None for an installed package."""
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
    """The step after all steps that are logged, because a metric has one value per step."""
    lines = (line for line, _ in Spool(folder / "tracking").read() if line is not None)
    return 1 + max((line["step"] for line in lines if "metrics" in line), default=-1)


def _stage_tag(run_folder: Path) -> str | None:
    """The stage of a run in MLflow, if it was changed since the run began."""
    lines = (line for line, _ in Spool(run_folder / "tracking").read() if line is not None)
    changed = [line["tags"][STAGE] for line in lines if STAGE in line.get("tags", {})]
    return str(changed[-1]) if changed else None


def _last_logged(run_folder: Path, prefix: str) -> tuple[dict[str, float], int]:
    """The last logged values of a run's metrics that begin with `prefix`, and the step after them."""
    values: dict[str, float] = {}
    step = 0
    for line, _ in Spool(run_folder / "tracking").read():
        found = {k: v for k, v in ([] if line is None else line.get("metrics", [])) if k.startswith(prefix)}
        if line is not None and found:
            values, step = values | found, line["step"] + 1
    return values, step


def _best_params(ledger: Ledger) -> dict[str, str]:
    """Chosen hyperparameters as tags, because MLflow's parameters cannot change but the choice may."""
    chosen = {method: ledger.chosen(method) for method in ledger.study.methods}
    return {
        f"best/{method}": ", ".join(f"{key} = {value}" for key, value in trial.params.items()) or "nothing searched"
        for method, trial in chosen.items()
        if trial is not None
    }


def _quantities(ledger: Ledger) -> str:
    """The metrics of added methods in the chosen trials, separated by commas."""
    searched = dict.fromkeys(map(ledger.study.searched, ledger.study.methods))
    chosen = [trial for method in searched if (trial := ledger.chosen(method)) is not None]
    records = (record for trial in chosen for folder in trial.folders for record in RunFolder(Path(folder)).history)
    found = [quantity.metric for listed in quantities(records).values() for quantity in listed]
    text = ",".join(found)
    return text if len(text) <= TAG_LENGTH else text[:TAG_LENGTH].rpartition(",")[0]


def _final(result: StudyResult | None, ledger: Ledger) -> dict[str, float]:
    found = {
        f"best/{method}": trial.values[0]
        for method in ledger.study.methods
        if ledger.study.searched(method) == method and (trial := ledger.chosen(method)) is not None
    }
    if result is None:
        return found
    for method in result.methods:
        name, spread, mean = method.name, method.spread("test/accuracy"), method.estimate("test/accuracy")
        if spread is None or mean is None:
            continue
        found |= {f"test_accuracy_mean/{name}": spread.mean, f"test_accuracy_std/{name}": spread.std}
        found |= _interval("test_accuracy", name, mean.as_fraction())
        if method.ahead is not None and method.ahead.seeds:
            found[f"ahead_points/{name}"] = method.ahead.mean
            found |= _interval("ahead_points", name, method.ahead)
            if method.ahead.p_holm is not None:
                found[f"ahead_p_holm/{name}"] = method.ahead.p_holm
    return found | combination_metrics(result) | late_metrics(result)


def combination_metrics(result: StudyResult) -> dict[str, float]:
    """Combinations minus their parts, and methods minus their controls."""
    found: dict[str, float] = {}
    for each in result.combinations:
        for part in (*each.parts, *each.controls):
            found |= _difference("minus_part", f"{each.name}/{part.name}", part.ahead)
    return found


def late_metrics(result: StudyResult) -> dict[str, float]:
    """Late sums and calibrated late products, the comparisons with separately trained networks, and parts of gains."""
    found: dict[str, float] = {}
    bar = result.bar
    for method in (*([] if bar is None else [bar.networks]), *result.methods):
        name = method.name
        for view in ("late_sum", "late_calibrated"):
            if (mean := method.estimate(f"test/accuracy_{view}")) is not None:
                found[f"test_accuracy_{view}_mean/{name}"] = mean.mean
                found |= _interval(f"test_accuracy_{view}", name, mean.as_fraction())
    if bar is not None:
        for key, of_methods in (("separate", bar.late_sum), ("separate_calibrated", bar.late_calibrated)):
            for name, ahead in of_methods.items():
                found |= _difference(f"ahead_of_{key}", name, ahead)
    for gain in result.gains:
        for part in gain.parts:
            found |= _difference("gain", f"{gain.method}/{part.name.replace(' ', '_').replace(',', '')}", part.ahead)
    return found


def _difference(what: str, name: str, ahead: Paired) -> dict[str, float]:
    """A difference in points with its interval, and its adjusted p; empty without a common seed."""
    if not ahead.seeds:
        return {}
    found = {f"{what}_points/{name}": ahead.mean, **_interval(f"{what}_points", name, ahead)}
    return found if ahead.p_holm is None else {**found, f"{what}_p_holm/{name}": ahead.p_holm}


def _interval(metric: str, name: str, of: Estimate | Paired) -> dict[str, float]:
    """The limits of an interval; none if they are infinite, which MLflow does not show."""
    return {f"{metric}_low/{name}": of.low, f"{metric}_high/{name}": of.high} if math.isfinite(of.low) else {}


def _name(path: Path, report: Path) -> str:
    path = path.resolve()
    inside = path.relative_to(report.resolve()) if path.is_relative_to(report.resolve()) else Path(path.name)
    return str(Path("report") / inside)
