"""What the outputs must be, computed in plain Python from the input of each batch as the job itself has logged it."""
import collections
import pathlib

CHAIN_MODULUS = 1_000_000_007
IDLE_BATCHES_MAX = 12
MISTAKES_MAX = 5


class Mistakes:
    """What is wrong, by kind; the first few of each in words."""

    KINDS = ("LOSS", "DUP", "CORRUPT", "HANG", "INFRA")

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.words: list[str] = []

    def add(self, kind: str, words: str, count: int = 1) -> None:
        self.counts[kind] += count
        if sum(word.startswith(kind) for word in self.words) < MISTAKES_MAX:
            self.words.append(f"{kind}: {words}")


class Outputs:
    """The files DIR/out/NAME/BATCH-PARTITION."""

    def __init__(self, directory: pathlib.Path, mistakes: Mistakes):
        self.directory = directory
        self.mistakes = mistakes

    def batches(self, name: str) -> dict[int, dict[int, str]]:
        """By batch and partition; what differed from an earlier try is a mistake."""
        found: dict[int, dict[int, str]] = collections.defaultdict(dict)
        for path in (self.directory / name).iterdir():
            if path.name.startswith(".tmp-"):
                continue  # of a process that was killed while it wrote
            if ".other-" in path.name:
                self.mistakes.add("CORRUPT", f"a batch that ran again gave something else: {name}/{path.name}")
                continue
            batch, partition = path.name.split("-")
            found[int(batch)][int(partition)] = path.read_text()
        return found

    def whole(self, name: str) -> dict[int, list[str]]:
        """Lines of each batch in the order of partitions, of outputs that say how many these are."""
        parts = self.batches(name)
        lines: dict[int, list[str]] = {}
        for batch, counts in self.batches(f"{name}_done").items():
            count = int(counts[0])
            missing = set(range(count)) - set(parts[batch])
            if missing:
                self.mistakes.add("LOSS", f"{name} of batch {batch} lacks partitions {sorted(missing)} of {count}")
            lines[batch] = [line for p in range(count) for line in parts[batch].get(p, "").splitlines()]
        for batch in set(parts) - set(lines):
            self.mistakes.add("LOSS", f"{name} of batch {batch} was never finished")
        return lines

    def single(self, name: str) -> dict[int, list[str]]:
        """Of outputs that the driver writes."""
        return {batch: parts[0].splitlines() for batch, parts in self.batches(name).items()}


def parse(line: str) -> tuple[str, int] | None:
    parts = line.split(" ")
    if len(parts) != 4 or parts[2] == "#":
        return None
    return parts[2], int(parts[3])


class Oracle:
    """The program of job.cc, one batch after the other. `expected[output][batch]` has the lines, in no order."""

    def __init__(self, plan, first_tag: str):
        self.plan = plan
        self.first_tag = first_tag
        self.totals: dict[str, tuple[int, int, int]] = {}
        self.last: dict[str, str] = {}
        self.expected: dict[str, dict[int, list[str]]] = collections.defaultdict(dict)

    def run(self, raw: dict[int, list[str]], slide_times: set[int]) -> None:
        window: collections.deque[tuple[int, list[str]]] = collections.deque()
        length = self.plan.window * self.plan.batch_ms
        for batch in sorted(raw):
            window.append((batch, raw[batch]))
            while window[0][0] <= batch - length:
                window.popleft()
            events = [event for event in map(parse, raw[batch]) if event is not None]
            self.one_batch(batch, events)
            if batch in slide_times:
                self.one_window(batch, [line for _, lines in window for line in lines])

    def one_batch(self, batch: int, events: list[tuple[str, int]]) -> None:
        values: dict[str, list[int]] = collections.defaultdict(list)
        for key, value in events:
            values[key].append(value)
        counts = [f"{key} {len(of_key)}" for key, of_key in values.items()]
        for name in ("counts", "sink", "fragile"):
            self.expected[name][batch] = counts

        for key in list(self.totals.keys() | values.keys()):
            chain, count, idle = self.totals.get(key, (0, 0, 0))
            of_key = values.get(key, [])
            idle = 0 if of_key else idle + 1
            for value in of_key:
                chain = (chain * 31 + value) % CHAIN_MODULUS
            self.totals[key] = (chain, count + len(of_key), idle)
            if idle > IDLE_BATCHES_MAX:
                del self.totals[key]
        self.expected["totals"][batch] = [f"{k} {chain} {n} {idle}" for k, (chain, n, idle) in self.totals.items()]

        for key, of_key in values.items():
            last = self.last.pop(key, None)
            for value in of_key:
                last = None if value % 10 == 7 else f"{last or ''},{value}"[-40:]
            if last is not None:
                self.last[key] = last
        self.expected["last"][batch] = [f"{key} {last}" for key, last in self.last.items()]
        self.expected["changes"][batch] = [f"{key} {self.last[key]}" for key in values if key in self.last]

    def one_window(self, batch: int, lines: list[str]) -> None:
        sums: dict[int, int] = collections.defaultdict(int)
        largest: dict[str, int] = {}
        for key, value in filter(None, map(parse, lines)):
            sums[value % 10] += value
            largest[key] = max(largest.get(key, value), value)
        self.expected["winv"][batch] = [f"{key} {value}" for key, value in sums.items()]
        self.expected["wplain"][batch] = [f"{key} {value}" for key, value in largest.items()]
        self.expected["wraw"][batch] = [line for line in lines if line.startswith(self.first_tag + " ")]


