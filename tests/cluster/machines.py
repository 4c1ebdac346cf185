"""Four machines on this host, without containers, so that `ray up` and `ray submit` meet what they meet on a cluster

    laptop 10.88.0.254    head 10.88.0.1    w1 10.88.0.2    w2 10.88.0.3

Each has network, pid, mount, uts and ipc namespaces, a home directory, /tmp, /run and /dev/shm of its own, and an ssh
server. All but the laptop see one shared disk at /mnt/shared. The host's disk is there to read, but not the checkout:
its place is empty, so that a machine has no other code than what it was given. The Python environment is the one that
makes the machines, and each machine's changes to it are its own.

A namespace has no name and ends with its last process: nothing is left of a machine whose first process has ended, and
machines of two instances cannot meet. Needs root, util-linux, iproute2, openssh-server and rsync.

By hand, from the root of the checkout:
    python -m tests.cluster.machines up STATE            make and start them; STATE is a new folder
    python -m tests.cluster.machines on STATE NODE CMD…  run a command on one of them
    python -m tests.cluster.machines kill|start STATE NODE
    python -m tests.cluster.machines down STATE          end them; STATE stays
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ADDRESSES = {"laptop": "10.88.0.254", "head": "10.88.0.1", "w1": "10.88.0.2", "w2": "10.88.0.3"}
SHARED = Path("/mnt/shared")  # on the machines
KEY = "~/.ssh/ray_cluster_ed25519"  # opens every machine from every machine
_ROOT = Path(__file__).parents[2]
_INIT = Path(__file__).with_name("machine_init.sh")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAN = "lan"
_PATIENCE_S = 20


def why_not() -> str | None:
    """Why this host cannot make machines; None: it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "fake machines need Linux and root"
    lacking = [
        name for name in ("unshare", "nsenter", "setpriv", "ip", "rsync", "ssh", "ssh-keygen") if not shutil.which(name)
    ]
    if not Path("/usr/sbin/sshd").exists():
        lacking.append("sshd")
    if lacking:
        packages = "openssh-server, openssh-client, rsync, iproute2, util-linux"
        return f"fake machines need {', '.join(lacking)}: install {packages}"
    # The very things that machine_init.sh does, in namespaces that end at once.
    tries = (
        "mount -t tmpfs mnt /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m && "
        "mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/m && "
        "ip link add br0 type bridge && ip link add v0 type veth peer name v1"
    )
    command = ["unshare", "--net", "--pid", "--fork", "--mount", "--uts", "--ipc", "--mount-proc", "bash", "-c", tries]
    found = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    if found.returncode != 0:
        return f"this host refuses what fake machines need: {' '.join(found.stderr.split())[:200]}"
    return None


