"""Applications on a Ray of one node. The programs are scripts, but for the last test."""

import os
import signal
import subprocess

import pytest
from conftest import (
    command_line,
    deals_with_sigterm,
    ended,
    eventually,
    executor_address,
    is_alive,
    processes,
    repository,
    terminate,
)

from sluice_ray import application

bin_directory = repository / os.environ.get("SLUICE_BIN", "build/release/bin")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def gone(program) -> bool:
    """No process and no actor is left."""
    return eventually(lambda: not processes(program.name)) and program.name not in application.names()


def runs(program, executors: int) -> dict:
    """The status, once all processes run."""

    def all_run():
        status = application.status(program.name)
        parts = [status["driver"], *status["executors"].values()]
        return status if len(parts) == executors + 1 and all(part and part["pid"] for part in parts) else None

    return eventually(all_run, 60)


def driver_address(status: dict) -> str:
    listen = [word for word in command_line(status["driver"]["pid"]) if word.startswith("--sluice.listen=")][0]
    return f"{status['driver']['host']}:{listen.rpartition(':')[2]}"


def executor_addresses(status: dict) -> set[str]:
    return {executor_address(command_line(executor["pid"])) for executor in status["executors"].values()}


@pytest.mark.parametrize("status", [0, 2, 3])
def test_submit_prints_the_drivers_output_and_passes_its_status_on(sluice, program, status):
    output = sluice.run("submit", "--executors", 3, program, "a", f"exit={status}", status=status)
    assert f"driver a exit={status} --sluice.master=cluster[3] --sluice.listen=0.0.0.0:" in output
    assert gone(program)


def test_an_application_goes_on_without_submit_until_it_is_stopped(client, program):
    client.submit("--executors", 2, "--cores", 1, "--memory", "100M", program)
    status = runs(program, 2)
    assert executor_addresses(status) == {driver_address(status)}
    assert "--sluice.memory=104857600" in command_line(status["executors"][0]["pid"])
    assert client.run("list").splitlines()[-1] == program.name
    assert "executor 1: runs" in client.run("status", "--name", program.name)
    assert "executor --sluice.executor=" in client.run("logs", "--name", program.name, "--executor", 1)
    client.run("submit", program, status=2)  # it runs already
    client.run("stop", "--name", program.name)
    assert gone(program)


def test_a_graceful_stop_lets_the_driver_end(sluice, program):
    sluice.submit("--executors", 1, program)
    pid = runs(program, 1)["driver"]["pid"]
    eventually(lambda: deals_with_sigterm(pid))
    with ended(sluice.begin("logs", "--name", program.name, "--follow")) as following:
        assert "its exit status was 0" in sluice.run("stop", "--name", program.name, "--graceful")
        assert "graceful" in following.communicate(timeout=30)[0] and following.returncode == 0
    assert gone(program)


def test_a_driver_and_an_executor_that_die_are_started_again(sluice, program):
    sluice.submit("--executors", 2, program)
    before = runs(program, 2)
    address = driver_address(before)
    kill(before["driver"]["pid"])
    kill(before["executors"][1]["pid"])
    after = eventually(lambda: (s := runs(program, 2))["driver"]["starts"] == 2 and s)
    assert after["driver"]["statuses"] == [137] and after["executors"][1]["statuses"] == [137]
    assert after["executors"][0]["starts"] == 1
    assert executor_addresses(after) == {address}
    sluice.run("stop", "--name", program.name)
    assert gone(program)


def test_actors_that_die_take_their_programs_along_and_come_back(sluice, program):
    sluice.submit("--executors", 2, program)
    before = runs(program, 2)
    died = [before["driver"], before["executors"][0]]
    for part in died:
        kill(part["actor_pid"])
    eventually(lambda: not any(is_alive(part["pid"]) for part in died), 5)
    after = eventually(lambda: (s := runs(program, 2))["driver"]["born"] > before["driver"]["born"] and s)
    eventually(lambda: executor_addresses(s := runs(program, 2)) == {driver_address(s)})
    # The other executor has all that it had: it is told where the driver is now.
    for of_process in ["actor_pid", "pid"]:
        assert after["executors"][1][of_process] == before["executors"][1][of_process]
    sluice.run("stop", "--name", program.name)
    assert gone(program)


def test_an_application_that_has_ended_is_not_run_again(sluice, program):
    sluice.submit("--executors", 1, program)
    runs(program, 1)
    driver = application.status(program.name)["driver"]
    terminate(driver["pid"])
    eventually(lambda: application.status(program.name)["driver"]["state"] == "ended")
    kill(driver["actor_pid"])
    after = eventually(lambda: (s := application.status(program.name)["driver"]) and s["born"] > driver["born"] and s)
    assert after["state"] == "ended" and after["starts"] == 0 and after["status"] == 0
    assert "had ended with status 0" in sluice.run("logs", "--name", program.name)
    # Another one may have its name.
    sluice.run("submit", program, "exit=0")
    assert gone(program)


def test_files_are_in_the_working_directory(sluice, program, tmp_path):
    (tmp_path / "words.txt").write_text("hello from a file\n")
    program.write_text("#!/bin/sh\ncase $1 in --sluice.exec*) exec sleep 600;; esac; cat words.txt\n")
    output = sluice.run("submit", "--executors", 1, "--files", tmp_path / "words.txt", "--name", "with-file", program)
    assert "hello from a file" in output


def test_executors_alone_end_with_standard_input(sluice, program, tmp_path):
    (tmp_path / "certs").mkdir()
    for name in ["ca.pem", "node.pem", "node.key", "token"]:
        (tmp_path / "certs" / name).write_text(name)
    options = ["--driver", "127.0.0.1:7", "--executors", 2, "--certs", tmp_path / "certs", program]
    with ended(sluice.begin("executors", *options, stdin=subprocess.PIPE)) as executors:
        # For each one the guard and its parent, the program and its child.
        found = eventually(lambda: len(p := processes(program.name)) == 2 * 4 and p)
        assert sum("--sluice.executor=127.0.0.1:7" in command_line(pid) for pid in found) == 2 * 4
        executors.stdin.close()
        assert executors.wait(30) == 0
    assert gone(program)


@pytest.mark.skipif(not (bin_directory / "access_log").exists(), reason="NOT TESTED: no access_log has been built")
def test_a_sluice_program_says_the_same_as_in_one_process(sluice, tmp_path):
    program = bin_directory / "access_log"
    log = repository / "examples/access_log/nasty.log"
    line = [str(program), "--input", str(log), "--once", "--json"]
    alone = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    output = sluice.run("submit", "--executors", 2, "--name", "access", *line)
    assert alone.strip() in output