OF_WINDOWS = ("winv", "wplain", "wraw")


def check_outputs(plan, first_tag: str, outputs: Outputs, mistakes: Mistakes) -> dict[int, list[str]]:
    """Compares all outputs with the oracle; returns the raw lines of each batch."""
    raw = outputs.whole("raw")
    actual = {name: outputs.single(name) for name in ("sink", "totals", "last", "winv", "wraw")}
    actual |= {name: outputs.whole(name) for name in ("counts", "changes", "wplain")}
    if plan.fail_every:
        actual["fragile"] = outputs.single("fragile")
    if not raw:
        return raw
    # Slide times are known from any of them: one that is missing elsewhere is a mistake.
    some = set().union(*(actual[name] for name in OF_WINDOWS))
    slide = plan.slide * plan.batch_ms
    slide_times = {batch for batch in raw if some and (batch - min(some)) % slide == 0}
    if not some and len(raw) >= plan.slide * 3:
        mistakes.add("LOSS", "no window has ever slid")
    oracle = Oracle(plan, first_tag)
    oracle.run(raw, slide_times)
    for name, batches in actual.items():
        due = slide_times if name in OF_WINDOWS else set(raw)
        for batch in sorted(due - set(batches)):
            mistakes.add("LOSS", f"{name} of batch {batch} is missing")
        for batch in sorted(set(batches) - due):
            mistakes.add("CORRUPT", f"{name} of batch {batch} is there, and its input is not")
        for batch in sorted(due & set(batches)):
            expected = oracle.expected[name][batch]
            if sorted(expected) != sorted(batches[batch]):
                difference = collections.Counter(expected)
                difference.subtract(batches[batch])
                words = "; ".join(
                    f"{'lacks' if n > 0 else 'has'} {line!r}" for line, n in difference.items() if n != 0
                )
                mistakes.add("CORRUPT", f"{name} of batch {batch}: {words[:300]}")
    return raw


def check_totals(raw: dict[int, list[str]], senders: dict, mistakes: Mistakes) -> int:
    """Every line of a sender is in exactly one batch, once; or as its sender says. Returns how many sockets lost."""
    seen: collections.Counter[str] = collections.Counter()
    for lines in raw.values():
        seen.update(lines)
    lost_by_socket = 0
    for name, sender in senders.items():
        if name == "socket":
            lost_by_socket += check_socket(sender, seen, mistakes)
            expected = {line: min(seen[line], 1) for line in sender.lines}
        else:
            expected = sender.expected()
        for line, count in expected.items():
            have = seen.pop(line, 0)
            if have < count:
                mistakes.add("LOSS", f"{line!r} of sender {name}")
            elif have > count:
                mistakes.add("DUP", f"{line!r} of sender {name} is there {have} times", have - count)
    for line, count in seen.items():
        if count:
            mistakes.add("CORRUPT", f"{line!r} was never sent", count)
    return lost_by_socket


def check_socket(sender, seen: collections.Counter, mistakes: Mistakes) -> int:
    """Of each connection lines may be lost at its end, and only there. Returns how many are."""
    lost = 0
    for first, last in sender.connections:
        there = [number for number in range(first, last) if seen[sender.lines[number]]]
        end = there[-1] + 1 if there else first
        holes = (end - first) - len(there)
        if holes:
            mistakes.add("LOSS", f"{holes} lines of a connection before others that are there", holes)
        lost += last - end
    return lost


def check_ledger(entries: list[tuple[int, str, str, str, int]], plan, mistakes: Mistakes) -> None:
    """A batch that was followed by another is never run again; a sink gets nothing that it has said it has.

    On a cluster an executor that was stopped or cut off, and given up, may still be at what it wrote, which is then the
    same."""
    drivers = {pid for _, name, _, _, pid in entries if name == "start"}
    on_cluster = "cluster" in plan.master
    newest = 0
    said = 0
    for batch, name, _, what, pid in entries:
        if name == "sink_said":
            said = max(said, int(what)) if what != "-" else said
        if batch == 0 or (name == "fragile" and plan.failed_output == "go-on"):
            continue
        if batch < newest and on_cluster and pid not in drivers and what != "other":
            continue
        if batch < newest:
            mistakes.add("DUP", f"{name} of batch {batch} was written after something of batch {newest}, by {pid}")
        newest = max(newest, batch)
        if name == "sink" and batch <= said:
            mistakes.add("DUP", f"the sink was given batch {batch} again, and had said that it has {said}")
