"""What feeds the job: each sender is a thread that makes lines "INPUT NUMBER KEY VALUE" until it is told to finish."""
import os
import pathlib
import random
import select
import socket
import threading
import time


class Sender(threading.Thread):
    """Threads: `sent` and what a subclass promises are read by others, also while it runs."""

    tag = "?"

    def __init__(self, seed: int, rate: float):
        super().__init__(daemon=True)
        self.seed = seed
        self.chance = random.Random(f"{self.tag} {seed}")
        self.rate = rate
        self.lines: list[str] = []  # by number
        self.sent = 0  # lines that the job can have seen
        self.finishing = threading.Event()
        self.failure = ""

    def make_line(self) -> str:
        """The next line; its content depends on seed and number alone."""
        number = len(self.lines)
        # A few keys that always come, many that come and go, and some lines without meaning.
        kind = self.chance.random()
        if kind < 0.05:
            key = "#"
        elif kind < 0.6:
            key = f"k{self.chance.randrange(5)}"
        else:
            key = f"a key that is longer than others {self.chance.randrange(300)}".replace(" ", "_")
        line = f"{self.tag} {number} {key} {self.chance.randrange(1000)}"
        self.lines.append(line)
        return line

    def run(self) -> None:
        try:
            self.send_all()
        except Exception as error:  # a bug of the harness must not look like one of the job
            self.failure = f"sender {self.tag}: {error!r}"

    def send_all(self) -> None:
        raise NotImplementedError

    def pause(self) -> int:
        """Waits a moment; how many lines are due then."""
        seconds = self.chance.uniform(0.002, 0.04)
        time.sleep(seconds)
        return int(self.chance.uniform(0, 2 * self.rate * seconds) + 0.5)

    def expected(self) -> dict[str, int]:
        """Lines that must all have come through, once each."""
        return dict.fromkeys(self.lines[: self.sent], 1)


class FollowSender(Sender):
    """Appends to a file, whose name it gives to a new one now and then."""

    tag = "f"

    def __init__(self, seed: int, rate: float, directory: pathlib.Path, seen):
        super().__init__(seed, rate)
        self.path = directory / "log"
        self.seen = seen  # how many lines of this sender the job has made visible

    def send_all(self) -> None:
        rotations = 0
        file = open(self.path, "ab", buffering=0)
        begun = 0  # the number of the file's first line
        while not self.finishing.is_set():
            text = "".join(self.make_line() + "\n" for _ in range(self.pause())).encode()
            # In pieces, so that a batch often finds the beginning of a line.
            cut = self.chance.randrange(len(text) + 1)
            file.write(text[:cut])
            if self.chance.random() < 0.3:
                time.sleep(self.chance.uniform(0, 0.01))
            file.write(text[cut:])
            self.sent = len(self.lines)
            # A file that came and went while no job looked is not seen (follow_file_input.h): it must have been seen.
            if self.chance.random() < 0.05 and self.seen() > begun:
                rotations += 1
                os.rename(self.path, f"{self.path}.{rotations}")
                file.close()
                file = open(self.path, "ab", buffering=0)
                begun = len(self.lines)
        file.close()


class FilesSender(Sender):
    """Moves finished files into a directory, some of them old ones."""

    tag = "d"

    def __init__(self, seed: int, rate: float, directory: pathlib.Path):
        super().__init__(seed, rate)
        self.directory = directory / "files"
        self.directory.mkdir()

    def send_all(self) -> None:
        count = 0
        while not self.finishing.is_set():
            due = 0
            for _ in range(self.chance.randint(1, 8)):
                due += self.pause()
            if due == 0:
                continue
            count += 1
            text = "".join(self.make_line() + "\n" for _ in range(due))
            if self.chance.random() < 0.3:
                text = text[:-1]  # a last line without an end is a line
            temporary = self.directory / f".{count}.part"
            temporary.write_text(text)
            if self.chance.random() < 0.4:
                age = self.chance.choice([86400 * 30, 3600, 90, -3600])
                os.utime(temporary, (time.time() - age, time.time() - age))
            # Names do not come in their order.
            temporary.rename(self.directory / f"{self.chance.randrange(1000):03}-{count}.txt")
            self.sent = len(self.lines)


