"""Whether every node of a cluster can see a path or URL, as far as this machine can tell"""

import os
import tempfile
from pathlib import Path, PurePosixPath

from remix_study.credentials import redact
from remix_study.files.urls import is_url, path_of

# These folders are on a local disk of each node, whatever else the cluster shares.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev", "/run", "/proc")
_NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "wekafs", "panfs",
    "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.gcsfuse", "fuse.s3fs",
}  # fmt: skip


def why_not_shared(place: str, working_dir: Path, *, several_nodes: bool) -> str | None:
    """The reason why not every node can use a path or URL, as the end of a sentence; None if there is no objection.

    Args:
        place: a path or URL.
        working_dir: the folder that is uploaded, which is on this machine.
        several_nodes: whether nodes other than the head run trials.
    """
    if is_url(place):
        if redact(place) != place:
            return "contains credentials, which would be copied to every node. Set them in the nodes' environment"
        return None
    path = PurePosixPath(os.path.normpath(path_of(place)))
    if not path.is_absolute():
        return "is relative to a folder on this machine"
    return _why_local(path, working_dir) if several_nodes else None


def _why_local(path: PurePosixPath, working_dir: Path) -> str | None:
    for folder in (*NODE_LOCAL, tempfile.gettempdir()):
        if path.is_relative_to(folder):
            return f"is in {folder}, which is a different disk on each node"
    if not on_network_disk(Path(path)):
        if path.is_relative_to(working_dir):
            return f"is in {working_dir}, which is on a local disk of this machine"
        if path.is_relative_to(Path.home()):
            return "is in your home directory, which is on a local disk of this machine"
    return None


def on_network_disk(path: Path) -> bool:
    """Whether a path is on a network file system of this machine; False where /proc/mounts does not exist."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return False
    under = [(len(at), kind) for at, kind in mounts if path.is_relative_to(at.replace("\\040", " "))]
    return bool(under) and max(under)[1] in _NETWORK_FILE_SYSTEMS
