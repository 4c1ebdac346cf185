"""How often the intervals of a comparison contain the true difference: `python -m benchmarks.coverage --help`

Each draw simulates a study of two methods. The logit of a correct prediction has effects of the clip, of the method on
the clip (and on its group), of the seed and of both together. The share of the 95 % intervals that contain the true
difference is the coverage. If the true difference is 0, the others are false verdicts.
"""

# S seeds, C test clips, G groups of test clips

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from remix_study.statistics import crossed_mean, mean_over_seeds

SEEDS, CLIPS = (3, 5, 10), (200, 744, 2000)


class Effects(NamedTuple):
    """Standard deviations in logits.

    `clip` is of both methods alike, `on_clip` and `on_group` are of their difference, `seed` and `cell` of each method.
    """

    name: str
    clip: float
    on_clip: float
    on_group: float
    seed: float
    cell: float
    groups: int = 0


EFFECTS = (
    Effects("seeds alike", clip=2.0, on_clip=0.3, on_group=0.0, seed=0.02, cell=0.5),
    Effects("methods differ by clip", clip=2.0, on_clip=0.8, on_group=0.0, seed=0.1, cell=1.0),
    Effects("seeds differ", clip=2.0, on_clip=0.3, on_group=0.0, seed=0.4, cell=1.0),
    Effects("10 groups", clip=2.0, on_clip=0.5, on_group=0.8, seed=0.1, cell=1.0, groups=10),
    Effects("60 groups", clip=2.0, on_clip=0.5, on_group=0.8, seed=0.1, cell=1.0, groups=60),
)


class Coverage(NamedTuple):
    """Shares in [0, 1] of the draws; `width` is that of the intervals relative to t intervals over seeds."""

    effects: str
    seeds: int
    clips: int
    effect: float
    covered: float
    false_verdicts: float
    width: float


def measure(draws: int, seeds: Sequence[int] = SEEDS, clips: Sequence[int] = CLIPS) -> Iterator[Coverage]:
    """Simulate `draws` studies of every kind."""
    draw = np.random.default_rng(0)
    for effects, effect in itertools.product(EFFECTS, (0.0, 0.6)):
        true = _true_difference(effects, effect, draw) if effect else 0.0
        for s, c in itertools.product(seeds, clips):
            covered, widths = 0, np.zeros(2)
            for _ in range(draws):
                difference_SC, group_C = _study(effects, effect, s, c, draw)
                found = crossed_mean(difference_SC, group_C)
                over_seeds = mean_over_seeds(difference_SC.mean(axis=1))
                covered += found.low <= true <= found.high
                widths += found.high - found.low, over_seeds.high - over_seeds.low
            false = 1 - covered / draws if effect == 0 else 0.0
            yield Coverage(effects.name, s, c, effect, covered / draws, false, float(widths[0] / widths[1]))


def _study(
    effects: Effects, effect: float, seeds: int, clips: int, draw: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """Differences of the two methods (S, C), and the groups of the clips, whose sizes differ."""
    group_C, on_C = None, draw.normal(0, effects.on_clip, clips)
    if effects.groups:
        group_C = draw.choice(effects.groups, clips, p=draw.dirichlet(np.full(effects.groups, 3.0)))
        on_C = on_C + draw.normal(0, effects.on_group, effects.groups)[group_C]
    logit_C = draw.normal(1.2, effects.clip, clips)
    correct = []
    for sign in (0.5, -0.5):
        of_seed = draw.normal(0, effects.seed, (seeds, 1)) + draw.normal(0, effects.cell, (seeds, clips))
        chance_SC = 1 / (1 + np.exp(-(logit_C + sign * (effect + on_C) + of_seed)))
        correct.append(draw.random((seeds, clips)) < chance_SC)
    return correct[0].astype(np.float64) - correct[1], group_C


def _true_difference(effects: Effects, effect: float, draw: np.random.Generator) -> float:
    """The expected difference, over many clips, groups and seeds."""
    many = effects._replace(groups=500 * bool(effects.groups))
    return float(np.mean([_study(many, effect, 20, 10_000, draw)[0].mean() for _ in range(40)]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the coverage of every kind of study, and the extremes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description="Simulate interval coverage.")
    parser.add_argument("--draws", type=int, default=2000, help="studies of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--clips", type=int, nargs="+", default=CLIPS)
    given = parser.parse_args(arguments)
    draws = given.draws
    table = Table("effects", "seeds", "clips", "true effect (logits)", "coverage", "false verdicts", "width ratio")
    found = []
    console = Console()
    with console.status("simulating"):
        for each in measure(draws, given.seeds, given.clips):
            found.append(each)
            false = f"{100 * each.false_verdicts:.1f} %" if each.effect == 0 else ""
            table.add_row(each.effects, str(each.seeds), str(each.clips), f"{each.effect:g}",
                          f"{100 * each.covered:.1f} %", false, f"{each.width:.2f}")  # fmt: skip
    console.print(table)
    error = 100 * np.sqrt(0.95 * 0.05 / draws)
    for seeds in given.seeds:
        covered = [100 * each.covered for each in found if each.seeds == seeds]
        wrong = [100 * each.false_verdicts for each in found if each.seeds == seeds and each.effect == 0]
        console.print(
            f"{seeds} seeds: coverage {_range(covered)}; false verdicts {_range(wrong)} (standard error of each "
            f"{error:.1f})"
        )


def _range(percent: Sequence[float]) -> str:
    return f"{min(percent):.1f} to {max(percent):.1f} %, mean {np.mean(percent):.1f} %"


if __name__ == "__main__":
    main()
