"""`sluice-ray executors`: executors for a driver that runs elsewhere, until standard input ends.

With `--sluice.master=ray://HOST:PORT` it is a child of the driver, which speaks to it by lines. Standard input has

    NAME BYTES        with `--certs -`: the files of a member, each followed by so many bytes, in any order
    COUNT             how many executors there are to be from now on; with `--executors -` one is awaited at the start

and standard output

    note: WORDS       for people
    asked: WORDS      the same, once Ray knows of the executors
    problem: WORDS    why this command ends, with one of the statuses below

The end of standard input is the only order to end: it comes however the driver dies. So signals are ignored unless a
person sits there; who stops a driver by a signal to all of its processes wants it to end in peace, with its executors.

An executor that ends with status 0 was let go by the driver. Another one takes its place if there are to be so many.

This command may be killed, and Ray's head start again: the executors stay, and the next command of the same `--name`
finds them. They end with this one when it ends as it should, and by themselves when they do not find their driver for
`executor-grace`.
"""

import contextlib
import os
import queue
import select
import signal
import socket
import threading
from typing import Any, Callable, NamedTuple, Optional

import ray

from sluice_ray import application as applications
from sluice_ray.actors import Application
from sluice_ray.shipping import MEMBER_FILES, NotShippable

NO_RAY = 1
CANNOT = 2
PATIENCE_S = 5.0  # before it is said what executors wait for, and between two looks at that
END_S = 8.0  # for Ray to take the executors back
ANY_HOST = ("0.0.0.0", "[::]")


def report(kind: str, words: str) -> None:
    """A line for the driver."""
    print(f"{kind}: {' '.join(words.split())}", flush=True)


class Orders:
    """Standard input, without a buffer: the thread that reads it would keep the interpreter, which wants to empty the
    buffer, from ending."""

    def __init__(self) -> None:
        self._source = open(0, "rb", buffering=0, closefd=False)

    def files(self) -> dict[str, bytes]:
        """Those of a member."""
        found: dict[str, bytes] = {}
        while set(found) != set(MEMBER_FILES):
            name, _, size = self._source.readline().decode().partition(" ")
            if name not in MEMBER_FILES or not size.strip().isdigit():
                raise NotShippable(f"standard input has no {', '.join(sorted(set(MEMBER_FILES) - set(found)))}")
            found[name] = self._read(int(size))
        return found

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self._source.read(size - len(data))):
            data += more
        return data

    def count(self) -> Optional[int]:
        """The next one; None at the end."""
        for line in iter(self._source.readline, b""):
            if line.strip().isdigit():
                return int(line)
        return None


class Placed(NamedTuple):
    """An executor has found a node."""

    number: int
    host: str


class Ended(NamedTuple):
    """An executor's program has ended."""

    number: int
    end: dict[str, Any]


class Lost(NamedTuple):
    """An actor, for good, or the connection to Ray."""

    number: int
    error: BaseException


class Wanted(NamedTuple):
    """How many there are to be; None: this is the end."""

    count: Optional[int]


