"""The ledger of a study: its recorded trials and replicates, read from the storage as plain rows

Optuna's reader builds an object for every parameter and every intermediate value, which takes minutes for 10 000 trials
of 50 epochs. We read the tables of a database with a few queries, and intermediate values only on request. Optuna reads
other storages (a journal file).

Does not import Ray or torch, so that `remix-study status` answers quickly.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from remix_study import optuna_private
from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.study.question import CONFIG
from remix_study.study.storage import answering, open_to_read, optuna_name

SEARCH, REPLICATE, FINAL = "search", "replicate", "final"

State = Literal["waiting", "running", "stopped", "complete", "pruned", "failed"]
STOPPED = "stopped"  # attribute of a stopped trial, which is RUNNING in Optuna and is resumed at the next start


_DIVERGED = 1000.0
_ROUNDING = 1e-9  # of the difference of two objectives


def has_diverged(summary: Mapping[str, float]) -> bool:
    """Whether the loss of a run grew a thousandfold, by its summary."""
    return summary.get("train/loss_growth", 0.0) >= _DIVERGED


class TrialRecord(NamedTuple):
    """One trial.

    Attributes:
        values: objectives, in their order; empty unless the trial is complete.
        params: hyperparameters; of a choice, its label.
        reason: why it failed or ended early, as text.
        cause: of a failure, one of `errors.CAUSES`; None otherwise.
        retried: whether a later trial has retried this failed one.
        seconds: duration of its runs, over all seeds and all starts.
        folders: its run folders, one per seed that was started.
        seed_values: the first objective, per complete seed.
        intermediate: number of complete epochs -> best value so far of the pruner's metric; empty unless requested, and
            without a pruner.
        work: epochs, updates and samples of each encoder, and multiply-adds of its runs (`RunFolder.work`); empty if it
            was not recorded.
        diverged: whether the loss of one of its complete runs grew a thousandfold.
    """

    method: str
    number: int
    state: State
    values: tuple[float, ...]
    params: dict[str, Any]
    reason: str | None
    cause: str | None
    retried: bool
    seconds: float
    started: datetime | None
    ended: datetime | None
    folders: tuple[str, ...]
    seed_values: tuple[float, ...]
    intermediate: dict[int, float]
    work: Mapping[str, float] = {}
    diverged: bool = False


class ReplicateRecord(NamedTuple):
    """One replicate (stage `replicate`), or one run of `retrain` (stage `final`).

    `work` and `diverged`: as of a trial. `failed_before`: the reasons of earlier failures, after which it was run
    again. `needs`: the runs that it needs, method -> run folder.
    """

    method: str
    stage: str
    number: int
    state: State
    params: dict[str, Any]
    folder: str
    seconds: float
    reason: str | None
    cause: str | None
    work: Mapping[str, float] = {}
    failed_before: tuple[str, ...] = ()
    diverged: bool = False
    needs: Mapping[str, str] = {}


class Ledger(NamedTuple):
    """All that a study has recorded, by method.

    Attributes:
        replicates: the latest of each stage and number. Those of a configuration that is no longer chosen stay until
            they are run again; see `chosen_replicates`.
        superseded: replicates that were run again since, because the choice changed; and further ones of an earlier
            `retrain`, of other hyperparameters or another training split.
    """

    study: StudyConfig
    folder: Path
    trials: dict[str, tuple[TrialRecord, ...]]
    replicates: dict[str, tuple[ReplicateRecord, ...]]
    superseded: Mapping[str, tuple[ReplicateRecord, ...]] = {}

    def chosen(self, method: str) -> TrialRecord | None:
        """The trial whose hyperparameters are replicated; None if none is complete.

        Of a method that replays another one, it is the trial of that one.
        """
        return choose(self.study, self.trials.get(self.study.searched(method), ()))


def read_ledger(folder: Path, *, intermediate: bool = False) -> Ledger:
    """Read what the study in `folder` has recorded. `intermediate`: also the values after each epoch."""
    study = load_study(folder / CONFIG)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with answering(study.storage, folder):
        return _read(study, folder, intermediate)


def _read(study: StudyConfig, folder: Path, intermediate: bool) -> Ledger:
    storage = open_to_read(study.storage, folder)
    if storage is None:
        return Ledger(study, folder, {}, {})
    known = {s.study_name: s for s in storage.get_all_studies()}
    trials, replicates, superseded = {}, {}, {}
    for method in study.methods:
        found = known.get(optuna_name(study.name, method))
        if found is None:
            continue
        rows = _rows(storage, optuna_private.study_id(found), intermediate)
        trials[method] = tuple(_records(method, rows, folder))
        notes = storage.get_study_user_attrs(optuna_private.study_id(found))
        replicates[method] = tuple(_replicates(method, notes, folder))
        superseded[method] = tuple(_superseded(method, notes, folder))
    return Ledger(study, folder, trials, replicates, superseded)


def chosen_replicates(ledger: Ledger, method: str) -> tuple[ReplicateRecord, ...]:
    """The replicates of the hyperparameters that are chosen now, by number. More trials may change the choice.

    Those that need a run of another method's earlier choice are left out.
    """
    chosen = ledger.chosen(method)
    if chosen is None:
        return ()
    found = [r for r in ledger.replicates.get(method, ()) if r.stage == REPLICATE and r.params == chosen.params]
    others = {other: {r.folder for r in chosen_replicates(ledger, other)} for r in found for other in r.needs}
    current = [r for r in found if all(folder in others[other] for other, folder in r.needs.items())]
    return tuple(sorted(current, key=lambda r: r.number))


def retrained(ledger: Ledger, method: str) -> tuple[ReplicateRecord, ...]:
    """The runs of `retrain` of the hyperparameters that are chosen now, by number."""
    chosen = ledger.chosen(method)
    found = [r for r in ledger.replicates.get(method, ()) if r.stage == FINAL]
    return tuple(r for r in found if chosen is not None and r.params == chosen.params)


def summed(works: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of what several runs were given."""
    found: dict[str, float] = {}
    for work in works:
        for key, value in work.items():
            found[key] = found.get(key, 0.0) + value
    return found


