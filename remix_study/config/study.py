"""StudyConfig: the YAML of a study, strict at the door"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from remix_study.config.problems import ContradictionError, closest_match
from remix_study.config.run import Part, kind_or
from remix_study.config.yaml_source import YamlSource, dump

STORAGE = "REMIX_STUDY_STORAGE"  # of the environment: where trials are kept, for studies that do not say it

# What a study settles itself, and why: no method sets it, and nobody searches it.
SETTLED: Mapping[str, str] = {
    "seed": "a study draws its seeds itself; see `seed`, `seeds_per_trial` and `replicates` of the study",
    "corpus": "trials on one corpus say nothing about another; run the study once for each",
    "tracking": "where runs are recorded changes nothing that they learn",
    "evaluation.test": "selection never sees the test split; replicates look at it, once",
}
# What a study is most often judged by; all are told in docs/metrics.md.
OBJECTIVES = (
    "best/val_accuracy", "best/val_macro_f1", "best/val_cross_entropy", "best/val_accuracy_late_sum",
    "best/val_accuracy_uni/audio", "best/val_accuracy_uni/video", "best/balance_accuracy_ratio",
    "best/balance_imbalance", "last/val_accuracy", "time/total_train_s",
)  # fmt: skip


class Searched(Part):
    """`when`: other dimensions and the values (a list: any of them) under which this one is searched at all."""

    when: dict[str, Any] = Field(default_factory=dict)


class FloatDimension(Searched):
    kind: Literal["float"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(default=None, gt=0, description="distance of neighbouring values; not on a log scale")

    @model_validator(mode="after")
    def _ordered(self) -> "FloatDimension":
        if self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"`low` must not exceed `high`, nor be 0 on a log scale; they are {self.low}, {self.high}")
        if self.log and self.step is not None:
            raise ValueError("`step` must be left out on a log scale; list the values as a choice instead")
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
    """`of`: values, each a number, a word, or a whole part of the configuration; names of parts are their labels."""

    kind: Literal["choice"]
    of: list[Any] | dict[str, Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _named(self) -> "ChoiceDimension":
        nameless = [each for each in self.of if isinstance(each, dict | list)]
        if nameless:
            example = dump({"one": nameless[0]}, flow=True).strip()
            raise ValueError(f"`of` must name whole parts, such as {example}, because a trial records the name")
        return self


Dimension = Annotated[FloatDimension | IntDimension | ChoiceDimension, Field(discriminator="kind")]


class MethodSpace(Part):
    """One method: what it sets in the base configuration, and what is searched for it."""

    set: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(default_factory=dict)
    first: list[dict[str, Any]] = Field(default_factory=list, description="known-good points, tried first")
    ceiling_of: str | None = Field(default=None, description="the modality whose sufficiency this method bounds")
    control_of: str | None = Field(default=None, description="what the reference has and this control lacks, in words")


class Objective(Part):
    """What a trial is judged by: a number of the run's summary, on validation."""

    metric: str = "best/val_accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"


def _objectives(value: Any) -> Any:
    """`best/val_accuracy`, one objective, or a list of either."""
    return [{"metric": each} if isinstance(each, str) else each for each in _as_list(value)]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class NoPrunerConfig(Part):
    """Every trial runs to its last epoch."""

    name: Literal["none"] = "none"


class EarlyEnd(Part):
    """`metric` is judged by its best value so far, which is what the best epoch's objective will be."""

    metric: str = Field(default="val/accuracy", description="of every epoch; higher is better")
    grace: int = Field(default=4, ge=1, description="epochs that every trial gets; more than Remix's warm-up")


class AshaConfig(EarlyEnd):
    """Asynchronous successive halving: at grace, grace * reduction, ... epochs only the best 1 / reduction go on."""

    name: Literal["asha"]
    reduction: int = Field(default=3, ge=2)


class MedianConfig(EarlyEnd):
    """A trial ends where it is below the median of the others at the same epoch."""

    name: Literal["median"]
    startup: int = Field(default=4, ge=1, description="trials that run to their end first")


