"""Importance of hyperparameters for the objective

Up to 200 complete trials: fANOVA (Hutter et al., ICML 2014), the share of the objective's variance that a parameter
explains. With more trials, for which fANOVA takes minutes: PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255),
how far a parameter's values in the best tenth of the trials differ from its values in all trials. Both are Optuna's.

Pruned trials are left out, because their values are of earlier epochs.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from remix_study.config.study import ChoiceDimension, Dimension, FloatDimension, IntDimension, StudyConfig
from remix_study.study.dimensions import holds
from remix_study.study.ledger import TrialRecord
from remix_study.study.search_space import space_of

FEWEST = 8  # complete trials; with fewer, importances are noise
FANOVA_UP_TO = 200  # complete trials, which take two seconds; the time grows with their number


def importances(study: StudyConfig, method: str, trials: Sequence[TrialRecord]) -> dict[str, float] | None:
    """Importance of each parameter for the first objective.

    The importance of a parameter with a condition is computed from the trials that have it.

    Returns:
        Parameter -> importance in [0, 1], in descending order. Importances of parameters without a condition sum to 1.
        None if they cannot be computed; `why_unknown` returns the reason.
    """
    if why_unknown(study, method, trials) is not None:
        return None
    space = _distributions(study, method)
    complete = _judged(study, method, trials)
    varied = _varied(space, complete)
    always = [path for path in varied if all(path in t.params for t in complete)]
    ped_anova = evaluator_name(study, method, trials) == "PED-ANOVA"
    found = _evaluate(study, space, complete, always, ped_anova)
    for path in varied:
        having = [t for t in complete if path in t.params]
        if path not in always and len(having) >= FEWEST and _differ(having):
            found[path] = _evaluate(study, space, having, [*always, path], ped_anova)[path]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def why_unknown(study: StudyConfig, method: str, trials: Sequence[TrialRecord]) -> str | None:
    """Why importances cannot be computed, as text; None if they can."""
    complete = _judged(study, method, trials)
    if len(complete) < FEWEST:
        return f"{len(complete)} complete {'trial' if len(complete) == 1 else 'trials'}; at least {FEWEST} are needed"
    if not _differ(complete):
        return "all complete trials have the same value"
    varied = _varied(_distributions(study, method), complete)
    if not any(all(path in t.params for t in complete) for path in varied):
        return "no parameter was varied in all trials"
    if len(varied) == 1:
        return "only one parameter was varied"
    return None


def evaluator_name(study: StudyConfig, method: str, trials: Sequence[TrialRecord]) -> str:
    """The method that `importances` uses for these trials."""
    return "fANOVA" if len(_judged(study, method, trials)) <= FANOVA_UP_TO else "PED-ANOVA"


def _judged(study: StudyConfig, method: str, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials in the current search space. Earlier trials may lie outside, if the study file has changed."""
    space = space_of(study, study.methods[method])
    return [
        t
        for t in trials
        if t.state == "complete"
        and math.isfinite(t.values[0])
        and all(holds(space[path], value) for path, value in t.params.items() if path in space)
    ]


def _differ(trials: Sequence[TrialRecord]) -> bool:
    return len({t.values[0] for t in trials}) > 1


def _varied(space: dict[str, BaseDistribution], trials: Sequence[TrialRecord]) -> list[str]:
    """Parameters with more than one value among the trials."""
    return [path for path in space if len({str(t.params[path]) for t in trials if path in t.params}) > 1]


def _evaluate(
    study: StudyConfig,
    space: dict[str, BaseDistribution],
    trials: Sequence[TrialRecord],
    paths: Sequence[str],
    ped_anova: bool,
) -> dict[str, float]:
    # Imported here, because it imports scikit-learn, which takes a second that not all reports need.
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    known = {path: space[path] for path in paths}
    evaluator = PedAnovaImportanceEvaluator() if ped_anova else FanovaImportanceEvaluator(seed=0)
    with _quiet():
        made = optuna.create_study(direction=study.objective[0].direction)
        made.add_trials(
            create_trial(value=t.values[0], params={path: t.params[path] for path in paths}, distributions=dict(known))
            for t in trials
        )
        return {k: float(v) for k, v in get_param_importances(made, evaluator=evaluator, params=list(paths)).items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Optuna's messages about new studies and experimental evaluators."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _distributions(study: StudyConfig, method: str) -> dict[str, BaseDistribution]:
    return {path: _distribution(dimension) for path, dimension in space_of(study, study.methods[method]).items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension:
        case FloatDimension(low=low, high=high, log=log, step=step):
            return FloatDistribution(low, high, log=log, step=step)
        case IntDimension(low=low, high=high, log=log, step=step):
            return IntDistribution(low, high, log=log, step=step)
        case ChoiceDimension(of=of):
            return CategoricalDistribution(list(of))
