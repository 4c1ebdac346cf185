"""The contract of storages: a study has the same trials in a file, in a journal and in PostgreSQL"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages._rdb import storage as versions

from remix_study.config.study import StudyConfig
from remix_study.errors import ConfigError, StudyError
from remix_study.files.databases import create_sqlite
from remix_study.study import pruning
from remix_study.study import storage as storage_module
from remix_study.study import study as study_module
from remix_study.study.ledger import read_ledger
from remix_study.study.listener import StudyListener
from remix_study.study.status import study_status
from remix_study.study.storage import check_storage, open_storage, open_to_read
from remix_study.study.study import StudyRun
from tests.server.postgresql import PostgreSQL, a_postgresql, needs_postgresql
from tests.studies import RATE, DriverDied, Runner, config, write_no_report


def recorded(folder: Path) -> Any:
    ledger = read_ledger(folder, intermediate=True)
    plain = ("number", "state", "values", "params", "reason", "cause", "intermediate", "seed_values", "seconds")
    trials = {m: [{name: getattr(t, name) for name in plain} for t in ts] for m, ts in ledger.trials.items()}
    replicates = {m: [(r.stage, r.number, r.state, r.params) for r in rs] for m, rs in ledger.replicates.items()}
    return trials, replicates


class StorageContract:
    """A study that is killed and resumed has the same trials as an uninterrupted study in a file."""

    @pytest.fixture
    def storage(self) -> str | None:
        raise AssertionError("a subclass defines its storage")

    def study_config(self, storage: str | None) -> StudyConfig:
        base = {"corpus": "", "epochs": 5, "device": "cpu", "tracking": {"uri": "off"}}
        return config(storage=storage, pruner={"name": "asha", "grace": 2, "reduction": 2}, trials=5, base=base)

    @pytest.mark.slow
    def test_a_killed_study_has_the_trials_of_an_uninterrupted_one_in_a_file(
        self, storage: str | None, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(name: str, storage: str | None, *lives: int) -> Path:
            pruning._study.cache_clear()
            for life in (*lives, 10_000):
                runner = Runner(
                    life=life,
                    at_once=1,
                    epochs=5,
                    fails=lambda t: (t.stage, t.method, t.number) == ("search", "joint", 1),
                )
                monkeypatch.setattr(study_module, "execute", runner)
                study = StudyRun(self.study_config(storage), {"corpus": str(small_corpus)}, tmp_path / name)
                if life < 10_000:
                    with pytest.raises(DriverDied):
                        study.run(write_no_report)
                else:
                    study.run(write_no_report)
            return study.folder

        killed = run("killed", storage, 2, 4)
        uninterrupted = run("uninterrupted", None)
        assert recorded(killed) == recorded(uninterrupted)
        states = {t["state"] for trials in recorded(killed)[0].values() for t in trials}
        assert states == {"complete", "pruned", "failed"}
        assert study_status(killed).state == "complete"
        assert all(RATE in t["params"] for trials in recorded(killed)[0].values() for t in trials)


class TestFile(StorageContract):
    @pytest.fixture
    def storage(self) -> None:
        return None


class TestJournal(StorageContract):
    @pytest.fixture
    def storage(self) -> str:
        return "journal"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with a_postgresql() as made:
        yield made


@pytest.mark.server
@pytest.mark.slow
@needs_postgresql
class TestPostgreSQL(StorageContract):
    @pytest.fixture
    def storage(self, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> str:
        """Return the URI of a Unix socket, whose folder is given by an environment variable."""
        monkeypatch.setenv("DB_PASSWORD", server.password)
        monkeypatch.setenv("STUDY_SOCKET", str(server.folder))
        return f"postgresql+psycopg://study:$DB_PASSWORD@/postgres?host=$STUDY_SOCKET&port={server.port}"

    def test_two_studies_share_a_database(
        self, storage: str, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "two"):
            monkeypatch.setattr(study_module, "execute", Runner())
            study = StudyRun(config(storage=storage, name=name), {"corpus": str(small_corpus)}, tmp_path)
            study.run(write_no_report)
            assert study_status(study.folder).state == "complete"
        found = {s.study_name for s in open_storage(storage, tmp_path).get_all_studies()}
        assert {"one/joint", "one/remix", "two/joint", "two/remix"} <= found


def test_a_password_in_the_storage_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"must not hold a password.*\$DB_PASSWORD.* and set DB_PASSWORD"):
        check_storage("postgresql+psycopg://me:secret@host/studies")
    check_storage("postgresql+psycopg://me:$DB_PASSWORD@host/studies")


def test_an_invalid_storage_is_an_error() -> None:
    with pytest.raises(ConfigError, match="must be `journal` or the URL of a database, but is 'jurnal'"):
        check_storage("jurnal")


def test_a_missing_environment_variable_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_NAME", raising=False)
    with pytest.raises(ConfigError, match="needs NO_SUCH_NAME in the environment"):
        open_storage("postgresql+psycopg://me:$NO_SUCH_NAME@host/studies", tmp_path)


def test_a_database_that_stays_locked_is_reported_in_one_sentence(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock(*_: Any) -> None:
        other.execute("BEGIN EXCLUSIVE")

    runner = Runner()
    monkeypatch.setattr(storage_module, "_BUSY_S", 0.05)
    monkeypatch.setattr(study_module, "execute", runner)
    study = StudyRun(config(storage=None), {"corpus": str(small_corpus)}, tmp_path, StudyListener(begin=lock))
    study.folder.mkdir(parents=True)
    create_sqlite(study.folder / "optuna.db", storage_module._create_tables)
    other = sqlite3.connect(study.folder / "optuna.db", isolation_level=None)
    with pytest.raises(StudyError, match=r"optuna.db: another process has locked it for 0.05 s. No data is lost."):
        study.run(write_no_report)
    with pytest.raises(StudyError, match="another process has locked it"):
        study_status(study.folder)
    other.rollback()
    other.close()
    assert StudyRun(config(storage=None), {"corpus": str(small_corpus)}, tmp_path).run(write_no_report) is not None


def test_an_unreachable_database_is_reported_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "secret")
    with pytest.raises(StudyError, match=r"Cannot connect to the study's storage .*: ") as caught:
        open_storage("postgresql+psycopg://me:$DB_PASSWORD@127.0.0.1:1/studies", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_missing_database_driver_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the package oracledb, which is not installed"):
        open_storage("oracle+oracledb://me@host/studies", tmp_path)


@pytest.fixture(params=[None, "sqlite:///{folder}/shared.db"], ids=["file", "database"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return request.param and str(request.param).format(folder=tmp_path)


def test_reading_does_not_disturb_a_study_that_creates_its_tables(
    empty: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna creates tables and stamps them in `_init_alembic`. It fails if another process has stamped them before."""
    make = versions._VersionManager._init_alembic
    seen = []

    def stamped(manager: Any) -> None:
        monkeypatch.setattr(versions._VersionManager, "_init_alembic", make)  # readers do not create tables
        seen.append(open_to_read(empty, tmp_path))
        make(manager)

    monkeypatch.setattr(versions._VersionManager, "_init_alembic", stamped)
    assert open_to_read(empty, tmp_path) is None
    optuna.create_study(study_name="s/remix", storage=open_storage(empty, tmp_path))
    assert seen == [None]
    read = open_to_read(empty, tmp_path)
    assert read is not None
    assert [s.study_name for s in read.get_all_studies()] == ["s/remix"]


