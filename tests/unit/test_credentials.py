"""URLs name environment variables instead of credentials; variables are resolved when the URL is used"""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from remix_study.config.run import RunConfig
from remix_study.credentials import holds_password, names_in, resolve
from remix_study.errors import ConfigError

SPECIAL = "p@ss:w/rd?#%&$HOME 1"


def test_a_password_may_contain_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_USER", "me@work")
    monkeypatch.setenv("DB_PASSWORD", SPECIAL)
    monkeypatch.setenv("SOCKET", "/run/a b/c")
    monkeypatch.setenv("DB_HOST", "db.example.org")
    url = make_url(resolve("postgresql+psycopg://$DB_USER:${DB_PASSWORD}@$DB_HOST:5432/runs?host=$SOCKET", "it"))
    assert (url.username, url.password, url.host, url.database) == ("me@work", SPECIAL, "db.example.org", "runs")
    assert url.query["host"] == "/run/a b/c"


def test_a_path_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data/a b")
    assert resolve("sqlite:///$PLACE/mlflow.db", "it") == "sqlite:////data/a b/mlflow.db"
    assert resolve("journal", "it") == "journal"


def test_an_error_lists_all_variables_that_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_NAME", raising=False)
    monkeypatch.delenv("ALSO_UNSET", raising=False)
    with pytest.raises(ConfigError, match="`storage` needs NO_SUCH_NAME, ALSO_UNSET in the environment"):
        resolve("postgresql://$NO_SUCH_NAME:${ALSO_UNSET}@host/x", "`storage`")
    assert names_in("$A ${B} $A") == ["A", "B"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:secret@host/x",
        "postgresql://me:$PREFIX-secret@host/x",
        "postgresql://host/x?user=me&password=secret",
        "http://me:secret@host:5000",
        "https://a-token@host",
        "s3://KEY:secret@bucket/store",
        "https://host/store?X-Amz-Signature=abc",
    ],
)
def test_a_secret_in_a_url_is_detected(url: str) -> None:
    assert holds_password(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/x",
        "postgresql+psycopg://me:${DB_PASSWORD}@host/x?sslmode=require",
        "postgresql://me@host/x",
        "http://host:5000",
        "sqlite:////data/mlflow.db",
        "s3://bucket/store",
        "/data/me:you@home",
        "corpus",
        "off",
        "$MLFLOW_TRACKING_URI",
    ],
)
def test_the_name_of_a_variable_is_not_detected_as_a_secret(url: str) -> None:
    assert not holds_password(url)


@pytest.mark.parametrize(
    ("path", "url", "remedy"),
    [
        ("tracking.uri", "http://me:hunter2@host:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("tracking.uri", "postgresql://me:hunter2@host/mlflow", r"\$DB_PASSWORD"),
        ("corpus", "s3://KEY:hunter2@bucket/store", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_configuration_must_not_contain_a_password(
    recipe: Callable[..., RunConfig], path: str, url: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=rf"`{path}`: must not hold a password.*{remedy}") as error:
        recipe({path: url})
    assert "hunter2" not in str(error.value)


def test_a_written_configuration_contains_the_name_of_a_password(
    recipe: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    config = recipe({"tracking.uri": "postgresql://me:$DB_PASSWORD@host/mlflow"})
    assert "$DB_PASSWORD" in config.to_yaml()
    assert "hunter2" not in config.to_yaml()
