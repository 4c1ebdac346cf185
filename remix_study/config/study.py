"""StudyConfig: the configuration of a study"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from remix_study.config.identity import Introduced
from remix_study.config.part import Part, kind_or
from remix_study.config.problems import ContradictionError, closest_match
from remix_study.config.yaml_source import YamlSource, dump

STORAGE = "REMIX_STUDY_STORAGE"  # environment variable: the default of `storage`

# Keys that methods must not set and searches must not contain, with the reason.
SETTLED: Mapping[str, str] = {
    "seed": "a study draws its seeds itself; see `seed`, `seeds_per_trial` and `replicates` of the study",
    "corpus": "results on different corpora are not comparable; run the study once per corpus",
    "tracking": "tracking does not influence training",
    "evaluation.test": "trials must not use the test set; only replicates evaluate it, once",
}
# Keys that searches must not contain.
UNSEARCHED: Mapping[str, str] = {
    **SETTLED,
    "evaluation.probe": "trials train no probes; only replicates do",
    "control_fraction": "all methods of a study train on the same samples; set it in `base`",
}
# Larger files are refused: every label of every choice of every method is checked before a study starts.
MOST_METHODS, MOST_DIMENSIONS, MOST_LABELS, MOST_FIRST = 200, 100, 1000, 1000
MOST_CHECKED = 10_000  # labels of the choices of all methods
# Common objectives; docs/metrics.md describes all metrics.
OBJECTIVES = (
    "best/val_accuracy", "best/val_macro_f1", "best/val_cross_entropy", "best/val_balanced_accuracy",
    "best/val_accuracy_late_sum", "best/val_accuracy_late_calibrated",
    "best/val_accuracy_uni/audio", "best/val_accuracy_uni/video",
    "best/balance_accuracy_ratio", "best/balance_imbalance", "last/val_accuracy",
    "last/val_accuracy_late_calibrated", "time/total_train_s",
)  # fmt: skip


class Searched(Part):
    """`when`: search this dimension only if other dimensions have these values; a list means any of them."""

    when: dict[str, Any] = Field(default_factory=dict)


class FloatDimension(Searched):
    kind: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(default=None, gt=0, description="distance between neighbouring values; not with `log`")

    @model_validator(mode="after")
    def _ordered(self) -> "FloatDimension":
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"`low` must not exceed `high`, nor be 0 on a log scale; they are {self.low} and {self.high}"
            )
        if self.log and self.step is not None:
            raise ValueError("`step` must be left out on a log scale; list the values as a choice instead")
        if math.isinf(self.high - self.low):
            raise ValueError(f"`high` minus `low` must be a finite number; they are {self.high} and {self.low}")
        return self


class IntDimension(Searched):
    kind: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "IntDimension":
        if self.low > self.high:
            raise ValueError(f"`low` must not exceed `high`, but {self.low} > {self.high}")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("`low` must be at least 1, and `step` left out, on a log scale")
        return self


class ChoiceDimension(Searched):
    """`of`: the values, each a number or a word; or names, each with a value that may be a group of keys."""

    kind: Literal["choice"]
    of: list[Any] | dict[str, Any] = Field(min_length=1, max_length=MOST_LABELS)

    @model_validator(mode="after")
    def _named(self) -> "ChoiceDimension":
        nameless = [each for each in self.of if isinstance(each, dict | list)]
        if nameless:
            example = dump({"one": nameless[0]}, flow=True).strip()
            raise ValueError(f"`of` must name groups of keys, as in {example}, because a trial records the name")
        if isinstance(self.of, list):
            twice = next((each for n, each in enumerate(self.of) if each in self.of[:n]), None)
            if twice is not None or self.of.count(None) > 1:
                raise ValueError(f"`of` must name each value once, but has {_plain(twice)} twice")
            if any(each != each for each in self.of):
                raise ValueError("`of` must not contain .nan, which equals no value")
        return self


def _plain(value: Any) -> str:
    return dump(value).splitlines()[0]


Dimension = Annotated[FloatDimension | IntDimension | ChoiceDimension, Field(discriminator="kind")]


ReplayRule = Literal["random_at_share_of", "random_at_mean_share_of"]
# What a method has and its control lacks, if the control does not say it itself.
_ISOLATES: Mapping[ReplayRule, str] = {
    "random_at_share_of": "choosing samples at the same shares",
    "random_at_mean_share_of": "choosing samples and changing shares at the same mean",
}


class Replay(NamedTuple):
    """What a method replays: the shares of `method`, of each epoch or their mean."""

    rule: ReplayRule
    method: str


class MethodSpace(Part):
    """One method: its changes to the base configuration, and its search space.

    A method that replays another one has its configuration and no search of its own.
    """

    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(default_factory=dict, max_length=MOST_DIMENSIONS)
    first: list[dict[str, Any]] = Field(
        default_factory=list, max_length=MOST_FIRST, description="known-good configurations, tried first"
    )
    ceiling_of: str | None = Field(
        default=None, description="the modality whose ceiling this method measures, for sufficiency"
    )
    control_of: str | None = Field(
        default=None, description="what the reference has and this control lacks, for the report"
    )
    random_at_share_of: Annotated[str | None, Introduced(None)] = Field(
        default=None,
        description="control: assigns random samples, in each epoch as many to each modality as this method, with its "
        "configuration and seed",
    )
    random_at_mean_share_of: Annotated[str | None, Introduced(None)] = Field(
        default=None, description="as `random_at_share_of`, with the mean number over all epochs after the warm-up"
    )

    @property
    def replay(self) -> Replay | None:
        """The method whose shares this one replays; None if it replays none."""
        named = {rule: getattr(self, rule) for rule in get_args(ReplayRule)}
        return next((Replay(rule, method) for rule, method in named.items() if method is not None), None)


class Objective(Part):
    """A validation metric of the run's summary, to be maximized or minimized."""

    metric: str = "best/val_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"


