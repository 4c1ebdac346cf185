"""(g) Training with an added method vs joint training with unimodal losses: time and peak memory of a step

All methods train the same model on the same batch, in turns. Each is measured in an epoch in which it acts with its
default options. What a method computes before an epoch is measured on as many samples as CREMA-D has, without the pass
over them, which it shares with all who ask for one.

`python -m benchmarks.methods` prints the results as rows of a table in Markdown.
"""

# N samples, M modalities, C classes, d features of one modality

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.epochs import CLASSES, Scale, new_model, noise_store
from benchmarks.measure import Result, in_turns, median
from benchmarks.memory import bytes_of, peak_bytes
from remix_study.added import Facts, plan_of, rules_of
from remix_study.balancing import CrossEntropy, EpochStart, FusedLoss, Method, Step, UnimodalLosses
from remix_study.config.balancing import Additions, Windowed, options_of
from remix_study.datasets.clips import ClipReader
from remix_study.epoch import InformedPlan, ScoreFunction, ScoringPass, SplitStatistics
from remix_study.media.store import ClipStore
from remix_study.metrics import subsets
from remix_study.models import ConcatFusion, CosineFusion, EntropyFusion, Fusion, MultimodalModel
from remix_study.remix import AlternatePlan, ConstantPlan, Reassembly, everything_joint
from remix_study.sample import Batch
from remix_study.training.step import train_step
from remix_study.world import Solo

BASE = "joint_unimodal"
# Time of a step, relative to that of `joint_unimodal`. A backward pass costs two forward passes.
AT_MOST = {
    "mmpareto": 1.75,  # M + 1 backward passes through two modalities' encoders: (1 + 2 * 2) / 3 = 1.67
    "mla": 1.3,  # of both steps that train a batch, one per modality: everything but the encoders runs twice
    "umt": 1.4,  # a forward pass of the teachers: 4 / 3
}
# None of the others runs or differentiates an encoder more often. `smv` is a plan: its steps are those of joint
# training, but an epoch has more of them.
AT_MOST_OTHERS = 1.1
MEMORY_AT_MOST = {"mmpareto": 2.0}  # peak memory added to that of `joint_unimodal`, in gradients of the encoders
# Options with which a method acts in every step.
ACTING: Mapping[str, Mapping[str, Any]] = {"opm": {"execute": 1.0}, "aug": {"threshold": 0.0}}
# The fusions that methods bring.
FUSIONS: Mapping[str, Callable[[Mapping[str, int], int], Fusion]] = {
    "mla": EntropyFusion,
    "mmcosine": partial(CosineFusion, scale=10.0),
}
OWN_MODEL = ("aug", *FUSIONS)  # `aug` adds heads
EPOCH = 20  # a method that acts every 5, 10 or 20 epochs is due
TRAINING, CONTROL = 6028, 670  # the 6698 training samples of CREMA-D, with a control split of a tenth


class Cost(NamedTuple):
    """What a method costs.

    Attributes:
        step_s: median seconds of a step.
        ratio: time of a step, relative to `joint_unimodal` in the same round.
        peak_bytes: peak memory of a step, with the model, its optimizer, the batch and what the method keeps.
        added_gradients: peak memory added to that of `joint_unimodal`, in bytes of the encoders' gradients.
        epoch_start_s: seconds before an epoch, without the pass; None if the method does nothing there.
    """

    name: str
    step_s: float
    ratio: float
    peak_bytes: int
    memory_ratio: float
    added_gradients: float
    epoch_start_s: float | None


