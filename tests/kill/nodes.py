"""Executors that are started by hand; and network namespaces as the nodes of a cluster, which need root: node 0 has
the driver, the others an executor each.
"""
import os
import pathlib
import random
import subprocess
import threading
import time

COUNT = 3  # executors


def are_possible() -> bool:
    """Namespaces can be made here."""
    made = subprocess.run("ip netns add slk-try && ip netns del slk-try", shell=True, capture_output=True, check=False)
    return made.returncode == 0


def make_certificates(program: str, directory: pathlib.Path) -> None:
    """With the command `sluice` that lies beside the program."""
    command = pathlib.Path(program).resolve().parent / "sluice"
    subprocess.run([command, "certs", directory], check=True, capture_output=True)


class Executors:
    """Keeps an executor on each node but 0, from `start_executors` to `stop_executors`."""

    def __init__(self, directory: pathlib.Path, program: str, certificates: pathlib.Path):
        self.log = directory / "executors.txt"
        self.program = program
        self.settings = [f"--sluice.certs={certificates}"]
        self.executors: list[subprocess.Popen | None] = [None] * (COUNT + 1)
        self.ended = threading.Event()
        self.threads: list[threading.Thread] = []

    def executor(self, node: int) -> list[str]:
        """The command that starts one there."""
        raise NotImplementedError

    def start_executors(self) -> None:
        for node in range(1, COUNT + 1):
            thread = threading.Thread(target=self.keep_executor, args=(node,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop_executors(self) -> None:
        self.ended.set()
        for executor in self.executors:
            if executor is not None:
                executor.kill()
        for thread in self.threads:
            thread.join()

    def keep_executor(self, node: int) -> None:
        """An executor that ends is started again, as a supervisor does."""
        command = [*self.executor(node), "--sluice.cores=1", *self.settings]
        with open(self.log, "ab") as log:
            while not self.ended.is_set():
                self.executors[node] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
                if self.ended.is_set():
                    self.executors[node].kill()
                self.executors[node].wait()
                self.executors[node] = None
                time.sleep(0.05)

    def kill(self, node: int) -> int:
        """How many were running."""
        executor = self.executors[node]
        if executor is None:
            return 0
        executor.kill()
        return 1


class Nodes(Executors):
    """A switch and its nodes. Connections of all of them lead through a link each, which can be cut."""

    def __init__(self, number: int, directory: pathlib.Path, program: str, certificates: pathlib.Path):
        super().__init__(directory, program, certificates)
        self.net = f"10.77.{number % 250}"
        self.prefix = f"slk{number % 250}"
        self.outside = f"{self.net}.254"  # where the nodes reach this process
        self.cuts: dict[str, float] = {}  # commands that mend, and when

    def name(self, node: int) -> str:
        return f"{self.prefix}-{node}"

    def address(self, node: int) -> str:
        return f"{self.net}.{node + 1}"

    def start(self) -> None:
        self.remove()
        commands = [
            f"link add {self.prefix} type bridge",
            f"addr add {self.outside}/24 dev {self.prefix}",
            f"link set {self.prefix} up",
        ]
        for node in range(COUNT + 1):
            name, link = self.name(node), self.link(node)
            commands += [
                f"netns add {name}",
                f"link add {link} type veth peer name eth0 netns {name}",
                f"link set {link} master {self.prefix} up",
                f"-n {name} addr add {self.address(node)}/24 dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} link set lo up",
            ]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        self.start_executors()

    def link(self, node: int) -> str:
        return f"{self.prefix}v{node}"

    def remove(self) -> None:
        for node in range(COUNT + 1):
            subprocess.run(["ip", "netns", "del", self.name(node)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.prefix], capture_output=True, check=False)

    def stop(self) -> None:
        self.stop_executors()
        self.remove()

    def driver(self, command: list[str]) -> list[str]:
        listen = f"--sluice.listen={self.address(0)}:7077"
        return ["ip", "netns", "exec", self.name(0), *command, listen, *self.settings]

    def executor(self, node: int) -> list[str]:
        return ["ip", "netns", "exec", self.name(node), self.program, f"--sluice.executor={self.address(0)}:7077"]

    def chaos(self, chance: random.Random, result) -> "Chaos":
        return Chaos(self, chance, result)

    def calm_down(self) -> None:
        """All links are mended after each life."""

    # ---- What goes wrong

    def cut(self, node: int, how: str, until: float) -> int:
        """`how`: both (ways; the node is alone), out (what it says to the driver is lost), in (what it is told is).
        0 when it is cut off in this way already."""
        if how == "both":
            commands = f"link set {self.link(node)} down", f"link set {self.link(node)} up"
        else:
            at, to = (node, 0) if how == "out" else (0, node)
            route = f"blackhole {self.address(to)}/32"
            commands = f"-n {self.name(at)} route add {route}", f"-n {self.name(at)} route del {route}"
        if commands[1] in self.cuts:
            return 0
        subprocess.run(["ip", *commands[0].split()], check=True)
        self.cuts[commands[1]] = until
        return 1

    def mend(self, now: float = float("inf")) -> None:
        """What was to be cut until now."""
        for command, until in list(self.cuts.items()):
            if until <= now:
                subprocess.run(["ip", *command.split()], check=True)
                del self.cuts[command]


class Chaos:
    """Kills executors and cuts links while a job runs."""

    def __init__(self, nodes: Nodes, chance: random.Random, result):
        self.nodes = nodes
        self.chance = chance
        self.result = result
        self.left = chance.randint(0, 4)
        self.next = time.monotonic() + chance.uniform(0.1, 0.6)
        self.flaps: list[tuple[float, int, float]] = []

    def look(self, now: float) -> None:
        self.nodes.mend(now)
        while self.flaps and self.flaps[0][0] <= now:
            _, node, until = self.flaps.pop(0)
            self.result.executor_stops += self.nodes.cut(node, "both", until)
        if self.left == 0 or now < self.next:
            return
        self.left -= 1
        self.next = now + self.chance.uniform(0.05, 1.0)
        node = self.chance.randint(1, COUNT)
        what = self.chance.choices(["kill", "both", "out", "in", "flap", "two"], [30, 25, 12, 12, 12, 9])[0]
        long = self.chance.choice([0.1, 0.4, 1.2, 2.5])
        if what == "kill":
            self.result.executor_kills += self.nodes.kill(node)
        elif what == "flap":
            self.flaps = [(now + 0.25 * i, node, now + 0.25 * i + 0.12) for i in range(5)]
        elif what == "two":
            self.result.executor_stops += self.nodes.cut(node, "both", now + long)
            self.result.executor_stops += self.nodes.cut(node % COUNT + 1, "both", now + long)
        else:
            self.result.executor_stops += self.nodes.cut(node, what, now + long)

    def end(self) -> None:
        self.nodes.mend()
