"""A study for a cluster: every problem is found before anything starts, and no value meets a shell unquoted"""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from remix_study.cluster import preflight as submission
from remix_study.cluster import upload
from remix_study.cluster.cluster_file import Launcher, read_launcher
from remix_study.cluster.commands import (
    SAYS,
    fetch_words,
    forward_words,
    job_name,
    on_head_words,
    ray_on_head_words,
    run_words,
    scratch_on_head,
    shown_words,
    submit_words,
)
from remix_study.cluster.dashboard import Dashboard, Versions
from remix_study.cluster.preflight import Submission, environment_of, examine, version_problems
from remix_study.cluster.upload import excludes_of, measure, pattern_of
from remix_study.config.load import load_study
from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, RemixStudyError

HOSTILE = [
    "a b",
    "it's",
    'say "x"',
    "; touch x",
    "$(touch x)",
    "`touch x`",
    "-x",
    "a\\b",
    "*?[x]",
    "${HOME}",
    "a&b|c>d",
]
LOCAL: dict[str, Any] = {
    "cluster_name": "lab",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
    "auth": {"ssh_user": "me"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory of a person's own, with a study in it."""
    made = tmp_path / "mine"
    made.mkdir()
    return made


Make = Callable[..., Submission]


@pytest.fixture
def make(folder: Path) -> Make:
    def sent(**changes: Any) -> Submission:
        """A sound submission; `study` changes keys of the study's file, all others the submission."""
        content = {
            "name": "tiny",
            "question": "does it work?",
            "base": {"corpus": "/shared/corpus", "tracking": {"uri": "off"}},
            "methods": {"remix": {"set": {"method": {"name": "remix", "warmup": 1}}}},
            "reference": "remix", "trials": 1, "replicates": 1,
        } | changes.pop("study", {})  # fmt: skip
        file = folder / changes.pop("called", "tiny.yaml")
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(content))
        study: StudyConfig = load_study(file)
        given: dict[str, Any] = {
            "study": study, "file": file, "working_dir": folder, "workspace": "/shared/workspace",
            "launcher": Launcher(Path("lab.yaml"), "lab", "local", 2),
        }  # fmt: skip
        return Submission(**given | changes)

    return sent


def only(found: tuple[str, ...]) -> str:
    (sentence,) = found
    return sentence


# --- launcher files --------------------------------------------------------------------------------------------------


def written(folder: Path, content: Any, name: str = "lab.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_launcher_file_is_read(folder: Path) -> None:
    start = "ray start --head --dashboard-port=9000 --dashboard-host=127.0.0.1"
    content = {**LOCAL, "head_start_ray_commands": [start], "file_mounts": {"~/.remix-study.env": "~/mine.env"}}
    found = read_launcher(written(folder, content))
    assert (found.name, found.provider, found.workers, found.dashboard_port) == ("lab", "local", 2, 9000)
    assert found.secrets == Path.home() / "mine.env"
    assert found.up == f"RAY_UP_enable_autoscaler_v2=0 ray up {folder / 'lab.yaml'}"
    assert forward_words(found, 7)[-2:] == ["--remote-port", "9000"]


def test_shipped_launcher_files_are_read(folder: Path) -> None:
    for path in (Path(__file__).parents[3] / "clusters").glob("*.yaml"):
        text = path.read_text()
        if "apiVersion" in text:
            continue
        if re.search(r"^[^#\n]*(CHANGE_ME|YOUR-)", text, re.MULTILINE):
            with pytest.raises(ConfigError, match="must name your own values, but still has"):
                read_launcher(path)
        found = read_launcher(written(folder, re.sub(r"CHANGE_ME\w*|YOUR-[\w-]*", "mine", text)))
        assert found.up.startswith("ray up "), "what it needs is in the file"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({**LOCAL, "head_start_ray_comands": []}, "head_start_ray_comands"),
        ({**LOCAL, "provider": {"type": "local"}}, "head_ip"),
        ({**LOCAL, "provider": {"type": "nope"}}, "Unsupported node provider: nope"),
        ({"cluster_name": "x"}, "`provider` is missing"),
        ({**LOCAL, "auth": {"ssh_user": "me", "ssh_port": 22}}, "`auth`"),
        ("- a\n- b\n", "keys and values"),
        ("", "keys and values"),
        ("a: [", "must be YAML"),
        ("#!/bin/bash\n#SBATCH --nodes=2\n", "Start it with: sbatch "),
        ("apiVersion: ray.io/v1\nkind: RayJob\n", "and the study that it names with: kubectl apply -f "),
        ("apiVersion: ray.io/v1\nkind: RayCluster\n", "--address http://127.0.0.1:8265"),
    ],
)
def test_another_file_is_refused_with_what_helps(
    folder: Path, content: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_launcher(written(folder, content))
    assert told in str(refused.value)
    assert str(folder / "lab.yaml") in str(refused.value)
    assert not re.search(r"ConfigError|\.\. ", str(refused.value))
    assert capsys.readouterr() == ("", "")  # Ray prints what it raises


def test_no_launcher_file_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_launcher(folder / "none.yaml")


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_sound_submission_has_nothing_to_say(make: Make) -> None:
    found = examine(make())
    assert (found.problems, found.warnings) == ((), ())
    assert found.uploads[0].sizes.keys() == {"tiny.yaml"}


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("workspace", "is relative to a folder of this machine"),
        ("file://workspace", "another disk|relative"),
        ("/tmp/workspace", "is in /tmp, which is another disk on each node"),
        ("/shared/../tmp/w", "is in /tmp"),
        ("/dev/shm/w", "is in /dev"),
        (str(Path.home() / "workspace"), "is in your home directory"),
        ("s3://key:hush-hush@bucket/w", "holds credentials"),
        (None, "is not given"),
    ],
)
def test_a_workspace_that_nodes_do_not_share_is_refused(
    make: Make, place: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_is_shared", lambda _: False)
    sentence = only(examine(make(workspace=place)).problems)
    assert any(words in sentence for words in told.split("|"))
    assert "hush-hush" not in sentence
    assert "s3://bucket/workspace" in sentence  # what helps


def test_the_working_directory_is_no_shared_disk(make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_OWN_TO_A_MACHINE", ())
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/elsewhere")
    monkeypatch.setattr(submission, "_is_shared", lambda _: False)
    assert f"is in {folder}" in only(examine(make(workspace=str(folder / "w"))).problems)
    monkeypatch.setattr(submission, "_is_shared", lambda _: True)  # unless it is on a network's disk
    assert examine(make(workspace=str(folder / "w"))).problems == ()


def test_one_machine_alone_shares_everything_with_itself(make: Make) -> None:
    assert examine(make(workspace="/tmp/w", several_nodes=False)).problems == ()
    assert "is relative" in only(examine(make(workspace="w", several_nodes=False)).problems)


def test_urls_are_seen_by_all(make: Make) -> None:
    sent = make(workspace="s3://bucket/w", corpus="s3://bucket/c", study={"storage": "postgresql+psycopg://db/x"})
    assert examine(sent).problems == ()


def test_a_corpus_of_this_machine_is_refused_with_the_command_that_copies_it(make: Make) -> None:
    sentence = only(examine(make(study={"base": {"corpus": "my corpus", "tracking": {"uri": "off"}}})).problems)
    assert "`base.corpus` of tiny.yaml" in sentence
    assert "(ray rsync-up lab.yaml 'my corpus/' /SHARED/corpus/)" in sentence
    assert "--out s3://bucket/corpus" in sentence
    assert "`--corpus`" in only(examine(make(corpus="./c")).problems)


# --- storage, tracking, secrets --------------------------------------------------------------------------------------


def test_sqlite_is_no_storage_of_a_workspace_at_a_url(make: Make) -> None:
    sent = make(workspace="s3://bucket/w", study={"storage": "sqlite:////shared/x.db"})
    assert "a file of SQLite" in only(examine(sent).problems)


def test_the_storage_may_come_from_the_environment_of_the_nodes(make: Make, folder: Path) -> None:
    file = folder / "env"
    launcher = Launcher(folder / "lab.yaml", "lab", "aws", 2, secrets=file)
    sent = make(workspace="s3://bucket/w", launcher=launcher, study={"pruner": {"name": "asha", "grace": 2}})
    assert "set REMIX_STUDY_STORAGE here or in ~/.remix-study.env" in only(examine(sent).warnings)
    file.write_text("REMIX_STUDY_STORAGE=postgresql+psycopg://db/x\n")
    file.chmod(0o600)
    assert examine(sent).warnings == ()


def test_a_pruner_reads_the_storage_on_every_node(make: Make) -> None:
    pruner = {"name": "asha", "grace": 2}
    assert "storage: journal" in only(examine(make(study={"pruner": pruner})).warnings)
    assert examine(make(study={"pruner": pruner, "storage": "journal"})).warnings == ()
    loopback = {"pruner": pruner, "storage": "postgresql+psycopg://localhost/x"}
    assert "each node itself" in only(examine(make(study=loopback)).problems)
    assert examine(make(study={"storage": "postgresql+psycopg://localhost/x"})).problems == ()  # the driver alone reads


def test_variables_of_the_storage_must_be_on_the_nodes(make: Make, folder: Path) -> None:
    study = {"storage": "postgresql+psycopg://$DB_USER:$DB_PASSWORD@db/x"}
    assert "DB_PASSWORD, DB_USER on the cluster: in ~/.remix-study.env" in only(examine(make(study=study)).warnings)
    file = folder / "env"
    file.write_text("# mine\nDB_USER=me\n")
    file.chmod(0o600)
    launcher = Launcher(folder / "lab.yaml", "lab", "aws", 2, secrets=file)
    told = only(examine(make(study=study, launcher=launcher)).warnings)
    assert "DB_PASSWORD" in told
    assert "DB_USER" not in told
    file.write_text("DB_USER=me\nexport DB_PASSWORD=hush-hush\n")
    assert examine(make(study=study, launcher=launcher)).warnings == ()
    file.chmod(0o644)
    assert "chmod 600" in only(examine(make(study=study, launcher=launcher)).warnings)


def tracked(uri: str) -> dict[str, Any]:
    return {"base": {"corpus": "/shared/corpus", "tracking": {"uri": uri}}}


@pytest.mark.parametrize("uri", ["http://me:hush-hush@mlflow:5000", "postgresql://me:hush-hush@db/mlflow"])
def test_credentials_in_a_tracking_uri_are_refused(make: Make, uri: str) -> None:
    sentence = only(examine(make(study=tracked(uri))).problems)
    assert "MLFLOW_TRACKING_PASSWORD" in sentence
    assert "hush-hush" not in sentence


def test_a_password_that_is_named_is_none(make: Make) -> None:
    found = examine(make(study=tracked("postgresql://$DB_USER:$DB_PASSWORD@db/mlflow")))
    assert found.problems == ()
    assert "`tracking.uri` needs DB_PASSWORD, DB_USER on the cluster" in only(found.warnings)


def test_the_loopback_address_is_the_head(make: Make) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert "which on the cluster is its head" in only(examine(make(study=tracked(f"http://{host}:5000"))).warnings)
    sent = make(study={"base": {"corpus": "/c"}}, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert "MLFLOW_TRACKING_URI is http://127.0.0.1:5000" in only(examine(sent).warnings)


def test_a_tracking_database_of_this_machine_is_refused(make: Make) -> None:
    assert "relative" in only(examine(make(study=tracked("sqlite:///mlflow.db"))).problems)
    assert "/tmp" in only(examine(make(study=tracked("sqlite:////tmp/mlflow.db"))).problems)
    assert examine(make(study=tracked("sqlite:////shared/mlflow.db"))).problems == ()


def test_a_workspace_at_a_url_needs_a_tracking_server(make: Make) -> None:
    study = {"base": {"corpus": "/shared/corpus"}, "storage": "postgresql+psycopg://db/x"}
    assert "cannot hold MLflow's database" in only(examine(make(workspace="s3://b/w", study=study)).warnings)


def test_named_variables_go_along_and_secrets_do_not() -> None:
    own = {
        "AWS_REGION": "eu-west-1", "LONG": "/shared/a/long/path/that/is/no/secret/at/all/0123456789",
        "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "x", "DB_PASSWORD": "x",
        "DATABASE": "postgresql://me:hush-hush@db/x", "HEX": "0123456789abcdef0123456789abcdef",
        "AUTHOR": "me", "KEYBOARD": "us",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }  # fmt: skip
    found, problems, warnings = environment_of([*own, "ABSENT"], own)
    assert found.keys() == {"AWS_REGION", "LONG", "MLFLOW_TRACKING_URI", "AUTHOR", "KEYBOARD"}
    assert len(problems) == 6
    assert "hush-hush" not in " ".join(problems)
    assert all("~/.remix-study.env" in sentence for sentence in problems[:-1])
    assert warnings == []


def test_the_address_of_mlflow_goes_along_by_itself_without_credentials() -> None:
    assert environment_of([], {"MLFLOW_TRACKING_URI": "http://m"})[0] == {"MLFLOW_TRACKING_URI": "http://m"}
    found, problems, warnings = environment_of([], {"MLFLOW_TRACKING_URI": "http://me:hush-hush@m"})
    assert (found, problems) == ({}, [])
    assert "stays here" in only(tuple(warnings))
    assert "hush-hush" not in warnings[0]


# --- the upload ------------------------------------------------------------------------------------------------------


def fill(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_what_belongs_to_this_machine_stays_here(folder: Path) -> None:
    stays = (
        ".git/HEAD", ".venv/x", "mlruns/0/x", "deep/checkpoints/last.pt", "workspace/mlflow.db", "x/__pycache__/x.pyc",
        "results/mlflow.db", "older/studies/s/study.yaml", "old [1]/runs/r/digest", "my clips/clips/1.mp4",
        "bare/shard-0", "ignored", "named/by/ray",
    )  # fmt: skip
    for name in stays:
        fill(folder / name, 10)
    for store in ("my clips/store", "bare"):
        fill(folder / store / "shard-1", 10)
        (folder / store / "manifest.json").write_text(json.dumps({"files": {}, "fingerprint": "x"}))
    (folder / ".gitignore").write_text("ignored\n")
    (folder / ".rayignore").write_text("/named\n")
    goes = ("tiny.yaml", "notes/study.yaml", "my model/manifest.json", "old 1/runs", ".gitignore", ".rayignore")
    for name in goes[:-2]:
        fill(folder / name, 1)
    assert measure(folder, excludes_of(folder)).sizes.keys() == set(goes)


@pytest.mark.parametrize("name", [*HOSTILE, "a b ", "#x", "!x"])
def test_a_pattern_means_one_path(folder: Path, name: str) -> None:
    fill(folder / name / "inside", 1)
    fill(folder / "other" / name / "inside", 1)
    assert measure(folder, [pattern_of(name)]).sizes.keys() == {f"other/{name}/inside"}


def test_the_upload_is_what_ray_packs(folder: Path, tmp_path: Path) -> None:
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    for name in ("a/b", "a/c.yaml", "ignored/x", "workspace/x", "d e/f"):
        fill(folder / name, 3)
    (folder / ".gitignore").write_text("ignored/\n")
    excludes = list(excludes_of(folder))
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    packed = {info.filename: info.file_size for info in ZipFile(tmp_path / "package.zip").infolist()}
    assert measure(folder, excludes).sizes == {name: size for name, size in packed.items() if not name.endswith("/")}


def test_a_large_upload_is_said_and_one_too_large_refused(make: Make, folder: Path) -> None:
    fill(folder / "my data" / "x", 60_000_000)
    told = only(examine(make()).warnings)
    assert "60 MB" in told
    assert r"my data (60 MB)" in told
    assert told.endswith(f"{folder / '.rayignore'}, such as: /my[ ]data")
    fill(folder / "more" / "x", 60_000_000)
    found = examine(make())
    assert "must be below 105 MB, but is 121 MB" in only(found.problems)
    (folder / ".rayignore").write_text("/my[ ]data\n/more\n")
    assert examine(make()).problems == examine(make()).warnings == ()


def test_the_package_goes_along_where_the_working_directory_has_none(make: Make, folder: Path) -> None:
    found = examine(make())
    package = found.uploads[1]
    assert {"__init__.py", "cli/main.py", "datasets/corpus.py", "report/page.html"} <= package.sizes.keys()
    fill(folder / "remix_study" / "__init__.py", 1)
    assert len(examine(make()).uploads) == 1


def test_a_folder_of_the_person_must_not_hide_a_folder_of_the_package(make: Make, folder: Path) -> None:
    (folder / "datasets").mkdir()
    (folder / "datasets" / "manifest.json").write_text(json.dumps({"files": {}, "fingerprint": "x"}))
    assert "datasets" in only(examine(make()).problems)


def test_the_study_must_be_in_the_upload(make: Make, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert f"is not in {other}" in only(examine(make(working_dir=other)).problems)
    (folder / ".gitignore").write_text("*.yaml\n")
    assert "must be uploaded, but tiny.yaml is left out" in only(examine(make()).problems)


def test_a_home_directory_is_no_working_directory(make: Make) -> None:
    assert "little else" in only(examine(make(working_dir=Path.home())).problems)
    assert "must be a folder" in only(examine(make(working_dir=Path("/nowhere/at/all"))).problems)


def test_the_checkout_itself_is_small() -> None:
    root = Path(__file__).parents[3]
    found = measure(root, excludes_of(root))
    assert found.bytes < 20 * upload.MB
    assert {"remix_study/cli/main.py", "search_spaces/demo.yaml", "pyproject.toml"} <= found.sizes.keys()


# --- versions --------------------------------------------------------------------------------------------------------


def test_versions_must_fit() -> None:
    assert version_problems(Versions("3.11.7", "2.60.0"), "2.60.1") == []
    (ray,) = version_problems(Versions("3.12.1", "2.59.0"), "2.60.0")
    assert "must run the Ray that remix_study needs (2.60), but runs 2.59.0" in ray
    (python,) = version_problems(Versions("3.10.2", "2.60.0"), "2.60.0")
    assert "3.11 or newer, but runs 3.10.2" in python


def test_nobody_at_the_address_is_said() -> None:
    with pytest.raises(RemixStudyError, match=r"must answer at http://127.0.0.1:9, but does not"):
        Dashboard("http://127.0.0.1:9")
    for odd in ("127.0.0.1:8265", "ray://host:10001", "http://host:port"):
        with pytest.raises(RemixStudyError, match="must be a dashboard's"):
            Dashboard(odd)


# --- commands --------------------------------------------------------------------------------------------------------


def as_bash_reads(command: str) -> list[str]:
    """The words of a command line, as a real shell splits them."""
    program = f"printf '%s\\0' {command}"
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_meets_a_shell_unquoted(make: Make, value: str, tmp_path: Path) -> None:
    sent = make(called=f"{value}.yaml", workspace=f"/shared/{value}", corpus=f"/shared/{value}")
    found = examine(sent)
    words = submit_words(sent, found, "http://127.0.0.1:1", "id")
    # Ray joins what follows `--` with quotes, and a shell on the head reads that.
    job = as_bash_reads(shlex.join(words[words.index("--") + 1 :]))
    file = f"./{value}.yaml" if value.startswith("-") else f"{value}.yaml"
    assert job == ["python", "-m", "remix_study", "run", file, "--workspace", f"/shared/{value}", "--corpus",
                   f"/shared/{value}"]  # fmt: skip
    assert as_bash_reads(shown_words(words, {})) == words  # what is shown can be copied
    launcher = Launcher(Path(f"{value}.yaml"), "lab", "local", 2)
    on_head = on_head_words(launcher, ["status", value, "--workspace", f"/shared/{value}"], {"X": value})
    assert on_head[2] == (f"./{value}.yaml" if value.startswith("-") else f"{value}.yaml")
    _, _, command = on_head[3].partition(f"echo {SAYS}; ")
    given, _, rest = command.partition(" python ")
    assert as_bash_reads(given) == [f"X={value}"]
    assert as_bash_reads(rest) == ["-m", "remix_study", "status", value, "--workspace", f"/shared/{value}"]
    assert as_bash_reads(ray_on_head_words(launcher, "job", "logs", value)[3]) == ["ray", "job", "logs", value]


def test_only_folders_of_our_own_making_are_fetched(tmp_path: Path) -> None:
    launcher = Launcher(Path("lab.yaml"), "lab", "aws", 2)
    assert fetch_words(launcher, f"{scratch_on_head()}/", tmp_path)[-1] == f"{tmp_path}/"
    with pytest.raises(AssertionError):
        fetch_words(launcher, "/shared/$(touch x)/", tmp_path)


def test_a_job_is_submitted_with_all_that_it_needs(make: Make, folder: Path) -> None:
    sent = make(environment={"AWS_REGION": "eu"}, retry_failed=True, called="deep/tiny.yaml")
    words = submit_words(sent, examine(sent), "http://127.0.0.1:1", "id")
    options = dict(zip(words[3:-1:2], words[4::2], strict=False))
    runtime = json.loads(options["--runtime-env-json"])
    assert options["--working-dir"] == str(folder)
    assert runtime["env_vars"] == {"AWS_REGION": "eu"}
    assert runtime["py_modules"] == [str(submission.package_folder())]
    assert {".venv", "mlruns"} <= set(runtime["excludes"])
    assert json.loads(options["--metadata-json"]) == {
        "remix_study.study": "tiny", "remix_study.workspace": "/shared/workspace"
    }  # fmt: skip
    assert run_words(sent)[3:] == ["run", "deep/tiny.yaml", "--workspace", "/shared/workspace", "--retry-failed"]
    fill(folder / "remix_study" / "__init__.py", 1)
    plain = replace(sent, environment={})
    runtime = json.loads(submit_words(plain, examine(plain), "x", "id")[10])
    assert runtime.keys() == {"excludes"}


def test_commands_are_shown_as_they_work_here() -> None:
    words = ["ray", "job", "logs", "a b"]
    assert shown_words(words, {}) == "ray job logs 'a b'"
    assert shown_words(words, {"RAY_ADDRESS": "x"}) == "env -u RAY_ADDRESS ray job logs 'a b'"
    assert shown_words(["ray", "exec", "x"], {"RAY_ADDRESS": "x"}) == "ray exec x"


def test_job_names_are_new_each_time() -> None:
    assert job_name("tiny").startswith("remix-study-tiny-2")
    assert job_name("tiny") != job_name("tiny")