@dataclass
class Workbench:
    """What a step needs besides the method: a model with its optimizer, a batch, and the passes before an epoch."""

    store: ClipStore
    model: MultimodalModel
    optimizer: torch.optim.Optimizer
    batch: Batch
    passes: "FixedPasses"
    device: torch.device

    @classmethod
    def of(cls, store: ClipStore, batch: int, passes: "FixedPasses", name: str) -> "Workbench":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = new_model(store, FUSIONS.get(name, ConcatFusion))
        if name == "aug":
            model.prepare_heads(1)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack both arguments at once
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-5, weight_decay=1e-4)
        clips = ClipReader(store, device, channels_last=True).read(np.arange(batch), np.ones((batch, 2), np.bool_))
        return cls(store, model, optimizer, clips, passes, device)

    def method(self, name: str) -> Method:
        """`joint_unimodal`, or an added method on it."""
        added = Additions.model_validate({} if name == BASE else {name: _options(name)})
        found, rows = self.passes.train_split, len(self.batch.labels_B)
        every = ConstantPlan(everything_joint(len(found.rows_N), 2), Reassembly("shuffled", (1, 0), rows), seed=0)
        facts = Facts(
            self.model.modalities, 0, 2 * EPOCH, found.rows_N, found.labels_N, CLASSES, CrossEntropy(),
            lambda: new_model(self.store), lambda _: every,
            teachers=copy.deepcopy(dict(self.model.encoders.items())),  # kept only by a method that has teachers
        )  # fmt: skip
        rules = (FusedLoss(), UnimodalLosses(1.0, 1.0), *rules_of(added, facts))
        return Method(BASE, plan_of(added, every, facts), rules)

    def begin(self, method: Method) -> float | None:
        """Call the rules that are due, and a plan that needs statistics; seconds, or None if there are none."""
        due = [rule for rule in method.epochs if rule.due(EPOCH)]
        # Training copies of the model is a cost of its own, which the method's page names.
        passes = self.passes.train_split, self.passes.control_split
        start = EpochStart(EPOCH, self.model, self.optimizer, self.passes, train_copy=lambda _method, _epochs: passes)
        started = self._now()
        for rule in due:
            rule.begin(start)
        if not isinstance(method.plan, InformedPlan) or not method.plan.due(EPOCH):
            return self._now() - started if due else None
        method.plan.inform(self.passes)
        method.plan.plan(EPOCH, _no_scores)
        return self._now() - started

    def step(self, method: Method) -> float:
        """Train a batch: in one step, or in one per modality if the method alternates; seconds."""
        started = self._now()
        count, alternates = len(self.batch.labels_B), isinstance(method.plan, AlternatePlan)
        for number, batch in enumerate(_alone(self.batch) if alternates else [self.batch]):
            train_step(
                self.model, method, batch, count, self.optimizer, Solo(), autocast=False, clip_norm=None,
                at=Step(EPOCH, number, 0 if alternates else count, count),
            )  # fmt: skip
        return self._now() - started

    def gradient_bytes(self) -> int:
        """The bytes of the encoders' gradients."""
        return bytes_of(*chain.from_iterable(self.model.encoder_parameters(m) for m in self.model.modalities))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _alone(batch: Batch) -> Iterator[Batch]:
    """The same samples, with one modality after the other."""
    for column, m in enumerate(batch.modalities):
        active_BM = torch.zeros_like(batch.active_BM)
        active_BM[:, column] = True
        yield replace(batch, inputs={m: batch.inputs[m]}, active_BM=active_BM)


def _no_scores(score: ScoreFunction) -> ScoringPass:
    raise NotImplementedError("no plan of an added method asks for scores")


@dataclass(frozen=True)
class FixedPasses:
    """Passes whose results are given."""

    train_split: SplitStatistics
    control_split: SplitStatistics

    def train(self) -> SplitStatistics:
        return self.train_split

    def control(self) -> SplitStatistics:
        return self.control_split

    def agreed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values


def measure(quick: bool) -> Iterator[Result]:
    """Measure all methods."""
    for cost in costs(list(Additions.model_fields), Scale.of(quick), quick):
        name = f"(g) {{}} of a step with {cost.name} / {BASE}"
        yield Result(name.format("time"), cost.ratio, at_most=AT_MOST.get(cost.name, AT_MOST_OTHERS))
        yield Result(name.format("peak memory"), cost.memory_ratio)
        if cost.name in MEMORY_AT_MOST:
            yield Result(f"(g) memory that {cost.name} adds / gradients of the encoders", cost.added_gradients,
                         at_most=MEMORY_AT_MOST[cost.name])  # fmt: skip
        if cost.epoch_start_s is not None:
            yield Result(f"(g) before an epoch with {cost.name}, without the pass", cost.epoch_start_s, unit="s")


