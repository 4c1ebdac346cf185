"""Checks of a submission before anything starts"""

import json
from pathlib import Path
from typing import Any

import pytest

from remix_study.cluster import shared_paths
from remix_study.cluster.cluster_file import ClusterFile
from remix_study.cluster.dashboard import Versions
from remix_study.cluster.preflight import check_submission, version_problems
from remix_study.version import code_digest
from tests.unit.cluster.helpers import Make, fill, only

# --- workspace and corpus ---------------------------------------------------------------------------------------------


def test_a_valid_submission_has_no_problems(make: Make) -> None:
    found = check_submission(make())
    assert (found.problems, found.warnings) == ((), ())
    assert found.uploads[0].sizes.keys() == {"tiny.yaml"}


@pytest.mark.parametrize(
    ("workspace", "message"),
    [
        ("workspace", "is relative to a folder on this machine"),
        ("file://workspace", "different disk|relative"),
        ("/tmp/workspace", "is in /tmp, which is a different disk on each node"),
        ("/shared/../tmp/w", "is in /tmp"),
        ("/dev/shm/w", "is in /dev"),
        (str(Path.home() / "workspace"), "is in your home directory"),
        ("s3://key:hush-hush@bucket/w", "contains credentials"),
        (None, "is missing"),
    ],
)
def test_a_workspace_that_nodes_do_not_share_is_rejected(
    make: Make, workspace: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_paths, "on_network_disk", lambda _: False)
    problem = only(check_submission(make(workspace=workspace)).problems)
    assert any(words in problem for words in message.split("|"))
    assert "hush-hush" not in problem
    assert "s3://bucket/workspace" in problem  # the remedy


def test_the_working_directory_is_not_shared_unless_on_a_network_disk(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_paths, "NODE_LOCAL", ())
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/elsewhere")
    monkeypatch.setattr(shared_paths, "on_network_disk", lambda _: False)
    assert f"is in {folder}" in only(check_submission(make(workspace=str(folder / "w"))).problems)
    monkeypatch.setattr(shared_paths, "on_network_disk", lambda _: True)
    assert check_submission(make(workspace=str(folder / "w"))).problems == ()


def test_local_paths_are_accepted_on_a_single_node(make: Make) -> None:
    assert check_submission(make(workspace="/tmp/w", several_nodes=False)).problems == ()
    assert "is relative" in only(check_submission(make(workspace="w", several_nodes=False)).problems)


def test_urls_are_accepted(make: Make) -> None:
    submission = make(workspace="s3://bucket/w", corpus="s3://bucket/c", study={"storage": "postgresql+psycopg://db/x"})
    assert check_submission(submission).problems == ()


def test_a_local_corpus_is_rejected_with_the_command_that_copies_it(make: Make) -> None:
    problem = only(check_submission(make(study={"base": {"corpus": "my corpus", "tracking": {"uri": "off"}}})).problems)
    assert "`base.corpus` of tiny.yaml" in problem
    here = Path.cwd()
    assert f"(ray rsync-up {here}/lab.yaml '{here}/my corpus/' /SHARED/corpus/)" in problem
    assert "--out s3://bucket/corpus" in problem
    assert "`--corpus`" in only(check_submission(make(corpus="./c")).problems)


# --- storage, tracking, secrets ---------------------------------------------------------------------------------------


def test_sqlite_is_rejected_with_a_workspace_at_a_url(make: Make) -> None:
    submission = make(workspace="s3://bucket/w", study={"storage": "sqlite:////shared/x.db"})
    assert "a SQLite file" in only(check_submission(submission).problems)


def test_the_storage_may_come_from_the_environment_of_the_nodes(make: Make, folder: Path) -> None:
    file = folder / "env"
    cluster_file = ClusterFile(folder / "lab.yaml", "lab", "aws", 2, secrets=file)
    submission = make(
        workspace="s3://bucket/w", cluster_file=cluster_file, study={"pruner": {"name": "asha", "grace": 2}}
    )
    assert "set REMIX_STUDY_STORAGE here or in ~/.remix-study.env" in only(check_submission(submission).warnings)
    file.write_text("REMIX_STUDY_STORAGE=postgresql+psycopg://db/x\n")
    file.chmod(0o600)
    assert check_submission(submission).warnings == ()


def test_a_pruner_needs_a_storage_that_every_node_can_read(make: Make) -> None:
    pruner = {"name": "asha", "grace": 2}
    assert "storage: journal" in only(check_submission(make(study={"pruner": pruner})).warnings)
    assert check_submission(make(study={"pruner": pruner, "storage": "journal"})).warnings == ()
    loopback = {"pruner": pruner, "storage": "postgresql+psycopg://localhost/x"}
    assert "each node itself" in only(check_submission(make(study=loopback)).problems)
    assert (
        check_submission(make(study={"storage": "postgresql+psycopg://localhost/x"})).problems == ()
    )  # only the driver reads it


