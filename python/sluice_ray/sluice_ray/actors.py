"""What runs on the nodes: an actor that keeps the driver's process, and one for each executor's.

Ray starts an actor again, on another node if need be, when its process or its node has died (max_restarts=-1). The
program is a child of the actor and dies with it (guard.py). These classes travel by value: nodes need Ray, and not this
package. The actor's working directory is what `shipping.payload` has made.
"""

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from typing import Any, Coroutine, Optional, TypedDict

import ray

from sluice_ray.keeper import Keeper

NAMESPACE = "sluice"
SHIPPED = "sluice-program"  # directory with the program, its libraries and the guard
# Statuses of docs/service.md that another start would not change: the end, a bad command line, a bad program.
FINAL = frozenset({0, 2, 3})
ENDED = "ended"  # in place of an address
ADDRESS_FILE = "driver"  # beside the certificates: where the driver is
# Statuses of executors (docs/cluster.md).
LET_GO = 0
NO_DRIVER = 3
ENDS_MAX = 5  # of an executor, before it is looked whether its driver is there


class Application(TypedDict):
    """What an application is started with. `run` tells apart those of the same name, one after the other."""

    name: str
    run: str
    program: str
    arguments: list[str]
    executors: int
    cores: int
    memory: int
    executor_settings: list[str]


def driver_name(application: str) -> str:
    """Of the actor."""
    return f"{application}:driver"


def executor_name(application: str, index: int) -> str:
    """Of the actor."""
    return f"{application}:executor-{index}"


