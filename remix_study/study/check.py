"""Problems of a study that involve several keys, found before it starts

Examples: a condition that can never hold, a pruner that ends trials before Remix begins, an objective that a method
does not have, a dimension that the sampler cannot model.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from remix_study.config.method import RemixConfig, UnimodalConfig, replay_problem, replayed_of, trains_heads
from remix_study.config.problems import Problem, closest_match
from remix_study.config.run import RunConfig
from remix_study.config.study import (
    OBJECTIVES,
    SETTLED,
    UNSEARCHED,
    ChoiceDimension,
    Dimension,
    EarlyEnd,
    MethodSpace,
    StudyConfig,
)
from remix_study.config.yaml_source import Keys
from remix_study.names import is_name, name_problem
from remix_study.study.dimensions import extent, holds, labels_of
from remix_study.study.fairness import is_in, unequal_keys

Spaces = Mapping[str, Mapping[str, Dimension]]
Configs = Mapping[str, Sequence[RunConfig]]


@dataclass(frozen=True)
class _Metric:
    """A metric that may be an objective.

    Args:
        pattern: regular expression of its name.
        better: maximize or minimize.
        heads: whether a method needs unimodal heads for it.
        fusion: whether a method needs several modalities for it.
    """

    pattern: str
    better: str = "maximize"
    heads: bool = False
    fusion: bool = False


# Defined in docs/metrics.md. A summary names `val/x` of the best epoch `best/val_x`.
_EPOCH = (
    _Metric(r"val/(accuracy|balanced_accuracy|macro_f1)"),
    _Metric(r"val/cross_entropy", "minimize"),
    _Metric(r"val/(accuracy|macro_f1)_uni/(?P<modality>[\w-]+)", heads=True),
    _Metric(r"val/cross_entropy_uni/(?P<modality>[\w-]+)", "minimize", heads=True),
    _Metric(r"val/accuracy_late_sum", heads=True, fusion=True),
    _Metric(r"val/accuracy_(only|without)/[\w-]+", fusion=True),
    _Metric(r"balance/accuracy_ratio", heads=True, fusion=True),
    _Metric(r"balance/(accuracy_gap|abs_log_rho)", "minimize", heads=True, fusion=True),
    _Metric(r"balance/(imbalance|missing_drop)", "minimize", fusion=True),
    _Metric(r"balance/(shapley|utilisation)/[\w-]+", fusion=True),
)
_END = (
    _Metric(r"last/val_accuracy"),
    _Metric(r"(best|last)/val_accuracy_late_calibrated", heads=True),
    _Metric(r"time/(total_(train|score|evaluate)_s|evidence_s)", "minimize"),
)


def study_problems(study: StudyConfig, spaces: Spaces, configs: Configs) -> Iterator[Problem]:
    """Problems of a study that involve several keys.

    Args:
        spaces: method -> its search space.
        configs: method -> its valid runs at the corners of the space. Both only of methods that can be checked.
    """
    yield from _names(study)
    yield from _settled(("base",), study.base, ("seed", "evaluation.test"))
    for path in study.space:
        yield from _searched(("space", path), path)
    for name, method in study.methods.items():
        at: Keys = ("methods", name)
        yield from _settled((*at, "set"), method.set, tuple(SETTLED))
        for path in method.space:
            yield from _searched((*at, "space", path), path)
    for name, space in spaces.items():
        yield from _overridden(study, name, space)
        yield from conditions(study, name, space)
        yield from _first_points(name, study.methods[name], space)
        yield from _sampler(study, name, space)
    yield from _ceilings(study, configs)
    yield from _replays(study, configs)
    yield from _objectives(study, configs)
    yield from _pruner(study, configs)
    yield from _resources(study, configs)
    yield from _unequal(study, spaces, configs)


def written_at(study: StudyConfig, method: str, path: str) -> Keys:
    """The keys of a dimension of a method: below the method, or in the `space` of all methods."""
    return ("methods", method, "space", path) if path in study.methods[method].space else ("space", path)


# --- names -----------------------------------------------------------------------------------------------------------


def _names(study: StudyConfig) -> Iterator[Problem]:
    if not is_name(study.name):
        yield Problem(("name",), name_problem(study.name), kind="name")
    known: dict[str, str] = {}
    for name in study.methods:
        if not is_name(name):
            yield Problem(("methods", name), f"a method{name_problem(name)}", complete=True, kind="name")
        elif (other := known.setdefault(name.lower(), name)) != name:
            said = f" must differ from `{other}` in more than upper and lower case, which not every disk tells apart"
            yield Problem(("methods", name), said, kind="name")


# --- keys that a study sets itself -----------------------------------------------------------------------------------


def _settled(at: Keys, content: Mapping[str, Any], paths: Sequence[str]) -> Iterator[Problem]:
    for path in paths:
        for keys, value in _values(content, path):
            if value not in (None, False):
                yield Problem((*at, *keys), f" must be left out: {SETTLED[path]}", kind="settled")


def _values(content: Mapping[str, Any], path: str) -> Iterator[tuple[Keys, Any]]:
    """The keys, nested or dotted, that set a dotted path, and their values."""
    for key, value in content.items():
        if key == path:
            yield (key,), value
        elif isinstance(value, Mapping) and path.startswith(f"{key}."):
            for keys, inner in _values(value, path.removeprefix(f"{key}.")):
                yield (key, *keys), inner


def _searched(at: Keys, path: str) -> Iterator[Problem]:
    for settled, why in UNSEARCHED.items():
        if path == settled or path.startswith(f"{settled}.") or settled.startswith(f"{path}."):
            yield Problem(at, f" cannot be searched: {why}", kind="settled")


# --- keys that a dimension overrides --------------------------------------------------------------------------------


def _overridden(study: StudyConfig, name: str, space: Mapping[str, Dimension]) -> Iterator[Problem]:
    """Keys that two dimensions set, or that a dimension sets and `set`, too: one of the values would not be trained."""
    for path, dimension in space.items():
        # Under a condition, the dimension is not always searched: `set` gives its value otherwise.
        for keys, _ in () if dimension.when else _values(study.methods[name].set, path):
            said = f" has no effect: `{path}` is searched; leave one of them out"
            yield Problem(("methods", name, "set", *keys), said, kind="overridden")
        if not isinstance(dimension, ChoiceDimension):
            continue
        for inner in (other for other in space if other.startswith(f"{path}.")):
            key = inner.removeprefix(f"{path}.")
            twice = [str(label) for label, value in labels_of(dimension).items()
                     if isinstance(value, Mapping) and any(True for _ in _values(value, key))]  # fmt: skip
            if twice:
                said = (
                    f" must not be searched, since `{path}` sets it, too (in {', '.join(twice)}); leave one of them out"
                )
                yield Problem(written_at(study, name, inner), said, kind="overridden")
        for inner in study.methods[name].set:
            if inner.startswith(f"{path}."):
                said = f" has no effect: the dimension `{path}` replaces the whole group; set it in each of its values"
                yield Problem(("methods", name, "set", inner), said, kind="overridden")


# --- the space of one method -----------------------------------------------------------------------------------------


def conditions(study: StudyConfig, name: str, space: Mapping[str, Dimension]) -> Iterator[Problem]:
    """Problems of conditions that name no earlier dimension, or that can never hold."""
    earlier: dict[str, Dimension] = {}
    for path, dimension in space.items():
        for on, values in dimension.when.items():
            at = (*written_at(study, name, path), "when", on)
            if on not in earlier:
                said = (
                    f" must name a dimension of `{name}` that comes before `{path}`; these come before it: "
                    f"{', '.join(earlier) or 'none'}"
                )
                yield Problem(at, said, near=closest_match(on, earlier), kind="when")
                continue
            for value in values if isinstance(values, list) else [values]:
                if not holds(earlier[on], value):
                    yield Problem(at, f" can never hold: `{on}` is never {value}", near=_near(earlier[on], value))
        earlier[path] = dimension


def _near(dimension: Dimension, value: Any) -> str | None:
    known = dimension.of if isinstance(dimension, ChoiceDimension) else ()
    return closest_match(value, map(str, known))


def _first_points(name: str, method: MethodSpace, space: Mapping[str, Dimension]) -> Iterator[Problem]:
    for number, params in enumerate(method.first):
        for path, value in params.items():
            at = ("methods", name, "first", number, path)
            if path not in space:
                said = f" is not in the search space of this method, which has {', '.join(space) or 'no dimension'}"
                yield Problem(at, said, near=closest_match(path, space), kind="first")
            elif not holds(space[path], value):
                said = f" must lie in its dimension ({extent(space[path])}), but is {value!r}"
                yield Problem(at, said, near=_near(space[path], value), kind="first")


def _sampler(study: StudyConfig, name: str, space: Mapping[str, Dimension]) -> Iterator[Problem]:
    for path, dimension in space.items():
        at = written_at(study, name, path)
        if study.sampler == "cmaes" and isinstance(dimension, ChoiceDimension):
            yield Problem(
                at,
                " is a choice, which `sampler: cmaes` samples at random instead of modelling it; use tpe, gp or nsga2",
            )
        if study.sampler in ("cmaes", "gp") and dimension.when:
            yield Problem(
                at,
                f" has a `when`, but `sampler: {study.sampler}` samples a dimension at random if not every trial has "
                "it; use tpe",
                kind="sampler",
            )


# --- equal methods ---------------------------------------------------------------------------------------------------


def _unequal(study: StudyConfig, spaces: Spaces, configs: Configs) -> Iterator[Problem]:
    """Keys in which methods differ and which `unequal` does not declare, and declared keys in which they do not."""
    searched = [name for name in study.methods if study.searched(name) == name]  # others are equal by construction
    first = {name: configs[name][0] for name in searched if configs.get(name)}
    found = unequal_keys(first, {name: spaces[name] for name in first})
    declared = [each.key for each in study.unequal]
    for path, difference in found.items():
        if not is_in(path, declared):
            said = (
                f": methods must be given the same `{path}`, but differ: {difference}. Give it to all in `base` or "
                f"`space`, or declare the difference: `unequal: [{{key: {path}, reason: ...}}]`"
            )
            yield Problem(_where_differs(study, path), said, kind=f"unequal {path}")
    if len(first) < len(searched):
        return  # some method cannot be checked, so it may be the one that differs
    for number, key in enumerate(declared):
        if not any(is_in(path, [key]) for path in found):
            said = f" must be a key in which methods differ, but all have the same `{key}`; leave it out"
            yield Problem(("unequal", number, "key"), said, near=closest_match(key, found))


def _where_differs(study: StudyConfig, path: str) -> Keys:
    """The first key of a method that sets or searches a path, or the study's `base`."""
    for name, method in study.methods.items():
        for part in ("set", "space"):
            for keys, _ in _parts(getattr(method, part), path):
                return ("methods", name, part, *keys)
    return ("base",)


