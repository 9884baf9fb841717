"""The guard, the keeper and what travels, without Ray."""

import asyncio
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Iterator

import pytest
from conftest import eventually, is_alive

from sluice_ray import guard, shipping
from sluice_ray.command import size
from sluice_ray.keeper import Keeper, Log, make_private, new_path

GUARD = [sys.executable, "-I", "-S", guard.__file__]


def guarded(directory: pathlib.Path, *program: str) -> subprocess.Popen:
    return subprocess.Popen([*GUARD, str(directory), *program], stdin=-1, stdout=-1, stderr=-1, text=True)


@pytest.fixture
def private() -> Iterator[pathlib.Path]:
    path = new_path()
    make_private(path, {"node.key": b"secret"})
    yield pathlib.Path(path)
    shutil.rmtree(path, ignore_errors=True)


def test_a_guarded_programs_output_and_status_are_passed_on(private):
    process = guarded(private, "/bin/sh", "-c", "echo $$; exit 7")
    pid, output = process.stdout.read().splitlines()
    assert pid == output and process.wait(10) == 7
    assert not private.exists()


def test_a_program_that_is_killed_has_a_status_as_in_shells(private):
    process = guarded(private, "/bin/sh", "-c", "kill -9 $$")
    assert process.wait(10) == 128 + 9


def test_what_cannot_be_run_is_said(private):
    process = guarded(private, "/no/such")
    assert process.wait(10) == 127 and "/no/such: No such file" in process.stderr.read()


def test_a_byte_is_sigterm(private):
    process = guarded(private, "/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    process.stdout.readline(), process.stdout.readline()
    process.stdin.write("t")
    process.stdin.flush()
    assert process.wait(10) == 5


KEPT_BY = """
import subprocess, sys, time
process = subprocess.Popen(sys.argv[1:], stdin=-1, stdout=-1, text=True)
print(process.pid, process.stdout.readline().strip(), process.stdout.readline().strip(), flush=True)
time.sleep(600)
"""


def kept(private: pathlib.Path) -> tuple[subprocess.Popen, int, list[int]]:
    """A process, the guard that it has started, and a program with a child."""
    program = [*GUARD, str(private), "/bin/sh", "-c", "sleep 600 & echo $!; wait"]
    by = subprocess.Popen([sys.executable, "-c", KEPT_BY, *program], stdout=-1, text=True)
    guard_pid, *pids = map(int, by.stdout.readline().split())
    assert all(map(is_alive, pids))
    return by, guard_pid, pids


def test_nothing_outlives_who_has_started_the_guard(private):
    by, guard_pid, pids = kept(private)
    by.kill()
    by.wait()
    eventually(lambda: not any(map(is_alive, [guard_pid, *pids])), 5)
    assert not private.exists()


def test_nothing_outlives_the_guards_parent(private):
    by, parent, pids = kept(private)
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)), 5)
    by.kill()
    assert not private.exists()


def test_the_program_does_not_outlive_the_guard(private):
    by, parent, pids = kept(private)
    (guard_pid,) = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(guard_pid), signal.SIGKILL)
    eventually(lambda: not is_alive(pids[0]), 5)
    by.kill()
    os.kill(pids[1], signal.SIGKILL)  # the guard would have done that


def test_secrets_are_for_their_owner_alone(private):
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "node.key").stat().st_mode & 0o777 == 0o600


def test_the_log_keeps_the_last_lines_and_their_numbers():
    log = Log(lines_max=3)
    log.add(b"a\nb\nc\nd\ne")
    assert log.read(0) == (["b", "c", "d"], 4)
    assert log.read(3) == (["d"], 4)
    assert log.read(4) == ([], 4)
    log.end_line()
    assert log.read(4) == (["e"], 5)
    assert log.read(0, lines_max=2) == (["c", "d"], 4)


def keep(script: str, final: set[int], during=None) -> Keeper:
    """A shell script's keeper, when it has ended."""

    async def kept_until_end() -> Keeper:
        async def command(secrets: str) -> list[str]:
            return ["/bin/sh", "-c", script, "sh", secrets]

        keeper = Keeper(command, guard.__file__, {"token": b"t"}, dict(os.environ), frozenset(final))
        running = asyncio.ensure_future(keeper.run())
        if during:
            await during(keeper)
        status = await asyncio.wait_for(running, 20)
        assert keeper.ended is None and keeper.facts()["state"] != "ended"  # an actor may have to remember it first
        await keeper.end(status)
        return keeper

    return asyncio.run(kept_until_end())


def test_a_file_that_is_put_is_seen_by_the_program_and_by_the_next_one():
    async def put(keeper: Keeper) -> None:
        await keeper.wait_until(lambda: keeper.log.count, 20)
        for content in [b"no end", b"there"]:
            keeper.put("where", content)

    keeper = keep("echo waits; while ! grep -s there $1/where; do sleep 0.01; done; ls $1; exit 1", {1}, put)
    assert keeper.log.read(0)[0][:4] == ["waits", "there", "token", "where"]
    keeper = keep("[ -e $1/where ] && exit 0; echo waits; sleep 0.1; exit 1", {0}, put)
    assert list(keeper.statuses) == [1, 0]


def test_a_program_is_started_again_until_its_status_is_final(tmp_path):
    keeper = keep(f"cat $1/token; echo; echo >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) = 3 ] || exit 1", {0})
    assert keeper.starts == 3 and list(keeper.statuses) == [1, 1, 0] and keeper.ended == 0
    said = [line.removeprefix("sluice-ray: the program has ended with status ") for line in keeper.log.read(0)[0]]
    assert said == ["t", "1, and is started again in 0.05 s", "t", "1, and is started again in 0.1 s", "t", "0"]


def test_a_program_that_is_to_stop_is_not_started_again():
    async def stop(keeper: Keeper) -> None:
        await keeper.wait_until(lambda: keeper.log.count, 10)
        keeper.stop(graceful=True)

    assert keep("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done", {0}, stop).statuses[-1] == 9


def test_libraries_travel_but_the_c_library_does_not(tmp_path):
    ours = shipping.libraries_of(pathlib.Path("/bin/sh")).keys() | shipping.libraries_of(pathlib.Path("/bin/ls")).keys()
    assert not any(name.startswith(("libc.", "libm.", "ld-", "linux-")) for name in ours)
    shipping.payload(tmp_path, pathlib.Path("/bin/ls"))
    assert os.access(tmp_path / shipping.SHIPPED / "ls", os.X_OK)


def test_two_files_of_one_name_are_refused(tmp_path):
    for directory in ["a", "b"]:
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "f").write_text("")
    (tmp_path / "to").mkdir()
    with pytest.raises(shipping.NotShippable, match="two files of the name f"):
        shipping.payload(tmp_path / "to", pathlib.Path("/bin/ls"), [tmp_path / "a" / "f", tmp_path / "b" / "f"])


def test_openssl_makes_what_sluice_certs_would(tmp_path):
    shipping.by_openssl(tmp_path)
    member = shipping.read_member(tmp_path)
    assert set(member) == {"ca.pem", "node.pem", "node.key", "token"} and len(member["token"]) == 64
    verify = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", "sslserver", "node.pem"]
    assert "OK" in subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "node.key").stat().st_mode & 0o077 == 0


def test_sizes():
    assert [size("512"), size("2k"), size("1G"), size("3MB")] == [512, 2048, 1 << 30, 3 << 20]
