"""The command `sluice-ray`."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Iterator, Optional

from sluice_ray import application as applications
from sluice_ray import executors as driven
from sluice_ray import shipping
from sluice_ray.actors import Application, driver_name, executor_name


INTERRUPT_S = 3.0


def say(line: str) -> None:
    """For people, beside the program's output."""
    print(f"sluice-ray: {line}", file=sys.stderr, flush=True)


def fail(line: str) -> "SystemExit":
    """To be raised."""
    say(line)
    return SystemExit(2)


def size(text: str) -> int:
    """Bytes of "512M", "1G" or a plain number."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"what is {text}? Write 512M or 2G")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def at_least_one(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 1 on is needed")
    return int(text)


def count_or_dash(text: str) -> int:
    """0 for "-"."""
    return 0 if text == "-" else at_least_one(text)


def found_program(text: str) -> pathlib.Path:
    """As a shell finds it."""
    path = text if "/" in text or os.path.exists(text) else shutil.which(text)
    if not path:
        raise argparse.ArgumentTypeError(f"{text} is not there")
    return pathlib.Path(path)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice-ray", description="Runs sluice programs on a Ray cluster.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--address",
            "--master",
            default="auto",
            help="ray://HOST:10001, or auto on a node of the cluster (the default)",
        )
        return command

    def add_executors(command: argparse.ArgumentParser, count: Callable[[str], int] = at_least_one) -> None:
        command.add_argument("--executors", type=count, default=2, metavar="E", help="how many (2)")
        command.add_argument("--cores", type=at_least_one, default=1, metavar="N", help="of each executor (1)")
        command.add_argument("--memory", type=size, default=1 << 30, metavar="M", help="of each executor (1G)")
        command.add_argument("program", type=found_program, metavar="PROGRAM")

    submit = add("submit", "Runs a program: a driver that is supervised, and executors. Prints the driver's output.")
    submit.add_argument("--name", help="of the application (the program's)")
    submit.add_argument("--files", nargs="+", action="extend", default=[], type=pathlib.Path, metavar="F", help=FILES)
    submit.add_argument("--driver-cores", type=float, default=1, metavar="N", help="that the driver takes in Ray (1)")
    submit.add_argument("--certs", type=pathlib.Path, metavar="DIR", help="of `sluice certs` (new ones are made)")
    add_executors(submit)
    submit.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")

    executors = add("executors", "Only executors, for a driver that runs elsewhere, until standard input ends.")
    executors.add_argument("--name", help="of them in Ray: those that a killed one has left are found again")
    executors.add_argument("--driver", required=True, metavar="HOST:PORT")
    executors.add_argument("--certs", required=True, metavar="DIR", help="of `sluice certs`; or - for standard input")
    add_executors(executors, count_or_dash)
    executors.add_argument("settings", nargs=argparse.REMAINDER, metavar="--sluice.NAME=VALUE", help="of executors")

    status = add("status", "Where driver and executors run, and how they have fared.")
    status.add_argument("--json", action="store_true")
    logs = add("logs", "The last lines that the driver, or an executor, has printed.")
    logs.add_argument("--follow", "-f", action="store_true", help="until the end, or Ctrl-C")
    logs.add_argument("--executor", type=int, metavar="I")
    stop = add("stop", "Ends an application.")
    stop.add_argument("--graceful", action="store_true", help="SIGTERM to the driver, and wait for its end")
    stop.add_argument("--timeout", type=float, metavar="S", help="of --graceful (none); what is left is killed then")
    for command in [status, logs, stop]:
        command.add_argument("--name", help="of the application (may be left out if there is only one)")
    add("list", "Names of all applications.")
    return parser


FILES = "for the working directory of driver and executors. End the list with another option, or --"


def main(argv: Optional[list[str]] = None) -> int:
    """The command; returns its exit status."""
    options = arguments().parse_args(argv)
    try:
        return {
            "submit": submit,
            "executors": executors,
            "status": status,
            "logs": logs,
            "stop": stop,
            "list": list_all,
        }[options.command](options)
    except shipping.NotShippable as error:
        raise fail(str(error)) from error
    except ConnectionError as error:
        say(f"no Ray at {options.address}: {error}")
        return 1
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # `| head` has read enough
        return 1


def described(options: argparse.Namespace, name: str, program_arguments: list[str]) -> Application:
    return {
        "name": name,
        "run": applications.new_run(),
        "program": options.program.name,
        "arguments": program_arguments,
        "executors": options.executors,
        "cores": options.cores,
        "memory": options.memory,
        "executor_settings": getattr(options, "settings", []),
    }


def connect_with_payload(options: argparse.Namespace, files: list[pathlib.Path]) -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-") as directory:
        shipping.payload(pathlib.Path(directory), options.program, files)
        applications.connect(options.address, pathlib.Path(directory))


# ---- Commands


def submit(options: argparse.Namespace) -> int:
    name = options.name or options.program.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise fail(f"{name}: letters, digits, '.', '_' and '-' make a name")
    certificates = shipping.read_member(options.certs) if options.certs else shipping.new_member(options.program)
    connect_with_payload(options, options.files)
    if name in applications.names():
        facts = applications.ask(driver_name(name), "status")
        if facts is None or facts["status"] is None:
            raise fail(f"{name} runs already; stop it, or give this one another --name")
        applications.remove(name)
    applications.start(described(options, name, options.arguments), certificates, options.driver_cores)
    say(f"{name} is submitted")
    follower = applications.Follower(driver_name(name), say)
    at = "" if options.address == "auto" else f" --address {options.address}"
    go_on = f"{name} goes on. To look at it: sluice-ray logs{at} --name {name} --follow, or status; to end it: stop"
    try:
        with interruptible(lambda: say(go_on)):
            for line in follower.lines(follow=True):
                print(line, flush=True)
    except KeyboardInterrupt:
        return 0
    if follower.status is None:
        say(f"{name} was stopped")
        return 1
    applications.remove(name)
    return follower.status


@contextlib.contextmanager
def interruptible(then: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ctrl-C ends this process with status 0 after `then`, whatever Ray does: an interrupt may come where Ray's client
    takes no notice of exceptions, or leaves it in a state in which it cannot be shut down."""

    def interrupted(*_: Any) -> None:
        then()
        end = threading.Timer(INTERRUPT_S, os._exit, [0])
        end.daemon = True
        end.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def executors(options: argparse.Namespace) -> int:
    driven.ignore_signals()
    orders = driven.Orders()
    try:
        certificates = orders.files() if options.certs == "-" else shipping.read_member(pathlib.Path(options.certs))
        driven.report("note", f"connecting to Ray at {options.address}")
        with driven.EndOfInput():
            connect_with_payload(options, [])
        name = options.name or f"executors-{applications.new_run()}"
        driven.run(described(options, name, []), options.address, options.driver, orders, certificates)
    except shipping.NotShippable as error:
        driven.report("problem", str(error))
        return driven.CANNOT
    except ConnectionError as error:
        driven.report("problem", f"no Ray at {options.address}: {error}")
        return driven.NO_RAY
    return 0  # the actors end with our connection