def _parts(content: Mapping[str, Any], path: str) -> Iterator[tuple[Keys, Any]]:
    """The keys, nested or dotted, that set a dotted path or a group of keys that contains it."""
    for key, value in content.items():
        if key == path or path.startswith(f"{key}."):
            inner = list(_parts(value, path.removeprefix(f"{key}."))) if isinstance(value, Mapping) else []
            yield from ([((key, *keys), found) for keys, found in inner] or [((key,), value)])


# --- the study -------------------------------------------------------------------------------------------------------


def _ceilings(study: StudyConfig, configs: Configs) -> Iterator[Problem]:
    bounds = Counter(method.ceiling_of for method in study.methods.values() if method.ceiling_of is not None)
    for name, method in study.methods.items():
        at: Keys = ("methods", name)
        if name == study.reference and (method.ceiling_of is not None or method.control_of is not None):
            key = "ceiling_of" if method.ceiling_of is not None else "control_of"
            yield Problem(
                (*at, key), f" must not be set for the `reference`, which is `{name}`; choose another reference"
            )
        if method.ceiling_of is None:
            continue
        if bounds[method.ceiling_of] > 1:
            count = bounds[method.ceiling_of]
            said = f" must be set by one method per modality, but {count} methods set {method.ceiling_of}"
            yield Problem((*at, "ceiling_of"), said, kind="twice")
        for config in configs.get(name, ()):
            if not isinstance(config.method, UnimodalConfig) or config.method.modality != method.ceiling_of:
                said = (
                    f" must be the modality that the method trains alone: "
                    f"`set: {{method: {{name: unimodal, modality: {method.ceiling_of}}}}}`, but it trains "
                    f"{_method_in_words(config)}"
                )
                yield Problem((*at, "ceiling_of"), said, kind="ceiling")


