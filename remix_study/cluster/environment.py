"""Environment variables of a submitted study: which ones are forwarded, and which ones the nodes have already"""

import re
from collections.abc import Mapping, Sequence

from remix_study.cluster.cluster_file import SECRETS_FILE, ClusterFile
from remix_study.config.study import STORAGE
from remix_study.credentials import holds_password, redact

TRACKING_URI = "MLFLOW_TRACKING_URI"
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|KEYS?(_|$)|(^|_)(PASS|PWD|AUTH)(_|$)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(r"-----BEGIN|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[oprsu]_\w{30,}|\bsk-\w{20,}")
_RANDOM_WORD = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+_=-]{32,}")


def forwarded_environment(
    names: Sequence[str], environment: Mapping[str, str]
) -> tuple[dict[str, str], list[str], list[str]]:
    """The variables to set on the cluster, problems, and warnings.

    MLFLOW_TRACKING_URI and REMIX_STUDY_STORAGE are forwarded automatically unless they contain a password.

    Args:
        names: the variables that `--env` names.
        environment: the environment of this process.
    """
    forwarded: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for name in names:
        if name not in environment:
            problems.append(f"`--env {name}`: the variable is not set. Set it, or drop the option.")
        elif _SECRET_NAME.search(name) or _is_secret(environment[name]):
            problems.append(
                f"`--env {name}`: the variable looks like a secret, and Ray shows forwarded variables in its "
                f"dashboard and logs. Write it into ~/{SECRETS_FILE} on the nodes instead (see clusters/README.md)."
            )
        else:
            forwarded[name] = environment[name]
    for name, remedy in (
        (TRACKING_URI, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (STORAGE, "a variable that it refers to, such as $DB_PASSWORD,"),
    ):
        if not environment.get(name) or name in names:
            continue
        if holds_password(environment[name]):
            warnings.append(
                f"{name} contains credentials and is not forwarded. Set it without them, and set {remedy} in "
                f"~/{SECRETS_FILE} on the nodes."
            )
        else:
            forwarded[name] = environment[name]
    return forwarded, problems, warnings


def _is_secret(value: str) -> bool:
    return redact(value) != value or bool(_SECRET_VALUE.search(value)) or bool(_RANDOM_WORD.fullmatch(value))


def names_on_nodes(cluster_file: ClusterFile | None) -> set[str] | None:
    """The variables that the secrets file sets on every node; None if the cluster has no secrets file."""
    file = None if cluster_file is None else cluster_file.secrets
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {found[1] for line in lines if (found := re.match(r"\s*(?:export\s+)?(\w+)=", line))}
