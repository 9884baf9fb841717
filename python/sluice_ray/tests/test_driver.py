"""A driver that is started anywhere with --sluice.master=ray://HOST:PORT, and its executors on a Ray of one node."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
from typing import Iterator

import pytest
from conftest import Sluice, command_line, environment, eventually, processes, repository, terminate

from sluice_ray import application

bin_directory = repository / os.environ.get("SLUICE_BIN", "build/release/bin")
needs_program = pytest.mark.skipif(
    not (bin_directory / "access_log").exists(), reason="NOT TESTED: no access_log has been built"
)
CERTS = ["ca.pem", "node.pem", "node.key", "token"]


def actors() -> list[str]:
    """Of executors of drivers that are elsewhere."""
    return [name for name in application.actor_names() if name.startswith(("driver-", "executors-"))]


def nothing_is_left(mark: str) -> bool:
    return eventually(lambda: not processes(mark) and not actors(), 60)


# ---- The command alone. The program is a script, in the place of an executor.


class Command:
    """`sluice-ray executors` as a driver starts it."""

    def __init__(self, client: Sluice, *arguments: object):
        options = ["--driver", "127.0.0.1:7", "--certs", "-", "--executors", "-", *arguments]
        self.process = client.begin("executors", *options, stdin=subprocess.PIPE)
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def certificates(self) -> "Command":
        self.tell("".join(f"{name} 3\nabc" for name in CERTS))
        return self

    def until(self, words: str) -> str:
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words} is not in {self.lines}")

    def end(self) -> int:
        self.process.stdin.close()
        return self.process.wait(30)


@contextlib.contextmanager
def command(client: Sluice, *arguments: object) -> Iterator[Command]:
    started = Command(client, *arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()
        started.process.stdout.close()


def executors(program) -> list[int]:
    """The programs alone, without their guards and forks."""
    lines = {pid: command_line(pid) for pid in processes(program.name)}
    own = [pid for pid, words in lines.items() if any(word.endswith(program.name) for word in words[:2])]
    return [pid for pid in own if not is_fork(pid, own)]


def has_setting(pid: int, setting: str) -> bool:
    return any(word.startswith(setting) for word in command_line(pid))


def is_fork(pid: int, others: list[int]) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1]) in others
    except OSError:
        return True


def are(program, count: int) -> list[int]:
    return eventually(lambda: len(found := executors(program)) == count and found, 60)


def test_as_many_executors_as_standard_input_says(client, program):
    with command(client, program, "--sluice.task-tries=7") as started:
        started.certificates().tell("1\n")
        started.until("asked: 1 executors")
        (first,) = are(program, 1)
        assert has_setting(first, "--sluice.executor=127.0.0.1:7") and has_setting(first, "--sluice.task-tries=7")
        started.tell("3\n")
        assert first in are(program, 3)
        # One is to go: the driver lets it, and it ends with status 0. It is not started again.
        started.tell("2\n")
        terminate(first)
        assert first not in are(program, 2)
        # One that ends though as many are wanted is replaced.
        second = executors(program)[0]
        terminate(second)
        eventually(lambda: second not in (now := executors(program)) and len(now) == 2)
        assert started.end() == 0
    assert nothing_is_left(program.name)


def test_signals_to_all_of_a_drivers_processes_are_not_for_its_executors(client, program):
    with command(client, program) as started:
        started.certificates().tell("1\n")
        are(program, 1)
        for number in [signal.SIGINT, signal.SIGTERM]:
            started.process.send_signal(number)
        started.tell("2\n")  # it listens
        are(program, 2)
        assert started.end() == 0
    assert nothing_is_left(program.name)


def test_a_command_that_is_killed_leaves_its_executors_to_the_next(client, program):
    with command(client, "--name", "driver-of-test", program) as killed:
        killed.certificates().tell("2\n")
        before = are(program, 2)
    with command(client, "--name", "driver-of-test", program) as started:
        started.certificates().tell("2\n")
        assert "2 are there" in started.until("asked: ")
        assert set(executors(program)) == set(before)
        assert started.end() == 0
    assert nothing_is_left(program.name)


def test_executors_that_miss_their_driver_end(client, program):
    """As those of a driver and a command that were both killed."""
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import time; time.sleep(1); exit(3)' $0 $1\n")
    with command(client, program) as killed:
        killed.certificates().tell("2\n")
        killed.until("asked: ")
        eventually(lambda: len(actors()) == 2)
    assert nothing_is_left(program.name)


def test_executors_that_cannot_run_end_when_there_is_no_driver(client, program):
    program.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 127\n")
    with command(client, program) as killed:
        killed.certificates().tell("1\n")
        assert "it said: no such library" in killed.until("has ended with status 127")
    assert nothing_is_left(program.name)


def test_the_end_of_standard_input_ends_the_command_while_it_waits(client, program):
    with command(client, program) as started:
        started.certificates()
        started.until("connecting")
        assert started.end() == 0
    assert nothing_is_left(program.name)


@pytest.mark.parametrize(
    "address, words", [("ray://127.0.0.1:1", "Connection refused"), ("ray://nowhere", "is not ray://HOST:PORT")]
)
def test_no_ray_is_said_at_once(program, address, words):
    with command(Sluice(address), program) as started:
        started.certificates()
        assert words in started.until("problem: ")
        assert started.process.wait(10) == 1


def test_a_node_that_is_big_enough_is_missed(client, program):
    with command(client, "--cores", "1000", program) as started:
        started.certificates().tell("1\n")
        assert "no node of Ray's is big enough for an executor with 1000 cores" in started.until("big enough")
        assert started.end() == 0
    assert nothing_is_left(program.name)


# ---- A driver


class Driver:
    """access_log, which starts the command that it finds on the PATH."""

    def __init__(self, head: str, directory, *arguments: object):
        script = directory / "sluice-ray"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m sluice_ray "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        environment_of = {**environment, "PATH": f"{directory}:{environment['PATH']}"}
        self.line = [str(bin_directory / "access_log"), *map(str, arguments)]
        self.process = subprocess.Popen(
            self.line, env=environment_of, stdout=subprocess.PIPE, stderr=open(directory / "err", "w"), text=True
        )
        self.said = directory / "err"

    def executors(self) -> list[int]:
        """The processes of the program."""
        lines = {pid: command_line(pid) for pid in processes("sluice-program/access_log")}
        return [pid for pid, words in lines.items() if words and words[0].endswith("/access_log")]

    def commands(self) -> list[int]:
        found = []
        for path in os.listdir("/proc"):
            words = command_line(int(path)) if path.isdigit() else []
            if "sluice_ray" in words and any(word.startswith("--name=driver-") for word in words):
                found.append(int(path))
        return found


NASTY = repository / "examples/access_log/nasty.log"


@needs_program
def test_a_driver_has_executors_on_ray_and_says_the_same_as_in_one_process(client, tmp_path):
    once = ["--input", NASTY, "--once", "--json"]
    alone = subprocess.run([bin_directory / "access_log", *once], capture_output=True, text=True, check=True).stdout
    driver = Driver(client.address, tmp_path, *once, f"--sluice.master={client.address}[2,1]")
    output, _ = driver.process.communicate(timeout=60)
    assert driver.process.returncode == 0, driver.said.read_text()
    assert output == alone
    assert "2 of 2 executors are on nodes" in driver.said.read_text()
    assert nothing_is_left("sluice-program/access_log")


@contextlib.contextmanager
def running(client: Sluice, directory, executors: int, *arguments: object) -> Iterator[Driver]:
    """A driver whose stream runs. In the end it is killed, and nothing may be left."""
    followed = directory / "followed"
    followed.write_text("")
    driver = Driver(
        client.address,
        directory,
        *["--follow", followed, f"--sluice.checkpoint={directory}/checkpoint"],
        f"--sluice.master={client.address}[{executors},1]",
        *arguments,
    )
    try:
        eventually(lambda: len(driver.executors()) == executors, 60)
        yield driver
    finally:
        driver.process.kill()
        driver.process.wait()
        driver.process.stdout.close()
        assert nothing_is_left("sluice-program/access_log")


@pytest.fixture
def live(client, tmp_path) -> Iterator[Driver]:
    with running(client, tmp_path, 2) as driver:
        yield driver


@needs_program
def test_a_driver_whose_batches_need_fewer_executors_lets_some_go(client, tmp_path):
    often = ["--sluice.dynamic-allocation", "--sluice.scaling-interval=1"]
    with running(client, tmp_path, 3, *often) as driver:
        eventually(lambda: len(driver.executors()) == 1, 60)
        assert "1 executors instead of 2" in driver.said.read_text()
        eventually(lambda: len(actors()) == 1)
        assert driver.process.poll() is None


@needs_program
def test_nothing_outlives_a_driver_that_is_killed(live):
    live.process.kill()
    eventually(lambda: not live.executors() and not live.commands() and not actors(), 10)


@needs_program
def test_nothing_outlives_a_driver_that_is_killed_with_its_command(live):
    (command_pid,) = live.commands()
    os.kill(command_pid, signal.SIGKILL)
    live.process.kill()
    eventually(lambda: not live.executors() and not actors(), 60)


@needs_program
def test_a_command_that_is_killed_is_started_again_and_no_executor_is_lost(live):
    (first,) = live.commands()
    before = set(live.executors())
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "2 are there" in live.said.read_text())
    assert set(live.executors()) == before and live.process.poll() is None


@needs_program
def test_a_driver_that_ends_takes_its_executors_along(live):
    terminate(live.process.pid)
    assert live.process.wait(30) == 0
    assert not live.executors() and not live.commands() and not actors()


@needs_program
def test_a_driver_without_the_command_says_what_is_missing(tmp_path):
    line = [bin_directory / "access_log", "--input", NASTY, "--once", "--sluice.master=ray://127.0.0.1:1"]
    done = subprocess.run(line, env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "SLU-413" in done.stderr and "pip install" in done.stderr


@needs_program
def test_a_driver_without_a_ray_says_so(tmp_path):
    driver = Driver("", tmp_path, "--input", NASTY, "--once", "--sluice.master=ray://127.0.0.1:1[2,1]")
    driver.process.communicate(timeout=30)
    assert driver.process.returncode == 1
    assert "SLU-402" in driver.said.read_text() and "Connection refused" in driver.said.read_text()


@needs_program
def test_a_driver_whose_executors_have_no_room_says_what_is_missing(client, tmp_path):
    options = [f"--sluice.master={client.address}[1,1000]", "--sluice.executor-wait=8"]
    driver = Driver(client.address, tmp_path, "--input", NASTY, "--once", *options)
    driver.process.communicate(timeout=60)
    assert driver.process.returncode == 1
    assert "SLU-212" in driver.said.read_text() and "big enough" in driver.said.read_text()
    assert nothing_is_left("sluice-program/access_log")
