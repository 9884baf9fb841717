"""Sinks that promise each batch once: the tables and directories that they write to, and what must be in them."""
import collections
import os
import pathlib
import sqlite3
import subprocess

import oracle

TABLE = "create table counts (batch bigint, word text, n bigint)"
# One a batch that is not settled; more would mean that they are never removed.
BATCH_ROWS_MAX = 2


class Sinks:
    """Made before the job runs: tables are there when it starts."""

    def __init__(self, plan, directory: pathlib.Path, server: str):
        self.names = plan.sinks
        self.directory = directory
        self.database = f"seed_{plan.seed}"
        self.server = f"host={server} user=postgres"
        self.connection = f"{self.server} dbname=postgres options=-csearch_path={self.database}"
        self.seen: dict[pathlib.Path, str] = {}
        directory.mkdir(parents=True, exist_ok=True)
        if "sqlite" in self.names:
            database = sqlite3.connect(directory / "counts.db")
            database.execute(TABLE)
            database.commit()
            database.close()
        if "postgres" in self.names:
            # A schema for each run, and what the sink itself makes goes there too.
            self.psql(f"drop schema if exists {self.database} cascade; create schema {self.database}; {TABLE}")

    def psql(self, text: str) -> list[str]:
        command = ["psql", "-XAtq", "-F", " ", "-v", "ON_ERROR_STOP=1", "-c", text, self.connection]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.splitlines()

    # ---- What they have, as lines "BATCH WORD N"

    def sqlite(self, mistakes: oracle.Mistakes) -> list[str]:
        database = sqlite3.connect(self.directory / "counts.db")
        lines = [f"{batch} {word} {n}" for batch, word, n in database.execute("select batch, word, n from counts")]
        (rows,) = database.execute("select count(*) from sluice_batches").fetchone()
        database.close()
        self.check_batch_rows("sqlite", rows, mistakes)
        return lines

    def postgres(self, mistakes: oracle.Mistakes) -> list[str]:
        lines = self.psql("select batch, word, n from counts")
        (rows,) = self.psql("select count(*) from sluice_batches")
        self.check_batch_rows("postgres", int(rows), mistakes)
        self.psql(f"drop schema {self.database} cascade")
        return lines

    def check_batch_rows(self, name: str, rows: int, mistakes: oracle.Mistakes) -> None:
        if rows > BATCH_ROWS_MAX:
            mistakes.add("CORRUPT", f"{rows} rows of batches are in sink {name}, at most {BATCH_ROWS_MAX}")

    def rolling(self, mistakes: oracle.Mistakes) -> list[str]:
        """The manifest's files. The last life has ended gracefully: `ls` shows the same, and nothing is hidden."""
        directory = self.directory / "rolling"
        manifest = read_manifest(directory)
        shown = {path.name: path.stat().st_size for path in directory.iterdir() if path.name != ".sluice"}
        if shown != manifest:
            mistakes.add("CORRUPT", f"the directory has {shown}, its manifest {manifest}")
        lines = []
        for name in manifest:
            text = (directory / name).read_text() if name in shown else ""
            if text and not text.endswith("\n"):
                mistakes.add("CORRUPT", f"{name} of the rolling files ends within a line")
            lines += text.splitlines()
        return lines

    def text(self, mistakes: oracle.Mistakes) -> list[str]:
        """A directory for each batch, with a file for each partition and nothing else when the job has ended."""
        lines = []
        for path in sorted((self.directory / "text").glob("at-*/*")):
            if path.name != "_SUCCESS":
                lines += path.read_text().splitlines()
        return lines

    def look(self, mistakes: oracle.Mistakes, newest: int) -> None:
        """As a reader does, at any time: a file that has its name is whole, and never becomes another one."""
        directory = self.directory / "text"
        if "text" not in self.names or not directory.exists():
            return
        for name in sorted(os.listdir(directory))[-newest:]:
            for part in (directory / name).glob("part-*"):
                content = part.read_text()
                if self.seen.setdefault(part, content) != content:
                    mistakes.add("CORRUPT", f"a file that a reader has seen has become another one: {part}")
                    self.seen[part] = content

    # ---- What they must have

    def check(self, raw: dict[int, list[str]], mistakes: oracle.Mistakes) -> None:
        expected: collections.Counter[str] = collections.Counter()
        for batch, lines in raw.items():
            words = collections.Counter(event[0] for event in map(oracle.parse, lines) if event is not None)
            expected.update(f"{batch} {word} {n}" for word, n in words.items())
        total = sum(int(line.split()[2]) for line in expected)
        for name in self.names:
            actual = collections.Counter(getattr(self, name)(mistakes))
            for line in sorted((expected - actual).elements()):
                mistakes.add("LOSS", f"sink {name} lacks {line!r}")
            for line in sorted((actual - expected).elements()):
                kind = "DUP" if line in expected else "CORRUPT"
                mistakes.add(kind, f"sink {name} has {line!r} {actual[line]} times, of {expected[line]}")
            sum_of_sink = sum(int(line.split()[2]) * count for line, count in actual.items())
            if sum_of_sink != total:
                mistakes.add("CORRUPT", f"sink {name} counts {sum_of_sink} lines, the input has {total}")


def read_manifest(directory: pathlib.Path) -> dict[str, int]:
    """Sizes by name, of the newest one: docs/formats.md, "Rolling files"."""
    newest = max((directory / ".sluice").glob("manifest-*"), key=lambda path: int(path.name.split("-")[1]))
    data = newest.read_bytes()[13:]  # the program itself checks the frame
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text() -> str:
        nonlocal position
        length = varint()
        position += length
        return data[position - length : position].decode()

    for _ in range(3):
        text()  # kind, application, output
    position += 8  # epoch
    varint()
    text()  # name under which the open file was found, and that file:
    text(), varint(), varint()
    position += 12
    sizes = {}
    for _ in range(varint()):
        name = text()
        sizes[name] = varint()
        position += 4
    return sizes
