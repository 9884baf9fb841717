#!/usr/bin/env python3
"""Ray on a head and three nodes (network namespaces of this host): what dies, and how long it takes. Needs root.

    three_nodes.py BIN [--redis] [--untuned] [--only NAME ...]

BIN has access_log, sluice_kill_job and sluice. First access_log reads a log while executors are killed, and must say
what it says in one process; then (head-of-driver) a driver that is no node of Ray's must not notice that the head is
away. Then sluice_kill_job runs with its state in a checkpoint directory on the shared disk,
while processes, actors, raylets and nodes are killed one after the other; all outputs of all batches are compared with
those that tests/kill/oracle.py computes. Times are from the kill to
  batch    the first batch of a later time that has been written whole;
  pause    the longest time without a new batch: processes may live on for a moment when their raylet is killed;
  joined   three executors that are connected to the driver.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Callable, NamedTuple, Optional

package = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(package.parent.parent / "tests" / "kill"))
import oracle  # noqa: E402
from conftest import executor_address  # noqa: E402

NET = "10.79.0"
PREFIX = "slr"
HEAD = 0
EXECUTORS = 3
GCS_PORT = 6379
CLIENT_PORT = 10001
REDIS_PORT = 6390
BATCH_MS = 100
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


def address(node: int) -> str:
    return f"{NET}.{node + 1}"


def ip(command: str, check: bool = True) -> None:
    subprocess.run(["ip", *command.split()], check=check, capture_output=not check)


class Process(NamedTuple):
    pid: int
    command: list[str]


def all_processes() -> list[Process]:
    found = []
    for path in pathlib.Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                found.append(Process(int(path.name), (path / "cmdline").read_text().split("\0")[:-1]))
            except (OSError, UnicodeDecodeError):
                pass
    return found


class Cluster:
    """The nodes, each with network, processes and temporary files of its own."""

    def __init__(self, directory: pathlib.Path, redis: bool, checks: dict[str, int]):
        self.directory = directory
        self.redis = redis
        self.checks = checks
        self.token = secrets.token_hex(32)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # see docs/ray.md
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.environment.pop("PYTHONPATH", None)
        self.nodes: dict[int, subprocess.Popen] = {}
        self.server: Optional[subprocess.Popen] = None

    def start(self) -> None:
        self.remove()
        ip(f"link add {PREFIX} type bridge")
        ip(f"addr add {NET}.254/24 dev {PREFIX}")
        ip(f"link set {PREFIX} up")
        for node in range(EXECUTORS + 1):
            name = f"{PREFIX}-{node}"
            ip(f"netns add {name}")
            ip(f"link add {PREFIX}v{node} type veth peer name eth0 netns {name}")
            ip(f"link set {PREFIX}v{node} master {PREFIX} up")
            ip(f"-n {name} addr add {address(node)}/24 dev eth0")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} link set lo up")
        if self.redis:
            line = ["redis-server", "--bind", f"{NET}.254", "--port", str(REDIS_PORT), "--save", ""]
            line += ["--requirepass", self.token, "--appendonly", "yes", "--dir", str(self.directory)]
            self.server = subprocess.Popen(line, stdout=subprocess.DEVNULL)
            time.sleep(1)
        for node in range(EXECUTORS + 1):
            self.start_node(node)

    def start_node(self, node: int) -> None:
        temporary = self.directory / "ray"
        temporary.mkdir(exist_ok=True)
        ray = ["ray", "start", f"--node-ip-address={address(node)}", "--disable-usage-stats"]
        environment = dict(self.environment)
        if node == HEAD:
            ray += ["--head", f"--port={GCS_PORT}", "--num-cpus=0", "--include-dashboard=false"]
            ray += [f"--temp-dir={temporary}", f"--system-config={json.dumps(self.checks)}"]
            if self.redis:
                environment["RAY_REDIS_ADDRESS"] = f"{NET}.254:{REDIS_PORT}"
                ray += [f"--redis-password={self.token}"]
        else:
            # Two of them have just room for all, so that no node ever has all.
            ray += [f"--address={address(HEAD)}:{GCS_PORT}", "--num-cpus=2", f"--memory={8 << 30}"]
        # Of a node all that is under the first process dies with it. That one waits for nobody else's children, as in
        # many a container: a dead raylet stays as a zombie.
        script = f"mount -t tmpfs none {temporary} && exec 3>&- && {shell(ray)} && exec sleep infinity"
        line = ["ip", "netns", "exec", f"{PREFIX}-{node}", "unshare", "--pid", "--fork", "--kill-child"]
        line += ["--mount", "--mount-proc", "sh", "-c", script]
        with open(self.directory / f"node-{node}.txt", "ab") as log:
            self.nodes[node] = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
        eventually(lambda: "Ray runtime started" in (self.directory / f"node-{node}.txt").read_text(), 60)

    def stop_node(self, node: int) -> None:
        """All its processes at once, as by a loss of power."""
        self.nodes[node].kill()  # unshare; --kill-child kills the first process, and the kernel the others
        self.nodes[node].wait()
        eventually(lambda: not self.processes_of(node), 20)
        with open(self.directory / f"node-{node}.txt", "w"):
            pass

    def processes_of(self, node: int) -> list[Process]:
        inode = os.stat(f"/run/netns/{PREFIX}-{node}").st_ino
        return [process for process in all_processes() if namespace_of(process.pid) == inode]

    def raylet(self, node: int) -> int:
        named = [p for p in self.processes_of(node) if p.command and p.command[0].endswith("/raylet")]
        return named[0].pid

    def node_of(self, pid: int) -> int:
        inode = namespace_of(pid)
        return [n for n in self.nodes if os.stat(f"/run/netns/{PREFIX}-{n}").st_ino == inode][0]

    def remove(self) -> None:
        for node in self.nodes.values():
            node.kill()
            node.wait()
        if self.server:
            self.server.kill()
            self.server.wait()
        for node in range(EXECUTORS + 1):
            ip(f"netns del {PREFIX}-{node}", check=False)
            ip(f"link del {PREFIX}v{node}", check=False)
        ip(f"link del {PREFIX}", check=False)

    def sluice(self, *arguments: object, **options: object) -> subprocess.Popen:
        command, *rest = map(str, arguments)
        where = ["--address", f"ray://{address(HEAD)}:{CLIENT_PORT}"]
        environment = {**self.environment, "PYTHONPATH": str(package)}
        line = [sys.executable, "-m", "sluice_ray", command, *where, *rest]
        return subprocess.Popen(line, env=environment, text=True, **options)  # type: ignore[call-overload]


def shell(words: list[str]) -> str:
    import shlex

    return shlex.join(words)


def namespace_of(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def eventually(true: Callable[[], object], seconds: float) -> float:
    """How long it took; an error when too long."""
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"did not happen in {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - begin


# ---- The processes of an application


def members(program: str) -> tuple[list[Process], list[Process]]:
    """The driver (or none), and executors."""
    ours = [p for p in all_processes() if p.command and p.command[0].endswith(f"/sluice-program/{program}")]
    drivers = [p for p in ours if any(word.startswith("--sluice.listen=") for word in p.command)]
    executors = [p for p in ours if any(word.startswith("--sluice.executor=") for word in p.command)]
    return drivers, executors


def actor_of(process: Process) -> int:
    """Of its guard's parent's parent."""
    pid = process.pid
    for _ in range(3):
        pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def connected(program: str, but: frozenset[int] = frozenset()) -> int:
    """Executors with a connection to a driver that is there; some processes do not count."""
    drivers, executors = ([p for p in some if p.pid not in but] for some in members(program))
    count = 0
    listening = set()
    for driver in drivers:
        listen = next(word for word in driver.command if word.startswith("--sluice.listen="))
        listening.add(int(listen.rpartition(":")[2]))
    for executor in executors:
        with contextlib.suppress(OSError):  # it has ended
            count += goal_of(executor)[1] in listening and is_at_work(executor)
    return count


def goal_of(executor: Process) -> tuple[str, int]:
    """Where its driver is."""
    host, _, port = executor_address(executor.command).rpartition(":")
    return host, int(port)


def is_at_work(executor: Process) -> bool:
    """It is connected to its driver."""
    return has_connection(executor.pid, *goal_of(executor))


def has_connection(pid: int, host: str, port: int) -> bool:
    """By its own sockets: others on its node have such connections, too."""
    peer = f"{int.from_bytes(bytes(map(int, host.split('.'))), 'little'):08X}:{port:04X}"
    try:
        own = {os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        for line in pathlib.Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2] == peer and fields[3] == "01" and f"socket:[{fields[9]}]" in own:
                return True
    except OSError:
        pass
    return False


# ---- access_log


def access_log(cluster: Cluster, bin_directory: pathlib.Path) -> str:
    """Executors are killed while it reads; what it says must be what it says alone. First with `submit`, then with a
    driver on this host, which is no node of Ray's."""
    log = cluster.directory / "access.log"
    chance = random.Random(1)
    with open(log, "w") as out:
        for i in range(1_500_000):
            path = f"/{'abcdefgh'[chance.randrange(8)]}/{chance.randrange(2000)}"
            client, status, size = chance.randrange(250), chance.choice([200, 200, 200, 304, 404, 500]), i % 9000
            day = '[17/May/2015:10:05:03 +0000] "GET'
            out.write(f'10.0.{i % 7}.{client} - - {day} {path} HTTP/1.1" {status} {size} "-" "an agent"\n')
    program = bin_directory / "access_log"
    options = ["--input", log, "--once", "--json"]
    alone = subprocess.run([program, *options], capture_output=True, text=True, check=True).stdout.strip()
    output: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    submitted = cluster.sluice(
        *["submit", "--executors", EXECUTORS, "--name", "access", program, *options],
        **output,
    )
    said = [f"access_log by submit: {reads_right(submitted, alone)}"]
    driver = driver_here(cluster, [program, *options], output)
    said.append(f"access_log by a driver elsewhere: {reads_right(driver, alone)}")
    return "\n".join(said)