def _replays(study: StudyConfig, configs: Configs) -> Iterator[Problem]:
    """Methods that replay one without shares, and runs that replay nothing."""
    for name, method in study.methods.items():
        replay = method.replay
        for config in configs.get(study.searched(name), ()):
            if replay is not None:
                at, of = ("methods", name, replay.rule), config.method
                if not isinstance(of, RemixConfig):
                    said = (
                        f" must be a method that assigns samples to modalities (`name: remix`), but `{replay.method}` "
                        f"trains {_method_in_words(config)}"
                    )
                    yield Problem(at, said, kind="no shares")
                elif (unclear := replay_problem(of)) is not None:
                    said = f" must be a method whose shares can be replayed, unlike `{replay.method}`: {unclear}"
                    yield Problem(at, said, kind="no shares")
            rule = replayed_of(config.method)
            if replay is None and rule is not None and rule.run is None:
                said = (
                    f" replays no run: name its folder in `method.filter.run`, or write `{rule.rule}: METHOD` as the "
                    "only key of the method, to replay another method of the study"
                )
                yield Problem(("methods", name), said, kind="no run")


def _method_in_words(config: RunConfig) -> str:
    method = config.method
    return f"{method.modality} alone" if isinstance(method, UnimodalConfig) else method.name


def _objectives(study: StudyConfig, configs: Configs) -> Iterator[Problem]:
    for number, objective in enumerate(study.objective):
        place = _objective_keys(study, number)
        at = place if _in_short(study, place) else (*place, "metric")
        found = _judged(objective.metric)
        if found is None:
            yield Problem(at, f"{_unknown(objective.metric)}, but is {objective.metric}",
                          near=closest_match(objective.metric, OBJECTIVES))  # fmt: skip
            continue
        if found.better != objective.direction and "shapley" not in objective.metric:
            yield Problem(
                place if _in_short(study, place) else (*place, "direction"),
                f" must be {found.better} for {objective.metric}, but is {objective.direction}; "
                f"write {{metric: {objective.metric}, direction: {found.better}}}",
            )
        for name, runs in configs.items():
            if objective in study.objectives_of(name):
                yield from _absent(at, objective.metric, found, name, runs)


