"""The gain of a method over its baseline, in parts that sum to it

A chain of methods leads from the baseline to the method. Each adds one thing, and the difference between neighbours is
the effect of it:

    baseline                        joint training, with unimodal losses if the study has it
    one modality per sample         random assignment at equal shares
    share                           random assignment at the mean shares of the method (`random_at_mean_share_of`)
    course of the share             random assignment at its shares of each epoch (`random_at_share_of`); without such a
                                    method, its assignments, permuted over samples
    choice of samples               the method

Parts that a method cannot have are left out: one with constant shares has no course, one that assigns at random has no
choice. If the study lacks a method of the chain, the parts on both sides of it are measured together; all of them
together are `training`.

These differences are of calibrated late products, which combine the unimodal heads of all methods in the same way. Two
more parts lead from there to the fused heads, whose difference is the gain. For a method a and the baseline b:

    calibration     (late sum - calibrated late product) of a, minus the same of b
    fusion          (fused head - late sum) of a, minus the same of b

A part of this kind is positive if the baseline would gain more than the method from the late sum, or its calibration.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from remix_study.config.assignment import (
    ArgminConfig,
    BandConfig,
    FixedShareConfig,
    MarginConfig,
    MaxShareConfig,
    PermutedConfig,
    QuantileConfig,
    RandomConfig,
)
from remix_study.config.method import RemixConfig
from remix_study.config.run import RunConfig
from remix_study.config.schedule import schedules_in
from remix_study.config.study import Replay, ReplayRule, StudyConfig
from remix_study.study.combinations import differing_keys, family_of
from remix_study.study.comparison import Gain, GainPart, Readout
from remix_study.study.fairness import is_in
from remix_study.study.outcomes import Replicated, Term, adjusted, contrast, paired
from remix_study.units import listed

FUSED, LATE_SUM, CALIBRATED = "test/accuracy", "test/accuracy_late_sum", "test/accuracy_late_calibrated"
_VIEWS = {FUSED: "fused head", LATE_SUM: "late sum", CALIBRATED: "calibrated late product"}
ONE_MODALITY, SHARE, COURSE, CHOICE = "one modality per sample", "share", "course of the share", "choice of samples"
TRAINING, FUSION, CALIBRATION = "training", "fusion", "calibration"
LATE_MINUS_FUSED, CALIBRATED_MINUS_LATE = "late sum - fused head", "calibrated - late sum"
_OF_ASSIGNMENT = ("method.filter", "method.share", "method.score")
_ROUNDING = 1e-6

Shares = Mapping[str, float]
"""Modality -> fraction of the samples that trains it alone."""

EQUAL: Shares = {}


class _Stage(NamedTuple):
    """A part of the chain, the method at its end, and what a study would need for that method."""

    part: str
    method: str | None
    needs: str = ""


def gains(study: StudyConfig, configs: Mapping[str, RunConfig], seen: Mapping[str, Replicated]) -> tuple[Gain, ...]:
    """The gains of the reference and of the methods that assign each sample to a modality, in parts.

    Controls and baselines have none. p values are adjusted for all parts of the study.

    Args:
        study: the study.
        configs: method -> its chosen configuration.
        seen: method -> its replicates, of those that have any.
    """
    found = []
    for name in study.methods:
        config = configs.get(name)
        if config is None or name not in seen or study.methods[name].ceiling_of is not None:
            continue
        control = study.control_of(name) is not None and name != study.reference
        if control or not (isinstance(config.method, RemixConfig) or name == study.reference):
            continue
        baseline = baseline_of(study, configs, name)
        if baseline is not None and baseline in seen:
            found.append(_gain(study, configs, seen, name, baseline))
    keyed = {(g, p): part.ahead for g, gain in enumerate(found) for p, part in enumerate(gain.parts)}
    tested = adjusted(keyed, len(keyed))
    return tuple(
        gain._replace(parts=tuple(part._replace(ahead=tested[g, p]) for p, part in enumerate(gain.parts)))
        for g, gain in enumerate(found)
    )


def readouts(study: StudyConfig, seen: Mapping[str, Replicated]) -> tuple[Readout, ...]:
    """What each method gains from the late sum of its heads, and from its calibration, with adjusted p values."""
    steps = {LATE_MINUS_FUSED: (LATE_SUM, FUSED), CALIBRATED_MINUS_LATE: (CALIBRATED, LATE_SUM)}
    found = {
        (name, step): contrast([Term(1, each, metric), Term(-1, each, before)])
        for name, each in seen.items()
        if study.methods[name].ceiling_of is None
        for step, (metric, before) in steps.items()
        if _has(each, metric) and _has(each, before)
    }
    return tuple(Readout(*key, ahead) for key, ahead in adjusted(found, len(found)).items())


def baseline_of(study: StudyConfig, configs: Mapping[str, RunConfig], name: str) -> str | None:
    """The joint training over which a method gains: the one that differs least in settings outside `method`.

    Among equals, joint training with the same added methods is preferred, then that with unimodal losses, which are
    those of Remix.
    """
    base, *added = family_of(configs[name])
    own = isinstance(configs[name].method, RemixConfig)
    # Remix trains unimodal heads; what is added to it may also be in the baseline.
    bases = ["joint_unimodal", "joint"] if own else [base, "joint"]
    families = [(each, *more) for more in ([tuple(added), ()] if own else [()]) for each in bases]

    def distance(other: str) -> tuple[int, int]:
        outside = sum(not is_in(path, ["method"]) for path in differing_keys(study, configs, name, other, ""))
        return outside, families.index(family_of(configs[other]))

    alike = [other for other, config in configs.items() if other != name and family_of(config) in families]
    return min((other for other in alike if family_of(configs[other]) != (base, *added)), key=distance, default=None)


def _gain(
    study: StudyConfig, configs: Mapping[str, RunConfig], seen: Mapping[str, Replicated], name: str, baseline: str
) -> Gain:
    whole = paired(seen[name], seen[baseline])
    views = [view for view in (FUSED, LATE_SUM, CALIBRATED) if _has(seen[name], view) and _has(seen[baseline], view)]
    view = views[-1] if views else FUSED
    parts, missing = _of_training(study, configs, seen, name, baseline, view)
    for late, fused in zip(reversed(views[1:]), reversed(views[:-1]), strict=True):
        label = {LATE_SUM: FUSION, CALIBRATED: CALIBRATION}[late]
        label = listed([FUSION, CALIBRATION]) if (late, fused) == (CALIBRATED, FUSED) else label
        ahead = contrast([
            Term(1, seen[name], fused), Term(-1, seen[name], late),
            Term(-1, seen[baseline], fused), Term(1, seen[baseline], late),
        ])  # fmt: skip
        measured = f"{_VIEWS[fused]} - {_VIEWS[late]}, of {name} minus of {baseline}"
        parts.append(GainPart(label, measured, ahead))
    if LATE_SUM not in views and CALIBRATED not in views:
        without = [
            each for each in (name, baseline) if not (_has(seen[each], LATE_SUM) or _has(seen[each], CALIBRATED))
        ]
        missing.append(f"{FUSION} and {CALIBRATION}: {listed(without)} has no predictions from unimodal heads")
    elif CALIBRATED not in views:
        missing.append(f"{CALIBRATION}: a calibrated late product, which runs of an earlier version do not have")
    return Gain(name, baseline, whole, tuple(parts), tuple(missing))


def _of_training(
    study: StudyConfig, configs: Mapping[str, RunConfig], seen: Mapping[str, Replicated], name: str, baseline: str,
    view: str,
) -> tuple[list[GainPart], list[str]]:  # fmt: skip
    """The parts that differ in training, and those that the study does not separate."""
    stages = _chain(study, configs, name)
    parts: list[GainPart] = []
    missing: list[str] = []
    before = baseline
    pending: list[str] = []
    for stage in stages:
        pending.append(stage.part)
        there = stage.method is not None and stage.method in seen and _has(seen[stage.method], view)
        if stage.method is None or not there:
            needs = stage.needs if stage.method is None else f"a complete replicate of {stage.method}"
            missing.append(f"{stage.part}: {needs}")
            continue
        measured = f"{stage.method} - {before}, {_VIEWS[view]}"
        if view == CALIBRATED and not _has(seen[before], LATE_SUM):
            measured += f" (of {before} from probes, which are trained afterwards)"
        name_of_part = TRAINING if len(pending) == len(stages) > 1 else listed(pending)
        parts.append(GainPart(name_of_part, measured, paired(seen[stage.method], seen[before], view)))
        before, pending = stage.method, []
    return parts, missing


def _chain(study: StudyConfig, configs: Mapping[str, RunConfig], name: str) -> list[_Stage]:
    """The parts of training that a method can have, in order; the last ends at the method itself."""
    method = configs[name].method
    if not isinstance(method, RemixConfig):
        return [_Stage(TRAINING, name)]
    constant = _constant_share(method)
    controls = [other for other in configs if other != name and _differs_in_assignment(study, configs, name, other)]
    mixed = [other for other in controls if getattr(configs[other].method, "joint_share", None) == method.joint_share]
    mean = _replay(study, "random_at_mean_share_of", name) or _random(configs, mixed, constant)
    course = _replay(study, "random_at_share_of", name) or _permuted(configs, mixed, name)
    found = [
        _Stage(ONE_MODALITY, _random(configs, mixed, EQUAL), "a method with `filter: random` and equal shares"),
        _Stage(SHARE, mean, f"a method with `random_at_mean_share_of: {name}`"),
        _Stage(COURSE, course, f"a method with `random_at_share_of: {name}`"),
        _Stage(CHOICE, name),
    ]
    if isinstance(method.filter, RandomConfig):  # there is no choice: the method itself is the random assignment
        found = [*found[:2], found[2]._replace(method=name)]
    if constant is not None and len(found) > 2:  # there is no course: the mean shares are those of each epoch
        found[1] = found[1]._replace(method=found[2].method or mean)
        del found[2]
    if constant == EQUAL and len(found) > 1:  # nor shares of its own
        found[0] = found[0]._replace(method=found[1].method or found[0].method)
        del found[1]
    return found


def _replay(study: StudyConfig, rule: ReplayRule, of: str) -> str | None:
    """The control that replays the shares of the method `of`."""
    for name, method in study.methods.items():
        if method.replay == Replay(rule, of):
            return name
    return None


def _random(configs: Mapping[str, RunConfig], among: Iterable[str], shares: Shares | None) -> str | None:
    """A random assignment at these constant shares."""
    for name in among if shares is not None else ():
        method = configs[name].method
        if not isinstance(method, RemixConfig) or not isinstance(method.filter, RandomConfig):
            continue
        if _constant_share(method) == shares:
            return name
    return None


def _permuted(configs: Mapping[str, RunConfig], among: Iterable[str], of: str) -> str | None:
    """The permuted assignments with the shares of the method `of`, which assigns by the lowest score."""
    method = configs[of].method
    if not isinstance(method, RemixConfig) or not isinstance(method.filter, ArgminConfig):
        return None
    for name in among:
        other = configs[name].method
        if isinstance(other, RemixConfig) and isinstance(other.filter, PermutedConfig) and other.share == method.share:
            return name
    return None


def _differs_in_assignment(study: StudyConfig, configs: Mapping[str, RunConfig], name: str, other: str) -> bool:
    """Whether a method is of the same family, and agrees in all that is not searched but the assignment of samples."""
    if family_of(configs[other]) != family_of(configs[name]) or study.methods[other].ceiling_of is not None:
        return False
    return all(is_in(path, _OF_ASSIGNMENT) for path in differing_keys(study, configs, name, other, ""))


def _constant_share(method: RemixConfig) -> Shares | None:
    """The shares of a method that are the same in all epochs and known before training; None if they are not.

    Filters with thresholds let samples rest or train jointly, and `max_share` limits a share.
    """
    thresholds = MarginConfig | QuantileConfig | BandConfig | MaxShareConfig
    if method.phases is not None or isinstance(method.filter, thresholds):
        return None
    if method.share is None:
        return EQUAL if isinstance(method.filter, RandomConfig) else None
    if not isinstance(method.share, FixedShareConfig) or any(schedules_in(method.share)):
        return None
    parts = method.share.at(0.0)
    return EQUAL if max(parts.values()) - min(parts.values()) < _ROUNDING else parts


def _has(method: Replicated, metric: str) -> bool:
    return any(metric in summary for summary in method.summaries.values())
