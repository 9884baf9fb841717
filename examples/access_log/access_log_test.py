#!/usr/bin/env python3
"""Tests of access_log as a program.

    access_log_test.py PROGRAM

Reports against checks/access_log_oracle.sh, which computes them with awk; the same lines as file, directory and
standard input; the end of a demo by Ctrl-C and by --seconds, with nothing left behind.
"""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

here = pathlib.Path(__file__).resolve().parent
oracle = here.parent.parent / "checks" / "access_log_oracle.sh"
program = ""


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], capture_output=True, timeout=50, **options)


def made_up_log(seed: int, count: int) -> bytes:
    """Mostly log lines, some cut anywhere, some with an end of their own."""
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        client = f"10.0.{chance.randrange(4)}.{chance.randrange(9)}"
        path = "/" + "".join(chance.choice(["a", "b", "%20", "?x=1", '\\"', "/"]) for _ in range(chance.randrange(5)))
        request = chance.choice([f"GET {path} HTTP/1.1", f"GET {path}", "-", "", f"POST {path} x HTTP/2"])
        sent = chance.choice(["-", "0", "512", str(chance.randrange(10**6))])
        line = f'{client} - - [07/May/2015:10:05:03 +0000] "{request}" {chance.choice([200, 304, 404, 500])} {sent}'
        line += chance.choice(["", ' "-" "curl/8"', ' "http://a/" "Mozilla/5.0 (X)" 0.01'])
        if chance.randrange(20) == 0:
            line = line[: chance.randrange(len(line))]
        lines.append(line + chance.choice(["\n", "\n", "\n", "\r\n", "\r\r\n"]))
    return "".join(lines).encode()


class Once(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)

    def test_report_equals_the_oracle_by_every_way_in(self) -> None:
        for seed in range(5):
            log = self.path / f"{seed}.log"
            log.write_bytes(made_up_log(seed, 3000))
            expected = subprocess.run([oracle, log], capture_output=True, check=True).stdout
            self.assertEqual(run("--input", str(log), "--once", "--json").stdout, expected)
            with log.open("rb") as file:
                self.assertEqual(run("--input", "-", "--once", "--json", stdin=file).stdout, expected)
            directory = self.path / str(seed)
            directory.mkdir()
            log.rename(directory / "log")
            self.assertEqual(run("--input", str(directory), "--once", "--json").stdout, expected)

    def test_text_report_is_printable(self) -> None:
        done = run("--input", str(here / "nasty.log"), "--once")
        self.assertEqual(done.returncode, 0)
        self.assertTrue(all(byte == 10 or 32 <= byte < 127 for byte in done.stdout))

    def test_stream_of_a_file_counts_it_all(self) -> None:
        log = self.path / "log"
        log.write_bytes(made_up_log(9, 500))
        report = json.loads(run("--input", str(log), "--once", "--json").stdout)
        done = run("--input", str(log), "--json", "--batch", "100", "--seconds", "1")
        self.assertEqual(done.returncode, 0, done.stderr)
        batches = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual(batches[-1]["window"], report)
        self.assertEqual(batches[-1]["totals"]["status"], report["status"])
        self.assertEqual(sum(batch["batch"]["lines"] for batch in batches), 500)

    def test_mistakes_are_told(self) -> None:
        for arguments in ([], ["--input", "gone"], ["--once", "--input", "h:1"], ["--demo", "--once"], ["--nonsense"]):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, b""), arguments)
            self.assertTrue(done.stderr)
        self.assertEqual(run("--help").returncode, 0)


class Demo(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.environment = {**os.environ, "TMPDIR": self.directory.name}

    def check_end(self, output: str) -> None:
        total, written = output.splitlines()[-2:]
        self.assertEqual(total.split()[1], written.split()[0], output)  # what was written was counted
        self.assertGreater(int(written.split()[0]), 100)
        self.assertEqual(os.listdir(self.directory.name), [])

    def test_signals_end_it_cleanly(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen([program, "--demo"], stdout=subprocess.PIPE, text=True, env=self.environment)
            assert process.stdout
            first = process.stdout.readline()  # of the first batch
            second = process.stdout.readline()
            time.sleep(0.2)
            process.send_signal(number)
            rest = process.communicate(timeout=20)[0]
            self.assertEqual(process.returncode, 0)
            self.check_end(first + second + rest)

    def test_it_ends_by_itself_after_its_time(self) -> None:
        done = run("--demo", "--seconds", "2", text=True, env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_end(done.stdout)

    def test_closed_output_ends_it(self) -> None:
        process = subprocess.Popen([program, "--demo"], stdout=subprocess.PIPE, env=self.environment)
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=20), 0)
        self.assertEqual(os.listdir(self.directory.name), [])


if __name__ == "__main__":
    program = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
