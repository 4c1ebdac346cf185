"""Configurations of runs that several test files train"""

from typing import Any

# All kinds of state: moments of Adam, shares that follow progress, kept assignments, draws for each sample.
EVERY_STATE: dict[str, Any] = {
    "method": {"name": "remix", "warmup": 1, "share": {"kind": "progress"}, "rescore_every": 2, "order": "shuffled",
               "joint_share": 0.1, "filter": {"rule": "tempered", "temperature": 0.1}},
    "rate": {"name": "cosine", "warmup": 1},
    "optimizer.learning_rate": 0.003,
    "clip_norm": 1.0,
    "augment": {"crop": True, "flip": True, "time_mask": 8, "frequency_mask": 8, "shift": 0.2},
}  # fmt: skip
