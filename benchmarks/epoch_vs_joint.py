"""(d) A Remix epoch vs a joint epoch of the same samples, both with all optimizations of remix_study

A joint step trains two encoders on each sample, a Remix step one. Remix adds the scoring pass, and a forward pass costs
a third of a step. At equal shares, a Remix epoch therefore costs 1/2 + 1/3 of a joint one with scoring in every epoch,
and 1/2 + 1/15 with scoring in every fifth epoch.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.epochs import Scale, joint, noise_store, remix, trainer
from benchmarks.measure import Result, in_turns, median

_EVERY = 5


def measure(quick: bool) -> Iterator[Result]:
    scale = Scale.of(quick)
    with tempfile.TemporaryDirectory() as folder:
        store = noise_store(Path(folder), scale.samples, scale.preset)
        ours = trainer(store, remix(store, scale.batch), scale.batch)
        both = trainer(store, joint(store, scale.batch), scale.batch)
        rounds = in_turns([ours.epoch, both.epoch], scale.rounds)
    yield Result(
        f"(d) Remix epoch, scoring every {_EVERY} epochs / joint epoch",
        median([o.scoring_every(_EVERY) / sum(j) for o, j in rounds]),
        at_most=0.65,
    )
    yield Result("(d) of which training steps alone", median([o.train_s / sum(j) for o, j in rounds]))
    yield Result("(d) with scoring every epoch", median([sum(o) / sum(j) for o, j in rounds]))
