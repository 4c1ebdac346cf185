import hashlib
import tracemalloc
from pathlib import Path

import pytest

from remix_study.media.build import PackedClips
from remix_study.media.checks import Checks
from remix_study.media.plan import plan_store
from remix_study.media.presets import PRESETS
from remix_study.media.source import LocalSource
from remix_study.sample import Clip, SampleId


def clips(count: int) -> list[Clip]:
    paths = [f"clips/class-{n % 300:03}/video-{n:07}.mp4" for n in range(count)]
    return [
        Clip(
            SampleId(f"video-{n:07}"), {"audio": path, "video": path}, f"class-{n % 300:03}", "train", f"g{n}", n, n + 3
        )
        for n, path in enumerate(paths)
    ]


def test_packed_clips_keep_everything_except_truth() -> None:
    packed = PackedClips.of([*clips(3), Clip(SampleId("é"), {"text": "a.npy#3"}, "l", "val", truth={"snr": 3.0})])
    assert [packed[row] for row in range(3)] == clips(3)
    assert packed[3] == Clip(SampleId("é"), {"text": "a.npy#3"}, "l", "val")


@pytest.mark.slow
def test_planning_takes_less_than_a_kilobyte_per_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on fewer clips: memory of the clips, of the plan, and of computing its fingerprint."""

    def identity(_: LocalSource, path: str) -> tuple[int, str]:
        return len(path) + 1000, hashlib.sha256(path.encode()).hexdigest()

    monkeypatch.setattr(LocalSource, "identity", identity)
    count = 12_000
    tracemalloc.start()
    try:
        listed = clips(count)
        plan = plan_store(listed, LocalSource(Path()), PRESETS["tiny"], "pyav", Checks())
        assert len(plan.fingerprint) == 64
        assert tracemalloc.get_traced_memory()[1] < 1000 * count, "more than a kilobyte per clip"
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        packed = PackedClips.of(plan.clips)
        assert tracemalloc.get_traced_memory()[1] - before < 600 * count
        assert packed.content.nbytes < 250 * count
    finally:
        tracemalloc.stop()
