"""A study on its way to a cluster: what is wrong with it before anything starts

Nothing here starts anything. Problems and warnings are sentences.
"""

import ipaddress
import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from remix_study.cluster.cluster_file import SECRETS, Launcher
from remix_study.cluster.dashboard import Versions
from remix_study.cluster.upload import LARGE_BYTES, MB, Upload, excludes_of, limit_bytes, measure, pattern_of
from remix_study.config.study import STORAGE, NoPrunerConfig, StudyConfig
from remix_study.credentials import holds_password, names_in, redact
from remix_study.files.urls import is_url, path_of, shown

PACKAGE = "remix_study"
TRACKING = "MLFLOW_TRACKING_URI"  # goes along by itself, as STORAGE does
PYTHON = (3, 11)  # pyproject.toml
_LARGEST_SHOWN = 3
# On each machine another disk, whatever the cluster shares.
_OWN_TO_A_MACHINE = ("/tmp", "/var/tmp", "/dev", "/run", "/proc")
# File systems that several machines may see.
_SHARED_KINDS = {
    "nfs", "nfs4", "cifs", "smb3", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "wekafs", "panfs",
    "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.gcsfuse", "fuse.s3fs",
}  # fmt: skip
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|KEYS?(_|$)|(^|_)(PASS|PWD|AUTH)(_|$)", re.IGNORECASE
)
_SECRET_VALUE = re.compile(r"-----BEGIN|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[oprsu]_\w{30,}|\bsk-\w{20,}")
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+_=-]{32,}")


# --- what is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Submission:
    """One study for one cluster.

    study: None where its file has problems.
    file, working_dir: absolute, of this machine.
    workspace, corpus: as they are on the cluster's nodes; corpus: None for the one that the file names.
    environment: what the cluster's processes get of this machine's.
    several_nodes: whether work is done on another machine than the head.
    """

    study: StudyConfig | None
    file: Path
    working_dir: Path
    workspace: str | None
    corpus: str | None = None
    retry_failed: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: Launcher | None = None
    several_nodes: bool = True

    @property
    def inside(self) -> str | None:
        """The study's file relative to the working directory; None where it lies elsewhere."""
        if not self.file.is_relative_to(self.working_dir):
            return None
        return self.file.relative_to(self.working_dir).as_posix()

    @property
    def brings_package(self) -> bool:
        """Whether remix_study itself lies in the working directory."""
        return (self.working_dir / PACKAGE / "__init__.py").exists()


@dataclass(frozen=True)
class Findings:
    """problems: nothing may start. warnings: to be read. excludes, uploads: what goes along, and what does not."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    excludes: tuple[str, ...] = ()
    uploads: tuple[Upload, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(upload.bytes for upload in self.uploads)


@dataclass
class _Said:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine(sent: Submission, problems: Sequence[str] = ()) -> Findings:
    """Everything that can be known before a cluster is asked; `problems`: what was found before."""
    said = _Said(list(problems))
    _workspace(sent, said)
    _secrets_file(sent, said)
    if sent.study is not None:
        _corpus(sent, sent.study, said)
        _storage(sent, sent.study, said)
        _tracking(sent, sent.study, said)
    excludes, uploads = _upload(sent, said)
    return Findings(tuple(said.problems), tuple(said.warnings), excludes, uploads)


def _workspace(sent: Submission, said: _Said) -> None:
    if sent.workspace is None:
        said.problems.append(
            "`--workspace` must say where the study goes, on a disk that all nodes share or at a URL, but is not "
            "given. For example: --workspace /shared/workspace, or --workspace s3://bucket/workspace"
        )
        return
    why = _unfit(sent.workspace, sent)
    if why is not None:
        said.problems.append(
            f"the workspace must be where every node finds it, but {_plain(sent.workspace)} {why}. Use an absolute "
            "path on the cluster's shared disk, or a URL such as s3://bucket/workspace."
        )


def _plain(place: str) -> str:
    return shown(place) if is_url(place) else place


def _corpus(sent: Submission, study: StudyConfig, said: _Said) -> None:
    place = corpus_of(sent, study)
    told = "`--corpus`" if sent.corpus is not None else f"`base.corpus` of {sent.file.name}"
    if not place:
        said.problems.append(
            f"the corpus must be named, but `base.corpus` of {sent.file.name} is missing; name it with --corpus."
        )
        return
    why = _unfit(place, sent)
    if why is not None:
        copy = "copy it to the cluster's shared disk"
        if sent.launcher is not None and not is_url(place):
            copy += f" ({shlex.join(['ray', 'rsync-up', sent.launcher.word, f'{place}/', '/SHARED/corpus/'])})"
        said.problems.append(
            f"the corpus must be where every node finds it, but {_plain(place)} ({told}) {why}. Prepare it there "
            f"(`remix-study prepare ... --out s3://bucket/corpus`), or {copy}, and name it with --corpus."
        )


def corpus_of(sent: Submission, study: StudyConfig) -> str:
    """Of the command line, else of the study's file."""
    return str(study.base.get("corpus") or "") if sent.corpus is None else sent.corpus


