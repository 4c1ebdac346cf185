"""Checks of a submission before anything starts: places, storage, tracking, upload, versions

Problems stop the submission; warnings do not. All of them are reported at once.
"""

import ipaddress
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remix_study.cluster.cluster_file import SECRETS_FILE
from remix_study.cluster.dashboard import Versions
from remix_study.cluster.environment import TRACKING_URI, names_on_nodes
from remix_study.cluster.imports import imports_of, module_name
from remix_study.cluster.shared_paths import why_not_shared
from remix_study.cluster.submission import PACKAGE, Submission, package_folder
from remix_study.cluster.upload import (
    LARGE_BYTES,
    MB,
    Upload,
    limit_bytes,
    measure,
    pattern_for,
    upload_excludes,
    why_excluded,
)
from remix_study.config.study import STORAGE, NoPrunerConfig, StudyConfig
from remix_study.credentials import holds_password, names_in, redact
from remix_study.files.urls import is_url, shown
from remix_study.version import code_digest

PYTHON = (3, 11)  # pyproject.toml
_LARGEST_SHOWN = 3
_DATABASE_EXAMPLE = "postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies"


@dataclass(frozen=True)
class PreflightReport:
    """The result of all checks.

    Args:
        problems: sentences; any of them stops the submission.
        warnings: sentences to show.
        excludes: patterns, as in .gitignore, of files that are not uploaded.
        uploads: the folders that are uploaded.
        code: digest of the uploaded package, as of `code_digest`; empty if nothing can be uploaded.
    """

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = ()
    code: str = ""

    @property
    def bytes(self) -> int:
        return sum(upload.bytes for upload in self.uploads)


@dataclass
class _Issues:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_submission(submission: Submission, problems: Sequence[str] = ()) -> PreflightReport:
    """Check everything that can be checked without connecting to the cluster.

    Args:
        submission: the study and its places.
        problems: problems found earlier, to be reported first.
    """
    issues = _Issues(list(problems))
    _check_workspace(submission, issues)
    _check_secrets_file(submission, issues)
    if submission.study is not None:
        _check_corpus(submission, submission.study, issues)
        _check_storage(submission, submission.study, issues)
        _check_tracking(submission, submission.study, issues)
    excludes, uploads = _check_upload(submission, issues)
    code = _check_code(submission, excludes, uploads[-1], issues) if uploads else ""
    return PreflightReport(tuple(issues.problems), tuple(issues.warnings), excludes, uploads, code)


# --- places ----------------------------------------------------------------------------------------------------------


def _why_not_shared(place: str, submission: Submission) -> str | None:
    return why_not_shared(place, submission.working_dir, several_nodes=submission.several_nodes)


def _printable(place: str) -> str:
    return shown(place) if is_url(place) else place


def _check_workspace(submission: Submission, issues: _Issues) -> None:
    if submission.workspace is None:
        issues.problems.append(
            "`--workspace` is missing. Give a folder on a disk that all nodes share, or a URL. For example: "
            "--workspace /shared/workspace, or --workspace s3://bucket/workspace"
        )
        return
    why = _why_not_shared(submission.workspace, submission)
    if why is not None:
        issues.problems.append(
            f"Not every node can use workspace {_printable(submission.workspace)}: it {why}. Use an absolute path on "
            "a shared disk, or a URL such as s3://bucket/workspace."
        )


def _check_corpus(submission: Submission, study: StudyConfig, issues: _Issues) -> None:
    place = submission.corpus_of(study)
    source = "`--corpus`" if submission.corpus is not None else f"`base.corpus` of {submission.file.name}"
    if not place:
        issues.problems.append(f"No corpus given: set `base.corpus` in {submission.file.name}, or use --corpus.")
        return
    why = _why_not_shared(place, submission)
    if why is not None:
        copy = "copy it to the cluster's shared disk"
        if submission.cluster_file is not None and not is_url(place):
            words = [
                "ray",
                "rsync-up",
                submission.cluster_file.argument,
                f"{Path(place).absolute()}/",
                "/SHARED/corpus/",
            ]
            copy += f" ({shlex.join(words)})"
        issues.problems.append(
            f"Not every node can use corpus {_printable(place)} ({source}): it {why}. Prepare it at a URL "
            f"(`remix-study prepare ... --out s3://bucket/corpus`), or {copy}. Then name it with --corpus."
        )


# --- storage, tracking, secrets --------------------------------------------------------------------------------------


def _check_secrets_file(submission: Submission, issues: _Issues) -> None:
    file = None if submission.cluster_file is None else submission.cluster_file.secrets
    if file is None or not file.exists():
        return
    if file.stat().st_mode & 0o077:
        issues.warnings.append(
            f"Other users of this machine can read {file}, which holds secrets. Run: chmod 600 {shlex.quote(str(file))}"
        )


