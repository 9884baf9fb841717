"""A Ray of one node for all tests, and `sluice-ray` on it."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from typing import Any, Callable, Iterator, NamedTuple

import pytest

TOKEN = "0123456789abcdef" * 4
os.environ.update(RAY_AUTH_TOKEN=TOKEN, RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0")

try:
    import ray  # noqa: F401  # after the token: it looks for it now
except ImportError:
    warnings.warn("NOTHING OF sluice_ray IS TESTED: ray is not installed here (pip install 'ray[client]')")
    collect_ignore_glob = ["test_*.py"]

package = pathlib.Path(__file__).resolve().parent.parent
repository = package.parent.parent
environment = {**os.environ, "PYTHONPATH": str(package)}


def eventually(true: Callable[[], Any], seconds: float = 30) -> Any:
    """What `true` returns once that is something."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > deadline:
            pytest.fail("it did not happen in time", pytrace=True)
        time.sleep(0.05)
    return value


def command_line(pid: int) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def processes(mark: str) -> list[int]:
    """Of programs with this in their command line, and their guards."""
    pids = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if any(mark in word for word in command_line(pid)) and not is_ours(pid)]


def is_ours(pid: int) -> bool:
    return pid == os.getpid() or "sluice_ray" in command_line(pid)


def is_alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """The process, which is killed if the test fails: to wait for it would hide why."""
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def deals_with_sigterm(pid: int) -> bool:
    """A process begins without."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def terminate(pid: int) -> None:
    """SIGTERM, once the program is there that deals with it."""
    eventually(lambda: deals_with_sigterm(pid))
    os.kill(pid, signal.SIGTERM)


class Sluice:
    """The command, with the tests' Ray."""

    def __init__(self, address: str):
        self.address = address

    def begin(self, command: str, *arguments: Any, **options: Any) -> subprocess.Popen:
        line = [sys.executable, "-m", "sluice_ray", command, "--address", self.address, *map(str, arguments)]
        return subprocess.Popen(line, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True, **options)

    def run(self, command: str, *arguments: Any, status: int = 0) -> str:
        with ended(self.begin(command, *arguments)) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    def submit(self, *arguments: Any) -> None:
        """And leaves the application running."""
        with ended(self.begin("submit", *arguments)) as process:
            assert process.stdout is not None
            line = next((line for line in process.stdout if "is submitted" in line), "")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and "goes on" in rest, line + rest


class Head(NamedTuple):
    """Where a Ray is."""

    gcs: str
    client: str


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray, to which this process is connected, too."""
    from sluice_ray import application

    directory = tmp_path_factory.mktemp("ray")
    # Not the same ones each time: servers of gRPC share a port, and one that an earlier run has left would get a part
    # of the connections, and never answer.
    gcs, client = free_ports(2)
    start = ["ray", "start", "--head", f"--port={gcs}", "--num-cpus=8", "--include-dashboard=false"]
    start += [f"--ray-client-server-port={client}", "--node-ip-address=127.0.0.1", f"--temp-dir={directory}"]
    # Nodes do not have our package.
    nodes = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    nodes["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # or one ray:// connection in ten fails at first (docs/ray.md)
    nodes["PATH"] = f"{pathlib.Path(sys.executable).parent}:{nodes['PATH']}"
    nodes["SLUICE_RAY_TESTS"] = str(directory)
    subprocess.run(start, env=nodes, check=True, capture_output=True, timeout=120)
    try:
        application.connect(f"127.0.0.1:{gcs}")
        yield Head(f"127.0.0.1:{gcs}", f"ray://127.0.0.1:{client}")
        ray.shutdown()
    finally:
        for pid in with_environment(f"SLUICE_RAY_TESTS={directory}"):
            os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as kept:
        probes = [kept.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


def with_environment(variable: str) -> list[int]:
    """Processes that have it, as all of a Ray's have: their command lines do not tell which they belong to."""
    found = []
    for path in pathlib.Path("/proc").iterdir():
        try:
            if path.name.isdigit() and variable.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            pass  # it has ended
    return found


def executor_address(command: list[str]) -> str:
    """Where an executor with this command line is to find its driver. It may end meanwhile: OSError."""
    address = next(word for word in command if word.startswith("--sluice.executor=")).partition("=")[2]
    return pathlib.Path(address[1:]).read_text().strip() if address.startswith("@") else address


@pytest.fixture
def sluice(head: Head) -> Sluice:
    return Sluice(head.gcs)


@pytest.fixture
def client(head: Head) -> Sluice:
    """The same by ray://."""
    return Sluice(head.client)


SCRIPT = """#!{python}
import os, pathlib, signal, sys, time
arguments = sys.argv[1:]
kind = "executor" if any(a.startswith("--sluice.executor=") for a in arguments) else "driver"
print(kind, *arguments, flush=True)
os.fork()  # one more process that must not be left behind
def stop(*_):
    print("graceful", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
for argument in arguments:
    if argument.startswith("exit=") and kind == "driver":
        time.sleep(0.3)
        os._exit(int(argument[5:]))
time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> pathlib.Path:
    """In place of a sluice program. Its name is found in the command lines of this test's processes alone."""
    path = tmp_path / ("p-" + re.sub(r"\W", "-", request.node.name)[:40])
    path.write_text(SCRIPT.format(python=sys.executable))
    path.chmod(0o755)
    return path
