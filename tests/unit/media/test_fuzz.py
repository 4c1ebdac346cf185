"""Hundreds of damaged clips, decoded in worker processes: each decodes or raises an error, and no worker is lost"""

import collections
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media.checks import Checks
from remix_study.media.clip import decode_clip
from remix_study.media.decoders import DecoderName, decoder_named
from remix_study.media.presets import PRESETS, Preset, VideoPreset
from remix_study.media.source import source_at
from remix_study.media.workers import run_jobs
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import mutated, originals
from tests.decoders import installed

PRESET = Preset("fuzz", {"audio": PRESETS["tiny"].parts["audio"], "video": VideoPreset(3, 16, 16, "area")})
KINDS = 8  # of containers


@dataclass(frozen=True)
class Outcome:
    """The result of one clip. `reason` is None if it decodes to `rows`."""

    reason: str | None
    rows: dict[str, NDArray[Any]]
    frames: int = 0
    audio_s: float = 0.0


@dataclass(frozen=True)
class Damage:
    """A job of a worker process: decode mutant `job` with every decoder. Job -1 - k is the undamaged original k."""

    paths: tuple[Path, ...]

    def __call__(self, job: int) -> list[Outcome]:
        kind = job % KINDS if job >= 0 else -1 - job
        original = self.paths[kind]
        content = original.read_bytes()
        if job >= 0:
            content = mutated(content, self.paths[(kind + 1 + job // KINDS) % KINDS].read_bytes(), job // KINDS)
        with tempfile.TemporaryDirectory(dir=original.parent) as folder:
            path = Path(folder) / original.name
            path.write_bytes(content)
            return [self._decoded(path, name) for name in installed()]

    def _decoded(self, path: Path, decoder: DecoderName) -> Outcome:
        clip = Clip(SampleId("a"), {"audio": path.name, "video": path.name}, "x", "train")
        try:
            found = decode_clip(clip, source_at(path.parent), PRESET, decoder_named(decoder), Checks())
        except MediaError as error:
            return Outcome(error.stage, {})
        return Outcome(None, found.rows, int(found.meta["frames"]), float(found.meta["audio_s"]))


def fuzz(folder: Path, mutants: int) -> collections.Counter[str]:
    """Outcomes by reason; clips that decode count as `ok`, or as `ok, changed` if their arrays differ."""
    counted: collections.Counter[str] = collections.Counter()
    outcomes: dict[int, list[Outcome]] = {}

    def on_result(job: int, result: object) -> None:
        assert isinstance(result, list)
        outcomes[job] = result

    def on_lost(job: int, reason: str) -> None:
        counted[reason] += 1
        outcomes[job] = []

    jobs = range(-KINDS, mutants)
    run_jobs(
        Damage(tuple(originals(folder))), jobs, workers=2, chunk=16, timeout_s=20, on_result=on_result, on_lost=on_lost
    )
    assert set(outcomes) == set(jobs)
    whole = {kind: outcomes[-1 - kind] for kind in range(KINDS)}
    assert all(outcome.reason is None for all_of in whole.values() for outcome in all_of)
    for job in range(mutants):
        for outcome, true in zip(outcomes[job], whole[job % KINDS], strict=False):
            outcome_class = _classified(outcome, true)
            if outcome_class == "ok, shorter" and job % KINDS == KINDS - 1 and (job // KINDS) % 8 == 4:
                outcome_class = "ok, shorter, and no duration is stated"  # truncated MPEG-TS
            counted[outcome_class] += 1
        used = [outcome for outcome in outcomes[job] if outcome.reason is None]
        assert len({outcome.frames for outcome in used}) <= 1, job
        for other in used[1:]:  # if several decoders accept it, they must agree
            np.testing.assert_array_equal(used[0].rows["video"], other.rows["video"], str(job))
            np.testing.assert_allclose(used[0].rows["audio"], other.rows["audio"], atol=0.05, err_msg=str(job))
    return counted


def _classified(outcome: Outcome, true: Outcome) -> str:
    if outcome.reason is not None:
        return outcome.reason
    same = all(np.array_equal(outcome.rows[m], true.rows[m]) for m in true.rows)
    if not same and (abs(outcome.frames - true.frames) > 2 or abs(outcome.audio_s - true.audio_s) > 0.3):
        return "ok, shorter"
    return "ok" if same else "ok, changed"


@pytest.mark.slow
def test_damaged_clips_are_decoded_or_raise(tmp_path: Path) -> None:
    counted = fuzz(tmp_path, 128)
    assert counted["ok, shorter"] == 0
    assert sum(counted[lost] for lost in ("timeout", "died")) == 0
    assert sum(count for outcome_class, count in counted.items() if not outcome_class.startswith("ok")) > 64


@pytest.mark.slow
def test_many_damaged_clips_are_decoded_or_raise(tmp_path: Path) -> None:
    counted = fuzz(tmp_path, 1600)
    assert counted["ok, shorter"] <= len(installed())  # a damaged header may state no duration
    assert counted["timeout"] + counted["died"] <= 4 * len(installed())
    assert counted["ok, changed"] <= 240 * len(installed())  # of 1600 each: they decode, but differ from the original