def is_waiting(listener: socket.socket) -> bool:
    """Somebody new has connected: the one before may be gone without a word, over a link that was cut."""
    return bool(select.select([listener], [], [], 0)[0])


class SourceSender(Sender):
    """A source that can be read again, until what was read is acknowledged: then it forgets it."""

    tag = "s"

    def __init__(self, seed: int, rate: float, host: str):
        super().__init__(seed, rate)
        self.listener = socket.create_server((host, 0))
        self.listener.settimeout(0.05)
        self.port = self.listener.getsockname()[1]
        self.acknowledged = 0
        self.forgotten: list[str] = []  # requests for what was acknowledged

    def send_all(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except TimeoutError:
                if self.finishing.is_set() and self.acknowledged == len(self.lines):
                    return
                continue
            try:
                self.serve(connection)
            except OSError:
                pass  # the job was killed
            finally:
                connection.close()

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        request = b""
        while not request.endswith(b"\n"):
            request += self.received(connection)
        position = int(request.split()[1])
        # Perhaps of a receiver that was cut off when another one took its place: such a one stores nothing any more,
        # and so acknowledges nothing.
        forgotten = ""
        if position > len(self.lines):
            self.forgotten.append(f"asked from {position} on, {len(self.lines)} have been sent")
        if position < self.acknowledged:
            forgotten = f"asked from {position} on, {self.acknowledged} are acknowledged"
            # What it has forgotten it cannot send again.
            position = self.acknowledged
        connection.settimeout(0.001)
        answers = b""
        while not is_waiting(self.listener):
            due = self.pause()
            if not self.finishing.is_set():
                for _ in range(due):
                    self.make_line()
            count = len(self.lines)
            if position < count:
                connection.settimeout(5)
                connection.sendall("".join(line + "\n" for line in self.lines[position:count]).encode())
                connection.settimeout(0.001)
                position = self.sent = count
            try:
                answers += self.received(connection)
            except TimeoutError:
                continue
            *whole, answers = answers.split(b"\n")
            if whole and forgotten:
                self.forgotten.append(forgotten)
                forgotten = ""
            for answer in whole:
                self.acknowledged = max(self.acknowledged, int(answer.split()[1]))

    @staticmethod
    def received(connection: socket.socket) -> bytes:
        got = connection.recv(4096)
        if not got:
            raise ConnectionError("closed")
        return got

    def expected(self) -> dict[str, int]:
        return dict.fromkeys(self.lines, 1)


class SocketSender(Sender):
    """A server that sends and forgets. What a killed job had not logged is lost, always the end of a connection."""

    tag = "u"

    def __init__(self, seed: int, rate: float, host: str):
        super().__init__(seed, rate)
        self.listener = socket.create_server((host, 0))
        self.listener.settimeout(0.05)
        self.port = self.listener.getsockname()[1]
        self.connections: list[tuple[int, int]] = []  # numbers of the lines that went out on each: [first, last)

    def send_all(self) -> None:
        while not self.finishing.is_set():
            try:
                connection = self.listener.accept()[0]
            except TimeoutError:
                continue
            connection.settimeout(5)
            first = len(self.lines)
            self.connections.append((first, first))
            try:
                while not self.finishing.is_set() and not is_waiting(self.listener):
                    text = "".join(self.make_line() + "\n" for _ in range(self.pause())).encode()
                    self.connections[-1] = (first, len(self.lines))
                    cut = self.chance.randrange(len(text) + 1)
                    connection.sendall(text[:cut])
                    connection.sendall(text[cut:])
                    self.sent = len(self.lines)
                # Held open: the end of the connection would be an end of the input.
                self.held = connection
            except OSError:
                connection.close()  # the job was killed
