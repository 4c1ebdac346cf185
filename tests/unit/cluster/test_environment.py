"""Environment variables that are forwarded to a cluster"""

from remix_study.cluster.environment import forwarded_environment
from tests.unit.cluster.helpers import only


def test_named_variables_are_forwarded_and_secrets_rejected() -> None:
    environment = {
        "AWS_REGION": "eu-west-1", "LONG": "/shared/a/long/path/that/is/no/secret/at/all/0123456789",
        "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "x", "DB_PASSWORD": "x",
        "DATABASE": "postgresql://me:hush-hush@db/x", "HEX": "0123456789abcdef0123456789abcdef",
        "AUTHOR": "me", "KEYBOARD": "us",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }  # fmt: skip
    found, problems, warnings = forwarded_environment([*environment, "ABSENT"], environment)
    assert found.keys() == {"AWS_REGION", "LONG", "MLFLOW_TRACKING_URI", "AUTHOR", "KEYBOARD"}
    assert len(problems) == 6
    assert "hush-hush" not in " ".join(problems)
    assert all("~/.remix-study.env" in problem for problem in problems[:-1])
    assert warnings == []


def test_the_tracking_uri_is_forwarded_unless_it_has_credentials() -> None:
    assert forwarded_environment([], {"MLFLOW_TRACKING_URI": "http://m"})[0] == {"MLFLOW_TRACKING_URI": "http://m"}
    found, problems, warnings = forwarded_environment([], {"MLFLOW_TRACKING_URI": "http://me:hush-hush@m"})
    assert (found, problems) == ({}, [])
    assert "is not forwarded" in only(warnings)
    assert "hush-hush" not in warnings[0]
