"""Four fake machines on this host, without containers, for tests of `ray up` and `ray submit`

    laptop 10.88.0.254    head 10.88.0.1    w1 10.88.0.2    w2 10.88.0.3

Each machine has its own network, pid, mount, uts and ipc namespaces, its own home directory, /tmp, /run and /dev/shm,
and an ssh server. All machines except the laptop mount a shared disk at /mnt/shared. The host's disk is read-only. The
folder of the checkout appears empty, so that a machine only has the code that was copied to it. All machines use the
Python environment of the process that starts them; each sees only its own changes to it.

A namespace has no name and ends with its last process. A machine therefore leaves nothing behind when its process 1
ends, and the machines of two `Machines` objects are isolated from each other. Needs root, util-linux, iproute2,
openssh-server and rsync.

Usage, from the root of the checkout:
    python -m tests.cluster.machines up STATE            start the machines; STATE is a new folder
    python -m tests.cluster.machines on STATE NODE CMD…  run a command on a machine
    python -m tests.cluster.machines kill|start STATE NODE
    python -m tests.cluster.machines down STATE          stop the machines; STATE is kept
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
KEY = "~/.ssh/ray_cluster_ed25519"  # gives ssh access from every machine to every machine
_ROOT = Path(__file__).parents[2]
_INIT = Path(__file__).with_name("machine_init.sh")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAN = "lan"
_TIMEOUT_S = 20


def unmet_requirement() -> str | None:
    """Return why the machines cannot run on this host, or None if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "fake machines need Linux and root"
    missing = [
        name for name in ("unshare", "nsenter", "setpriv", "ip", "rsync", "ssh", "ssh-keygen") if not shutil.which(name)
    ]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    if missing:
        packages = "openssh-server, openssh-client, rsync, iproute2, util-linux"
        return f"fake machines need {', '.join(missing)}: install {packages}"
    # The privileged operations of machine_init.sh, in temporary namespaces.
    script = (
        "mount -t tmpfs mnt /mnt && mkdir /mnt/l /mnt/u /mnt/w /mnt/m && "
        "mount -t overlay overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w /mnt/m && "
        "ip link add br0 type bridge && ip link add v0 type veth peer name v1"
    )
    command = ["unshare", "--net", "--pid", "--fork", "--mount", "--uts", "--ipc", "--mount-proc", "bash", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if found.returncode != 0:
        return f"this host does not allow namespaces for fake machines: {' '.join(found.stderr.split())[:200]}"
    return None


# Asks the dashboard, because joining the cluster would take seconds.
_LIST_NODES = """
import pathlib, urllib.request
token = pathlib.Path("/root/.ray/auth_token")
headers = {"Authorization": "Bearer " + token.read_text().strip()} if token.exists() else {}
request = urllib.request.Request("http://127.0.0.1:8265/api/v0/nodes", headers=headers)
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


class MachinesError(Exception):
    """A machine did not start or stop, or a command on it failed."""


class Machines:
    """The four machines. Use it as a context manager, or call `up` and `down`.

    Args:
        state: folder for the files of the machines. NODE/root and NODE/tmp in it are the home directory and the /tmp of
            a machine; `shared` is /mnt/shared of all machines.
        venv: Python environment of the machines; that of this process by default.
        detached: whether the machines keep running after this process ends, until `down`.
    """

    def __init__(self, state: Path, venv: Path | None = None, *, detached: bool = False) -> None:
        self.state = state.absolute()
        self.venv = (venv or Path(sys.prefix)).absolute()
        self.shared = self.state / "shared"
        self._detached = detached
        self._pids: dict[str, int] = {}  # process 1 of each machine, as a process id of the host
        # The `unshare` process of each machine that this process started; the machine ends with it.
        self._unshare: dict[str, subprocess.Popen[str]] = {}

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

    # --- starting and stopping ---------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start all machines.

        Raises:
            MachinesError: a machine does not start, or the machines are already up.
        """
        if (self.state / "machines.json").exists():
            before = Machines.load(self.state)
            if running := [name for name in before._pids if before.is_up(name)]:
                raise MachinesError(f"{', '.join(running)} of {self.state} must be down, but run. `down` stops them.")
        keys = self.state / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        self.shared.mkdir(exist_ok=True)
        for name in ("id", "host"):
            if not (keys / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
        self._start_init(_LAN, ["bash", "-c", "echo ready; exec >/dev/null; while :; do sleep 3600 & wait $!; done"])
        self._ip("link add br0 type bridge")
        self._ip("link set br0 up")
        for name in ADDRESSES:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a machine. After `kill`, it has the same disk but none of its processes."""
        python = str(Path(sys.base_prefix).absolute())
        self._start_init(name, ["bash", str(_INIT), name, str(self.state), str(_ROOT), str(self.venv), python])
        self._ip(f"link add v{name} type veth peer name eth0 netns {self._pids[name]}")
        self._ip(f"link set v{name} master br0 up")
        inside = ["nsenter", "--target", str(self._pids[name]), "--net", "ip"]
        subprocess.run([*inside, "addr", "add", f"{ADDRESSES[name]}/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)

    def kill(self, name: str) -> None:
        """Simulate a power failure: kill all processes of a machine, and do not close its connections.

        Raises:
            MachinesError: a process of the machine is still alive.
        """
        self._ip(f"link del v{name}")
        left = self._kill_processes(name)
        self._save_pids()
        if left:
            raise MachinesError(left)

    def down(self) -> None:
        """Stop all machines.

        Raises:
            MachinesError: a process of a machine is still alive.
        """
        left = [message for name in list(self._pids) if (message := self._kill_processes(name))]
        self._save_pids()
        if left:
            raise MachinesError("; ".join(left))

    def is_up(self, name: str) -> bool:
        return name in self._pids and _is_init(self._pids[name])

    # --- commands and processes --------------------------------------------------------------------------------------

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
        """Run a command on the machine `name`. Its `stdout` also contains its stderr.

        Raises:
            MachinesError: `check` is set and the command failed. The message contains its output.
            subprocess.TimeoutExpired: the command took longer than `timeout_s`, and was killed.
        """
        with self.popen(name, command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                output, _ = process.communicate(timeout=timeout_s)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    error.output = process.communicate()[0]
                raise
        if check and process.returncode != 0:
            raise MachinesError(f"{' '.join(command)} on {name} exited with status {process.returncode}:\n{output}")
        return subprocess.CompletedProcess(list(command), process.returncode, output)

    def popen(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/root",
        **popen: Any,
    ) -> "subprocess.Popen[str]":
        """Start a command on the machine `name`, in a process group of its own, so that `os.killpg` ends it.

        Args:
            env: additional environment variables.
            popen: further arguments of `subprocess.Popen`.
        """
        path = f"{self.venv}/bin:{_SYSTEM_PATH}"
        login = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb", "PATH": path}
        # As in a login shell: the machine does not inherit the environment of the tests.
        variables = [f"{key}={value}" for key, value in {**login, **(env or {})}.items()]
        # Not `--wd` of nsenter, which names a folder of the host.
        enter = ["nsenter", "--target", str(self._pids[name]), "--all"]
        inside = [*enter, "env", f"--chdir={cwd}", "-i", *variables, *command]
        return subprocess.Popen(inside, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **popen)

    def ray_nodes(self, head: str) -> list[dict[str, Any]]:
        """Return the live nodes that Ray's dashboard on the machine `head` lists; empty while it does not answer."""
        done = self.run(head, ["python", "-S", "-c", _LIST_NODES], check=False)
        if done.returncode != 0:
            return []
        return [node for node in json.loads(done.stdout)["data"]["result"]["result"] if node["state"] == "ALIVE"]

    def processes(self, name: str) -> list[str]:
        """Return the command lines of a machine's processes, except process 1, its `sleep`, the ssh server and `ps`."""
        output = self.run(name, ["ps", "-eo", "pid=,ppid=,args="]).stdout
        rows = [line.split(None, 2) for line in output.splitlines()]
        return [
            args for pid, ppid, args in rows if pid != "1" and not args.startswith(("sleep 3600", "ps -eo", "sshd:"))
        ]

    # --- implementation ----------------------------------------------------------------------------------------------

    def _start_init(self, name: str, command: list[str]) -> None:
        """Start `command` as process 1 of new namespaces, and wait until it prints "ready"."""
        spaces = ["--net", "--pid", "--fork", "--kill-child"]
        if name != _LAN:
            spaces += ["--mount", "--uts", "--ipc", "--mount-proc"]
        # `unshare` dies with this process, and the machine dies with `unshare`.
        prefix = [] if self._detached else ["setpriv", "--pdeathsig", "KILL"]
        log = self.state / f"{name}.log"
        with log.open("w") as file:
            unshare = subprocess.Popen(
                [*prefix, "unshare", *spaces, *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True,
                env={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8"},
            )  # fmt: skip
        assert unshare.stdout is not None
        self._unshare[name] = unshare
        with unshare.stdout as stdout:
            ready = stdout.readline() == "ready\n"
        if not ready:
            unshare.kill()
            unshare.wait()
            raise MachinesError(f"the machine {name} did not start: {log.read_text()[-2000:]}")
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        self._pids[name] = int(children[0])
        self._save_pids()

    def _kill_processes(self, name: str) -> str | None:
        """Kill all processes of a machine. Return an error message if one is still alive, otherwise None."""
        pid = self._pids.pop(name)
        if not _is_init(pid):
            return None  # it ended by itself, and another process may have its pid
        spaces = {kind: _namespace(pid, kind) for kind in ("pid", "net")}
        try:
            # `unshare`, its parent, is in the same network namespace and ends right after it.
            handles = [os.pidfd_open(number) for number in (pid, _parent(pid)) if number > 1]
        except (OSError, ValueError):
            handles = []  # it ended by itself
        if handles:
            os.kill(pid, signal.SIGKILL)  # the kernel then kills all processes of its pid namespace
        for handle in handles:
            _wait_for_exit(handle)
        unshare = self._unshare.pop(name, None)
        if unshare is not None:
            unshare.wait(_TIMEOUT_S)
        left = [str(each) for kind, space in spaces.items() if space is not None for each in _processes_in(kind, space)]
        return f"processes of the machine {name} are still alive: {', '.join(left)}" if left else None

    def _ip(self, words: str) -> None:
        """Run `ip` in the network namespace of the bridge between the machines, with the process ids of the host."""
        subprocess.run(["nsenter", "--target", str(self._pids[_LAN]), "--net", "ip", *words.split()], check=True)

    def _save_pids(self) -> None:
        content = {"venv": str(self.venv), "pids": self._pids}
        (self.state / "machines.json").write_text(json.dumps(content))

    @classmethod
    def load(cls, state: Path) -> "Machines":
        """Return the machines that another process started in the folder `state`."""
        content = json.loads((state / "machines.json").read_text())
        made = cls(state, Path(content["venv"]), detached=True)
        made._pids = content["pids"]
        return made


def _wait_for_exit(handle: int) -> None:
    """Wait until the process of a pidfd has ended, and close the pidfd."""
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(_TIMEOUT_S * 1000):
            raise MachinesError(f"process 1 of a machine was killed, but still runs after {_TIMEOUT_S} s")
    finally:
        os.close(handle)


def _is_init(pid: int) -> bool:
    """Return whether `pid` is process 1 of another pid namespace."""
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


def _processes_in(kind: str, namespace: str) -> list[int]:
    """Return the processes of a namespace, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ended = (path / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            continue
        if not ended and _namespace(int(path.name), kind) == namespace:
            found.append(int(path.name))
    return found


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["up", state]:
            if (reason := unmet_requirement()) is not None:
                sys.exit(reason)
            made = Machines(Path(state), detached=True)
            made.up()
            for name, address in ADDRESSES.items():
                sys.stdout.write(f"{name} {address}\n")
        case ["on", state, name, *command] if command:
            return Machines.load(Path(state)).popen(name, command).wait()
        case [("kill" | "start") as action, state, name]:
            getattr(Machines.load(Path(state)), action)(name)
        case ["down", state]:
            Machines.load(Path(state)).down()
        case _:
            sys.stdout.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