def _check_storage(submission: Submission, study: StudyConfig, issues: _Issues) -> None:
    storage = study.storage
    workspace_is_url = is_url(submission.workspace or "")
    workers_read = submission.several_nodes and not isinstance(study.pruner, NoPrunerConfig)
    if storage is None and STORAGE in (names_on_nodes(submission.cluster_file) or ()):
        return
    if storage is None or "://" not in storage:
        if workspace_is_url and storage is None:
            issues.warnings.append(
                "With a workspace at a URL, trials need a database. Set `storage` in the study file, or set "
                f"{STORAGE} here or in ~/{SECRETS_FILE} on the nodes. For example: {_DATABASE_EXAMPLE}"
            )
        elif storage is None and workers_read:
            issues.warnings.append(
                "With a pruner, every node reads the study's trials, and SQLite is unreliable on a shared disk. Set "
                "`storage: journal`, or use a database."
            )
        return
    if storage.startswith("sqlite") and workspace_is_url:
        issues.problems.append(
            "`storage` must be a database server when the workspace is at a URL, but is a SQLite file, which is lost "
            f"with its node. For example: {_DATABASE_EXAMPLE}"
        )
    _check_variables(submission, "storage", storage, issues)
    if _is_loopback(storage) and workers_read:
        issues.problems.append(
            "`storage` must be a database that every node can reach, because the pruner runs on all of them, but is at "
            "a loopback address, which means each node itself. Use the host name of the database."
        )


def _check_variables(submission: Submission, key: str, value: str, issues: _Issues) -> None:
    """Warn if a `$NAME` in a value may not be set on the nodes."""
    needed = set(names_in(value)) - submission.environment.keys()
    known = names_on_nodes(submission.cluster_file)
    missing = sorted(needed - (known or set()))
    if not missing:
        return
    if known is not None and submission.cluster_file is not None:
        file, up = submission.cluster_file.secrets, submission.cluster_file.up
        issues.warnings.append(
            f"`{key}` needs {', '.join(missing)} on the cluster, but {file} does not set it. Add it there, then copy "
            f"the file to the nodes with: {up}"
        )
    else:
        issues.warnings.append(
            f"`{key}` needs {', '.join(missing)} on the cluster. Set it in ~/{SECRETS_FILE} on the nodes, or in their "
            "environment."
        )


def _check_tracking(submission: Submission, study: StudyConfig, issues: _Issues) -> None:
    configured = _value_at(study.base, "tracking.uri")
    if configured == "off":
        return
    uri = submission.environment.get(TRACKING_URI) if configured is None else str(configured)
    source = TRACKING_URI if configured is None else f"`tracking.uri` of {submission.file.name}"
    if uri is None:
        known = names_on_nodes(submission.cluster_file) or set()
        if is_url(submission.workspace or "") and TRACKING_URI not in known:
            issues.warnings.append(
                f"A workspace at a URL cannot hold MLflow's database. Set {TRACKING_URI} here or in ~/{SECRETS_FILE} "
                "on the nodes, or switch tracking off with `tracking: {uri: off}`."
            )
        return
    if holds_password(uri):
        issues.problems.append(
            f"{source} contains credentials, which would be copied with the study: {redact(uri)}. Remove them, and set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in ~/{SECRETS_FILE} on the nodes."
        )
    elif uri.startswith("sqlite:"):
        path = uri.partition(":///")[2]
        why = "is relative to a folder on this machine" if not path.startswith("/") else None
        if why or (why := _why_not_shared(path, submission)):
            issues.problems.append(
                f"The cluster cannot use the tracking database {uri} ({source}): it {why}. Use an MLflow server, or "
                "drop the setting."
            )
    elif _is_loopback(uri):
        issues.warnings.append(
            f"{source} is {uri}, which means the head on the cluster. Run the MLflow server there, not on this machine "
            "(see docs/tracking.md)."
        )
    _check_variables(submission, "tracking.uri", uri, issues)


