"""The peak of the memory that tensors hold, exactly: what the allocator of torch was asked for and gave back

On the CPU, torch's profiler records every allocation and release, those within operations included. On a GPU, torch
counts them anyway. Scratch memory of libraries below torch, such as oneDNN's, is not counted.
"""

import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_STEP = "the measured step"


def peak_bytes(prepare: Callable[[], object], step: Callable[[], object]) -> int:
    """Return the largest number of bytes during `step` of all tensors that `prepare` or `step` created.

    They are those of the GPU if there is one, else those of the CPU. Tensors that exist before `prepare` do not count,
    but must not be released within.
    """
    gc.collect()  # of what is released within, the allocation would be missing
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        prepare()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler reports its starts and stops on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepare()
        with record_function(_STEP):
            step()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return _peak_within_step(json.loads(file.read_text())["traceEvents"])


def bytes_of(*tensors: torch.Tensor) -> int:
    """Return the bytes of the storages of tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _peak_within_step(events: list[dict[str, Any]]) -> int:
    began = next(event["ts"] for event in events if event.get("name") == _STEP)
    held = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        if event["ts"] >= began:
            peak = max(peak, held)
        held += event["args"]["Bytes"] if event["args"]["Device Type"] == 0 else 0  # 0: the CPU
    return max(peak, held)