class Kept:
    """An actor's program, with an event loop of its own in a thread of its own: Ray has the main one."""

    def __init__(self, application: Application, secrets: dict[str, bytes], final: frozenset[int]):
        self.application = application
        threading.Thread(target=end_with_raylet, daemon=True).start()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        directory = os.path.join(os.getcwd(), SHIPPED)
        self.program = os.path.join(directory, application["program"])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        libraries = [os.path.join(directory, "lib"), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        guard = os.path.join(directory, "guard.py")

        async def made() -> Keeper:
            return Keeper(self.command, guard, secrets, environment, final)

        self.keeper: Keeper = asyncio.run_coroutine_threadsafe(made(), self._loop).result()
        self.host: str = ray.util.get_node_ip_address()
        self.born = time.time()

    def begin(self, work: Coroutine) -> Any:
        """In the loop; a concurrent.futures.Future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def command(self, secrets: str) -> list[str]:
        """The command line of the next start."""
        raise NotImplementedError

    async def _facts(self) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        return {**self.keeper.facts(), "host": self.host, "node": node, "actor_pid": os.getpid(), "born": self.born}

    async def _read(self, after: int, wait_s: float) -> tuple[list[str], int, float, Optional[int]]:
        keeper = self.keeper
        if after > keeper.log.count:
            after = 0  # of an actor before this one
        await keeper.wait_until(lambda: keeper.log.count > after or keeper.ended is not None, wait_s)
        return *keeper.log.read(after), self.born, keeper.ended

    async def status(self) -> dict[str, Any]:
        """Facts about the program and its place."""
        return await asyncio.wrap_future(self.begin(self._facts()))

    async def read(self, after: int, wait_s: float) -> tuple[list[str], int, float, Optional[int]]:
        """Lines of the log from a number on, once there are some; the next number; which actor; the final status."""
        return await asyncio.wrap_future(self.begin(self._read(after, wait_s)))


class Driver(Kept):
    """Keeps the driver's process, and tells executors where it is."""

    def __init__(self, application: Application, secrets: dict[str, bytes]):
        super().__init__(application, secrets, FINAL)
        self._key = f"{application['name']}/{application['run']}".encode()
        self._address = ""
        self.begin(self._run())

    async def _run(self) -> None:
        before = recall(self._key)
        if before is not None:  # the actor has died after the application's end
            self._address = ENDED
            await self.keeper.say(f"the application had ended with status {before}")
            await self.keeper.end(before)
            return
        status = await self.keeper.run()
        if not await asyncio.to_thread(self._remember, status):
            return  # the application goes on elsewhere
        self._address = ENDED
        await self.keeper.say("the application has ended")
        await self.keeper.end(status)
        for index in range(self.application["executors"]):
            kill(executor_name(self.application["name"], index))

    def _remember(self, status: int) -> bool:
        """Has the end remembered before anybody is told of it: an actor started after that must not run the program.

        False if this actor does not count any more. While its node is cut off, Ray may have started the actor
        elsewhere; the program has ended for that reason then (SLU-209). The actor of our name is asked, which is this
        one, or not."""
        while True:
            try:
                actor = ray.get_actor(driver_name(self.application["name"]), namespace=NAMESPACE)
                if ray.get(actor.status.remote(), timeout=10)["born"] != self.born:
                    return False
                remember(self._key, status)
                return True
            except ValueError:
                return False  # removed
            except Exception:  # not to be reached now
                time.sleep(1)

    async def command(self, secrets: str) -> list[str]:
        port = int(self._address.rpartition(":")[2] or 0)
        port = free_port(port)
        address = f"{self.host}:{port}"
        if address != self._address:
            threading.Thread(target=self._tell_executors, args=(address,), daemon=True).start()
        self._address = address
        await self.keeper.say(f"the driver is started on {self._address}")
        return [
            self.program,
            *self.application["arguments"],
            f"--sluice.master=cluster[{self.application['executors']}]",
            f"--sluice.listen=0.0.0.0:{port}",
            f"--sluice.certs={secrets}",
        ]

    def _tell_executors(self, address: str) -> None:
        """Those that wait for an answer of an actor that has died hear of that only after a second."""
        for index in range(self.application["executors"]):
            with contextlib.suppress(Exception):  # it is not there yet; it will ask
                ray.get_actor(executor_name(self.application["name"], index), namespace=NAMESPACE).move.remote(address)

    async def _next_address(self, known: str, wait_s: float) -> str:
        await self.keeper.wait_until(lambda: self._address not in ("", known), wait_s)
        return self._address

    async def address(self, known: str, wait_s: float) -> str:
        """Where the driver listens, once that is not `known`; after the time in any case. ENDED in the end."""
        return await asyncio.wrap_future(self.begin(self._next_address(known, wait_s)))

    async def about(self) -> Application:
        """What the application was started with."""
        return self.application

    async def stop(self, graceful: bool) -> None:
        """SIGTERM or SIGKILL to the driver, which is not started again."""

        async def stopping() -> None:
            self.keeper.stop(graceful)
            await self.keeper.say("to be stopped" + (" gracefully" if graceful else ""))

        await asyncio.wrap_future(self.begin(stopping()))


class Executor(Kept):
    """Keeps an executor's process at the driver's present address: a fixed one, or what the driver's actor tells.

    A fixed one is that of a driver that nobody starts again there. When it has let the executor go, or has ended, the
    actor does, too."""

    def __init__(self, application: Application, secrets: dict[str, bytes], address: str = "", index: int = 0):
        super().__init__(application, secrets, frozenset({LET_GO, NO_DRIVER} if address else ()))
        self._address = address
        self._is_fixed = bool(address)
        self._index = index
        if not self._is_fixed:
            threading.Thread(target=self._follow_driver, daemon=True).start()
        self.begin(self._run())

    async def _run(self) -> None:
        await self.keeper.end(await self.keeper.run())
        if self._is_fixed:
            kill(executor_name(self.application["name"], self._index))

    def _follow_driver(self) -> None:
        name = driver_name(self.application["name"])
        while True:
            try:
                driver = ray.get_actor(name, namespace=NAMESPACE)
                while True:
                    address = ray.get(driver.address.remote(self._address, 30), timeout=45)
                    if address:
                        self.begin(self._move(address)).result()
            except Exception:  # the actor, or its node, or the way to it is lost for now
                time.sleep(0.2)

    async def _move(self, address: str) -> None:
        if address == self._address:
            return
        self._address = address
        if address == ENDED:
            self.keeper.stop(graceful=False)
        else:
            self.keeper.put(ADDRESS_FILE, f"{address}\n".encode())
        await self.keeper.say(f"the driver is at {address}")

    async def move(self, address: str) -> None:
        """The driver is there now."""
        await asyncio.wrap_future(self.begin(self._move(address)))

    async def command(self, secrets: str) -> list[str]:
        while not self._address:
            await self.keeper.wait_until(lambda: self._address, 3600)
        # A program that never comes as far as to miss its driver.
        if NO_DRIVER in self.keeper.final and self.keeper.ends >= ENDS_MAX and not listens(self._address):
            return ["/bin/sh", "-c", f"exit {NO_DRIVER}"]
        address = self._address if self._is_fixed else f"@{secrets}/{ADDRESS_FILE}"
        return [
            self.program,
            f"--sluice.executor={address}",
            f"--sluice.certs={secrets}",
            f"--sluice.cores={self.application['cores']}",
            f"--sluice.memory={self.application['memory']}",
            *self.application["executor_settings"],
        ]

    async def place(self) -> str:
        """The node's address."""
        return self.host

    async def _next_end(self, known: Any) -> dict[str, Any]:
        keeper = self.keeper
        before = known[1] if known and known[0] == self.born else 0  # or of an actor before this one
        while keeper.ends == before:
            await keeper.wait_until(lambda: keeper.ends > before, 3600)
        lines = [line for line in keeper.log.read(max(0, keeper.log.count - 20))[0] if not is_keepers(line)]
        return {
            "known": (self.born, keeper.ends),
            "host": self.host,
            "status": keeper.statuses[-1],
            "is_final": keeper.ended is not None,
            "lines": lines[-2:],
        }

    async def next_end(self, known: Any) -> dict[str, Any]:
        """How the program has ended, once it has ended after the end that is `known` (what this call has said)."""
        return await asyncio.wrap_future(self.begin(self._next_end(known)))


def is_keepers(line: str) -> bool:
    return line.startswith("sluice-ray: ")


def end_with_raylet() -> None:
    """Ray's workers look once a second whether there is a process of the raylet's number, and a dead one that nobody
    has waited for (in a container without an init process) counts, so that they may live on for ever."""
    raylet = os.environ.get("RAY_RAYLET_PID", "")
    if raylet.isdigit():
        with contextlib.suppress(ProcessLookupError):
            select.select([os.pidfd_open(int(raylet))], [], [])
        os._exit(1)


def listens(address: str) -> bool:
    """Somebody does at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def free_port(wanted: int) -> int:
    """The wanted port if it is free; else another one."""
    for port in [wanted, 0]:
        with socket.socket() as probe:
            # What the driver before has left in TIME_WAIT does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("no free port")


def kill(name: str) -> bool:
    """Ends an actor for good; whether there was one."""
    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    except ValueError:
        return False
    return True


def remember(key: bytes, status: int) -> None:
    """In Ray's head, for an actor that is started again after the application's end."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key, b"%d" % status, namespace=NAMESPACE.encode())


def recall(key: bytes) -> Optional[int]:
    """What `remember` was told."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key, namespace=NAMESPACE.encode())
    return None if value is None else int(value)
