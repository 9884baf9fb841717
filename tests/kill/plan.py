"""What one run does, drawn from its seed: the same seed gives the same plan, though not the same instants."""
import dataclasses
import pathlib
import random
import re

INPUTS = ("follow", "files", "source", "socket")
SCENARIOS = (*INPUTS, "united")

# How often a place is passed: one that is passed many times a batch must not kill in the first batch each time.
# (prefix, smallest and largest count); the first that fits.
COUNTS = (
    ("journal.rotate", 1, 1),
    ("journal.before_remove", 1, 3),
    ("journal.mid_remove", 1, 4),
    ("journal.", 5, 40),
    ("wal.rotate", 1, 1),
    ("wal.before_remove", 1, 3),
    ("wal.mid_remove", 1, 4),
    ("wal.", 2, 25),
    ("receiver.", 2, 25),
    ("task.", 10, 200),
    ("executor.", 10, 200),
    ("driver.before_output", 10, 90),
    ("driver.after_output", 10, 90),
    ("driver.before_owed", 1, 2),
    ("driver.before_delivered", 1, 2),
    ("driver.", 3, 12),
    ("sink.mid_takeover", 1, 1),
    ("sink.after_takeover", 1, 1),
    ("sink.before_publish", 1, 4),
    ("sink.after_manifest", 1, 4),
    ("sink.after_publish", 1, 4),
    ("sink.mid_append", 3, 30),
    ("sink.", 3, 12),
    ("checkpoint.before_merge", 1, 1),
    ("checkpoint.", 1, 3),
    ("recovery.mid_state", 1, 8),
    ("recovery.mid_snapshot", 1, 4),
    ("recovery.before_batch", 1, 4),
    ("recovery.", 1, 1),
    ("stream.graceful", 1, 1),
)
DRIVER_PLACES = ("journal.", "wal.", "driver.", "checkpoint.", "recovery.", "stream.")
RECEIVER_PLACES = ("receiver.", "wal.")
SINKS = ("rolling", "sqlite", "postgres")


@dataclasses.dataclass
class Life:
    """One process of the job, and how it ends."""

    # "place": SIGKILL at a named place; "batches": SIGKILL some batches later; "early": SIGKILL after a moment, most
    # likely during recovery; "stop": a graceful stop in the middle.
    kind: str
    place: str = ""
    count: int = 0
    batches: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return {
            "place": f"{self.place}:{self.count}",
            "batches": f"after {self.batches} batches",
            "early": f"after {self.seconds * 1000:.0f} ms",
            "stop": f"graceful stop after {self.batches} batches",
        }[self.kind]


@dataclasses.dataclass
class Plan:
    seed: int
    scenario: str
    inputs: list[str]
    batch_ms: int
    checkpoint_batches: int
    block_interval_ms: int
    partitions: int
    window: int
    slide: int
    master: str
    missed: str
    failed_output: str
    fail_every: int
    fail_times: int
    contention: bool
    sinks: list[str]
    rolling_bytes: int
    rolling_age_ms: int
    rates: dict[str, float]
    state_in: str  # where the state "last" and the window with an inverse are kept
    lives: list[Life]

    def slow_down(self, batch_ms: int) -> None:
        """For a network over which a batch takes so long: with a shorter interval the stream would never catch up."""
        self.batch_ms = batch_ms
        self.missed = "merge"
        self.block_interval_ms = 200
        self.checkpoint_batches = min(self.checkpoint_batches, 2)
        self.rates = {name: 100.0 for name in self.rates}
        self.contention = False
        self.lives = self.lives[:3]
        for life in self.lives:
            life.batches = 1 + life.batches % 4
            life.count = min(life.count, 1 + life.count % 8)
            life.seconds *= 10

    def describe(self) -> str:
        values = dataclasses.asdict(self)
        del values["lives"], values["rates"]
        text = " ".join(f"{name}={value}" for name, value in values.items())
        return text + "\n  lives: " + "; ".join(str(life) for life in self.lives)


def kill_places(root: pathlib.Path) -> list[str]:
    """All places that docs/kill_points.md lists."""
    text = (root / "docs" / "kill_points.md").read_text()
    names: list[str] = []
    for row in re.finditer(r"^\|([^|]*)\|", text, re.M):
        names += re.findall(r"`([a-z_]+\.[a-z_]+)`", row[1])
    return names


def counts_of(place: str) -> tuple[int, int]:
    for prefix, least, most in COUNTS:
        if place.startswith(prefix):
            return least, most
    return 1, 10


