"""A bad network between a driver and its executors, and between executors: every connection leads through a proxy that
holds bytes up as TCP does over such a network, and cuts connections. For machines whose kernel has no netem.
"""
import asyncio
import collections
import dataclasses
import pathlib
import random
import socket
import threading
import time

import nodes

SEGMENT_BYTES = 1460
WINDOW_BYTES = 256 << 10  # on its way in one direction; a sender of more has to wait


@dataclasses.dataclass
class Weather:
    """What a network is like, in seconds. One way."""

    name: str
    delay: float
    jitter: float
    # Part of the segments that are lost: with all behind them they come a retransmission later.
    lost: float
    # Time until a connection is cut, on the mean; 0: none is. There are nine, and a batch that takes longer than one of
    # them lasts is never done.
    cut_after: float
    batch_ms: int  # how long a batch takes at most, mostly
    timeout_ms: int  # executor-timeout of the driver

    retransmission = (0.2, 1.0)


def draw(seed: int) -> Weather:
    chance = random.Random(f"sluice kill network {seed}")
    # Signs of life that are lost are more than 1 s late: so many an executor that lives is given up, or none.
    timeout_ms = chance.choice([1000, 2000, 4000])
    return chance.choices(
        [
            Weather("slow", 0.2, 0.05, 0, 0, 4000, timeout_ms),
            Weather("lossy", 0.01, 0.01, 0.05, 0, 3000, timeout_ms),
            Weather("cut", 0.01, 0.01, 0, 20, 1000, timeout_ms),
            Weather("all", 0.2, 0.05, 0.05, 200, 6000, max(timeout_ms, 2000)),
        ],
        [15, 20, 20, 45],
    )[0]


class Proxy:
    """Runs in a thread of its own, from `start` to `stop`."""

    def __init__(self, weather: Weather, seed: int):
        self.weather = weather
        self.chance = random.Random(f"sluice kill proxy {seed}")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task] = set()
        self.calm = False  # nothing is cut any more
        self.segments = self.lost = self.cuts = 0

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        async def end() -> None:
            for server in self.servers:
                server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def lead(self, host: str, to_host: str, to_port: int) -> int:
        """The port of `host` from which connections lead there."""

        async def serve() -> asyncio.Server:
            return await asyncio.start_server(
                lambda reader, writer: self.carry(reader, writer, to_host, to_port), host, 0
            )

        server = asyncio.run_coroutine_threadsafe(serve(), self.loop).result(10)
        self.servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def carry(self, reader, writer, to_host: str, to_port: int) -> None:
        task = asyncio.current_task()
        self.tasks.add(task)
        there = None
        ways: list[asyncio.Task] = []
        try:
            await asyncio.sleep(self.weather.delay)
            other, there = await asyncio.open_connection(to_host, to_port)
            ways = [asyncio.ensure_future(self.one_way(*ends)) for ends in ((reader, there), (other, writer))]
            for_how_long = None
            if self.weather.cut_after and not self.calm:
                for_how_long = self.chance.expovariate(1 / self.weather.cut_after)
            done, _ = await asyncio.wait(ways, timeout=for_how_long, return_when=asyncio.FIRST_COMPLETED)
            if not done and self.calm:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            elif not done:
                self.cuts += 1
                # Half of them die without a word: neither end is told for a while.
                for way in ways:
                    way.cancel()
                await asyncio.sleep(self.chance.choice([0, self.chance.uniform(0.5, 4)]))
        except OSError:
            pass  # nobody listens there: who has connected sees the end
        except asyncio.CancelledError:
            pass  # the end of the run; asyncio has no other use for it here
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
            self.tasks.discard(task)

    async def one_way(self, reader, writer) -> None:
        """Ends with the stream, or when the other side does not take it any more."""
        weather = self.weather
        waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        come = asyncio.Event()
        room = asyncio.Event()
        room.set()
        on_the_way = 0

        async def deliver() -> None:
            nonlocal on_the_way
            while True:
                while not waiting:
                    come.clear()
                    await come.wait()
                at, segment = waiting[0]
                pause = at - self.loop.time()
                if pause > 0:
                    await asyncio.sleep(pause)
                waiting.popleft()
                if not segment:
                    return writer.write_eof() if writer.can_write_eof() else None
                writer.write(segment)
                await writer.drain()
                on_the_way -= len(segment)
                room.set()

        delivering = asyncio.ensure_future(deliver())
        last = 0.0
        try:
            while True:
                segment = await reader.read(SEGMENT_BYTES)
                self.segments += 1
                at = self.loop.time() + weather.delay + self.chance.uniform(0, weather.jitter)
                if self.chance.random() < weather.lost:
                    self.lost += 1
                    at += self.chance.uniform(*weather.retransmission)
                last = max(last, at)
                waiting.append((last, segment))
                come.set()
                if not segment:
                    break
                on_the_way += len(segment)
                while on_the_way > WINDOW_BYTES:
                    room.clear()
                    await room.wait()
            await delivering
        except OSError:
            pass  # one of the ends is gone
        finally:
            delivering.cancel()


class BadNetwork(nodes.Executors):
    """A driver and executors on addresses of loopback, each executor behind an address that it announces."""

    outside = "127.0.0.1"

    def __init__(self, number: int, directory: pathlib.Path, program: str, certificates: pathlib.Path):
        super().__init__(directory, program, certificates)
        self.net = f"127.77.{number % 250}"
        self.weather = draw(number)
        self.proxy = Proxy(self.weather, number)
        self.commands: list[list[str]] = [[]]
        self.driver_port = free_port(f"{self.net}.1")

    def start(self) -> None:
        self.proxy.start()
        for node in range(1, nodes.COUNT + 1):
            host = f"{self.net}.{node + 1}"
            port = free_port(host)
            to_driver = self.proxy.lead(host, f"{self.net}.1", self.driver_port)
            announced = self.proxy.lead(host, host, port)
            self.commands.append(
                [
                    self.program,
                    f"--sluice.executor={host}:{to_driver}",
                    f"--sluice.listen={host}:{port}",
                    f"--sluice.announce={host}:{announced}",
                ]
            )
        self.start_executors()

    def executor(self, node: int) -> list[str]:
        return self.commands[node]

    def driver(self, command: list[str]) -> list[str]:
        listen = f"--sluice.listen={self.net}.1:{self.driver_port}"
        return [*command, listen, f"--sluice.executor-timeout={self.weather.timeout_ms}", *self.settings]

    def stop(self) -> None:
        self.stop_executors()
        self.proxy.stop()

    def chaos(self, chance: random.Random, result) -> "Chaos":
        return Chaos(self, chance, result)

    def calm_down(self) -> None:
        """A run has to come to its end: the network stays slow and lossy, but holds."""
        self.proxy.calm = True


class Chaos:
    """Besides what the network does, an executor is killed now and then."""

    def __init__(self, network: BadNetwork, chance: random.Random, result):
        self.network = network
        self.chance = chance
        self.result = result
        self.left = chance.randint(0, 2)
        self.next = time.monotonic() + chance.uniform(1, 6)

    def look(self, now: float) -> None:
        if self.left == 0 or now < self.next:
            return
        self.left -= 1
        self.next = now + self.chance.uniform(1, 6)
        self.result.executor_kills += self.network.kill(self.chance.randint(1, nodes.COUNT))

    def end(self) -> None:
        proxy = self.network.proxy
        self.result.segments, self.result.segments_lost, self.result.cuts = proxy.segments, proxy.lost, proxy.cuts


def free_port(host: str) -> int:
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