def driver_here(cluster: Cluster, line: list, output: dict[str, int]) -> subprocess.Popen:
    """On this host, which is no node of Ray's, with its executors there."""
    command = cluster.directory / "sluice-ray"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sluice_ray "$@"\n')
    command.chmod(0o755)
    path = f"{cluster.directory}:{cluster.environment['PATH']}"
    master = f"--sluice.master=ray://{address(HEAD)}:{CLIENT_PORT}[{EXECUTORS},1]"
    environment = {**cluster.environment, "PYTHONPATH": str(package), "PATH": path}
    return subprocess.Popen([*line, master], env=environment, text=True, **output)  # type: ignore[call-overload]


def head_of_driver_here(cluster: Cluster, bin_directory: pathlib.Path) -> str:
    """Ray's head is away for longer than Ray's client waits for it. Executors must notice nothing, one that is lost
    later must be replaced, and all must go with the driver."""
    followed = cluster.directory / "followed"
    followed.write_text("")
    program = bin_directory / "access_log"
    line = [program, "--follow", followed, f"--sluice.checkpoint={cluster.directory / 'checkpoint'}"]
    driver = driver_here(cluster, line, {"stdout": subprocess.DEVNULL})

    def at_work() -> set[int]:
        return {executor.pid for executor in members("access_log")[1] if is_at_work(executor)}

    eventually(lambda: len(at_work()) == EXECUTORS, 120)
    before = at_work()
    cluster.stop_node(HEAD)
    time.sleep(40)
    cluster.start_node(HEAD)
    time.sleep(20)
    lost = before - at_work()
    node = cluster.node_of(min(before))
    cluster.stop_node(node)
    replaced = eventually(lambda: len(at_work()) == EXECUTORS, 120)
    ended = driver.poll()
    driver.kill()
    driver.wait()
    gone = eventually(lambda: not members("access_log")[1], 60)
    cluster.start_node(node)
    return (
        f"head of a driver elsewhere, away for 40 s: {'WRONG' if lost or ended is not None else 'nothing'} was lost; "
        f"a node that was killed then was replaced in {replaced:.1f} s; no executor {gone:.1f} s after the driver"
    )


