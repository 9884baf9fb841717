"""A program that is kept running: started again with back-off when it ends, its last lines remembered."""

import asyncio
import collections
import os
import shutil
import signal
import sys
import tempfile
import time
from secrets import token_hex
from typing import Any, Awaitable, Callable, Optional

LINES_MAX = 20_000
LINE_BYTES_MAX = 64 << 10
DELAY_MIN_S = 0.05
DELAY_MAX_S = 10.0
GOOD_RUN_S = 10.0  # after which the back-off begins anew


class Log:
    """The last lines of a text that grows. Lines are numbered from 0, and keep their numbers."""

    def __init__(self, lines_max: int = LINES_MAX):
        self._lines: collections.deque[str] = collections.deque(maxlen=lines_max)
        self._rest = b""
        self.count = 0

    def add(self, data: bytes) -> None:
        """Bytes as they come; a line is there when its end is, or when it is very long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.add_line(line.decode(errors="replace"))
        if len(self._rest) > LINE_BYTES_MAX:
            self.end_line()

    def end_line(self) -> None:
        if self._rest:
            self.add_line(self._rest.decode(errors="replace"))
            self._rest = b""

    def add_line(self, line: str) -> None:
        self._lines.append(line)
        self.count += 1

    def read(self, after: int, lines_max: int = 1000) -> tuple[list[str], int]:
        """Lines from number `after` on that are still there, and the number of the next one."""
        first = max(after, self.count - len(self._lines))
        at = first - (self.count - len(self._lines))
        lines = [self._lines[i] for i in range(at, min(at + lines_max, len(self._lines)))]
        return lines, first + len(lines)


class Keeper:
    """Runs a program under the guard until it has ended for good.

    `command(directory)` gives the command line for a start; it may wait. `directory` is a private one with `secrets`
    (name to content) in it, and goes when the program does. A status in `final` is not followed by another start.
    Threads: all of it belongs to one event loop.
    """

    def __init__(
        self,
        command: Callable[[str], Awaitable[list[str]]],
        guard: str,
        secrets: dict[str, bytes],
        environment: dict[str, str],
        final: frozenset[int] = frozenset(),
    ):
        self._command = command
        self._guard = guard
        self._secrets = secrets
        self._environment = environment
        self._directory: Optional[str] = None  # the private one, while it is there
        self.final = final
        self._guarding: Optional[asyncio.subprocess.Process] = None
        self._unwanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self.log = Log()
        self.starts = 0
        self.ends = 0
        self.pid = 0  # of the program while it runs
        self.since = time.time()  # of its start, or end
        self.statuses: collections.deque[int] = collections.deque(maxlen=10)  # of the last ends
        self.ended: Optional[int] = None  # the status, since `end`

    async def run(self) -> int:
        """Until a start is not to be followed by another one; the program's last status. `end` makes it known."""
        delay = DELAY_MIN_S
        while True:
            begin = time.monotonic()
            status = await self._run_once()
            self.statuses.append(status)
            self.ends += 1
            self.pid, self.since = 0, time.time()
            if status in self.final or self._unwanted.is_set():
                break
            if time.monotonic() - begin > GOOD_RUN_S:
                delay = DELAY_MIN_S
            await self.say(f"the program has ended with status {status}, and is started again in {delay:g} s")
            try:
                await asyncio.wait_for(self._unwanted.wait(), delay)
                break
            except asyncio.TimeoutError:
                delay = min(delay * 2, DELAY_MAX_S)
        await self.say(f"the program has ended with status {status}")
        return status

    async def end(self, status: int) -> None:
        """The program has ended for good."""
        self.ended = status
        await self._notify()

    async def _run_once(self) -> int:
        directory = new_path()
        command = await self._command(directory)  # may take long, and we may be killed: there is nothing on disk yet
        try:
            make_private(directory, self._secrets)
            self._directory = directory
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-I", "-S", self._guard, directory, *command],
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        except BaseException:
            self._directory = None
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._guarding = process
        if self._unwanted.is_set():
            process.kill()
        self.starts += 1
        reader = asyncio.ensure_future(self._read(process))
        status = await process.wait()
        # Whom the program has left behind may hold the pipe open.
        await asyncio.wait([reader], timeout=1)
        reader.cancel()
        self._guarding = None
        self.log.end_line()
        self._directory = None
        shutil.rmtree(directory, ignore_errors=True)  # in case the guard was killed
        return status if status >= 0 else 128 - status

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        first = await process.stdout.readline()
        if first.strip().isdigit():
            self.pid, self.since = int(first), time.time()
        while data := await process.stdout.read(1 << 16):
            self.log.add(data)
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def say(self, line: str) -> None:
        """A line of our own in the program's log."""
        self.log.add_line(f"sluice-ray: {line}")
        await self._notify()

    async def wait_until(self, true: Callable[[], Any], seconds: float) -> None:
        """Until `true()`, at most so long. Who changes something that is waited for calls `say`."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(true), seconds)
            except asyncio.TimeoutError:
                pass

    def put(self, name: str, content: bytes) -> None:
        """A file of the private directory: of the one that is there, where it takes the place of one of that name as a
        whole, and of those to come."""
        self._secrets = {**self._secrets, name: content}
        if self._directory is None:
            return
        written = os.path.join(self._directory, f".{name}")
        try:
            write_private(written, content)
            os.rename(written, os.path.join(self._directory, name))
        except FileNotFoundError:
            pass  # the program has just ended, and its directory goes

    def signal(self, number: int) -> None:
        """SIGTERM or SIGKILL to the program, if it runs."""
        guarding = self._guarding
        if guarding is None or guarding.stdin is None:
            return
        if number == signal.SIGTERM:
            guarding.stdin.write(b"t")
        else:
            guarding.stdin.close()

    def stop(self, graceful: bool) -> None:
        """Ends the program, and it is not started again."""
        self._unwanted.set()
        self.signal(signal.SIGTERM if graceful else signal.SIGKILL)

    def facts(self) -> dict[str, Any]:
        """For people, and tests."""
        return {
            "state": "runs" if self.pid else "ended" if self.ended is not None else "between two starts",
            "pid": self.pid,
            "since": self.since,
            "starts": self.starts,
            "statuses": list(self.statuses),
            "status": self.ended,
        }


def new_path() -> str:
    """Of a directory to be, in memory where that is possible."""
    memory = "/dev/shm"
    return os.path.join(memory if os.access(memory, os.W_OK) else tempfile.gettempdir(), f"sluice-ray-{token_hex(8)}")


def make_private(directory: str, files: dict[str, bytes]) -> None:
    """A new directory that only we can read, with these files."""
    os.mkdir(directory, 0o700)
    for name, content in files.items():
        write_private(os.path.join(directory, name), content)


def write_private(path: str, content: bytes) -> None:
    """A new file that only we can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
