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


def run(*arguments: str, folder: Path, code: int = 0) -> str:
    """Run remix-study in `folder`, assert that it exits with `code`, and return its output."""
    done = commands.run("-m", "remix_study", *arguments, cwd=folder, env=os.environ | {"COLUMNS": "200"}, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == code, output
    assert "Traceback" not in output
    return output


@pytest.mark.ray
def test_corpus_store_run_and_study_work_with_urls(bucket: "Bucket", clips: Path, tmp_path: Path) -> None:
    corpus, url = bucket.upload(clips, "corpus"), f"{bucket.url}/stores/mine"
    prepare = ("prepare", "manifest", f"{corpus}/manifest.jsonl", "--out", url, "--workers", "2")
    assert "48 train, 16 val, 16 test" in run(*prepare, folder=tmp_path)
    remote_files = {path.removeprefix("bucket/stores/mine/") for path in bucket.files.find(url)}
    assert {"manifest.jsonl", "store/manifest.json", "store/audio-00000.npy", "store/card.md"} <= remote_files
    assert not [path for path in remote_files if "partial" in path or "lock" in path]
    written = {path: info["LastModified"] for path, info in bucket.files.find(url, detail=True).items()}
    run(*prepare, folder=tmp_path)
    assert {path: info["LastModified"] for path, info in bucket.files.find(url, detail=True).items()} == written

    built = cache_folder(url)
    digest = ClipStore.open(built).digest
    built.rename(tmp_path / "of-another-machine")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    assert "accuracy" in run("train", "run.yaml", "--set", f"corpus={url}", folder=tmp_path)
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
    assert f"{url}: 48 training clips" in run("plan", "s.yaml", "--corpus", url, "--no-timing", folder=tmp_path)
    run("run", "s.yaml", "--corpus", url, folder=tmp_path)
    assert '"complete"' in run("status", "s", "--json", folder=tmp_path)


def test_an_unusable_url_raises_before_any_work(bucket: "Bucket", clips: Path, tmp_path: Path) -> None:
    manifest = str(clips / "manifest.jsonl")
    for out, error in (
        ("s4://bucket/store", "fsspec does not support the protocol 's4'"),
        ("s3://nowhere/store", "Cannot access s3://nowhere/store: no such bucket"),
        ("gs://bucket/store", "it needs a package that is not installed"),
    ):
        output = run("prepare", "manifest", manifest, "--out", out, folder=tmp_path, code=1)
        assert error in " ".join(output.split())
    assert bucket.files.ls("") == ["bucket"]
    bucket.require_credentials()
    output = run("prepare", "manifest", manifest, "--out", f"{bucket.url}/store", folder=tmp_path, code=1)
    assert "permission denied" in output
    assert "a-secret" not in output
    assert not (tmp_path / "cache").exists()
