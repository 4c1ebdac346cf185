"""Families, combinations and planned comparisons of a study's methods, found from their configurations

A family is a way of training (joint, joint_unimodal, remix) with what is added to it. The components of a method are
what distinguishes it from joint training: what is added, and its way of training unless an added method needs it
anyway. A combination has several components. Its parts are the methods of the study that lack one of them and agree
with it in all settings that are not searched: of `remix` with `ogm_ge`, these are `remix` alone and `ogm_ge` alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from remix_study.config.added_methods import AddedConfig
from remix_study.config.assignment import RandomConfig
from remix_study.config.method import RemixConfig, UnimodalConfig, base_of, expanded, names_of
from remix_study.config.run import RunConfig
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError
from remix_study.study.dimensions import corners
from remix_study.study.fairness import APART, is_in, leaves_of
from remix_study.study.search_space import chosen_space, configure


class Pair(NamedTuple):
    """A planned comparison.

    Attributes:
        first, second: names of methods.
        lacks: what the second lacks of the first: a component, or what it is a control of. Empty if the first is the
            reference of the study, and the second is neither its part nor its control.
        control: whether the second is a control of the first.
    """

    first: str
    second: str
    lacks: str = ""
    control: bool = False


def configs_of(study: StudyConfig) -> dict[str, RunConfig]:
    """A run of each method whose configuration is valid; that of an older version may no longer be."""
    found = {}
    for name in study.methods:
        with suppress(ConfigError):
            found[name] = configure(study, name, next(corners(chosen_space(study, name))), study.seed, {})
    return found


def family_of(config: RunConfig) -> tuple[str, ...]:
    """The way of training of a method, and what is added to it: `("joint", "ogm_ge")`."""
    return names_of(expanded(config.method))


def components(config: RunConfig) -> frozenset[str]:
    """What distinguishes a method from joint training. Empty for `joint` and `unimodal`."""
    if isinstance(config.method, UnimodalConfig):
        return frozenset()
    base, *added = family_of(config)
    return frozenset(added) | ({base} - {base_of(added)})


def planned(study: StudyConfig, configs: Mapping[str, RunConfig]) -> list[Pair]:
    """The comparisons of a study, each pair of methods once: p-values are adjusted for their number.

    They are of the reference with every other method, of each combination with its parts, and of each method with its
    controls. Unimodal ceilings are not compared, and controls are not combinations.
    """
    others = [name for name, each in study.methods.items() if each.ceiling_of is None and name != study.reference]
    pairs = [Pair(study.reference, name) for name in others]
    found: dict[frozenset[str], Pair] = {}
    for pair in [*pairs, *of_combinations(study, configs), *of_controls(study, configs)]:
        found.setdefault(frozenset(pair[:2]), pair)
    return list(found.values())


def of_combinations(study: StudyConfig, configs: Mapping[str, RunConfig]) -> list[Pair]:
    """Each combination with its parts, in the order of the study file.

    A variant of the reference, such as Remix with another fusion, is also compared with its only part: joint training
    with that fusion.
    """
    ours = {name: components(config) for name, config in configs.items() if _is_candidate(study, name)}
    found = []
    for name, whole in ours.items():
        if len(whole) < (1 if _is_variant(study, configs, name) else 2):
            continue
        for lacking in _in_order(configs[name], whole):
            parts = [other for other, has in ours.items() if has == whole - {lacking}]
            agreeing = (other for other in parts if not any(differing_keys(study, configs, name, other, lacking)))
            if (part := next(agreeing, None)) is not None:
                found.append(Pair(name, part, lacking))
    return found


def of_controls(study: StudyConfig, configs: Mapping[str, RunConfig]) -> list[Pair]:
    """Each control with the method that it is a control of, unless that is the reference.

    It is the method that it replays. Of any other control, it is the method of the same family that agrees with it in
    what is added and in all settings apart from those of the way of training, of which it shares the most; without one,
    it is the reference.
    """
    found = []
    for name, method in study.methods.items():
        lacks = study.control_of(name)
        if lacks is None or name not in configs or name == study.reference:
            continue
        if method.replay is not None:
            if method.replay.method != study.reference:
                found.append(Pair(method.replay.method, name, lacks, control=True))
            continue
        differing = {
            other: list(differing_keys(study, configs, name, other, ""))
            for other, config in configs.items()
            if _is_candidate(study, other) and family_of(config) == family_of(configs[name])
        }
        alike = [other for other, paths in differing.items() if all(_is_of_base(path) for path in paths)]
        # An option of the way of training is one difference, whatever is in it, such as a filter with its threshold.
        unused = {"score"} if _assigns_at_random(configs[name]) else set()
        groups = {other: {path.split(".")[1] for path in differing[other]} - unused for other in alike}
        closest = min(alike, key=lambda other: (len(groups[other]), other != study.reference), default=study.reference)
        if closest != study.reference:
            found.append(Pair(closest, name, lacks, control=True))
    return found


def _assigns_at_random(config: RunConfig) -> bool:
    return isinstance(config.method, RemixConfig) and isinstance(config.method.filter, RandomConfig)


def _is_of_base(path: str) -> bool:
    """Whether a key is an option of the way of training."""
    return is_in(path, ["method"]) and not is_in(path, ["method.with"])


def _is_variant(study: StudyConfig, configs: Mapping[str, RunConfig], name: str) -> bool:
    """Whether a method is of the family of the reference, but differs from it in settings apart from the method."""
    reference = study.reference
    if name == reference or reference not in configs or family_of(configs[name]) != family_of(configs[reference]):
        return False
    return any(not is_in(path, ["method"]) for path in differing_keys(study, configs, name, reference, ""))


def _is_candidate(study: StudyConfig, name: str) -> bool:
    method = study.methods[name]
    return method.ceiling_of is None and (study.control_of(name) is None or name == study.reference)


def _in_order(config: RunConfig, whole: frozenset[str]) -> list[str]:
    """The components of a combination, the way of training last."""
    return [name for name in reversed(family_of(config)) if name in whole]


def differing_keys(
    study: StudyConfig, configs: Mapping[str, RunConfig], first: str, second: str, lacking: str
) -> Iterator[str]:
    """The keys in which two methods differ, without those of a component that the second lacks, and searched ones."""
    given = [_content(configs[name]) for name in (first, second)]
    apart = [*APART, f"method.with.{lacking}"]
    bases = [family_of(configs[name])[0] for name in (first, second)]
    for name in (first, second):
        apart += [_in_full(configs[name], path) for path in chosen_space(study, name)]
    for path in sorted(given[0].keys() | given[1].keys()):
        if is_in(path, apart) or (_is_of_base(path) and bases[0] != bases[1]):
            continue
        if given[0].get(path) != given[1].get(path):
            yield path


def _content(config: RunConfig) -> dict[str, Any]:
    """Dotted key -> value, with the method as a way of training to which methods are added."""
    whole = expanded(config.method).model_dump(mode="json", by_alias=True)
    content = dict(leaves_of({**config.model_dump(mode="json"), "method": whole}))
    return {path: value for path, value in content.items() if path != "method.with"}  # which is empty


def _in_full(config: RunConfig, path: str) -> str:
    """A searched key as one of the expanded method: `method.alpha` of `ogm_ge` is `method.with.ogm_ge.alpha`."""
    if isinstance(config.method, AddedConfig) and path.startswith("method."):
        return f"method.with.{config.method.name}.{path.removeprefix('method.')}"
    return path