def _objectives(value: Any) -> Any:
    """Accept a metric (`best/val_accuracy`), one objective, or a list of either."""
    return [{"metric": each} if isinstance(each, str) else each for each in _as_list(value)]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class NoPrunerConfig(Part):
    """No pruning: every trial trains for all epochs."""

    name: Literal["none"] = "none"


class EarlyEnd(Part):
    """A pruner that compares the best values of `metric` so far, since the objective is that of the best epoch."""

    metric: str = Field(default="val/accuracy", description="of every epoch; higher is better")
    grace: int = Field(
        default=4, ge=1, description="epochs before a trial may be pruned; more than the warm-up of Remix"
    )


class AshaConfig(EarlyEnd):
    """Asynchronous successive halving: at grace, grace * reduction, ... epochs only the best 1 / reduction continue."""

    name: Literal["asha"]
    reduction: int = Field(default=3, ge=2)


class MedianConfig(EarlyEnd):
    """Prune a trial whose metric is below the median of the others at the same epoch."""

    name: Literal["median"]
    startup: int = Field(default=4, ge=1, description="trials that are never pruned, at the start")


class HyperbandConfig(EarlyEnd):
    """Successive halving with several values of `grace` at once."""

    name: Literal["hyperband"]
    reduction: int = Field(default=3, ge=2)


PrunerConfig = Annotated[
    NoPrunerConfig | AshaConfig | MedianConfig | HyperbandConfig, Field(discriminator="name"), kind_or("name", "none")
]


def _pruner(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class BudgetConfig(Part):
    """The limits of a study, over all its starts. `trials` limits the number of trials.

    No new trial starts when the rest of the budget is needed for the replicates.
    """

    hours: float | None = Field(default=None, gt=0, description="wall-clock time while the study runs")
    cpu_hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)


class ResourcesConfig(Part):
    """The resources of each worker of a run; `base.workers` is the number of workers."""

    cpus: float = Field(default=1, gt=0, le=1024)
    gpus: float | None = Field(
        default=None, ge=0, le=64, description="0.25: four runs share a GPU; default: 1 if there are GPUs"
    )


class Unequal(Part):
    """A key of the run configuration in which methods differ on purpose; the report shows the difference."""

    key: str = Field(min_length=1, description="dotted, such as epochs, or of a group, such as augment")
    reason: str = Field(min_length=1)


