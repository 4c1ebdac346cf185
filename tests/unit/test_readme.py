"""README.md and docs/: code runs, configurations load, commands exist, links have targets"""

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from mlflow import MlflowClient

from remix_study.cli.main import app
from remix_study.config.load import parse_run
from remix_study.datasets.manifest import read_manifest
from remix_study.study.study_file import read_study
from tests import commands
from tests.pages import PAGES, README, ROOT, blocks_in, parse_command, shell_commands

RUNS, CLIPS, LOOP, MAP = (ROOT / "docs" / name for name in ("runs.md", "clips.md", "loop.md", "architecture.md"))

OTHER_TOOLS = {
    "source", "export", "echo", "cat", "cp", "touch", "chmod", "python3", "pip", "ray", "ssh", "ssh-keygen",
    "ssh-copy-id", "aws", "gcloud", "az", "docker", "kubectl", "sbatch", "squeue",
    "createdb", "pre-commit",
}  # fmt: skip


def run_python(words: list[str], folder: Path) -> str:
    done = commands.run(*words, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def remix_study(words: list[str], folder: Path) -> str:
    return run_python(["-m", "remix_study", *words], folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with a corpus and a run.yaml, as in docs/runs.md."""
    here = tmp_path_factory.mktemp("reader")
    for name, *words in shell_commands(RUNS):
        if name == "remix-study" and words[0] == "prepare":
            remix_study(words, here)
    (here / "run.yaml").write_text(blocks_in("yaml", RUNS)[0].text)
    return here


def program() -> str:
    (block,) = blocks_in("python", LOOP)
    return block.text


@pytest.mark.slow
def test_remix_fits_into_forty_lines_of_pytorch(tmp_path: Path) -> None:
    text = program()
    assert len(text.splitlines()) <= 40
    imported = set(re.findall(r"^(?:from|import) ([\w.]+)", text, re.M))
    assert {name for name in imported if not name.startswith("torch")} == {"remix_study.remix"}
    script = tmp_path / "loop.py"
    script.write_text(text)
    output = run_python([str(script)], tmp_path)
    accuracies = [float(value) for value in re.findall(r"accuracy ([\d.]+)", output)]
    assert len(accuracies) == 8
    assert accuracies[-1] > 0.75 > accuracies[0]  # chance is 0.2
    assert "None" in output.splitlines()[0]  # warm-up: nothing is assigned yet
    assert "None" not in output.splitlines()[-1]


def test_the_diff_of_the_readme_results_in_the_whole_program() -> None:
    (block,) = blocks_in("diff")
    lines = block.text.splitlines()
    assert 8 <= len(lines) <= 12
    whole = {line.partition("  #")[0].strip() for line in program().splitlines()}
    kept = [line[1:].strip() for line in lines if not line.startswith("-")]
    assert [line for line in kept if line not in whole] == []


@pytest.mark.slow
def test_the_python_of_the_page_on_clips_runs(folder: Path) -> None:
    (block,) = blocks_in("python", CLIPS)
    (folder / "script.py").write_text(block.text)
    assert "320 clips with audio and video" in run_python([str(folder / "script.py")], folder)


@pytest.mark.slow
def test_the_commands_of_the_page_on_runs_train(folder: Path) -> None:
    lines = [words[1:] for words in shell_commands(RUNS) if words[:2] == ["remix-study", "train"]]
    assert len(lines) == 3
    short = ["--set", "epochs=3", "--set", "evaluation.ceilings=none"]
    for words in lines:
        assert "test/accuracy" in remix_study([*words, *short], folder)
    methods = {path.name.split("-seed")[0] for path in (folder / "workspace" / "runs").iterdir()}
    assert methods == {"remix", "joint_unimodal"}
    client = MlflowClient(f"sqlite:///{folder / 'workspace' / 'mlflow.db'}")
    (run, *_) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (block,) = blocks_in("python", RUNS)
    script = block.text.replace("models:/m-0123...", run.data.tags["model_uri"])
    (folder / "predict.py").write_text(f"{script}\nprint(logits.shape == logs.shape, logs.exp().sum(dim=1).tolist())\n")
    agrees, sums = run_python([str(folder / "predict.py")], folder).split(maxsplit=1)
    assert agrees == "True"
    assert json.loads(sums) == pytest.approx([1.0] * 80, abs=1e-4)


@pytest.mark.slow
def test_the_commands_of_the_page_on_clips_prepare_a_store(folder: Path) -> None:
    prepares = [w[1:] for w in shell_commands(CLIPS) if w[:3] == ["remix-study", "prepare", "manifest"]]
    (check, prepare) = prepares
    assert "Ready to prepare" in remix_study(check, folder)
    assert "160 train, 80 val, 80 test" in " ".join(remix_study(prepare, folder).split())


def test_the_example_of_a_manifest_can_be_read(tmp_path: Path) -> None:
    (block,) = blocks_in("jsonl", CLIPS)
    (tmp_path / "manifest.jsonl").write_text(block.text)
    clips = read_manifest(tmp_path / "manifest.jsonl")
    assert {clip.label for clip in clips} == {"dog", "cat"}
    assert {clip.split for clip in clips} == {"train", "val", "test"}


def test_every_configuration_loads(tmp_path: Path) -> None:
    found = [block for page in PAGES for block in blocks_in("yaml", page)]
    studies = [block for block in found if "methods" in yaml.safe_load(block.text)]
    for block in studies:
        (tmp_path / "study.yaml").write_text(block.text)
        assert len(read_study(tmp_path / "study.yaml", {}).methods) > 1
    runs = [parse_run(yaml.safe_load(block.text), block.section) for block in found if block not in studies]
    assert (len(studies), len(runs)) == (4, 3)
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
            case "python":
                assert words[0] == "-m"
                assert find_spec(words[1]) is not None
            case _:
                assert tool in OTHER_TOOLS


def test_the_readme_names_every_command() -> None:
    text = README.read_text()
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert re.search(rf"`(remix-study )?{name}\b", text), name
        for inner in getattr(command, "commands", {}):
            assert f"`remix-study {name} {inner}" in text or f"`{inner}`" in text, inner


def test_the_readme_is_short_and_complete() -> None:
    text = README.read_text()
    assert len(text.encode()) <= 9 * 1024
    assert "@@" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub creates them."""
    titles = re.findall(r"^#+ (.+)$", without_code(page), re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def test_every_page_of_docs_is_linked() -> None:
    linked = {target.partition("#")[0] for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())}
    names = {Path(target).name for target in linked}
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.name not in names] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_exists(page: Path) -> None:
    for name in re.findall(r"`((?:remix_study|tests|clusters|docs|search_spaces)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_architecture_lists_every_part_of_the_package() -> None:
    rows = [line for line in MAP.read_text().splitlines() if re.match(r"\| \d \|", line)]
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    package = ROOT / "remix_study"
    parts = {path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == {part for part in parts if not part.startswith("__")}