def draw(
    seed: int, places: list[str], scenario: str | None, sinks: tuple[str, ...] = SINKS, master: str | None = None
) -> Plan:
    """Of the sinks those that can be used here are drawn. `master`: of a cluster, whose executors are killed, too."""
    # Seeds that follow one another must not give alike numbers.
    chance = random.Random(f"sluice kill {seed}")
    drawn = chance.choice(SCENARIOS)
    scenario = scenario or drawn
    if scenario == "united":
        inputs = chance.sample(INPUTS, chance.randint(2, 4))
    else:
        inputs = [scenario]
    receivers = sum(name in ("source", "socket") for name in inputs)
    window = chance.randint(2, 8)
    slide = chance.choice([1, 1, 1, 2, 3, window])
    fails = chance.random() < 0.4
    of_sinks = random.Random(f"sluice kill sinks {seed}")
    drawn_sinks = [name for name in SINKS if of_sinks.random() < 0.5 and name in sinks]
    if random.Random(f"sluice kill text {seed}").random() < 0.5:
        drawn_sinks.append("text")
    plan = Plan(
        seed=seed,
        scenario=scenario,
        inputs=inputs,
        batch_ms=chance.choice([20, 30, 40, 50, 70, 100]),
        checkpoint_batches=chance.choice([1, 1, 2, 3, 4, 5, 8, 12, 20]),
        block_interval_ms=chance.choice([5, 10, 30, 200]),
        partitions=chance.randint(1, 3),
        window=window,
        slide=slide,
        master=f"local[{receivers + chance.randint(1, 2)}]",
        missed=chance.choice(["merge", "merge", "run"]),
        failed_output=chance.choice(["stop", "go-on"]),
        fail_every=chance.randint(5, 12) if fails else 0,
        fail_times=chance.choice([1, 2, 3, 4]),
        contention=chance.random() < 1 / 3,
        sinks=drawn_sinks,
        rolling_bytes=of_sinks.choice([200, 1000, 5000]),
        rolling_age_ms=of_sinks.choice([100, 500, 60_000]),
        rates={name: chance.choice([100.0, 300.0, 1000.0]) for name in inputs},
        state_in=random.Random(f"sluice kill last {seed}").choice(["memory", "memory", "rocksdb"]),
        lives=[],
    )
    if master:
        plan.master = master
        plan.state_in = "memory"
    else:
        places = [place for place in places if not place.startswith("executor.")]
    if master and master.startswith("cluster"):  # executors are started once
        places = [place for place in places if place.startswith(DRIVER_PLACES)]
    possible = [place for place in places if receivers or not place.startswith(RECEIVER_PLACES)]
    if "source" not in inputs:
        possible = [place for place in possible if not place.startswith("receiver.")]
    possible = [place for place in possible if is_passed_by(place, drawn_sinks)]
    if not (fails and plan.failed_output == "go-on" and plan.fail_times >= 3):
        possible.remove("driver.before_owed")
        possible.remove("driver.before_delivered_record")
    if plan.state_in != "rocksdb":
        possible = [place for place in possible if not place.endswith("_snapshot")]
    for _ in range(chance.randint(7, 9)):
        plan.lives.append(draw_life(chance, possible))
        # Killed while it recovers from a kill, and once more while it recovers from that.
        while plan.lives[-1].kind != "stop" and chance.random() < 0.3 and depth(plan.lives) < 3:
            plan.lives.append(draw_recovery(chance, possible))
    if master and master.startswith("cluster"):
        # Fewer and longer ones: links are cut for up to seconds.
        plan.lives = plan.lives[:4]
        for life in plan.lives:
            life.batches += chance.randint(15, 40) if life.kind == "batches" else 0
    return plan


def is_passed_by(place: str, sinks: list[str]) -> bool:
    if not place.startswith("sink.") or place in ("sink.before_commit", "sink.after_commit"):
        return True
    if place.endswith("database_commit"):
        return "sqlite" in sinks or "postgres" in sinks
    return "rolling" in sinks


def draw_life(chance: random.Random, possible: list[str]) -> Life:
    kind = chance.choices(["place", "batches", "stop"], [60, 30, 10])[0]
    if kind == "place":
        place = chance.choice(possible)
        least, most = counts_of(place)
        life = Life(kind, place, chance.randint(least, most), batches=chance.randint(12, 25))
        if place.startswith("stream.graceful"):
            life.batches = chance.randint(3, 10)
        return life
    return Life(kind, batches=chance.randint(3, 12))


def draw_recovery(chance: random.Random, possible: list[str]) -> Life:
    if chance.random() < 0.5:
        return Life("early", seconds=chance.uniform(0.005, 0.12))
    place = chance.choice([place for place in possible if place.startswith("recovery.")])
    least, most = counts_of(place)
    return Life("place", place, chance.randint(least, most), batches=chance.randint(3, 12))


def depth(lives: list[Life]) -> int:
    """How many kills in a row are meant to hit a recovery."""
    count = 0
    for life in reversed(lives):
        if life.kind != "early" and not life.place.startswith("recovery."):
            break
        count += 1
    return count
