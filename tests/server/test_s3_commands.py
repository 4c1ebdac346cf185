"""The command line with clips, stores and studies on an S3 server"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from remix_study.datasets.synthetic import SyntheticSpec, render
from remix_study.files.remote_folder import cache_folder
from remix_study.media.store import ClipStore
from tests import commands

if TYPE_CHECKING:
    from tests.server.conftest import Bucket

pytestmark = [pytest.mark.server, pytest.mark.slow]

RUN = {
    "corpus": "given below",
    "method": {"name": "remix", "warmup": 1},
    "epochs": 2,
    "global_batch": 16,
    "device": "cpu",
    "evaluation": {"probe": False},
    "tracking": {"uri": "off"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    render(folder, SyntheticSpec(train=48, val=16, test=16, classes=4), workers=2)
    return folder


def say(*words: str, place: Path, code: int = 0) -> str:
    """Run a command that must exit with `code`, and return its output."""
    done = commands.run("-m", "remix_study", *words, cwd=place, env=os.environ | {"COLUMNS": "200"}, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


@pytest.mark.ray
def test_from_clips_at_a_url_to_a_store_at_a_url_to_a_run_and_a_study(
    bucket: "Bucket", clips: Path, tmp_path: Path
) -> None:
    corpus, url = bucket.put(clips, "corpus"), f"{bucket.url}/stores/mine"
    prepare = ("prepare", "manifest", f"{corpus}/manifest.jsonl", "--out", url, "--workers", "2")
    assert "48 train, 16 val, 16 test" in say(*prepare, place=tmp_path)
    there = {path.removeprefix("bucket/stores/mine/") for path in bucket.files.find(url)}
    assert {"manifest.jsonl", "store/manifest.json", "store/audio-00000.npy", "store/card.md"} <= there
    assert not [path for path in there if "partial" in path or "lock" in path]
    written = {path: info["LastModified"] for path, info in bucket.files.find(url, detail=True).items()}
    say(*prepare, place=tmp_path)
    assert {path: info["LastModified"] for path, info in bucket.files.find(url, detail=True).items()} == written

    built = cache_folder(url)
    digest = ClipStore.open(built).digest
    built.rename(tmp_path / "of-another-machine")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    assert "accuracy" in say("train", "run.yaml", "--set", f"corpus={url}", place=tmp_path)
    (copy,) = (path for path in built.with_suffix(".copies").iterdir() if path.is_dir())
    assert ClipStore.open(copy, verify=True).digest == digest
    assert not built.exists()

    study = {
        "name": "s", "question": "does it work with a remote store?", "base": {**RUN, "epochs": 2},
        "space": {"optimizer.learning_rate": {"kind": "float", "low": 0.0005, "high": 0.02, "log": True}},
        "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
        "reference": "remix", "trials": 1, "replicates": 1,
    }  # fmt: skip
    study["base"] = {key: value for key, value in RUN.items() if key != "method"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    assert f"{url}: 48 training clips" in say("plan", "s.yaml", "--corpus", url, "--no-timing", place=tmp_path)
    say("run", "s.yaml", "--corpus", url, place=tmp_path)
    assert '"complete"' in say("status", "s", "--json", place=tmp_path)


def test_an_unusable_url_raises_before_any_work(bucket: "Bucket", clips: Path, tmp_path: Path) -> None:
    manifest = str(clips / "manifest.jsonl")
    for out, why in (
        ("s4://bucket/store", "fsspec does not support the protocol 's4'"),
        ("s3://nowhere/store", "Cannot access s3://nowhere/store: no such bucket"),
        ("gs://bucket/store", "it needs a package that is not installed"),
    ):
        said = say("prepare", "manifest", manifest, "--out", out, place=tmp_path, code=1)
        assert why in " ".join(said.split())
    assert bucket.files.ls("") == ["bucket"]
    bucket.refuse_strangers()
    said = say("prepare", "manifest", manifest, "--out", f"{bucket.url}/store", place=tmp_path, code=1)
    assert "permission denied" in said
    assert "a-secret" not in said
    assert not (tmp_path / "cache").exists()
