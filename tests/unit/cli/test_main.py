"""Commands with invalid input: one error message, a non-zero exit status, no traceback, no lost files"""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

import remix_study
from remix_study import __version__
from remix_study.cli import main as cli
from remix_study.config.balancing import Additions
from remix_study.config.run import RunConfig, with_remix
from remix_study.errors import ConfigError
from remix_study.files.disk import exclusive_lock
from remix_study.study import study as study_module
from remix_study.tracking import default_uri
from tests import commands, mlflow_database
from tests.studies import Runner, config

Written = Callable[..., Path]


@pytest.fixture
def written(small_corpus: Path, tmp_path: Path) -> Written:
    def write(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "corpus": str(small_corpus),
            "method": {"name": "remix", "warmup": 1},
            "epochs": 2,
            "global_batch": 32,
            "device": "cpu",
            "evaluation": {"probe": False},
            "tracking": {"uri": "off"},
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


class Result:
    """The exit status and output of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, " ".join(err.split())


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*words: str | Path) -> Result:
        """Run the command in this process, including its error handling."""
        monkeypatch.setattr(sys, "argv", ["remix-study", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_rejected(result: Result, *messages: str) -> None:
    """Assert that the command failed with one error that contains these messages."""
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    for message in messages:
        assert message in result.err


def test_the_version_is_printed(run_cli: Callable[..., Result]) -> None:
    result = run_cli("--version")
    assert (result.code, result.out.strip()) == (0, __version__)


def test_an_unknown_key_is_rejected_before_anything_is_written(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path
) -> None:
    result = run_cli("train", written(optimiser={"name": "adam"}), "--workspace", tmp_path / "w")
    assert_rejected(result, "`optimiser` is not a known key; did you mean `optimizer`?")
    assert not (tmp_path / "w").exists()


def test_usage_errors_have_no_traceback(run_cli: Callable[..., Result]) -> None:
    for words in (["trian"], ["train"], ["train", "x.yaml", "--wrokspace", "y"]):
        result = run_cli(*words)
        assert result.code == 2
        assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"corpus": "nowhere"}, "Cannot open corpus at nowhere: no such folder"),
        ({"global_batch": 33, "workers": 2}, "`global_batch` must be a multiple of the number of workers (2)"),
        ({"method": {"name": "unimodal", "modality": "adio"}}, "`method.modality` must be one of audio, video"),
        (
            {"method": {"name": "remix", "warmup": 1, "filter": {"rule": "margin", "threshold": 5}}},
            "`method.filter.threshold` must be at most 2, but is 5",
        ),
    ],
)
def test_an_impossible_configuration_is_rejected(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path, change: dict[str, Any], wanted: str
) -> None:
    assert_rejected(run_cli("train", written(**change), "--workspace", tmp_path / "w"), wanted)
    assert not (tmp_path / "w").exists()


def test_a_store_that_does_not_match_its_manifest_is_rejected(
    run_cli: Callable[..., Result], written: Written, small_corpus: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "store").symlink_to(small_corpus / "store")
    lines = (small_corpus / "manifest.jsonl").read_text().splitlines()
    (corpus / "manifest.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert_rejected(
        run_cli("train", written(corpus=str(corpus)), "--workspace", tmp_path / "w"),
        "Cannot open the store",
        "has changed since",
    )


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "postgresql://user:$DB_PASSWORD@127.0.0.1:9/db"])
def test_an_unreachable_tracking_server_is_reported_before_training(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "secret")
    result = run_cli("train", written(tracking={"uri": uri}), "--workspace", tmp_path / "w")
    assert_rejected(result, "Cannot connect to the")
    assert "secret" not in result.err
    assert not (tmp_path / "w" / "runs").exists()


@pytest.mark.parametrize(
    ("tracking", "wanted"),
    [({"uri": "off"}, "Cannot write the run folder"), ({"uri": None}, "Cannot read and write the tracking database")],
)
def test_a_file_in_place_of_the_workspace_is_kept(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path, tracking: dict[str, Any], wanted: str
) -> None:
    (tmp_path / "w").write_text("precious")
    result = run_cli("train", written(tracking=tracking), "--workspace", tmp_path / "w")
    assert_rejected(result, wanted)
    assert (tmp_path / "w").read_text() == "precious"


def test_a_finished_run_is_not_trained_again(run_cli: Callable[..., Result], written: Written, tmp_path: Path) -> None:
    words = ("train", written(), "--workspace", tmp_path / "w", "--name", "one", "--set", "epochs=3")
    first = run_cli(*words)
    assert first.code == 0, first.err
    assert "best/val_accuracy" in first.out
    before = contents(tmp_path / "w" / "runs" / "one")
    again = run_cli(*words)
    assert again.code == 0
    assert again.out == first.out
    after = contents(tmp_path / "w" / "runs" / "one")
    assert {k: v for k, v in after.items() if k != "lock"} == {k: v for k, v in before.items() if k != "lock"}
    # Another configuration must not use the same name.
    other = run_cli("train", written(), "--workspace", tmp_path / "w", "--name", "one", "--set", "seed=5")
    assert_rejected(other, "it holds a run with another configuration or corpus", "Use another --name")
    assert {k: v for k, v in contents(tmp_path / "w" / "runs" / "one").items() if k != "lock"} == {
        k: v for k, v in before.items() if k != "lock"
    }


def test_two_processes_cannot_train_one_run(run_cli: Callable[..., Result], written: Written, tmp_path: Path) -> None:
    folder = tmp_path / "w" / "runs" / "one"
    folder.mkdir(parents=True)
    with exclusive_lock(folder / "lock"):
        result = run_cli("train", written(), "--workspace", tmp_path / "w", "--name", "one")
    assert_rejected(result, f"process {os.getpid()} is using the folder")
    assert not (folder / "history.jsonl").exists()


def test_a_diverging_run_reports_where_and_keeps_its_folder(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path
) -> None:
    path = written(optimizer={"name": "sgd", "learning_rate": 1e30})
    result = run_cli("train", path, "--workspace", tmp_path / "w", "--name", "one")
    assert_rejected(result, "epoch 0, ", "Lower `optimizer.learning_rate`")
    assert not (tmp_path / "w" / "runs" / "one" / "result.json").exists()


def test_debug_raises_the_error(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["remix-study", "--debug", "train", str(written(epochs=0))])
    with pytest.raises(ConfigError):
        cli.main()


@pytest.mark.parametrize(("number", "is_user_error"), [(errno.ENOSPC, True), (errno.EIO, True), (errno.EINVAL, False)])
def test_disk_errors_are_one_message(
    run_cli: Callable[..., Result],
    written: Written,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    is_user_error: bool,
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("remix_study.launch.run.run_one", fails)
    if is_user_error:
        result = run_cli("train", written(), "--workspace", tmp_path / "w")
        assert_rejected(result, "Cannot read or write some/file", os.strerror(number))
    else:
        with pytest.raises(OSError, match="Invalid argument"):
            run_cli("train", written(), "--workspace", tmp_path / "w")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda: signal.raise_signal(signal.SIGTERM), 143),
        (lambda: sys.exit(143), 143),  # as a run does, after it has recorded its end
        (lambda: signal.raise_signal(signal.SIGINT), 130),
    ],
)
def test_a_signal_ends_a_command_with_one_sentence(
    run_cli: Callable[..., Result], written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    end: Callable[[], None], status: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("remix_study.launch.run.run_one", lambda *args, **kwargs: end())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run_cli("train", written(), "--workspace", tmp_path / "w")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.code, result.out) == (status, "")
    assert result.err == "Interrupted. Rerun the command to resume from the last checkpoint."


def test_ui_without_runs_is_rejected_with_a_remedy(run_cli: Callable[..., Result], tmp_path: Path) -> None:
    assert_rejected(
        run_cli("ui", "--workspace", tmp_path),
        f"mlflow.db does not exist. Run a study first, for example `remix-study demo --workspace {tmp_path}`",
    )


def test_a_demo_with_too_few_clips_is_rejected(run_cli: Callable[..., Result], tmp_path: Path) -> None:
    result = run_cli("demo", "--train", "3", "--workspace", tmp_path / "w")
    assert_rejected(result, "`train` must be at least the number of classes (8), but is 3")
    assert not (tmp_path / "w").exists()


def test_prepare_rejects_wrong_options(run_cli: Callable[..., Result], tmp_path: Path) -> None:
    table = tmp_path / "m.jsonl"
    assert_rejected(run_cli("prepare", "manifest", table), "`--out` is missing")
    assert_rejected(run_cli("prepare", "manifest", table, "--check"), "Cannot read the table")
    assert_rejected(
        run_cli("prepare", "manifest", table, "--check", "--decoder", "vlc"), "`--decoder` must be one of pyav"
    )
    assert_rejected(
        run_cli("prepare", "manifest", table, "--check", "--channel", "both"),
        "`--channel` must be one of mix, left, right, loudest",
    )
    assert_rejected(
        run_cli("prepare", "manifest", table, "--check", "--length", "text"),
        "`--length` must have the form name=value",
    )
    assert_rejected(
        run_cli("prepare", "cremad", "--root", tmp_path, "--check", "--split", "mine"), "`--split` must be one of"
    )
    assert_rejected(
        run_cli("prepare", "synthetic", "--out", tmp_path / "c", "--preset", "huge"), "`preset` must be one of tiny"
    )


def test_an_error_exits_with_status_one(written: Written, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "remix_study",
        "train",
        str(written(epochs="many")),
        "--workspace",
        str(tmp_path / "w"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_terminated_run_is_recorded_as_killed_and_keeps_its_checkpoint(
    written: Written, tmp_path: Path, number: signal.Signals
) -> None:
    workspace, moment = tmp_path / "w", threading.Event()
    path = written(tracking={"uri": None, "experiment": "e", "model": False}, epochs=2000)
    mlflow_database.install(workspace)
    words = ("-m", "remix_study", "train", str(path), "--workspace", str(workspace), "--name", "one")
    output = tmp_path / "output"
    with output.open("w") as file:
        process = commands.start(*words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=file)
    history = workspace / "runs" / "one" / "history.jsonl"
    for _ in range(12_000):
        if (history.exists() and history.read_bytes().count(b"\n") > 1) or process.poll() is not None:
            break
        moment.wait(0.01)  # polling, because another process writes the file
    process.send_signal(number)
    status, problem = process.wait(120), output.read_text()
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], problem
    assert "Traceback" not in problem
    assert ("The run was preempted; checkpoint at epoch " in problem) == (number == signal.SIGTERM)
    client = MlflowClient(tracking_uri=default_uri(workspace))
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert (workspace / "runs" / "one" / "checkpoints" / "last.pt").exists()
    assert not (workspace / "runs" / "one" / "result.json").exists()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_study_without_a_result_of_each_method_ends_with_an_error(
    run_cli: Callable[..., Result], small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(study_module, "execute", Runner(fails=lambda task: task.method != "remix" or bool(words)))
    study = config(trials=1, replicates=1)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")))
    command = ("run", tmp_path / "s.yaml", "--corpus", small_corpus, "--workspace", tmp_path / "w", *words)
    result = run_cli(*command)
    assert (result.code, result.err.count("error: ")) == (1, 1)
    why = "(1 of 1 trials failed, the last with: NotANumberError: the loss must be a number)"
    lacking = f"No method has a result: joint {why}; remix {why}." if words else f"No result for: joint {why}."
    problem = " ".join(result.err.split())
    assert (
        f"The comparison of the study s is incomplete. {lacking} Correct the cause, then rerun the command with"
        in problem
    )
    assert words or "remix" in result.out, "the other methods are shown"


def test_the_package_lists_its_public_names() -> None:
    assert dir(remix_study) == ["Study", "__version__", "studies"]
    assert all(hasattr(remix_study, name) for name in dir(remix_study))


# --- methods ---------------------------------------------------------------------------------------------------------


def test_the_list_of_methods_fits_80_columns_and_has_every_method_once(
    run_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run_cli("methods")
    assert result.code == 0
    table = [line for line in result.out.splitlines() if line.startswith("│")]
    assert all(len(line) <= 80 for line in table)
    named = [name.strip() for line in table if (name := line.split("│")[1]).startswith("   ") and name.strip()]
    assert sorted(named) == sorted(Additions.model_fields)


def test_methods_are_described_by_name_and_as_json(run_cli: Callable[..., Result]) -> None:
    result = run_cli("methods", "agm", "ogm")
    assert [line for line in result.out.splitlines() if not line.startswith(" ")] == ["agm", "ogm"]
    assert "options: begin: 0, end: null, alpha: 0.8" in result.out
    (card,) = json.loads(run_cli("methods", "ogm", "--json").out)
    assert (card["name"], card["changes"], card["combines_with_remix"]) == ("ogm", "gradients", True)
    assert card["options"]["alpha"] == 0.8
    wrong = run_cli("methods", "ogn")
    assert (wrong.code, wrong.err) == (1, "error: There is no method `ogn`; did you mean `ogm`?")


@pytest.mark.parametrize("name", Additions.model_fields)
def test_a_method_says_whether_it_can_be_added_to_remix(name: str) -> None:
    content = {"corpus": "c", "method": {"name": "remix", "with": [name]}}
    if with_remix(name) == "no":
        with pytest.raises(ValueError, match=name):
            RunConfig.model_validate(content)
    else:
        assert RunConfig.model_validate(content).method.name == "remix"