def reads_right(job: subprocess.Popen, alone: str) -> str:
    """While it reads, executors are killed."""
    killed = 0
    hosts = set()
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(job.stdout))  # type: ignore[arg-type]
    reading.start()
    while job.poll() is None:
        _, executors = members("access_log")
        if sum(is_at_work(executor) for executor in executors) == EXECUTORS and killed < 3:
            hosts |= {namespace_of(executor.pid) for executor in executors}
            time.sleep(0.15)
            _, executors = members("access_log")
            if executors:
                os.kill(executors[killed % len(executors)].pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.02)
    reading.join()
    right = alone in [line.strip() for line in lines] and job.returncode == 0
    if not right:
        print("".join(lines)[-3000:])
    result = "as in one process" if right else "WRONG"
    return f"{killed} executors killed while it read, on {len(hosts)} nodes: {result}"


# ---- The job with state


class Writer(threading.Thread):
    """What the job follows."""

    def __init__(self, path: pathlib.Path):
        super().__init__(daemon=True)
        self.path = path
        self.lines: list[str] = []
        self.finish = threading.Event()

    def run(self) -> None:
        chance = random.Random(2)
        with open(self.path, "w", buffering=1) as out:
            while not self.finish.wait(0.01):
                for _ in range(10):
                    line = f"f {len(self.lines)} k{chance.randrange(200)} {chance.randrange(1000)}"
                    self.lines.append(line)
                    out.write(line + "\n")