def _unfit(place: str, sent: Submission) -> str | None:
    """Why a place cannot be one that all nodes see; None where it may be."""
    if is_url(place):
        if redact(place) != place:
            return "holds credentials, which would be copied to everywhere: leave them to the environment of the nodes"
        return None
    path = PurePosixPath(os.path.normpath(path_of(place)))
    if not path.is_absolute():
        return "is relative to a folder of this machine"
    return _private(path, sent.working_dir) if sent.several_nodes else None


def _private(path: PurePosixPath, working_dir: Path) -> str | None:
    """Why a path is not on a disk that several machines share, as far as can be known here."""
    for own in (*_OWN_TO_A_MACHINE, tempfile.gettempdir()):
        if path.is_relative_to(own):
            return f"is in {own}, which is another disk on each node"
    if not _is_shared(Path(path)):
        if path.is_relative_to(working_dir):
            return f"is in {working_dir}, on a disk of this machine alone"
        if path.is_relative_to(Path.home()):
            return "is in your home directory, on a disk of this machine alone"
    return None


def _is_shared(path: Path) -> bool:
    """Whether a path is on a network's file system here; without /proc/mounts nobody knows, and it is not."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    under = [(len(at), kind) for at, kind in mounts if path.is_relative_to(at.replace("\\040", " "))]
    return bool(under) and max(under)[1] in _SHARED_KINDS


def _secrets_file(sent: Submission, said: _Said) -> None:
    file = None if sent.launcher is None else sent.launcher.secrets
    if file is None or not file.exists():
        return
    if file.stat().st_mode & 0o077:
        said.warnings.append(
            f"{file} holds secrets, and others on this machine may read it: chmod 600 {shlex.quote(str(file))}"
        )


def _names_on_nodes(sent: Submission) -> set[str] | None:
    """The variables that the secrets file gives to every node; None where no such file is known."""
    file = None if sent.launcher is None else sent.launcher.secrets
    if file is None:
        return None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {found[1] for line in lines if (found := re.match(r"\s*(?:export\s+)?(\w+)=", line))}


def _storage(sent: Submission, study: StudyConfig, said: _Said) -> None:
    storage = study.storage
    if storage is None and STORAGE in (_names_on_nodes(sent) or ()):
        return
    if storage is None or "://" not in storage:
        if is_url(sent.workspace or "") and storage is None:
            said.warnings.append(
                f"where the workspace is at a URL, a database keeps the trials: give `storage`, or set {STORAGE} here "
                f"or in ~/{SECRETS} of the nodes, such as postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies."
            )
        elif storage is None and sent.several_nodes and not isinstance(study.pruner, NoPrunerConfig):
            said.warnings.append(
                "with a pruner every node reads the study's trials, which SQLite does badly on a shared disk: set "
                "`storage: journal`, or a database."
            )
        return
    if storage.startswith("sqlite") and is_url(sent.workspace or ""):
        said.problems.append(
            "`storage` must be a database that outlives a node where the workspace is at a URL, but is a file of "
            "SQLite. Use one such as postgresql+psycopg://$DB_USER:$DB_PASSWORD@host/studies."
        )
    _names(sent, "storage", storage, said)
    if _is_loopback(storage) and sent.several_nodes and not isinstance(study.pruner, NoPrunerConfig):
        said.problems.append(
            "`storage` must be a database that every node reaches, because a pruner reads it there, but names the "
            "loopback address, which is each node itself. Name its host."
        )


def _names(sent: Submission, key: str, value: str, said: _Said) -> None:
    """The `$NAME`s of a value, which must be set where it is used."""
    needed = set(names_in(value)) - sent.environment.keys()
    known = _names_on_nodes(sent)
    missing = sorted(needed - (known or set()))
    if not missing:
        return
    if known is not None and sent.launcher is not None:
        where = f"{sent.launcher.secrets}, which becomes ~/{SECRETS} on the nodes, does not have"
        said.warnings.append(
            f"`{key}` needs {', '.join(missing)} on the cluster, but {where} it. Add it, and `{sent.launcher.up}`."
        )
    else:
        said.warnings.append(
            f"`{key}` needs {', '.join(missing)} on the cluster: in ~/{SECRETS} of its nodes, or their environment."
        )


def _tracking(sent: Submission, study: StudyConfig, said: _Said) -> None:
    written = _at(study.base, "tracking.uri")
    if written in ("off", False):
        return
    uri = sent.environment.get(TRACKING) if written is None else str(written)
    told = f"{TRACKING}" if written is None else f"`tracking.uri` of {sent.file.name}"
    if uri is None:
        known = _names_on_nodes(sent) or set()
        if is_url(sent.workspace or "") and TRACKING not in known:
            said.warnings.append(
                f"a workspace at a URL cannot hold MLflow's database: set {TRACKING} here or in ~/{SECRETS} of the "
                "nodes, or `tracking: {uri: off}`."
            )
        return
    if holds_password(uri):
        said.problems.append(
            f"{told} must hold no credentials, which would be copied with the study, but does ({redact(uri)}). Set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in ~/{SECRETS} of the nodes."
        )
    elif uri.startswith("sqlite:"):
        path = uri.partition(":///")[2]
        why = "is relative to a folder of this machine" if not path.startswith("/") else None
        if why or (why := _unfit(path, sent)):
            said.problems.append(
                f"{told} must be a database that the cluster keeps, but {uri} {why}. Name a server, or leave it out."
            )
    elif _is_loopback(uri):
        said.warnings.append(
            f"{told} is {uri}, which on the cluster is its head: a server must run there (docs/tracking.md), not here."
        )
    _names(sent, "tracking.uri", uri, said)


def _at(content: Mapping[str, Any], path: str) -> Any:
    """What a dotted path is set to, be its keys nested or dotted."""
    for key, value in content.items():
        if key == path:
            return value
        if isinstance(value, Mapping) and path.startswith(f"{key}."):
            return _at(value, path.removeprefix(f"{key}."))
    return None


def _is_loopback(uri: str) -> bool:
    try:
        host = urlsplit(uri).hostname
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _upload(sent: Submission, said: _Said) -> tuple[tuple[str, ...], tuple[Upload, ...]]:
    folder = sent.working_dir
    if not folder.is_dir():
        said.problems.append(f"`--working-dir` must be a folder, but {folder} is none.")
        return (), ()
    if folder == Path.home() or folder == Path(folder.anchor):
        said.problems.append(
            f"the working directory is uploaded, so it must hold the study and little else, but is {folder}. Go to a "
            "folder of your own, or name one with --working-dir."
        )
        return (), ()
    excludes = excludes_of(folder)
    uploads = [measure(folder, excludes)]
    if sent.inside is None:
        said.problems.append(
            f"the study's file must lie in the working directory, which is uploaded, but {sent.file} is not in "
            f"{folder}. Copy it there, or name another --working-dir."
        )
    elif sent.inside not in uploads[0].sizes and sent.file.exists():
        said.problems.append(
            f"the study's file must be uploaded, but {sent.inside} is left out: by .gitignore, by .rayignore, or "
            f"because what is called so always stays here ({', '.join(excludes)}). Move it, or name it otherwise."
        )
    if not sent.brings_package:
        uploads.append(_package(excludes, said))
    total, limit = sum(upload.bytes for upload in uploads), limit_bytes()
    if total > min(limit, LARGE_BYTES):
        parts = uploads[0].largest(_LARGEST_SHOWN)
        named = ", ".join(f"{name} ({size / MB:.0f} MB)" for name, size in parts)
        lines = " ".join(pattern_of(name) for name, size in parts if size > LARGE_BYTES / 10 and name != PACKAGE)
        helps = f"{named}. Leave out what the study does not need by lines in {folder / '.rayignore'}, such as: {lines}"
        if total > limit:
            said.problems.append(
                f"the upload must be below {limit / MB:.0f} MB, but is {total / MB:.0f} MB; the largest parts: {helps}"
            )
        else:
            said.warnings.append(f"the upload is {total / MB:.0f} MB; the largest parts: {helps}")
    return excludes, tuple(uploads)


def package_folder() -> Path:
    """Where this remix_study is installed."""
    return Path(__file__).parents[1]


def _package(excludes: Sequence[str], said: _Said) -> Upload:
    """The installed package, which goes along where the working directory has none."""
    whole, kept = measure(package_folder(), ()), measure(package_folder(), excludes)
    lost = {path.partition("/")[0] for path in whole.sizes.keys() - kept.sizes.keys() if "__pycache__" not in path}
    if lost:
        said.problems.append(
            f"what stays here must not be of the package that goes along, but {', '.join(sorted(lost))} is named as "
            "one of its folders. Give your folder another name."
        )
    return kept


# --- the environment -------------------------------------------------------------------------------------------------


def environment_of(names: Sequence[str], own: Mapping[str, str]) -> tuple[dict[str, str], list[str], list[str]]:
    """What goes along of this machine's environment `own`, problems, and warnings.

    The addresses of MLflow's server and of the trials' storage go along by themselves; all others where they are named.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for name in names:
        if name not in own:
            problems.append(f"`--env` must name a variable that is set, but {name} is not. Set it, or leave it out.")
        elif _SECRET_NAME.search(name) or _is_secret(own[name]):
            problems.append(
                f"`--env` must not name a secret, because Ray shows such variables in its dashboard and logs, but "
                f"{name} looks like one. Write it into ~/{SECRETS} of the nodes (clusters/README.md)."
            )
        else:
            found[name] = own[name]
    for name, helps in (
        (TRACKING, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (STORAGE, "a variable for what it names, such as $DB_PASSWORD,"),
    ):
        if not own.get(name) or name in names:
            continue
        if holds_password(own[name]):
            warnings.append(
                f"{name} holds credentials, so it stays here. Set it without them, and {helps} in ~/{SECRETS} of "
                "the nodes."
            )
        else:
            found[name] = own[name]
    return found, problems, warnings


def _is_secret(value: str) -> bool:
    return redact(value) != value or bool(_SECRET_VALUE.search(value)) or bool(_RANDOM.fullmatch(value))


# --- versions --------------------------------------------------------------------------------------------------------


def version_problems(cluster: Versions, ours: str) -> list[str]:
    """What cannot work together; `ours`: the Ray here."""
    found = []
    if _minor(cluster.ray) != _minor(ours):
        found.append(
            f"the cluster must run the Ray that remix_study needs ({'.'.join(map(str, _minor(ours)))}), but runs "
            f"{cluster.ray}. Mend its image or setup_commands (`ray[default,train,tune]=={ours}`), and start it again."
        )
    if _minor(cluster.python) < PYTHON:
        found.append(
            f"the cluster must run Python {'.'.join(map(str, PYTHON))} or newer, but runs {cluster.python}. Use "
            "another image or environment."
        )
    return found


def _minor(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