def test_variables_of_the_storage_url_must_be_set_on_the_nodes(make: Make, folder: Path) -> None:
    study = {"storage": "postgresql+psycopg://$DB_USER:$DB_PASSWORD@db/x"}
    assert "DB_PASSWORD, DB_USER on the cluster. Set it in ~/.remix-study.env" in only(
        check_submission(make(study=study)).warnings
    )
    file = folder / "env"
    file.write_text("# mine\nDB_USER=me\n")
    file.chmod(0o600)
    cluster_file = ClusterFile(folder / "lab.yaml", "lab", "aws", 2, secrets=file)
    message = only(check_submission(make(study=study, cluster_file=cluster_file)).warnings)
    assert "DB_PASSWORD" in message
    assert "DB_USER" not in message
    file.write_text("DB_USER=me\nexport DB_PASSWORD=hush-hush\n")
    assert check_submission(make(study=study, cluster_file=cluster_file)).warnings == ()
    file.chmod(0o644)
    assert "chmod 600" in only(check_submission(make(study=study, cluster_file=cluster_file)).warnings)


def tracked(uri: str) -> dict[str, Any]:
    return {"base": {"corpus": "/shared/corpus", "tracking": {"uri": uri}}}


@pytest.mark.parametrize("uri", ["http://me:hush-hush@mlflow:5000", "postgresql://me:hush-hush@db/mlflow"])
def test_credentials_in_a_tracking_uri_are_rejected(make: Make, uri: str) -> None:
    problem = only(check_submission(make(study=tracked(uri))).problems)
    assert "MLFLOW_TRACKING_PASSWORD" in problem
    assert "hush-hush" not in problem


def test_a_password_given_by_a_variable_is_accepted(make: Make) -> None:
    found = check_submission(make(study=tracked("postgresql://$DB_USER:$DB_PASSWORD@db/mlflow")))
    assert found.problems == ()
    assert "`tracking.uri` needs DB_PASSWORD, DB_USER on the cluster" in only(found.warnings)


def test_a_loopback_address_means_the_head(make: Make) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert "which means the head on the cluster" in only(
            check_submission(make(study=tracked(f"http://{host}:5000"))).warnings
        )
    submission = make(study={"base": {"corpus": "/c"}}, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert "MLFLOW_TRACKING_URI is http://127.0.0.1:5000" in only(check_submission(submission).warnings)


def test_a_local_tracking_database_is_rejected(make: Make) -> None:
    assert "relative" in only(check_submission(make(study=tracked("sqlite:///mlflow.db"))).problems)
    assert "/tmp" in only(check_submission(make(study=tracked("sqlite:////tmp/mlflow.db"))).problems)
    assert check_submission(make(study=tracked("sqlite:////shared/mlflow.db"))).problems == ()


def test_a_workspace_at_a_url_needs_a_tracking_server(make: Make) -> None:
    study = {"base": {"corpus": "/shared/corpus"}, "storage": "postgresql+psycopg://db/x"}
    assert "cannot hold MLflow's database" in only(check_submission(make(workspace="s3://b/w", study=study)).warnings)


# --- the upload -------------------------------------------------------------------------------------------------------


def test_a_large_upload_warns_and_a_too_large_one_is_rejected(make: Make, folder: Path) -> None:
    fill(folder / "my data" / "x", 60_000_000)
    message = only(check_submission(make()).warnings)
    assert "60 MB" in message
    assert r"my data (60 MB)" in message
    assert message.endswith(f"{folder / '.rayignore'}: /my[ ]data")
    fill(folder / "more" / "x", 60_000_000)
    report = check_submission(make())
    assert "must be below 105 MB, but is 12" in only(report.problems)
    (folder / ".rayignore").write_text("/my[ ]data\n/more\n")
    assert check_submission(make()).problems == check_submission(make()).warnings == ()


def test_the_package_is_uploaded_if_the_working_directory_has_none(make: Make, folder: Path) -> None:
    report = check_submission(make())
    package = report.uploads[1]
    assert {"__init__.py", "cli/main.py", "datasets/corpus.py", "report/page.html"} <= package.sizes.keys()
    fill(folder / "remix_study" / "__init__.py", 1)
    assert len(check_submission(make()).uploads) == 1


def test_an_excluded_folder_must_not_have_the_name_of_a_package_folder(make: Make, folder: Path) -> None:
    (folder / "datasets").mkdir()
    (folder / "datasets" / "manifest.json").write_text(json.dumps({"files": {}, "fingerprint": "x"}))
    problem = only(check_submission(make()).problems)
    assert "imports remix_study.datasets" in problem
    assert "the pattern `/datasets`" in problem


PACKAGE = {
    "remix_study/__init__.py": "",
    "remix_study/__main__.py": "from remix_study.models import encoder\nimport mine",
    "remix_study/models/__init__.py": "",
    "remix_study/models/encoder.py": "page = 'page.html'",
    "remix_study/models/page.html": "",
    "remix_study/scratch.py": "",
    "mine/__init__.py": "",
}


def write_package(folder: Path, **more: str) -> None:
    for name, text in (PACKAGE | more).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("file", "lines", "named", "why"),
    [
        (".gitignore", "models/", "remix_study.models, remix_study.models.encoder", "line 1 (`models/`) of .gitignore"),
        (".gitignore", "# data\n\n/remix_study/\n", "remix_study, ", "line 3 (`/remix_study/`) of .gitignore"),
        (".gitignore", "!models\nenc*\n!x", "remix_study.models.encoder, but", "line 2 (`enc*`) of .gitignore"),
        (".gitignore", "*.html", "remix_study.models.page.html", "line 1 (`*.html`) of .gitignore"),
        (".gitignore", "mine", "imports mine, but", "line 1 (`mine`) of .gitignore"),
        (".rayignore", "encoder.py", "remix_study.models.encoder, but", "line 1 (`encoder.py`) of .rayignore"),
        ("remix_study/.gitignore", "models", "remix_study.models", "line 1 (`models`) of remix_study/.gitignore"),
        ("remix_study/models/mlflow.db", "", "remix_study.models", "the pattern `/remix_study/models`, which always"),
    ],
)
def test_a_module_that_would_not_be_uploaded_is_named_with_its_pattern(
    make: Make, folder: Path, file: str, lines: str, named: str, why: str
) -> None:
    write_package(folder, **{file: lines})
    problem = only(check_submission(make()).problems)
    assert named in problem
    assert f"but {why}" in problem