def _objective_keys(study: StudyConfig, number: int) -> Keys:
    """The keys of an objective: a list may be left out if there is one objective."""
    return ("objective", number) if isinstance(study.source.content.get("objective"), list | tuple) else ("objective",)


def _in_short(study: StudyConfig, keys: Keys) -> bool:
    """Whether an objective is written as the name of its metric."""
    found = study.source.content.get("objective")
    return isinstance(found[keys[1]] if len(keys) > 1 and found else found, str)


def _unknown(metric: str) -> str:
    if metric.startswith(("test/", "test_balance/")):
        return " must be measured on validation: the test set is not used for selection"
    if metric.startswith(("probe/", "sufficiency/")):
        return " must be a metric of trials: probes and sufficiency are only measured for replicates"
    return f" must be a metric of a run's summary, such as {', '.join(OBJECTIVES[:3])} (docs/metrics.md)"


def _judged(metric: str, epoch: bool = False) -> _Metric | None:
    """The metric of this name, of a run's summary or of an epoch; None if there is none."""
    name = re.sub(r"^best/(val|balance)_", r"\1/", metric) if not epoch else metric
    known = () if epoch else _END
    of_an_epoch = () if name == metric and not epoch else _EPOCH
    return next(
        (each for each in known if re.fullmatch(each.pattern, metric)),
        next((each for each in of_an_epoch if re.fullmatch(each.pattern, name)), None),
    )