def status(options: argparse.Namespace) -> int:
    name = chosen(options)
    facts = applications.status(name)
    if options.json:
        print(json.dumps(facts))
        return 0
    print(f"{name}: {described_state(facts['driver'])}")
    for index, executor in facts["executors"].items():
        print(f"  executor {index}: {described_state(executor)}")
    return 0


def described_state(facts: Optional[dict[str, Any]]) -> str:
    if facts is None:
        return "does not answer: it is being started, its node was lost, or Ray has no node with room for it"
    seconds = time.time() - facts["since"]
    state = f"{facts['state']} since {seconds:.0f} s on {facts['host']}"
    if facts["pid"]:
        state += f", process {facts['pid']}"
    state += f", started {facts['starts']} times by an actor {time.time() - facts['born']:.0f} s old"
    if facts["statuses"]:
        state += f", last exit status {facts['statuses'][-1]}"
    return state


def logs(options: argparse.Namespace) -> int:
    name = chosen(options)
    actor = driver_name(name) if options.executor is None else executor_name(name, options.executor)
    follower = applications.Follower(actor, say)
    try:
        with interruptible():
            for line in follower.lines(options.follow):
                print(line, flush=options.follow)
    except KeyboardInterrupt:
        return 0
    if follower.gone:
        say(f"{actor} is not there" if not options.follow else f"{name} was stopped")
        return 1
    return 0


def stop(options: argparse.Namespace) -> int:
    name = chosen(options)
    ended = applications.stop(name, options.graceful, options.timeout)
    say(f"{name} is stopped" + (f", its exit status was {ended}" if ended is not None else ""))
    return 0


def list_all(options: argparse.Namespace) -> int:
    applications.connect(options.address)
    for name in applications.names():
        print(name)
    return 0


def chosen(options: argparse.Namespace) -> str:
    """Connects, and finds which application is meant."""
    applications.connect(options.address)
    names = applications.names()
    if options.name is None and len(names) == 1:
        return names[0]
    if options.name is None:
        raise fail(f"which one? --name {' | '.join(names)}" if names else "there is no application")
    if options.name not in names:
        raise fail(f"there is no application {options.name}")
    return options.name
