"""One run: senders, a job that is killed and started again, and the checks at its end."""
import collections
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import nodes
import oracle
import plan as plans
import proxy
import senders
import sinks

HANG_SECONDS = 20.0
PLACE_SECONDS = 6.0  # a place that is not passed in this time is given up
SLOWER = 4  # over a bad network, where a batch takes seconds
TAGS = {"follow": "f", "files": "d", "source": "s", "socket": "u"}


@dataclasses.dataclass
class Result:
    seed: int
    scenario: str
    mistakes: oracle.Mistakes
    places: collections.Counter
    kills: int = 0
    in_recovery: int = 0
    executor_kills: int = 0
    executor_places: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    executor_stops: int = 0
    # Of a bad network: see proxy.py.
    network: str = ""
    segments: int = 0
    segments_lost: int = 0
    cuts: int = 0
    stops: int = 0
    batches: int = 0
    lines: int = 0
    lost_by_socket: int = 0
    sinks: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    description: str = ""
    directory: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.mistakes.counts)


class Watch:
    """Follows what the job makes visible."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.entries: list[tuple[int, str, str, str, int]] = []
        self.seen: collections.Counter[str] = collections.Counter()  # lines by tag
        self.last_of_socket = -1
        self.batches: set[int] = set()
        self.offset = 0
        self.raw_files: set[str] = set()

    def look(self) -> bool:
        """True when there is something new."""
        path = self.directory / "ledger"
        if not path.exists():
            return False
        with open(path, "rb") as file:
            file.seek(self.offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self.offset += len(text)
        for line in text.decode().splitlines():
            batch, name, partition, what, pid = line.split(" ")
            self.entries.append((int(batch), name, partition, what, int(pid)))
            if int(batch):
                self.batches.add(int(batch))
            if name == "raw":
                self.read_raw(f"{batch}-{partition}")
        return bool(text)

    def read_raw(self, name: str) -> None:
        if name in self.raw_files:
            return
        self.raw_files.add(name)
        for line in (self.directory / "out" / "raw" / name).read_text().splitlines():
            self.seen[line[0]] += 1
            if line[0] == "u":
                self.last_of_socket = max(self.last_of_socket, int(line.split(" ", 2)[1]))


class Job:
    """One process of the job."""

    def __init__(self, run: "Run", kill: str | None):
        environment = dict(os.environ)
        environment.pop("SLUICE_KILL", None)
        environment["SLUICE_KILL_LOG"] = str(run.directory / "killed.txt")
        if kill:
            environment["SLUICE_KILL"] = kill
        self.log = open(run.directory / "log.txt", "ab")
        self.log.write(f"---- {kill or 'no place'}\n".encode())
        self.log.flush()
        self.process = subprocess.Popen(
            run.command, env=environment, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )
        self.pid = self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        status = self.process.wait()
        self.log.close()
        return status


class Chaos:
    """Kills and stops executors of a job while it runs."""

    def __init__(self, run: "Run", job: Job):
        self.run = run
        self.job = job
        self.known: set[int] = set()
        self.stopped: dict[int, float] = {}  # until when
        self.left = run.chance.randint(0, 3) if run.plan.master.startswith("local-cluster") else 0
        self.next = time.monotonic() + run.chance.uniform(0.05, 0.5)

    def executors(self) -> list[int]:
        try:
            children = pathlib.Path(f"/proc/{self.job.pid}/task").glob("*/children")
            pids = [int(pid) for path in children for pid in path.read_text().split()]
        except OSError:
            return []
        self.known.update(pids)
        return pids

    def look(self, now: float) -> None:
        for pid, until in list(self.stopped.items()):
            if now >= until:
                signal_to(pid, signal.SIGCONT)
                del self.stopped[pid]
        if self.left == 0 or now < self.next:
            return
        self.left -= 1
        chance = self.run.chance
        self.next = now + chance.uniform(0.05, 0.8)
        executors = self.executors()
        if not executors:
            return
        what = chance.choices(["one", "two", "all", "stop"], [55, 12, 5, 28])[0]
        if what == "stop":
            pid = chance.choice(executors)
            signal_to(pid, signal.SIGSTOP)
            self.stopped[pid] = now + chance.choice([0.2, 0.8, 1.5, 3.0])
            self.run.result.executor_stops += 1
            return
        count = {"one": 1, "two": 2, "all": len(executors)}[what]
        for pid in chance.sample(executors, min(count, len(executors))):
            signal_to(pid, signal.SIGKILL)
            self.run.result.executor_kills += 1

    def end(self) -> None:
        """No executor outlives its driver."""
        for pid in self.stopped:
            signal_to(pid, signal.SIGCONT)
        until = time.monotonic() + 5
        for pid in self.known:
            while is_executor(pid):
                if time.monotonic() > until:
                    self.run.mistakes.add("CORRUPT", f"executor {pid} outlives its driver {self.job.pid}")
                    break
                time.sleep(0.005)


def signal_to(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended


def is_executor(pid: int) -> bool:
    try:
        return b"--sluice-executor" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Run:
    def __init__(
        self, plan: plans.Plan, program: str, directory: pathlib.Path, server: str, certificates: str, bad_network: bool
    ):
        self.plan = plan
        self.hang_seconds = HANG_SECONDS * (SLOWER if bad_network else 1)
        self.place_seconds = PLACE_SECONDS * (SLOWER if bad_network else 1)
        # Two for each life that no checkpoint has left behind. Over a bad network one takes as long as all of them.
        self.journal_files_most = 2 * len(plan.lives) + 3 if bad_network else 8
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        kind = proxy.BadNetwork if bad_network else nodes.Nodes
        self.nodes = kind(plan.seed, directory, program, pathlib.Path(certificates)) if certificates else None
        if self.nodes:
            self.nodes.start()
        self.server = server  # directory of the PostgreSQL server
        self.directory = directory
        self.watch = Watch(directory)
        self.mistakes = oracle.Mistakes()
        self.result = Result(plan.seed, plan.scenario, self.mistakes, collections.Counter())
        if bad_network:
            self.result.network = self.nodes.weather.name
        self.chance = random.Random(f"instants {plan.seed}")
        self.senders: dict[str, senders.Sender] = {}
        self.command = [program, f"--directory={directory}", *self.arguments()]
        if self.nodes:
            self.command = self.nodes.driver(self.command)
        self.killed_lines = 0  # of killed.txt, by earlier lives
        self.over = False  # something went wrong that makes the rest pointless

    def arguments(self) -> list[str]:
        plan = self.plan
        host = self.nodes.outside if self.nodes else "127.0.0.1"
        for name in plan.inputs:
            rate = plan.rates[name]
            if name == "follow":
                seen = lambda: self.watch.seen["f"]  # noqa: E731
                self.senders[name] = senders.FollowSender(plan.seed, rate, self.directory, seen)
            elif name == "files":
                self.senders[name] = senders.FilesSender(plan.seed, rate, self.directory)
            elif name == "source":
                self.senders[name] = senders.SourceSender(plan.seed, rate, host)
            else:
                self.senders[name] = senders.SocketSender(plan.seed, rate, host)
        given = {
            "inputs": ",".join(plan.inputs),
            "host": host,
            "batch": plan.batch_ms,
            "checkpoint-batches": plan.checkpoint_batches,
            "block-interval": plan.block_interval_ms,
            "partitions": plan.partitions,
            "window": plan.window,
            "slide": plan.slide,
            "master": plan.master,
            "missed": plan.missed,
            "state-in": plan.state_in,
            "failed-output": plan.failed_output,
            "fail-every": plan.fail_every,
            "fail-times": plan.fail_times,
            "sinks": ",".join(plan.sinks),
            "rolling-bytes": plan.rolling_bytes,
            "rolling-age": plan.rolling_age_ms,
        }
        self.sinks = sinks.Sinks(plan, self.directory / "out", self.server)
        if "postgres" in plan.sinks:
            given["postgres"] = self.sinks.connection
        for name in ("source", "socket"):
            if name in self.senders:
                given[f"{name}-port"] = self.senders[name].port
        return [f"--{name}={value}" for name, value in given.items()]

    # ---- Lives

    def live(self, life: plans.Life) -> None:
        """Starts the job, lets it end as `life` says, and looks at how it ended."""
        job = Job(self, f"{life.place}:{life.count}" if life.kind == "place" else None)
        begun = time.monotonic()
        before = len(self.watch.batches)
        moved = look_at = begun
        stopped = False
        killed = False
        after = self.chance.uniform(0, self.plan.batch_ms / 1000)
        chaos = self.nodes.chaos(self.chance, self.result) if self.nodes else Chaos(self, job)
        while not job.ended():
            time.sleep(0.004)
            now = time.monotonic()
            chaos.look(now)
            if now >= look_at:
                self.sinks.look(self.mistakes, newest=2)
                look_at = now + 0.02
            if self.watch.look():
                moved = now
            batches = len(self.watch.batches) - before
            if now - moved > self.hang_seconds:
                self.mistakes.add("HANG", f"nothing for {self.hang_seconds} s in life {life}, pid {job.pid}")
                self.over = True
                job.kill()
                break
            if life.kind == "early":
                if now - begun >= life.seconds:
                    job.kill()
                    killed = True
                    break
            elif batches >= life.batches or (life.kind == "place" and now - begun > self.place_seconds):
                if life.kind == "batches" or (life.kind == "place" and not life.place.startswith("stream.graceful")):
                    time.sleep(after)
                    job.kill()
                    killed = True
                    break
                if not stopped:
                    job.process.send_signal(signal.SIGTERM)
                    stopped = True
        status = job.wait()
        chaos.end()
        self.watch.look()
        self.sinks.look(self.mistakes, newest=30)
        if killed and life.kind == "early":
            self.result.in_recovery += 1
        in_executors = self.places_of_executors(job.pid)
        self.judge(life, status, killed, stopped, in_executors)

    def places_of_executors(self, driver: int) -> int:
        """Counts the kills of this life at places inside executors."""
        path = self.directory / "killed.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        new, self.killed_lines = lines[self.killed_lines :], len(lines)
        places = [place for place, pid in map(str.split, new) if int(pid) != driver]
        self.result.executor_places.update(places)
        return len(places)

    def judge(self, life: plans.Life, status: int, killed: bool, stopped: bool, in_executors: int) -> None:
        if self.over:
            return
        if status == -signal.SIGKILL:
            self.result.kills += 1
            if life.kind == "place" and not killed:
                self.result.places[life.place] += 1
            elif life.kind == "place" and in_executors == 0:
                self.result.places["(place not reached)"] += 1
        elif status == 0 and stopped:
            self.result.stops += 1
            self.check_graceful(life)
        elif status == 3:
            self.result.places["(failed output)"] += 1
        elif status == 5 and "cluster" in self.plan.master:
            self.result.places["(state lost with its executors)"] += 1
        else:
            self.mistakes.add("CORRUPT", f"the job ended with status {status} in life {life}: {self.last_words()}")
            self.over = True

    def last_words(self) -> str:
        lines = (self.directory / "log.txt").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])[-500:]

    def check_graceful(self, life: plans.Life) -> None:
        """All that a receiver had stored when the stop came is processed before the job ends."""
        source = self.senders.get("source")
        if source is not None and self.watch.seen["s"] < source.acknowledged:
            self.mistakes.add(
                "LOSS",
                f"a graceful stop left {source.acknowledged - self.watch.seen['s']} acknowledged lines behind",
            )

    def come_to_the_end(self, tries: int = 10) -> None:
        """The last life: everything is processed, checkpoints go on for a while, and the job stops gracefully."""
        if self.nodes:
            self.nodes.calm_down()
        socket = self.senders.get("socket")
        connections = len(socket.connections) if socket else 0
        job = Job(self, None)
        moved = time.monotonic()
        finished_at = None
        batches_then = len(self.watch.batches)
        descriptors = 0
        settled = 3 * self.plan.checkpoint_batches + 5
        stopped = False
        while not job.ended():
            time.sleep(0.01)
            now = time.monotonic()
            if self.watch.look():
                moved = now
            if now - moved > self.hang_seconds:
                self.mistakes.add("HANG", f"nothing for {self.hang_seconds} s in the last life, pid {job.pid}")
                self.over = True
                job.kill()
                break
            if stopped:
                continue
            if finished_at is None:
                connected = not socket or socket.finishing.is_set() or len(socket.connections) > connections
                if len(self.watch.batches) >= batches_then + 5 and connected:
                    for sender in self.senders.values():
                        sender.finishing.set()
                    for name, sender in self.senders.items():
                        if name != "source":
                            sender.join(10)
                    finished_at = now
                    batches_then = len(self.watch.batches)
                continue
            come = self.all_come()
            if not come and now - finished_at > self.hang_seconds:
                come = True  # what is missing is told by the checks
            if not come:
                batches_then = len(self.watch.batches)
                descriptors = open_descriptors(job.pid)
            elif len(self.watch.batches) >= batches_then + settled or now - finished_at > 3 * self.hang_seconds:
                grown = fewest_descriptors(job.pid) - descriptors
                if descriptors and grown > 8:
                    self.mistakes.add("CORRUPT", f"{grown} more descriptors are open than before")
                job.process.send_signal(signal.SIGTERM)
                stopped = True
        status = job.wait()
        self.watch.look()
        if self.over:
            return
        if status == 3:  # an output that failed on purpose once more
            self.result.places["(failed output)"] += 1
            return self.come_to_the_end(tries)
        # Executors that live are given up now and then where signs of life are late.
        if status == 5 and self.result.network and tries > 0:
            self.result.places["(state lost with its executors)"] += 1
            return self.come_to_the_end(tries - 1)
        if status != 0:
            self.mistakes.add("CORRUPT", f"the job ended with status {status} in the last life: {self.last_words()}")
            self.over = True

    def all_come(self) -> bool:
        for name, sender in self.senders.items():
            if name == "socket":
                if sender.connections and sender.connections[-1][1] - 1 > self.watch.last_of_socket:
                    return False
            elif self.watch.seen[sender.tag] < len(sender.lines):
                return False
        # The newest batch may be on its way to its outputs.
        fragile = {batch for batch, name, *_ in self.watch.entries if name == "fragile"}
        return not self.plan.fail_every or self.watch.batches - fragile <= {max(self.watch.batches)}

    # ---- All of it

    def run(self) -> Result:
        begun = time.monotonic()
        for sender in self.senders.values():
            sender.start()
        hogs = []
        if self.plan.contention:
            loop = ["sh", "-c", "while kill -0 $PPID 2>/dev/null; do :; done"]  # no longer than this process
            hogs = [subprocess.Popen(loop) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            for life in self.plan.lives:
                self.live(life)
                if self.over:
                    break
            # An output that failed on purpose may have ended each of them before its time.
            while self.result.kills == 0 and not self.over:
                self.live(plans.Life("batches", batches=1))
            if not self.over:
                self.come_to_the_end()
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
            if self.nodes:
                self.nodes.stop()
        for sender in self.senders.values():
            sender.finishing.set()
            if sender.failure:
                self.mistakes.add("INFRA", sender.failure)
        self.check()
        self.result.seconds = time.monotonic() - begun
        self.result.description = self.plan.describe()
        self.result.directory = str(self.directory)
        return self.result

    def check(self) -> None:
        result = self.result
        result.sinks = self.plan.sinks
        result.batches = len(self.watch.batches)
        result.lines = sum(self.watch.seen.values())
        if result.kills == 0 or result.batches < 3 or result.lines == 0:
            self.mistakes.add("INFRA", f"{result.kills} kills, {result.batches} batches, {result.lines} lines")
        oracle.check_ledger(self.watch.entries, self.plan, self.mistakes)
        source = self.senders.get("source")
        for words in source.forgotten if source else []:
            self.mistakes.add("LOSS", f"an acknowledged position is forgotten: {words}")
        if self.over:
            return
        outputs = oracle.Outputs(self.directory / "out", self.mistakes)
        raw = oracle.check_outputs(self.plan, TAGS[self.plan.inputs[0]], outputs, self.mistakes)
        result.lost_by_socket = oracle.check_totals(raw, self.senders, self.mistakes)
        self.sinks.check(raw, self.mistakes)
        self.check_disk()

    def check_disk(self) -> None:
        """What the checkpoint directory has must not grow with the number of lives or batches."""
        checkpoint = self.directory / "checkpoint"
        limits = {
            "files in the journal": (list((checkpoint / "journal").glob("*")), self.journal_files_most),
            "files in the log of blocks": (list((checkpoint / "wal").glob("*")), self.journal_files_most),
            "manifests": (list(checkpoint.glob("checkpoint-*")), 3),
            "state files": (list(checkpoint.glob("state-*")), 40),
            "unfinished files": (list(checkpoint.glob(".*")), 1),
            "epochs": (list((checkpoint / "epochs").glob("*")), 17),
            "owed outputs": (list((checkpoint / "owed").glob("*")), 0),
        }
        for what, (files, most) in limits.items():
            if len(files) > most:
                self.mistakes.add("CORRUPT", f"{len(files)} {what} in the checkpoint directory, at most {most}")


def fewest_descriptors(pid: int) -> int:
    """Of a while: a merge of state files has all of them open."""
    fewest = open_descriptors(pid)
    for _ in range(30):
        time.sleep(0.01)
        fewest = min(fewest, open_descriptors(pid))
    return fewest


def open_descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