def _absent(at: Keys, metric: str, measured: _Metric, name: str, configs: Sequence[RunConfig]) -> Iterator[Problem]:
    """A problem for each run whose method does not have the metric: its trials would fail."""
    for config in configs:
        alone = isinstance(config.method, UnimodalConfig)
        lacks = None
        if measured.heads and not trains_heads(config.method):
            lacks = "trains no unimodal heads; use joint_unimodal"
        elif measured.fusion and alone:
            lacks = "has one modality"
        elif "_uni/" in metric and isinstance(config.method, UnimodalConfig):
            wanted = re.sub(r".*_uni/", "", metric)
            lacks = None if wanted == config.method.modality else f"has only {config.method.modality}"
        elif metric.endswith("/val_accuracy_late_calibrated"):
            select = config.evaluation.select
            other = f"{select}/val_accuracy_late_calibrated"
            lacks = None if metric == other else f"has `evaluation.select: {select}`; use {other}"
        if lacks is not None:
            same_for_all = "evaluation.select" in lacks  # methods may not differ in it, so one sentence is enough
            yield Problem(at, f" must be a metric of every method, but `{name}` does not have {metric}: it {lacks}",
                          kind=f"absent {'in this epoch' if same_for_all else name}")  # fmt: skip


def _pruner(study: StudyConfig, configs: Configs) -> Iterator[Problem]:
    pruner = study.pruner
    if not isinstance(pruner, EarlyEnd):
        return
    at: Keys = ("pruner", "grace")
    every = [(name, config) for name, runs in configs.items() for config in runs]
    shortest = min((config.epochs for _, config in every), default=None)
    if shortest is not None and pruner.grace >= shortest:
        said = (
            f" must be below the epochs of the shortest run ({shortest}), or no trial ends early, but is {pruner.grace}"
        )
        yield Problem(at, said, kind="never")
    warmups = {
        name: max(c.method.warmup for c in runs if isinstance(c.method, RemixConfig))
        for name, runs in configs.items()
        if any(isinstance(c.method, RemixConfig) for c in runs)
    }
    late = {name: warmup for name, warmup in warmups.items() if warmup >= pruner.grace}
    if late:
        names = ", ".join(f"`{name}` ({warmup})" for name, warmup in late.items())
        said = (
            f" must be above every warm-up, so that no trial is pruned before Remix begins, but is {pruner.grace} with "
            f"the warm-up of {names}; use {max(late.values()) + 1} or more"
        )
        yield Problem(at, said, kind="unfair")
    at = ("pruner", "metric")
    found = _judged(pruner.metric, epoch=True) if pruner.metric.startswith("val/") else None
    if found is None:
        said = (
            " must be a validation metric of every epoch, such as val/accuracy (docs/metrics.md), but is "
            f"{pruner.metric}"
        )
        yield Problem(at, said, kind="metric")
        return
    if found.better != study.objective[0].direction:
        said = (
            f" must have the direction of the objective ({study.objective[0].direction} "
            f"{study.objective[0].metric}), but {pruner.metric} has the other one; use "
            f"{re.sub(r'^best/val_', 'val/', study.objective[0].metric)}"
        )
        yield Problem(at, said, kind="direction")
    for name, runs in configs.items():
        yield from _absent(at, pruner.metric, found, name, runs)


def _resources(study: StudyConfig, configs: Configs) -> Iterator[Problem]:
    gpus = study.resources.gpus
    if gpus:
        for name, runs in configs.items():
            if any(config.device == "cpu" for config in runs):
                said = f" must be 0 if a run has `device: cpu`, as `{name}` has, but is {gpus:g}; use `device: auto`"
                yield Problem(("resources", "gpus"), said, kind="gpus")
    elif gpus == 0 and study.budget.gpu_hours is not None:
        said = " has no effect without GPUs; set `resources.gpus`, or use `budget.cpu_hours`"
        yield Problem(("budget", "gpu_hours"), said)