# The dashboard answers at once; a process that joins the cluster to ask would take seconds.
_LIST_NODES = """
import pathlib, urllib.request
token = pathlib.Path("/root/.ray/auth_token")
headers = {"Authorization": "Bearer " + token.read_text().strip()} if token.exists() else {}
request = urllib.request.Request("http://127.0.0.1:8265/api/v0/nodes", headers=headers)
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


class MachinesError(Exception):
    """A machine could not be made, or is not what it must be."""


class Machines:
    """All four, while the block lasts; `lasting` ones outlive this process, and end with `down`.

    state: a folder of theirs. NODE/root and NODE/tmp in it are what that machine has as its home and its /tmp, and
    `shared` is what all of them have as /mnt/shared.
    """

    def __init__(self, state: Path, venv: Path | None = None, *, lasting: bool = False) -> None:
        self.state = state.absolute()
        self.venv = (venv or Path(sys.prefix)).absolute()
        self.shared = self.state / "shared"
        self._lasting = lasting
        self._pids: dict[str, int] = {}  # of process 1 of each, as the host counts
        self._guards: dict[str, subprocess.Popen[str]] = {}  # each ends its machine when it ends

    def __enter__(self) -> "Machines":
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # --- their life --------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """
        Raises:
            MachinesError: a machine does not start, and what it said; or they are up already.
        """
        if (self.state / "machines.json").exists():
            before = Machines.of(self.state)
            if running := [name for name in before._pids if before.is_up(name)]:
                raise MachinesError(f"{', '.join(running)} of {self.state} must be down, but are up. `down` ends them.")
        keys = self.state / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        self.shared.mkdir(exist_ok=True)
        for name in ("id", "host"):
            if not (keys / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
        self._begin(_LAN, ["bash", "-c", "echo ready; exec >/dev/null; while :; do sleep 3600 & wait $!; done"])
        self._ip("link add br0 type bridge")
        self._ip("link set br0 up")
        for name in ADDRESSES:
            self.start(name)

    def start(self, name: str) -> None:
        """It is back as after a power cut: with its disk, without its processes."""
        python = str(Path(sys.base_prefix).absolute())
        self._begin(name, ["bash", str(_INIT), name, str(self.state), str(_ROOT), str(self.venv), python])
        self._ip(f"link add v{name} type veth peer name eth0 netns {self._pids[name]}")
        self._ip(f"link set v{name} master br0 up")
        inside = ["nsenter", "--target", str(self._pids[name]), "--net", "ip"]
        subprocess.run([*inside, "addr", "add", f"{ADDRESSES[name]}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)

    def kill(self, name: str) -> None:
        """As a power cut: the others hear nothing from it any more, not even that its connections are closed."""
        self._ip(f"link del v{name}")
        left = self._end(name)
        self._note()
        if left:
            raise MachinesError(left)

    def down(self) -> None:
        """
        Raises:
            MachinesError: a process of theirs is left.
        """
        left = [sentence for name in list(self._pids) if (sentence := self._end(name))]
        self._note()
        if left:
            raise MachinesError("; ".join(left))

    def is_up(self, name: str) -> bool:
        return name in self._pids and _is_first(self._pids[name])

    # --- what runs on them -------------------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_s: float = 120,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        cwd: str = "/root",
    ) -> "subprocess.CompletedProcess[str]":
        """To its end; stdout and stderr together, as text.

        Raises:
            MachinesError: `check`, and it failed; what it said.
            subprocess.TimeoutExpired: it took longer, and was ended.
        """
        with self.popen(name, command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    error.output = process.communicate()[0]
                raise
        if check and process.returncode != 0:
            raise MachinesError(f"{' '.join(command)} on {name} gave {process.returncode}:\n{said}")
        return subprocess.CompletedProcess(list(command), process.returncode, said)

    def popen(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/root",
        **popen: Any,
    ) -> "subprocess.Popen[str]":
        """At work on that machine, in a process group of its own: `os.killpg` ends all of it."""
        path = f"{self.venv}/bin:{_SYSTEM_PATH}"
        around = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb", "PATH": path}
        # A login: nothing of the tests' own environment reaches a machine.
        given = [f"{key}={value}" for key, value in {**around, **(env or {})}.items()]
        # `--wd` of nsenter would be a folder of the host.
        enter = ["nsenter", "--target", str(self._pids[name]), "--all"]
        inside = [*enter, "env", f"--chdir={cwd}", "-i", *given, *command]
        return subprocess.Popen(inside, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **popen)

    def ray_nodes(self, head: str) -> list[dict[str, Any]]:
        """Return the live nodes that Ray's dashboard on the machine `head` lists; empty while it does not answer."""
        done = self.run(head, ["python", "-S", "-c", _LIST_NODES], check=False)
        if done.returncode != 0:
            return []
        return [node for node in json.loads(done.stdout)["data"]["result"]["result"] if node["state"] == "ALIVE"]

    def processes(self, name: str) -> list[str]:
        """The command lines of all that runs there, but for process 1, the ssh server, and what asks."""
        said = self.run(name, ["ps", "-eo", "pid=,ppid=,args="]).stdout
        rows = [line.split(None, 2) for line in said.splitlines()]
        # What waits for process 1's next hour, and `ps` itself.
        return [
            args for pid, ppid, args in rows if pid != "1" and not args.startswith(("sleep 3600", "ps -eo", "sshd:"))
        ]

    # --- how -------------------------------------------------------------------------------------------------------

    def _begin(self, name: str, command: list[str]) -> None:
        """In new namespaces; waits until it says that it is ready."""
        spaces = ["--net", "--pid", "--fork", "--kill-child"]
        if name != _LAN:
            spaces += ["--mount", "--uts", "--ipc", "--mount-proc"]
        # If this process dies, so does the guard, and with it the machine.
        bound = [] if self._lasting else ["setpriv", "--pdeathsig", "KILL"]
        log = self.state / f"{name}.log"
        with log.open("w") as file:
            guard = subprocess.Popen(
                [*bound, "unshare", *spaces, *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True,
                env={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8"},
            )  # fmt: skip
        assert guard.stdout is not None
        self._guards[name] = guard
        with guard.stdout as told:
            ready = told.readline() == "ready\n"
        if not ready:
            guard.kill()
            guard.wait()
            raise MachinesError(f"the machine {name} must start, but said: {log.read_text()[-2000:]}")
        children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split()
        self._pids[name] = int(children[0])
        self._note()

    def _end(self, name: str) -> str | None:
        """What is left of it, as a sentence: nothing must be."""
        pid = self._pids.pop(name)
        if not _is_first(pid):
            return None  # it has ended by itself, and another process may have its number
        spaces = {kind: _namespace(pid, kind) for kind in ("pid", "net")}
        try:
            # Its guard has the same network, and ends right after it. (A machine without one is ending already.)
            ends = [os.pidfd_open(number) for number in (pid, _parent(pid)) if number > 1]
        except (OSError, ValueError):
            ends = []  # it has ended by itself
        if ends:
            os.kill(pid, signal.SIGKILL)  # the kernel ends all others of its pid namespace with it
        for end in ends:
            _await_end(end)
        guard = self._guards.pop(name, None)
        if guard is not None:
            guard.wait(_PATIENCE_S)
        left = [str(found) for kind, space in spaces.items() if space is not None for found in _members(kind, space)]
        return f"nothing must be left of the machine {name}, but processes are: {', '.join(left)}" if left else None

    def _ip(self, words: str) -> None:
        """`ip` in the network between the machines, with the process numbers of the host."""
        subprocess.run(["nsenter", "--target", str(self._pids[_LAN]), "--net", "ip", *words.split()], check=True)

    def _note(self) -> None:
        content = {"venv": str(self.venv), "pids": self._pids}
        (self.state / "machines.json").write_text(json.dumps(content))

    @classmethod
    def of(cls, state: Path) -> "Machines":
        """Those that `up` of another process made."""
        content = json.loads((state / "machines.json").read_text())
        made = cls(state, Path(content["venv"]), lasting=True)
        made._pids = content["pids"]
        return made


def _await_end(handle: int) -> None:
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_PATIENCE_S * 1000):
            raise MachinesError("the first process of a machine must end when it is killed, but did not")
    finally:
        os.close(handle)


def _is_first(pid: int) -> bool:
    """Whether it is process 1 of a pid namespace other than ours."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _namespace(pid: int, kind: str) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return None


def _members(kind: str, space: str) -> list[int]:
    """Processes of that namespace; not those that have ended, and wait for their parent to hear of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ended = (path / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if not ended and _namespace(int(path.name), kind) == space:
            found.append(int(path.name))
    return found


def main(words: Sequence[str]) -> int:
    match list(words):
        case ["up", state]:
            if (reason := why_not()) is not None:
                sys.exit(reason)
            made = Machines(Path(state), lasting=True)
            made.up()
            for name, address in ADDRESSES.items():
                sys.stdout.write(f"{name} {address}\n")
        case ["on", state, name, *command] if command:
            return Machines.of(Path(state)).popen(name, command).wait()
        case [("kill" | "start") as verb, state, name]:
            getattr(Machines.of(Path(state)), verb)(name)
        case ["down", state]:
            Machines.of(Path(state)).down()
        case _:
            sys.stdout.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
