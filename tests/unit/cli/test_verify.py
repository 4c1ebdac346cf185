"""Commands on a damaged corpus: `verify` names the files, and no command trains on it"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from remix_study.cli import main as cli

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str | Path) -> tuple[int, str, str]:
        """Run the command in this process: exit status, output, and errors on one line."""
        monkeypatch.setattr(sys, "argv", ["remix-study", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        code = exit_.value.code
        return code if isinstance(code, int) else 1, captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture
def damaged(small_corpus: Path, tmp_path: Path) -> Path:
    """A corpus with one flipped byte in a shard."""
    corpus = tmp_path / "a corpus"
    shutil.copytree(small_corpus / "store", corpus / "store")
    content = bytearray((corpus / "store" / "audio-00000.npy").read_bytes())
    content[12345] ^= 0x40
    (corpus / "store" / "audio-00000.npy").write_bytes(content)
    return corpus


def test_verify_reports_an_intact_corpus(run_cli: Cli, small_corpus: Path) -> None:
    code, out, _ = run_cli("verify", small_corpus)
    assert code == 0
    assert out.startswith(f"{small_corpus / 'store'}: 6 files, ")
    assert out.endswith("no damage found\n")


def test_verify_names_damaged_files_and_fails(run_cli: Cli, damaged: Path) -> None:
    (damaged / "store" / "card.md").unlink()
    code, out, err = run_cli("verify", damaged)
    assert code == 1
    assert out.splitlines() == [
        f"{damaged / 'store' / 'audio-00000.npy'}: its checksum has changed",
        f"{damaged / 'store' / 'card.md'}: it is missing",
    ]
    assert err == (
        f"error: {damaged} has 2 damaged files. Rerun the `remix-study prepare` command that built it, with "
        "`--replace`."
    )
    code, out, _ = run_cli("verify", damaged, "--json")
    (store,) = json.loads(out)
    assert (code, store["damages"]) == (
        1, {"audio-00000.npy": "its checksum has changed", "card.md": "it is missing"},
    )  # fmt: skip


def test_verify_looks_at_the_stores_of_all_folds(run_cli: Cli, damaged: Path, small_corpus: Path) -> None:
    (damaged / "store").rename(damaged / "damaged")
    shutil.copytree(small_corpus / "store", damaged / "store")
    (damaged / "fold-1").mkdir()
    (damaged / "damaged").rename(damaged / "fold-1" / "store")
    code, out, _ = run_cli("verify", damaged)
    assert code == 1
    assert "no damage found" in out
    assert f"{damaged / 'fold-1' / 'store' / 'audio-00000.npy'}: its checksum has changed" in out


def test_verify_of_a_folder_without_a_store_fails(run_cli: Cli, tmp_path: Path) -> None:
    code, _, err = run_cli("verify", tmp_path)
    assert code == 1
    assert err.startswith(f"error: Cannot open corpus at {tmp_path}: no clip store found.")


@pytest.mark.parametrize("command", ["train", "plan", "run"])
def test_no_command_trains_on_a_damaged_corpus(run_cli: Cli, damaged: Path, tmp_path: Path, command: str) -> None:
    run = {
        "corpus": str(damaged),
        "method": {"name": "joint"},
        "epochs": 1,
        "device": "cpu",
        "tracking": {"uri": "off"},
    }
    study = {
        "name": "s", "question": "q?", "base": {key: run[key] for key in run if key != "method"},
        "methods": {"joint": {"set": {"method": {"name": "joint"}}}}, "reference": "joint",
        "trials": 1, "replicates": 1,
    }  # fmt: skip
    file = tmp_path / "file.yaml"
    file.write_text(yaml.safe_dump(run if command == "train" else study))
    code, _, err = run_cli(command, file, "--workspace", tmp_path / "w")
    assert code == 1
    assert err == (
        f"error: The store {damaged / 'store'} is damaged: audio-00000.npy (its checksum has changed). Build it again "
        "with `remix-study prepare`, and with `--replace` if it asks for that."
    )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("content", [None, "file", "others"])
def test_list_without_a_workspace_fails(run_cli: Cli, tmp_path: Path, content: str | None) -> None:
    place = tmp_path / "w"
    if content == "file":
        place.write_text("x")
    elif content == "others":
        (place / "photos").mkdir(parents=True)
    why = {None: "no such folder", "file": "it is a file", "others": "it has neither studies nor runs, but other files"}
    code, out, err = run_cli("list", "--json", "--workspace", place)
    assert (code, out) == (1, "")
    assert err == (
        f"error: Cannot list studies: there is no workspace at {place} ({why[content]}). Start a study with "
        f"`remix-study run FILE --workspace {place}`, or set another --workspace."
    )


@pytest.mark.parametrize("folder", ["runs", "studies", ""])
def test_list_of_a_workspace_without_studies_says_so(run_cli: Cli, tmp_path: Path, folder: str) -> None:
    (tmp_path / "w" / folder).mkdir(parents=True)
    code, out, _ = run_cli("list", "--workspace", tmp_path / "w")
    assert (code, out.startswith("No studies in ")) == (0, True)