def _value_at(content: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted path, whether its keys are nested or dotted; None if it is not set."""
    for key, value in content.items():
        if key == path:
            return value
        if isinstance(value, Mapping) and path.startswith(f"{key}."):
            return _value_at(value, path.removeprefix(f"{key}."))
    return None


def _is_loopback(uri: str) -> bool:
    try:
        host = urlsplit(uri).hostname
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


# --- the upload ------------------------------------------------------------------------------------------------------


def _check_upload(submission: Submission, issues: _Issues) -> tuple[tuple[str, ...], tuple[Upload, ...]]:
    """The patterns to exclude and the folders to upload."""
    folder = submission.working_dir
    if not folder.is_dir():
        issues.problems.append(f"`--working-dir` {folder} is not a folder.")
        return (), ()
    if folder == Path.home() or folder == Path(folder.anchor):
        issues.problems.append(
            f"The working directory is uploaded and should hold little else than the study, but is {folder}. Change to "
            "a project folder, or name one with --working-dir."
        )
        return (), ()
    excludes = upload_excludes(folder)
    uploads = [measure(folder, excludes)]
    if submission.inside is None:
        issues.problems.append(
            f"The study file {submission.file} is not in the uploaded working directory {folder}. Copy it there, or "
            "choose another --working-dir."
        )
    elif submission.inside not in uploads[0].sizes and submission.file.exists():
        issues.problems.append(
            f"The study file {submission.inside} would not be uploaded: it is excluded by .gitignore, by .rayignore, "
            f"or by a pattern that always applies ({', '.join(excludes)}). Move or rename it."
        )
    if not submission.brings_package:
        uploads.append(measure(package_folder(), excludes))
    total, limit = sum(upload.bytes for upload in uploads), limit_bytes()
    if total > min(limit, LARGE_BYTES):
        parts = uploads[0].largest(_LARGEST_SHOWN)
        named = ", ".join(f"{name} ({size / MB:.0f} MB)" for name, size in parts)
        lines = " ".join(pattern_for(name) for name, size in parts if size > LARGE_BYTES / 10 and name != PACKAGE)
        remedy = f"Largest parts: {named}. Exclude what the study does not need in {folder / '.rayignore'}: {lines}"
        if total > limit:
            issues.problems.append(
                f"The upload must be below {limit / MB:.0f} MB, but is {total / MB:.0f} MB. {remedy}"
            )
        else:
            issues.warnings.append(f"The upload is {total / MB:.0f} MB. {remedy}")
    return excludes, tuple(uploads)


def _check_code(submission: Submission, excludes: Sequence[str], upload: Upload, issues: _Issues) -> str:
    """Check that all modules that the study imports are uploaded, and return the digest of the uploaded package.

    Args:
        upload: of the working directory if it contains the package, otherwise of the package.
    """
    package = package_folder() if not submission.brings_package else submission.working_dir / PACKAGE
    start = package.relative_to(upload.folder).as_posix().removeprefix(".")  # of the paths in the upload
    needed = imports_of(package.parent, f"{PACKAGE}.__main__", only_package=not submission.brings_package)
    lacking: dict[str, list[str]] = {}
    for path in needed.files:
        uploaded = path if start else path.removeprefix(f"{PACKAGE}/")
        if uploaded not in upload.sizes:
            lacking.setdefault(why_excluded(upload.folder, uploaded, excludes), []).append(path)
    for why, paths in lacking.items():
        names = ", ".join(module_name(path) for path in paths[:_LARGEST_SHOWN])
        more = f" and {len(paths) - _LARGEST_SHOWN} more" if len(paths) > _LARGEST_SHOWN else ""
        issues.problems.append(
            f"The study imports {names}{more}, but {why} keeps {'it' if len(paths) == 1 else 'them'} from the upload, "
            "so that the nodes would lack this code or run another version of it. Change the pattern (a leading `/` "
            "limits it to one folder), or rename the folder that it is meant for."
        )
    for name, place in needed.elsewhere.items():
        issues.problems.append(
            f"The study imports {name} from {place}, which is not uploaded and not an installed package. Move it into "
            f"{submission.working_dir}, or install it here and on the nodes."
        )
    modules = [path.removeprefix(f"{start}/") for path in upload.sizes
               if path.endswith(".py") and (not start or path.startswith(f"{start}/"))]  # fmt: skip
    return code_digest(package, modules)


# --- versions --------------------------------------------------------------------------------------------------------


def version_problems(cluster: Versions, local_ray: str) -> list[str]:
    """Problems with the versions on the cluster, given the version of Ray on this machine."""
    problems = []
    if _minor(cluster.ray) != _minor(local_ray):
        problems.append(
            f"The cluster must run Ray {'.'.join(map(str, _minor(local_ray)))}, but runs {cluster.ray}. Install "
            f"`ray[default,train,tune]=={local_ray}` in its image or setup_commands, and restart the cluster."
        )
    if _minor(cluster.python) < PYTHON:
        problems.append(
            f"The cluster must run Python {'.'.join(map(str, PYTHON))} or newer, but runs {cluster.python}. Use "
            "another image or environment."
        )
    return problems


def _minor(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