def costs(names: Sequence[str], scale: Scale, quick: bool) -> list[Cost]:
    """Measure the methods `names`: the memory of one step of each, then the times of steps in turns."""
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        widths = new_model(store).widths
        passes = FixedPasses(*(_statistics(widths, count) for count in ((60, 12) if quick else (TRAINING, CONTROL))))
        peaks = {name: _peak(store, scale.batch, passes, name) for name in (BASE, *names)}
        shared = Workbench.of(store, scale.batch, passes, BASE)
        benches = {BASE: shared} | {
            name: Workbench.of(store, scale.batch, passes, name) if name in OWN_MODEL else shared for name in names
        }
        methods = {name: bench.method(name) for name, bench in benches.items()}
        starts = {name: bench.begin(methods[name]) for name, bench in benches.items()}
        turns = _with_base_between(names)
        # In every round, `joint_unimodal` is measured several times, since all ratios depend on it.
        rounds = in_turns([partial(benches[name].step, methods[name]) for name in turns], scale.rounds)
    base_s = [median([s for s, name in zip(times, turns, strict=True) if name == BASE]) for times in rounds]
    gradients = shared.gradient_bytes()
    found = []
    for name in names:
        step_s = [times[turns.index(name)] for times in rounds]
        ratio = median([mine / base for mine, base in zip(step_s, base_s, strict=True)])
        found.append(Cost(
            name, median(step_s), ratio, peaks[name], peaks[name] / peaks[BASE],
            (peaks[name] - peaks[BASE]) / gradients, starts[name],
        ))  # fmt: skip
    return found


def _peak(store: ClipStore, batch: int, passes: FixedPasses, name: str) -> int:
    """The peak memory of the second step, in bytes."""
    held: list[tuple[Workbench, Method]] = []

    def prepare() -> None:
        bench = Workbench.of(store, batch, passes, name)
        method = bench.method(name)
        held.append((bench, method))
        bench.begin(method)
        bench.step(method)  # creates the optimizer's state

    def step() -> None:
        bench, method = held[0]
        bench.step(method)

    return peak_bytes(prepare, step)


def _with_base_between(names: Sequence[str]) -> list[str]:
    """The names, with `joint_unimodal` before every fifth."""
    return [each for n, name in enumerate(names) for each in ((BASE, name) if n % 5 == 0 else (name,))]


def _options(name: str) -> dict[str, Any]:
    # From the first epoch on, or a method with a window might not act.
    return ({"begin": 0} if issubclass(options_of(name), Windowed) else {}) | dict(ACTING.get(name, {}))


def _statistics(widths: Mapping[str, int], samples: int) -> SplitStatistics:
    """Statistics of noise."""
    draw, M = np.random.default_rng(0), len(widths)
    logits_NMC = draw.standard_normal((samples, M, CLASSES))
    log_NMC = logits_NMC - np.log(np.exp(logits_NMC).sum(axis=2, keepdims=True))
    labels_N = draw.integers(0, CLASSES, samples)
    return SplitStatistics(
        rows_N=np.arange(samples),
        labels_N=labels_N,
        available_NM=np.ones((samples, M), np.bool_),
        cross_entropy_NM=-log_NMC[np.arange(samples), :, labels_N],
        fused_cross_entropy_N=draw.uniform(1, 2, samples),
        log_probabilities_NMC=log_NMC,
        right={subset: draw.random(samples) < 0.5 for subset in subsets(tuple(widths))},
        features={m: draw.standard_normal((samples, width), np.float32) for m, width in widths.items()},
    )


def markdown(found: Iterable[Cost]) -> str:
    """Return a table with one row per method."""
    lines = [f"| method | time of a step / {BASE} | peak memory / {BASE} | before an epoch |", "|---|---|---|---|"]
    for cost in found:
        start = "" if cost.epoch_start_s is None else f"{cost.epoch_start_s:.2f} s"
        lines.append(f"| `{cost.name}` | {cost.ratio:.2f}x | {cost.memory_ratio:.2f}x | {start} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure methods and print the rows of a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description="Print the costs of methods.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all methods")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default: {Scale.of(quick=False).rounds}")
    parser.add_argument("--quick", action="store_true", help="check that it runs; the results mean nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the costs to this file")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(Additions.model_fields)):
        parser.error(f"NAME must be one of {', '.join(Additions.model_fields)}, but is {', '.join(unknown)}")
    scale = Scale.of(given.quick)
    found = costs(given.names or list(Additions.model_fields), scale._replace(rounds=given.rounds or scale.rounds),
                  given.quick)  # fmt: skip
    print(markdown(found))
    if given.json is not None:
        given.json.write_text(json.dumps([cost._asdict() for cost in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
