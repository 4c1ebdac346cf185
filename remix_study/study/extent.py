"""How much of a study has run: its runs and hours as recorded, which `run`, `plan` and `status` all report

Does not import Ray or torch, so that `remix-study status` answers quickly.
"""

from remix_study.study.budget import Used, read_clock
from remix_study.study.ledger import Ledger, ReplicateRecord, chosen_replicates, ended_trials
from remix_study.study.scheduler import MethodState, StudyState

__all__ = ["complete_replicates", "recorded_state", "used_by"]


def recorded_state(ledger: Ledger) -> StudyState:
    """The recorded state of a study; its `total` and `ended` count runs as those of a running study do."""
    study = ledger.study
    methods = {
        method: MethodState(
            study.trials_of(method),
            ended_trials(ledger.trials.get(method, ())),
            sum(trial.state == "running" for trial in ledger.trials.get(method, ())),
            study.replicates,
            len(complete_replicates(ledger, method)),
        )
        for method in study.methods
    }
    return StudyState(methods, seeds_per_trial=study.seeds_per_trial)


def complete_replicates(ledger: Ledger, method: str) -> tuple[ReplicateRecord, ...]:
    """The complete replicates of the hyperparameters that are chosen now, of those that the study wants."""
    wanted = ledger.study.replicates
    return tuple(r for r in chosen_replicates(ledger, method) if r.state == "complete" and r.number < wanted)


def used_by(ledger: Ledger) -> Used:
    """Hours that all starts of a study have used: its trials, replicates and retrained runs, and the clock."""
    clock_s, rates = read_clock(ledger.folder)
    work_s = sum(trial.seconds for trials in ledger.trials.values() for trial in trials)
    for runs in (ledger.replicates, ledger.superseded):
        work_s += sum(replicate.seconds for replicates in runs.values() for replicate in replicates)
    return rates.used(work_s, clock_s)