def test_a_study_that_is_killed_while_it_creates_its_tables_creates_them_again(
    empty: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(manager: Any) -> None:
        raise DriverDied

    with monkeypatch.context() as patch:
        patch.setattr(versions._VersionManager, "_init_alembic", killed)
        with pytest.raises(DriverDied):
            open_storage(empty, tmp_path)
    assert open_to_read(empty, tmp_path) is None
    assert open_storage(empty, tmp_path).get_all_studies() == []
    assert list(tmp_path.glob(".optuna*")) == []


@pytest.mark.slow
def test_our_reader_agrees_with_optuna(small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our reader queries Optuna's tables directly; it returns what Optuna returns."""
    study_config = config(storage=None, pruner={"name": "median", "grace": 2, "startup": 1}, trials=4)
    monkeypatch.setattr(study_module, "execute", Runner())
    folder = StudyRun(study_config, {"corpus": str(small_corpus)}, tmp_path).folder
    StudyRun(study_config, {"corpus": str(small_corpus)}, tmp_path).run(write_no_report)
    ledger = read_ledger(folder, intermediate=True)
    for method, ours in ledger.trials.items():
        study = optuna.load_study(study_name=f"s/{method}", storage=open_storage(None, folder))
        for record, trial in zip(ours, study.trials, strict=True):
            assert (record.number, record.params, record.intermediate) == (
                trial.number, trial.params, trial.intermediate_values,
            )  # fmt: skip
            if record.state == "complete":
                assert list(record.values) == trial.values
            assert (record.started, record.ended) == (trial.datetime_start, trial.datetime_complete)