def ended_trials(trials: Sequence[TrialRecord]) -> int:
    """The number of trials that count against the budget; one that failed and was retried does not."""
    return sum(t.state in ("complete", "pruned", "failed") and not t.retried for t in trials)


def choose(study: StudyConfig, trials: "tuple[TrialRecord, ...]") -> TrialRecord | None:
    """The best trial, the earliest of equals; None if none is complete.

    With several objectives: among the trials of the Pareto front that are at most `tolerance` below the best of the
    first objective, the best of the second.
    """
    front = pareto_front(study, trials)
    if not front:
        return None
    signs = _signs(study, front[0].method)
    best = max(signs[0] * t.values[0] for t in front)
    near = [t for t in front if signs[0] * t.values[0] >= best - study.tolerance - _ROUNDING]
    if len(signs) == 1:
        return min(near, key=lambda t: t.number)
    return max(near, key=lambda t: (signs[1] * t.values[1], signs[0] * t.values[0], -t.number))


def pareto_front(study: StudyConfig, trials: "tuple[TrialRecord, ...]") -> tuple[TrialRecord, ...]:
    """Complete trials that no other complete trial dominates, by number."""
    complete = [t for t in trials if t.state == "complete"]
    signs = _signs(study, complete[0].method) if complete else (1,)
    if len(signs) == 1:
        best = max((signs[0] * t.values[0] for t in complete), default=0.0)
        return tuple(t for t in complete if signs[0] * t.values[0] == best)
    front: list[TrialRecord] = []
    # Sorted by the first objective, so that all trials that dominate a trial come before it.
    for trial in sorted(complete, key=lambda t: (*(-s * v for s, v in zip(signs, t.values, strict=True)), t.number)):
        if not any(_dominates(other, trial, signs) for other in front):
            front.append(trial)
    return tuple(sorted(front, key=lambda t: t.number))


