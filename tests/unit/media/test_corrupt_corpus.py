"""Building a store from a corpus with every kind of corrupt media, uninterrupted and after a kill"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remix_study.media.build import build_store
from remix_study.media.presets import PRESETS
from remix_study.media.store import ClipStore
from remix_study.sample import Clip, SampleId
from tests.corrupt_media import FAULTS, write_clip

CLIPS = 300
# A folder counts as the frames of a clip, and the checksum of a file of 10 GB takes long.
LEFT_OUT = ("folder", "zeros")
BAD = {name: fault for name, fault in FAULTS.items() if fault.reason is not None and name not in LEFT_OUT}


@pytest.fixture(scope="module")
def corrupt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip], dict[str, str]]:
    """Return the root, its clips, and the reason for each clip that must be quarantined."""
    root = tmp_path_factory.mktemp("corrupt")
    write_clip(root / "good.mp4")
    clips: list[Clip] = []
    reasons: dict[str, str] = {}
    faults = iter(BAD.items())
    for number in range(CLIPS):
        name, path = f"{number:03}", root / f"{number:03}.mp4"
        if number % 9 == 4 and (given := next(faults, None)) is not None:
            (folder := root / name).mkdir()
            path = given[1].make(folder)
            reasons[name] = str(given[1].reason)
        else:
            os.link(root / "good.mp4", path)
        where = path.relative_to(root).as_posix()
        split = ("train", "train", "val", "test")[number % 4]
        clips.append(Clip(SampleId(name), {"audio": where, "video": where}, f"class {number // 4 % 2}", split))
    assert len(reasons) == len(BAD) >= 30
    return root, clips, reasons


def build(root: Path, clips: list[Clip], out: Path, **options: object) -> ClipStore:
    return build_store(
        clips, root, out, preset=PRESETS["tiny"], name="corrupt", manifest_digest="0", decoder="pyav", workers=2,
        chunk=8, max_bad_fraction=0.2, **options,  # type: ignore[arg-type]  # options of several types
    )  # fmt: skip


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from remix_study.media.build import build_store
from remix_study.media.presets import PRESETS

def die(done, total):
    if done >= 150:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    root, clips, _ = pickle.loads(Path(sys.argv[1]).read_bytes())
    build_store(clips, root, Path(sys.argv[2]), preset=PRESETS["tiny"], name="corrupt", manifest_digest="0",
                decoder="pyav", workers=2, chunk=8, max_bad_fraction=0.2, progress=die)
"""


@pytest.mark.slow
def test_each_corrupt_clip_is_quarantined_with_its_reason_also_after_a_kill(
    corrupt: tuple[Path, list[Clip], dict[str, str]], tmp_path: Path
) -> None:
    root, clips, reasons = corrupt
    store = build(root, clips, tmp_path / "undisturbed")
    left_out = [json.loads(line) for line in (store.path / "quarantine.jsonl").read_text().splitlines()]
    assert {line["id"]: line["stage"] for line in left_out} == reasons
    assert [line["id"] for line in left_out] == sorted(reasons)
    assert list(store.ids) == [clip.id for clip in clips if clip.id not in reasons]
    assert not any(str(root) in line["message"] for line in left_out)

    (script := tmp_path / "killed.py").write_text(KILLED)
    (given := tmp_path / "given").write_bytes(pickle.dumps(corrupt))
    ended = subprocess.run([sys.executable, str(script), str(given), str(tmp_path / "killed")])
    assert ended.returncode == -signal.SIGKILL
    seen: list[int] = []
    resumed = build(root, clips, tmp_path / "killed", progress=lambda done, _: seen.append(done))
    assert seen[0] >= 100
    files = {path.name: path.read_bytes() for path in store.path.iterdir()}
    assert {path.name: path.read_bytes() for path in resumed.path.iterdir()} == files
    shutil.rmtree(tmp_path / "killed")