class HyperbandConfig(EarlyEnd):
    """Successive halving with several graces at once."""

    name: Literal["hyperband"]
    reduction: int = Field(default=3, ge=2)


PrunerConfig = Annotated[
    NoPrunerConfig | AshaConfig | MedianConfig | HyperbandConfig, Field(discriminator="name"), kind_or("name", "none")
]


def _pruner(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class BudgetConfig(Part):
    """What a study may use, over all its starts; `trials` says how many trials that is at most.

    When it is nearly used up no new trial begins, so that the replicates still fit.
    """

    hours: float | None = Field(default=None, gt=0, description="wall-clock, while somebody works on the study")
    cpu_hours: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)


class ResourcesConfig(Part):
    """Of each worker of a run (`base.workers` says how many a run has)."""

    cpus: float = Field(default=1, gt=0, le=1024)
    gpus: float | None = Field(
        default=None, ge=0, le=64, description="0.25: four runs share a GPU; default: one where there are any"
    )


class StudyConfig(Part):
    """A question, its methods, and the same budget for each of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str
    base: dict[str, Any]
    space: dict[str, Dimension] = Field(default_factory=dict, description="searched for every method")
    methods: dict[str, MethodSpace] = Field(min_length=1)
    reference: str = Field(description="the method that the others are compared with, seed by seed")
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives), Field(min_length=1)] = (Objective(),)
    tolerance: float = Field(
        default=0.0,
        ge=0,
        description="of several objectives: how far below the best of the first a point may be to win by the second",
    )
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "grid"] = "tpe"
    pruner: Annotated[PrunerConfig, BeforeValidator(_pruner)] = NoPrunerConfig()
    trials: int = Field(ge=1, description="per method")
    seeds_per_trial: int = Field(default=1, ge=1, description="a trial's value is the mean over so many seeds")
    replicates: int = Field(ge=1, description="seeds of the final comparison")
    budget: BudgetConfig = BudgetConfig()
    concurrency: int | None = Field(default=None, ge=1, description="runs at once; default: one per CPU core")
    resources: ResourcesConfig = ResourcesConfig()
    storage: str | None = Field(
        default=None,
        description="of the trials: default a file of the study; `journal` for a shared disk; or a database's URL; "
        f"where it is not said, ${STORAGE}",
    )
    seed: int = Field(default=0, ge=0)

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
    def _possible(self) -> "StudyConfig":
        problems: list[tuple[str, str]] = []
        if self.reference not in self.methods:
            near = closest_match(self.reference, self.methods)
            said = f"`reference` must be one of {', '.join(self.methods)}, but is {self.reference}"
            problems.append(("reference", said + (f"; did you mean `{near}`?" if near else "")))
        several = len(self.objective) > 1
        if several and self.sampler == "cmaes":
            said = "`sampler: cmaes` needs one objective, but there are several; use tpe, gp or nsga2"
            problems.append(("sampler", said))
        if several and not isinstance(self.pruner, NoPrunerConfig):
            said = "`pruner` needs one objective, but there are several; leave it out, or search one of them"
            problems.append(("pruner", said))
        if self.tolerance and not several:
            problems.append(("tolerance", "`tolerance` needs several objectives, but there is one; leave it out"))
        if problems:
            raise ContradictionError(problems)
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return tuple(objective.metric for objective in self.objective)

    def objectives_of(self, method: str) -> tuple[Objective, ...]:
        """What a method's trials are judged by: a unimodal ceiling has no balance, and is judged by the first alone."""
        return self.objective[:1] if self.methods[method].ceiling_of is not None else self.objective

    @property
    def source(self) -> YamlSource:
        """The file that the study was loaded from, with the line of each key; without lines if there was no file."""
        return self._source if self._source.name else YamlSource(f"the study `{self.name}`", self.model_dump())

    def set_source(self, source: YamlSource) -> None:
        """Remember the file that the study was loaded from, so that problems found later name its lines."""
        self._source = source