class Pool:
    """The executors' actors. Threads: what happens is put into a queue by any, and looked at by one."""

    def __init__(self, application: Application, start: Callable[[int], Any], tell: Callable[[str, str], None]):
        self._application = application
        self._start = start
        self._tell = tell
        self._happened: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._next = 0
        self._actors: dict[int, Any] = {}
        self._hosts: dict[int, str] = {}  # of those that have found one
        self._count = 0
        self._said = ""

    def put(self, event: Any) -> None:
        self._happened.put(event)

    def run(self, count: int) -> None:
        """Until it is told to end."""
        self._count = count
        name = self._application["name"]
        there = applications.executor_indices(name)  # the command before this one was killed
        for number in there:
            with contextlib.suppress(ValueError):  # it has just ended
                actor = ray.get_actor(applications.executor_name(name, number), namespace=applications.NAMESPACE)
                self._take(number, actor)
        self._fill()
        self._tell("asked", f"{count} executors are asked for" + (f", {len(there)} are there" if there else ""))
        while True:
            try:
                event = self._happened.get(timeout=None if self._all_placed() else PATIENCE_S)
            except queue.Empty:
                self._say(self._room())
                continue
            if event == Wanted(None):
                for actor in self._actors.values():
                    ray.kill(actor)
                return
            self._see(event)
            self._fill()

    def _see(self, event: Any) -> None:
        if isinstance(event, Wanted):
            self._count = event.count or 0
        elif event.number not in self._actors:
            pass  # it was let go
        elif isinstance(event, Placed):
            self._hosts[event.number] = event.host
            self._say(f"{self._placed()} on nodes: {', '.join(sorted(self._hosts.values()))}")
        elif isinstance(event, Lost):
            if not isinstance(event.error, ray.exceptions.RayActorError):
                raise event.error
            self._drop(event.number)  # its program had ended for good
        elif event.end["is_final"]:
            self._drop(event.number)
        else:
            lines = "".join(f"; it said: {line}" for line in event.end["lines"])
            self._say(f"an executor on {event.end['host']} has ended with status {event.end['status']}{lines}")
            self._await_end(event.number, event.end["known"])

    def _fill(self) -> None:
        while len(self._actors) < self._count:
            self._take(self._next, self._start(self._next))

    def _take(self, number: int, actor: Any) -> None:
        self._next = max(self._next, number + 1)
        self._actors[number] = actor
        self._then(number, actor.place.remote(), Placed)
        self._await_end(number, None)

    def _drop(self, number: int) -> None:
        self._hosts.pop(number, None)
        ray.kill(self._actors.pop(number))

    def _await_end(self, number: int, known: Any) -> None:
        self._then(number, self._actors[number].next_end.remote(known), Ended)

    def _then(self, number: int, reference: Any, event: Callable[[int, Any], Any]) -> None:
        def done(future: Any) -> None:
            error = future.exception()
            self.put(Lost(number, error) if error else event(number, future.result()))

        reference.future().add_done_callback(done)

    def _all_placed(self) -> bool:
        return len(self._hosts) == len(self._actors)

    def _placed(self) -> str:
        return f"{len(self._hosts)} of {len(self._actors)} executors are"

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self._tell("note", words)

    def _room(self) -> str:
        """Why some have no place."""
        cores, memory = self._application["cores"], self._application["memory"]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        size = f"{cores} {'core' if cores == 1 else 'cores'} and {gib(memory)}"
        has = ", ".join(f"{r.get('CPU', 0):g} and {gib(r.get('memory', 0))}" for r in nodes) or "nothing"
        if not any(r.get("CPU", 0) >= cores and r.get("memory", 0) >= memory for r in nodes):
            return f"no node of Ray's is big enough for an executor with {size}: they have {has}"
        return (
            f"{self._placed()} on nodes, and the others, with {size} each, wait for room, or for their processes to "
            f"start (Ray's {len(nodes)} nodes have {has} in all; `ray status` knows what of that is taken)"
        )


def gib(size: float) -> str:
    return f"{size / (1 << 30):.3g} GiB"


def reached_at(driver: str, address: str) -> str:
    """Where nodes find the driver: HOST:PORT, in which 0.0.0.0 is this host as Ray sees it."""
    host, _, port = driver.rpartition(":")
    if host not in ANY_HOST:
        return driver
    nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    ours = facing(address)
    if ours.startswith("127.") and not all(map(is_ours, nodes)):
        raise NotShippable(
            f"Ray is at {address}, this host therefore at {ours}, where executors on {', '.join(nodes)} do not find "
            "it: name an address of this host that they can reach, by --sluice.listen=ADDRESS:PORT"
        )
    return f"{ours}:{port}"


def facing(address: str) -> str:
    """The address of this host that packets to Ray come from."""
    if not address.startswith("ray://"):
        return ray.util.get_node_ip_address()
    host, _, port = address.removeprefix("ray://").rpartition(":")
    family, kind, _, _, to = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(to)  # sends nothing
        ours = probe.getsockname()[0]
    return f"[{ours}]" if ":" in ours else ours


def is_ours(address: str) -> bool:
    """Of this host."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def run(application: Application, address: str, driver: str, orders: Orders, certificates: dict[str, bytes]) -> None:
    """Once connected to Ray; until standard input ends."""
    ignore_signals()  # Ray may have set its own
    first = application["executors"] or orders.count()
    if first is None:
        return
    at = reached_at(driver, address)
    report("note", f"executors are to find the driver at {at}")

    def start(number: int) -> Any:
        return applications.start_executor(application, certificates, at, number)

    pool = Pool(application, start, report)

    def obey() -> None:
        while (count := orders.count()) is not None:
            pool.put(Wanted(count))
        pool.put(Wanted(None))
        # Ray takes the executors back when it misses us; who has told us to end must not wait for a Ray that hangs.
        end = threading.Timer(END_S, os._exit, [NO_RAY])
        end.daemon = True
        end.start()

    threading.Thread(target=obey, daemon=True).start()
    pool.run(first)


def ignore_signals() -> None:
    """Unless a person has started us."""
    if not os.isatty(0):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class EndOfInput:
    """Ends this process with standard input while Ray is waited for, which may take long. Takes nothing from it."""

    def __init__(self) -> None:
        self._matters = True
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        self._matters = False  # from now on it is read

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(0, 0)  # of a socket or a pipe whose other end is closed this tells, without being asked
        poll.poll()
        if self._matters:
            os._exit(0)
