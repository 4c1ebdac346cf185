"""What README.md says works: its code runs, its configurations load, its commands exist, its links lead somewhere"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from remix_study.cli.main import app
from remix_study.config.load import parse_run
from remix_study.datasets.manifest import read_manifest
from remix_study.study.search_space import read_study
from tests.pages import PAGES, README, ROOT, blocks_in, parse_command, shell_commands

OTHER_TOOLS = {
    "source", "export", "echo", "cat", "cp", "touch", "chmod", "python3", "pip", "ray", "ssh", "ssh-keygen",
    "ssh-copy-id", "aws", "gcloud", "az", "docker", "kubectl", "sbatch", "squeue",
    "createdb",
}  # fmt: skip


def in_a_process(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def remix_study(words: list[str], folder: Path) -> str:
    return in_a_process([sys.executable, "-m", "remix_study", *words], folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader who follows `One run` stands: with its corpus and its run.yaml."""
    here = tmp_path_factory.mktemp("reader")
    for name, *words in shell_commands(README, "One run"):
        if name == "remix-study" and words[0] == "prepare":
            remix_study(words, here)
    (here / "run.yaml").write_text(blocks_in("yaml")[0].text)
    return here


@pytest.mark.slow
def test_remix_fits_into_forty_lines_of_pytorch(tmp_path: Path) -> None:
    (block,) = [b for b in blocks_in("python") if "40 lines" in b.section]
    assert len(block.text.splitlines()) <= 40
    imported = set(re.findall(r"^(?:from|import) ([\w.]+)", block.text, re.M))
    assert {name for name in imported if not name.startswith("torch")} == {"remix_study.remix"}
    script = tmp_path / "loop.py"
    script.write_text(block.text)
    output = in_a_process([sys.executable, str(script)], tmp_path)
    accuracies = [float(value) for value in re.findall(r"accuracy ([\d.]+)", output)]
    assert len(accuracies) == 8
    assert accuracies[-1] > 0.75 > accuracies[0]  # chance is 0.2
    assert "None" in output.splitlines()[0]  # warm-up: nothing is decided
    assert "None" not in output.splitlines()[-1]


@pytest.mark.slow
def test_other_python_runs(folder: Path) -> None:
    scripts = [block for block in blocks_in("python") if "40 lines" not in block.section]
    assert scripts
    for block in scripts:
        (folder / "script.py").write_text(block.text)
        assert "320 clips with audio and video" in in_a_process([sys.executable, "script.py"], folder)


@pytest.mark.slow
def test_one_run_can_be_followed(folder: Path) -> None:
    lines = [words[1:] for words in shell_commands(README, "One run") if words[:2] == ["remix-study", "train"]]
    assert len(lines) == 3
    short = ["--set", "epochs=3", "--set", "evaluation.ceilings=none", "--set", "tracking.model=false"]
    for words in lines:
        assert "test/accuracy" in remix_study([*words, *short], folder)
    methods = {path.name.split("-seed")[0] for path in (folder / "workspace" / "runs").iterdir()}
    assert methods == {"remix", "joint_unimodal"}
    assert (folder / "workspace" / "mlflow.db").exists()


@pytest.mark.slow
def test_a_manifest_can_be_prepared(folder: Path) -> None:
    told = [w[1:] for w in shell_commands(README, "Your own clips") if w[:3] == ["remix-study", "prepare", "manifest"]]
    (check, prepare) = told
    assert "Ready to be prepared" in remix_study(check, folder)
    assert "160 train, 80 val, 80 test" in " ".join(remix_study(prepare, folder).split())


def test_the_example_of_a_manifest_is_one(tmp_path: Path) -> None:
    (block,) = blocks_in("jsonl")
    (tmp_path / "manifest.jsonl").write_text(block.text)
    clips = read_manifest(tmp_path / "manifest.jsonl")
    assert {clip.label for clip in clips} == {"dog", "cat"}
    assert {clip.split for clip in clips} == {"train", "val", "test"}


def test_every_configuration_loads(tmp_path: Path) -> None:
    found = [block for page in PAGES for block in blocks_in("yaml", page)]
    studies = [block for block in found if "methods" in yaml.safe_load(block.text)]
    for block in studies:
        (tmp_path / "study.yaml").write_text(block.text)
        assert "remix" in read_study(tmp_path / "study.yaml", {}).methods
    runs = [parse_run(yaml.safe_load(block.text), block.section) for block in found if block not in studies]
    assert len(studies) == len(runs) == 1
    assert all(config.method.name == "remix" for config in runs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for tool, *words in shell_commands(page):
        match tool:
            case "remix-study":
                parse_command(words)
            case "make":
                assert words[0] in targets
            case _:
                assert tool in OTHER_TOOLS


def test_every_command_is_told() -> None:
    told = {" ".join(words[:3]) for words in shell_commands(README)} | {
        " ".join(words[:2]) for words in shell_commands(README)
    }
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for inner in getattr(command, "commands", {}) or [""]:
            assert f"remix-study {name} {inner}".strip() in told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = without_code(page)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        assert (page.parent / path).exists(), target
        assert path or anchor in anchors, target


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`((?:remix_study|tests|clusters|docs|search_spaces)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_map_has_every_part_of_the_package() -> None:
    rows = [line for line in README.read_text().splitlines() if re.match(r"\| \d \|", line)]
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    package = ROOT / "remix_study"
    parts = {path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == {part for part in parts if not part.startswith("__")}


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README.read_text()
