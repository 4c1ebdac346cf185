"""The comparison of a study's methods as plain data

Does not import torch, so that the report and the terminal show results quickly.
"""

# S seeds

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from remix_study.errors import StudyError
from remix_study.statistics import Estimate, mean_over_seeds
from remix_study.study.ledger import has_diverged
from remix_study.study.outcomes import Paired


class Spread(NamedTuple):
    """Mean and sample standard deviation (0 for one value)."""

    mean: float
    std: float


class Ceiling(NamedTuple):
    """Accuracies of one modality trained alone, in [0, 1], as means over seeds.

    Attributes:
        head: on the test split.
        probe: of a linear probe, on the test split; None if there is none.
        own_epoch: on the validation split in the best epoch; None if it was not recorded.
    """

    head: float
    probe: float | None
    own_epoch: float | None = None


class Method(NamedTuple):
    """The replicates of a method and its comparison with the reference.

    Attributes:
        params: the chosen hyperparameters.
        seeds: replicate number -> summary of the run, with its sufficiency.
        ceiling_of: the modality whose unimodal ceiling this method is, or None.
        control_of: what the method is a control of, or None.
        ahead: the reference minus this method, with the weights of the selected epoch; None for the reference.
        other_epoch: the same with the weights of the other epoch: the last if the best is selected, or the best if the
            last is; None if they were not recorded.
        estimates: metric -> mean with an interval that rests on more than the metric's own values: on test clips, or on
            the seeds of a ceiling.
        failed: numbers of the replicates that failed.
        family: its way of training, and what is added to it, such as `("joint", "ogm_ge")`; empty if its settings are
            not valid in this version.
    """

    name: str
    params: Mapping[str, Any]
    seeds: dict[int, dict[str, float]]
    ceiling_of: str | None
    control_of: str | None
    ahead: Paired | None
    other_epoch: Paired | None = None
    estimates: Mapping[str, Estimate] = {}
    failed: tuple[int, ...] = ()
    family: tuple[str, ...] = ()

    @property
    def diverged(self) -> tuple[int, ...]:
        """Numbers of the replicates whose loss grew a thousandfold."""
        return tuple(number for number, summary in sorted(self.seeds.items()) if has_diverged(summary))

    def values(self, metric: str) -> NDArray[np.float64]:
        """values_S of a metric: one for each seed that has it, in the order of the seeds."""
        return np.asarray([s[metric] for _, s in sorted(self.seeds.items()) if metric in s], dtype=np.float64)

    def spread(self, metric: str, scale: float = 1.0) -> Spread | None:
        """Mean and deviation of `scale` times a metric over the seeds; None if no seed has it."""
        values_S = self.values(metric) * scale
        if len(values_S) == 0:
            return None
        return Spread(float(values_S.mean()), float(values_S.std(ddof=1)) if len(values_S) > 1 else 0.0)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean of a metric over the seeds that have it, with its 95 % interval; None if no seed has it.

        The interval of an accuracy is over seeds and test clips where there are predictions, others are over seeds.
        """
        values_S = self.values(metric)
        return self.estimates.get(metric) or (mean_over_seeds(values_S) if len(values_S) else None)

    def worst_accuracy(self) -> float | None:
        """Mean test accuracy in [0, 1] if a replicate that failed predicts no clip correctly; None if none failed."""
        values_S = self.values("test/accuracy")
        return float(values_S.sum()) / (len(values_S) + len(self.failed)) if self.failed else None


class Part(NamedTuple):
    """A part or a control of a combination.

    Attributes:
        name: of the method.
        lacks: the component that it lacks, such as `ogm_ge`; of a control, what it is a control of.
        ahead: test accuracy of the combination minus that of this method.
        control: whether it is a control.
    """

    name: str
    lacks: str
    ahead: Paired
    control: bool = False


class Combination(NamedTuple):
    """A method that combines others, with its comparison with them.

    Attributes:
        parts: methods that lack one of its components.
        controls: methods that are its controls. A method that is no combination may have only these.
    """

    name: str
    parts: tuple[Part, ...]
    controls: tuple[Part, ...] = ()


class Bar(NamedTuple):
    """Separately trained unimodal networks, combined without further training (study/separate.py).

    Attributes:
        networks: the combination as a method that has a late sum and a calibrated late product, but no fused head.
        missing: number -> why the replicate could not be combined.
        late_sum: method -> its fused head minus their late sum.
        late_calibrated: method -> its calibrated late product minus theirs.
    """

    networks: Method
    missing: Mapping[int, str]
    late_sum: Mapping[str, Paired]
    late_calibrated: Mapping[str, Paired]

    @property
    def comparisons(self) -> int:
        return len(self.late_sum) + len(self.late_calibrated)


class Readout(NamedTuple):
    """What a method gains from another combination of its unimodal heads.

    Attributes:
        method: its name.
        step: `late sum - fused head` or `calibrated - late sum`.
        ahead: the difference in test accuracy.
    """

    method: str
    step: str
    ahead: Paired


class GainPart(NamedTuple):
    """A part of the gain of a method over its baseline.

    Attributes:
        name: what it is the effect of, such as `share`; several names joined if the study does not separate them.
        measured: the methods and predictions whose difference it is.
        ahead: the part, in points of test accuracy.
    """

    name: str
    measured: str
    ahead: Paired


class Gain(NamedTuple):
    """The gain of a method over its baseline, in parts that sum to it.

    Attributes:
        method, baseline: their names.
        whole: test accuracy of the method minus that of the baseline, both with the fused head.
        parts: in the order in which they are added to the baseline.
        missing: parts that the study does not separate, each with what would measure it.
    """

    method: str
    baseline: str
    whole: Paired
    parts: tuple[GainPart, ...]
    missing: tuple[str, ...]


class IncompleteStudyError(StudyError):
    """A study that has ended, but without a result of each of its methods.

    Attributes:
        result: the comparison of the other methods; None if no method has a result.
    """

    def __init__(self, message: str, result: "StudyResult | None") -> None:
        super().__init__(message)
        self.result = result


class StudyResult(NamedTuple):
    """The comparison of a study's methods.

    Attributes:
        methods: those that have a complete replicate, in the order of the study file.
        ceilings: modality -> mean accuracies over the replicates of its unimodal ceiling.
        failures: what failed, with the reasons.
        sentence: the comparison as text.
        select: the epoch whose weights are compared (`evaluation.select`).
        clips: number of test clips; None without predictions.
        comparisons: planned comparisons, for which p-values are adjusted: with the reference, of combinations with
            their parts, and with controls.
        planned: planned replicates of each method.
        failed: method -> number of its replicates that failed, also of methods without a complete one.
        retried: method -> number of its replicates that had failed and were run again.
        sampling_error: standard error of the reference's accuracy (of one seed) due to the choice of test clips, in
            [0, 1]; None without predictions.
        unequal: differences in settings between the methods, with the reasons.
        unchecked: methods whose settings are not valid in this version, so that they cannot be compared.
        bar: separately trained unimodal networks; None without a ceiling of each modality.
        readouts: what methods with unimodal heads gain from other predictions than those of the fused head.
        gains: the gains of the reference and of methods that assign samples to modalities, in parts.
        of_others: controls of other methods than the reference, which lead to no conclusion about it.
        extensions: how the plan changed after test results had been shown, one sentence each.
        without_predictions: compared replicates without readable predictions, such as `joint 0, 3`.
        other_clips: replicates that predict other test clips than the reference, which are compared over seeds only.
    """

    name: str
    question: str
    reference: str
    methods: tuple[Method, ...]
    ceilings: dict[str, Ceiling]
    failures: tuple[str, ...]
    sentence: str
    select: Literal["best", "last"] = "best"
    clips: int | None = None
    sampling_error: float | None = None
    unequal: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    without_predictions: tuple[str, ...] = ()
    other_clips: tuple[str, ...] = ()
    comparisons: int = 1
    planned: int = 1
    failed: Mapping[str, int] = {}
    retried: Mapping[str, int] = {}
    unchecked: tuple[str, ...] = ()
    combinations: tuple[Combination, ...] = ()
    bar: Bar | None = None
    readouts: tuple[Readout, ...] = ()
    gains: tuple[Gain, ...] = ()
    of_others: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[Method, ...]:
        """The methods without the unimodal ceilings."""
        return tuple(c for c in self.methods if c.ceiling_of is None)