class StudyConfig(Part):
    """A study: a question, and methods that are compared with the same tuning budget."""

    # Longer ones were allowed in version 0.1 and can be read; a study that starts has a name as names.py defines it.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    base: dict[str, Any]
    space: dict[str, Dimension] = Field(
        default_factory=dict, max_length=MOST_DIMENSIONS, description="search space of every method"
    )
    methods: dict[str, MethodSpace] = Field(min_length=1, max_length=MOST_METHODS)
    reference: str = Field(description="the method that the others are compared with, paired by seed")
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives), Field(min_length=1)] = (Objective(),)
    tolerance: float = Field(
        default=0.0,
        ge=0,
        description="with several objectives: how far a configuration may be below the best first objective to be "
        "chosen by the second",
    )
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "grid"] = "tpe"
    pruner: Annotated[PrunerConfig, BeforeValidator(_pruner)] = NoPrunerConfig()
    trials: int = Field(ge=1, le=1_000_000, description="trials per method")
    seeds_per_trial: int = Field(
        default=1, ge=1, le=1000, description="a trial's value is the mean over this many seeds"
    )
    replicates: int = Field(ge=1, le=10_000, description="seeds of the final comparison, per method")
    budget: BudgetConfig = BudgetConfig()
    concurrency: int | None = Field(
        default=None, ge=1, description="maximum number of concurrent runs; default: one per CPU core"
    )
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = Field(
        default=None,
        description="where trials are stored: `journal` for a shared disk, or the URL of a database; default: "
        f"${STORAGE}, else a file in the study's folder",
    )
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    unequal: Annotated[list[Unequal], Introduced([])] = Field(
        default_factory=list,
        description="where methods differ in more than `method`; all other differences are refused",
    )

    _source: YamlSource = PrivateAttr(default_factory=YamlSource)

    @field_validator("base")
    @classmethod
    def _tracked_as_recorded(cls, base: dict[str, Any]) -> dict[str, Any]:
        """Studies recorded by version 0.1 have `uri: false` for `uri: off`, which YAML 1.1 reads as false."""
        tracking = base.get("tracking")
        if isinstance(tracking, dict) and tracking.get("uri") is False:
            return {**base, "tracking": {**tracking, "uri": "off"}}
        return base

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        problems: list[tuple[str, str]] = []
        if self.reference not in self.methods:
            near = closest_match(self.reference, self.methods)
            message = f"`reference` must be one of {', '.join(self.methods)}, but is {self.reference}"
            problems.append(("reference", message + (f"; did you mean `{near}`?" if near else "")))
        several = len(self.objective) > 1
        if several and self.sampler == "cmaes":
            message = "`sampler: cmaes` needs one objective, but there are several; use tpe, gp or nsga2"
            problems.append(("sampler", message))
        if several and not isinstance(self.pruner, NoPrunerConfig):
            message = "`pruner` needs one objective, but there are several; leave it out, or search one of them"
            problems.append(("pruner", message))
        if self.tolerance and not several:
            problems.append(("tolerance", "`tolerance` needs several objectives, but there is one; leave it out"))
        problems += [problem for name in self.methods for problem in self._problems_of_replay(name)]
        if problems:
            raise ContradictionError(problems)
        return self

    def _problems_of_replay(self, name: str) -> Iterator[tuple[str, str]]:
        method = self.methods[name]
        replay = method.replay
        if replay is None:
            return
        at = f"methods.{name}.{replay.rule}"
        others = {"random_at_mean_share_of", "set", "space", "first", "ceiling_of"} - {replay.rule}
        for key in sorted(others & method.model_fields_set):
            if getattr(method, key):
                said = (
                    f"`{at}` has no effect with `{key}`: the configuration is that of `{replay.method}`; leave one out"
                )
                yield f"methods.{name}.{key}", said
        if replay.method not in self.methods:
            candidates = [other for other, each in self.methods.items() if each.replay is None]
            near = closest_match(replay.method, candidates)
            said = f"`{at}` must be one of {', '.join(candidates)}, but is {replay.method}"
            yield at, said + (f"; did you mean `{near}`?" if near else "")
        elif replay.method == name:
            yield at, f"`{at}` must be another method, but is the method itself"
        elif (again := self.methods[replay.method].replay) is not None:
            said = f"`{at}` must be a method with shares of its own, but `{replay.method}` replays those of"
            yield at, f"{said} `{again.method}`"
        elif name == self.reference:
            yield at, f"`{at}` must not be set for the `reference`, which is `{name}`; choose another reference"

    def searched(self, method: str) -> str:
        """The method whose trials choose the configuration of `method`: itself, or the one that it replays."""
        replay = self.methods[method].replay
        return method if replay is None else replay.method

    def trials_of(self, method: str) -> int:
        """The number of trials that a method gets; none if it replays another."""
        return self.trials if self.searched(method) == method else 0

    def control_of(self, method: str) -> str | None:
        """What a method is a control of; None if it is none."""
        found = self.methods[method]
        return found.control_of or (None if found.replay is None else _ISOLATES[found.replay.rule])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return tuple(objective.metric for objective in self.objective)

    def objectives_of(self, method: str) -> tuple[Objective, ...]:
        """The objectives of a method's trials. Ceilings have the first only: one modality has no balance."""
        return self.objective[:1] if self.methods[method].ceiling_of is not None else self.objective

    @property
    def source(self) -> YamlSource:
        """The file that the study was loaded from, with the line of each key; without lines if there was no file."""
        return self._source if self._source.name else YamlSource(f"the study `{self.name}`", self.model_dump())

    def set_source(self, source: YamlSource) -> None:
        """Remember the file that the study was loaded from, so that problems found later name its lines."""
        self._source = source