class Ledger:
    """Which outputs of which batches are written, and since when."""

    WHOLE = {"raw_done", "counts_done", "changes_done", "sink", "totals", "last"}

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.offset = 0
        self.outputs: dict[int, set[str]] = collections.defaultdict(set)
        self.starts = 0

    def look(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self.offset += len(text)
        for line in text.decode().splitlines():
            batch, name, *_ = line.split(" ")
            self.outputs[int(batch)].add(name)
            self.starts += name == "start"

    def batch_after(self, time_ms: float) -> int:
        """The latest one that is whole; 0 if there is none."""
        self.look()
        return max((b for b, names in self.outputs.items() if b > time_ms and self.WHOLE <= names), default=0)


class Plan(NamedTuple):
    """What the oracle asks of tests/kill/plan.py."""

    batch_ms: int = BATCH_MS
    window: int = 10
    slide: int = 5
    fail_every: int = 0


Harm = tuple[set[int], Callable[[], None]]


class Job:
    NAME = "sluice_kill_job"

    def __init__(self, cluster: Cluster, bin_directory: pathlib.Path):
        self.cluster = cluster
        self.directory = cluster.directory / "job"
        (self.directory / "files").mkdir(parents=True)
        self.writer = Writer(self.directory / "log")
        self.ledger = Ledger(self.directory / "ledger")
        self.two = 0  # a node
        self.rows: list[tuple[str, ...]] = []
        plan = Plan()
        given = {
            "directory": self.directory,
            "inputs": "follow",
            "host": "127.0.0.1",
            "batch": plan.batch_ms,
            "checkpoint-batches": 5,
            "block-interval": 50,
            "partitions": 6,
            "window": plan.window,
            "slide": plan.slide,
            "master": "local[1]",
            "missed": "run",
            "state-in": "memory",
            "failed-output": "stop",
            "fail-every": plan.fail_every,
            "fail-times": 0,
            "sinks": "",
            "rolling-bytes": 1,
            "rolling-age": 1,
        }
        self.log = open(cluster.directory / "job.txt", "w")
        options = ["--executors", EXECUTORS, "--name", "job", bin_directory / self.NAME]
        self.submit = cluster.sluice(
            *["submit", *options, *[f"--{name}={value}" for name, value in given.items()]],
            stdout=self.log,
            stderr=self.log,
        )

    def settled(self) -> bool:
        """All executors are there, and have had a second for the copies of state."""
        eventually(lambda: connected(self.NAME) == EXECUTORS, 120)
        time.sleep(3)
        return connected(self.NAME) == EXECUTORS

    def measure(self, what: str, act: Callable[[], Harm], at_least_s: float = 0) -> int:
        """How often the driver was started meanwhile."""
        eventually(self.settled, 120)
        before = {p.pid: self.cluster.node_of(p.pid) for p in sum(members(self.NAME), [])}
        self.ledger.look()
        starts = self.ledger.starts
        victims, mend = act()
        lost = frozenset(pid for pid, node in before.items() if pid in victims or -node in victims)
        begin, now_ms = time.monotonic(), time.time() * 1000
        batch = joined = ""
        last, newest, pause = begin, now_ms, 0.0
        while time.monotonic() - begin < 90:
            passed = time.monotonic() - begin
            if found := self.ledger.batch_after(newest):
                batch = batch or f"{passed:.2f}"
                newest, pause, last = found, max(pause, time.monotonic() - last), time.monotonic()
            if passed < at_least_s:
                pass
            elif joined and batch and passed > float(joined) + 3 and passed - (last - begin) < 0.5:
                break
            if not joined and connected(self.NAME, but=lost) == EXECUTORS:
                joined = f"{passed:.2f}"
            time.sleep(0.005)
        pause = max(pause, time.monotonic() - last)
        others = {p.pid for p in sum(members(self.NAME), [])} - before.keys()
        self.ledger.look()
        starts = self.ledger.starts - starts
        note = f"{len(lost)} processes lost, {len(others)} new, driver started {starts} times"
        self.rows.append((what, batch or "never", f"{pause:.2f}", joined or "never", note))
        print(*self.rows[-1], sep="\t", flush=True)
        mend()
        return starts

    # ---- What goes wrong. Each returns which processes are lost (or all of node -N), and how it is mended.

    def driver(self) -> Process:
        return members(self.NAME)[0][0]

    def executor(self) -> Process:
        """One that is on another node than the driver."""
        (driver,), executors = members(self.NAME)
        elsewhere = [e for e in executors if self.cluster.node_of(e.pid) != self.cluster.node_of(driver.pid)]
        return elsewhere[0]

    def kill(self, process: Process) -> Harm:
        os.kill(process.pid, signal.SIGKILL)
        return {process.pid}, lambda: None

    def kill_actor(self, process: Process) -> Harm:
        os.kill(actor_of(process), signal.SIGKILL)
        return {process.pid}, lambda: None

    def there(self, node: int) -> list[int]:
        """The application's processes on a node."""
        return [p.pid for p in sum(members(self.NAME), []) if self.cluster.node_of(p.pid) == node]

    def kill_raylet(self, node: int) -> Harm:
        os.kill(self.cluster.raylet(node), signal.SIGKILL)

        def mend() -> None:
            eventually(lambda: not self.there(node), 1)
            self.restart(node)

        return {-node}, mend

    def kill_node(self, node: int) -> Harm:
        self.cluster.nodes[node].kill()
        return {-node}, lambda: self.restart(node)

    def two_together(self) -> int:
        """A node with two executors and without the driver: one that had one of them is stopped for a while, and the
        driver's node has no room."""
        for _ in range(4):
            eventually(self.settled, 120)
            (driver,), executors = members(self.NAME)
            count = collections.Counter(self.cluster.node_of(process.pid) for process in executors)
            count.pop(self.cluster.node_of(driver.pid), None)
            node, most = count.most_common(1)[0]
            if most == 2:
                return node
            self.cluster.stop_node(node)
            eventually(lambda: connected(self.NAME) == EXECUTORS, 120)
            self.cluster.start_node(node)
        raise TimeoutError("two executors are never on one node")

    def restart(self, node: int) -> None:
        self.cluster.stop_node(node)
        self.cluster.start_node(node)

    def cut(self, node: int) -> Harm:
        ip(f"link set {PREFIX}v{node} down")

        def mend() -> None:
            ip(f"link set {PREFIX}v{node} up")
            seconds = eventually(lambda: not self.there(node), 90)  # Ray ends a node that it had given up
            print(f"cut: the processes there have ended {seconds:.1f} s after it was mended", flush=True)
            self.restart(node)

        return {-node}, mend

    def check(self) -> str:
        self.writer.finish.set()
        self.writer.join()
        time.sleep(3)
        options = ["--name", "job", "--graceful", "--timeout", 60]
        with self.cluster.sluice("stop", *options, stderr=subprocess.PIPE) as stop:
            said = stop.communicate(timeout=120)[1]
        mistakes = oracle.Mistakes()
        outputs = oracle.Outputs(self.directory / "out", mistakes)
        raw = oracle.check_outputs(Plan(), "f", outputs, mistakes)
        seen = collections.Counter(line for lines in raw.values() for line in lines)
        written = collections.Counter(self.writer.lines)
        for kind, difference in [("LOSS", written - seen), ("DUP", seen - written)]:
            if difference:
                mistakes.add(kind, f"{difference.total()} lines, such as {next(iter(difference))!r}")
        print(said.strip())
        print(f"job: {len(raw)} batches, {len(self.writer.lines)} lines: " + ("; ".join(mistakes.words) or "exact"))
        return "; ".join(mistakes.words)


def events(job: Job) -> dict[str, tuple[str, Callable[[], Harm]]]:
    cluster = job.cluster
    of_executor = lambda: cluster.node_of(job.executor().pid)  # noqa: E731
    of_driver = lambda: cluster.node_of(job.driver().pid)  # noqa: E731
    return {
        "executor": ("an executor's process", lambda: job.kill(job.executor())),
        "executor-actor": ("an executor's actor", lambda: job.kill_actor(job.executor())),
        "driver": ("the driver's process", lambda: job.kill(job.driver())),
        "driver-actor": ("the driver's actor", lambda: job.kill_actor(job.driver())),
        "raylet": ("the raylet of an executor's node", lambda: job.kill_raylet(of_executor())),
        "node": ("an executor's node", lambda: job.kill_node(of_executor())),
        "two": ("an executor's node with two of the three", lambda: job.kill_node(job.two)),
        "cut": ("the network of an executor's node", lambda: job.cut(of_executor())),
        "driver-raylet": ("the raylet of the driver's node", lambda: job.kill_raylet(of_driver())),
        "driver-node": ("the driver's node", lambda: job.kill_node(of_driver())),
        "driver-cut": ("the network of the driver's node", lambda: job.cut(of_driver())),
    }


STREAM_GOES_ON = {"executor", "executor-actor", "raylet", "node", "two"}


def kill_head(job: Job) -> Harm:
    before = {p.pid for p in sum(members(job.NAME), [])}
    job.cluster.stop_node(HEAD)

    def mend() -> None:
        job.cluster.start_node(HEAD)
        time.sleep(15)
        lost = before - {p.pid for p in sum(members(job.NAME), [])}
        print(f"head: {len(lost)} of {len(before)} processes lost", flush=True)

    return set(), mend


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("--redis", action="store_true", help="behind the head, which is killed, too")
    parser.add_argument("--untuned", action="store_true", help="Ray's health checks as they are by default")
    parser.add_argument("--only", nargs="*", help="these events")
    parser.add_argument("--keep", action="store_true", help="the directory")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("three_nodes.py: needs root, for network namespaces")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="slr-"))  # short: sockets have names of 107 bytes at most
    cluster = Cluster(directory, options.redis, {} if options.untuned else HEALTH_CHECKS)
    failed = ""
    try:
        cluster.start()
        if not options.only or "access_log" in options.only:
            said = access_log(cluster, options.bin.resolve())
            print(said, flush=True)
            failed += "WRONG" if "WRONG" in said else ""
        if options.redis and (not options.only or "head-of-driver" in options.only):
            said = head_of_driver_here(cluster, options.bin.resolve())
            print(said, flush=True)
            failed += "WRONG" if "WRONG" in said else ""
        job = Job(cluster, options.bin.resolve())
        job.writer.start()
        try:
            for name, (what, act) in events(job).items():
                if options.only and name not in options.only:
                    continue
                if name == "two":
                    job.two = job.two_together()
                starts = job.measure(what, act)
                # All that these have is elsewhere, too.
                if name in STREAM_GOES_ON and starts > 0:
                    failed += f"{what}: the stream was started again"
                    print(failed, flush=True)
            if options.redis and (not options.only or "head" in options.only):
                job.measure("Ray's head, for 20 s", lambda: kill_head(job), 20)
        finally:
            failed += job.check()
            job.submit.kill()
            job.submit.wait()
        print("\n| what was killed | first complete new batch, s | longest pause, s | three executors again, s | |")
        print("|---|--:|--:|--:|---|")
        for row in job.rows:
            print(f"| {' | '.join(row)} |")
        failed += "never" if any("never" in row for row in job.rows) else ""
        return 1 if failed else 0
    finally:
        cluster.remove()
        if options.keep or failed:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