@pytest.mark.parametrize("lines", ["/models/", "scratch.py", "models/\n!remix_study/models/\n", "*.log"])
def test_patterns_that_keep_no_imported_module_are_accepted(make: Make, folder: Path, lines: str) -> None:
    write_package(folder, **{".gitignore": lines, "models/model.pt": "", "models/__init__.py": ""})
    assert check_submission(make()).problems == ()


def test_a_module_from_elsewhere_is_refused(
    make: Make, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "src" / "my_own_module.py", 0)
    monkeypatch.syspath_prepend(tmp_path / "src")
    write_package(folder, **{"mine/__init__.py": "import my_own_module"})
    problem = only(check_submission(make()).problems)
    assert f"imports my_own_module from {tmp_path / 'src' / 'my_own_module.py'}" in problem


def test_the_digest_is_that_of_the_code_that_arrives(make: Make, folder: Path, tmp_path: Path) -> None:
    """Ray packs the files; nodes compute the digest of what they unpack."""
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    write_package(folder, **{".gitignore": "scratch.py"})
    report = check_submission(make())
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=list(report.excludes))
    ZipFile(package).extractall(tmp_path / "node")
    assert report.code == code_digest(tmp_path / "node" / "remix_study")
    assert report.code != code_digest(folder / "remix_study")  # with scratch.py, which is not uploaded


def test_the_digest_of_the_installed_package_is_its_own(make: Make) -> None:
    assert check_submission(make()).code == code_digest()


def test_the_study_file_must_be_uploaded(make: Make, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert f"is not in the uploaded working directory {other}" in only(
        check_submission(make(working_dir=other)).problems
    )
    (folder / ".gitignore").write_text("*.yaml\n")
    assert "tiny.yaml would not be uploaded" in only(check_submission(make()).problems)


def test_a_home_directory_is_rejected_as_working_directory(make: Make) -> None:
    assert "little else" in only(check_submission(make(working_dir=Path.home())).problems)
    assert "is not a folder" in only(check_submission(make(working_dir=Path("/nowhere/at/all"))).problems)


# --- versions ---------------------------------------------------------------------------------------------------------


def test_versions_must_match() -> None:
    assert version_problems(Versions("3.11.7", "2.60.0"), "2.60.1") == []
    (ray,) = version_problems(Versions("3.12.1", "2.59.0"), "2.60.0")
    assert "must run Ray 2.60, but runs 2.59.0" in ray
    (python,) = version_problems(Versions("3.10.2", "2.60.0"), "2.60.0")
    assert "3.11 or newer, but runs 3.10.2" in python