def _dominates(one: TrialRecord, other: TrialRecord, signs: tuple[int, ...]) -> bool:
    pairs = [(s * a, s * b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _signs(study: StudyConfig, method: str) -> tuple[int, ...]:
    return tuple(1 if objective.direction == "maximize" else -1 for objective in study.objectives_of(method))


class _Row(NamedTuple):
    """A trial as Optuna records it."""

    number: int
    state: TrialState
    values: tuple[float, ...]
    params: dict[str, Any]
    attrs: dict[str, Any]
    started: datetime | None
    ended: datetime | None
    intermediate: dict[int, float]


def _rows(storage: BaseStorage, study_id: int, intermediate: bool) -> list[_Row]:
    if isinstance(storage, RDBStorage):
        return list(_rows_of_database(storage, study_id, intermediate))
    return [_row(trial, intermediate) for trial in storage.get_all_trials(study_id, deepcopy=False)]


def _row(t: FrozenTrial, intermediate: bool) -> _Row:
    steps = t.intermediate_values if intermediate else {}
    return _Row(
        t.number, t.state, tuple(t.values or ()), t.params, t.user_attrs, t.datetime_start, t.datetime_complete, steps
    )


def records_of(method: str, trials: Sequence[FrozenTrial], folder: Path) -> tuple[TrialRecord, ...]:
    """Records of trials that are read already, without intermediate values."""
    return tuple(_records(method, [_row(trial, False) for trial in trials], folder))


def _rows_of_database(storage: RDBStorage, study_id: int, intermediate: bool) -> Iterator[_Row]:
    m = optuna_private.database_models()
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    values: dict[int, list[float]] = defaultdict(list)
    attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    steps: dict[int, dict[int, float]] = defaultdict(dict)
    distributions: dict[str, BaseDistribution] = {}
    of_study = m.TrialModel.study_id == study_id
    with storage.engine.connect() as connection:

        def each(model: Any, *columns: Any, order: Any = None) -> Iterator[Any]:
            query = sa.select(model.trial_id, *columns).join(m.TrialModel, m.TrialModel.trial_id == model.trial_id)
            return iter(connection.execute(query.where(of_study).order_by(order)))

        P, V, A, S = m.TrialParamModel, m.TrialValueModel, m.TrialUserAttributeModel, m.TrialIntermediateValueModel
        for trial, name, value, text in each(P, P.param_name, P.param_value, P.distribution_json, order=P.param_id):
            if text not in distributions:
                distributions[text] = json_to_distribution(text)
            params[trial][name] = distributions[text].to_external_repr(value)
        for trial, value, kind in each(V, V.value, V.value_type, order=V.objective):
            values[trial].append(V.stored_repr_to_value(value, kind))
        for trial, key, text in each(A, A.key, A.value_json, order=A.trial_user_attribute_id):
            attrs[trial][key] = json.loads(text)
        if intermediate:
            for trial, step, value, kind in each(
                S, S.step, S.intermediate_value, S.intermediate_value_type, order=S.step
            ):
                steps[trial][step] = S.stored_repr_to_intermediate_value(value, kind)
        T = m.TrialModel
        columns = (T.trial_id, T.number, T.state, T._datetime_start_utc, T._datetime_complete_utc)
        for trial, number, state, start, end in connection.execute(
            sa.select(*columns).where(of_study).order_by(T.number)
        ):
            yield _Row(
                number, state, tuple(values[trial]), params[trial], attrs[trial], _local(start), _local(end),
                steps[trial],
            )  # fmt: skip


def _local(utc: datetime | None) -> datetime | None:
    """Local time, as Optuna's trials have it, of a time in Optuna's databases, which is in UTC without a time zone."""
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _state(row: _Row) -> State:
    if row.state == TrialState.FAIL:
        return "failed"
    if row.state == TrialState.RUNNING and row.attrs.get(STOPPED):
        return "stopped"
    return cast(State, row.state.name.lower())


def _records(method: str, rows: list[_Row], folder: Path) -> Iterator[TrialRecord]:
    retried = {row.attrs.get("retries") for row in rows}
    for row in rows:
        runs: Mapping[str, str] = row.attrs.get("folders", {})
        seeds: Mapping[str, float] = row.attrs.get("seed_values", {})
        yield TrialRecord(
            method=method,
            number=row.number,
            state=_state(row),
            values=row.values if row.state == TrialState.COMPLETE else (),
            params=row.params,
            reason=row.attrs.get("reason"),
            cause=row.attrs.get("cause"),
            retried=row.number in retried,
            seconds=row.attrs.get("seconds", 0.0),
            started=row.started,
            ended=row.ended,
            folders=tuple(str(folder / runs[key]) for key in sorted(runs, key=int)),
            seed_values=tuple(seeds[key] for key in sorted(seeds, key=int)),
            intermediate=row.intermediate,
            work=row.attrs.get("work", {}),
            diverged=row.attrs.get("diverged", False),
        )


def _replicates(method: str, attrs: Mapping[str, Any], folder: Path) -> Iterator[ReplicateRecord]:
    for stage, number, note in _notes(attrs):
        if not note.get("superseded"):
            yield _replicate(method, stage, number, note, folder)


def _superseded(method: str, attrs: Mapping[str, Any], folder: Path) -> Iterator[ReplicateRecord]:
    for stage, number, note in _notes(attrs):
        if note.get("superseded"):
            yield _replicate(method, stage, number, note, folder)
        for run, used in note.get("earlier", {}).items():
            yield _replicate(method, stage, number, used | {"folder": run}, folder)


def _notes(attrs: Mapping[str, Any]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Stage, number and note of each replicate, in their order."""
    for stage in (REPLICATE, FINAL):
        for number in sorted(int(key.split()[1]) for key in attrs if key.startswith(f"{stage} ")):
            yield stage, number, attrs[f"{stage} {number}"]


def _replicate(method: str, stage: str, number: int, note: Mapping[str, Any], folder: Path) -> ReplicateRecord:
    return ReplicateRecord(
        method, stage, number, note["state"], note["params"], str(folder / note["folder"]), note.get("seconds", 0.0),
        note.get("reason"), note.get("cause"), note.get("work", {}), tuple(note.get("failed_before", ())),
        note.get("diverged", False), {other: str(folder / run) for other, run in note.get("needs", {}).items()},
    )  # fmt: skip
