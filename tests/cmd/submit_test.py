#!/usr/bin/env python3
"""What `sluice submit` hands to sluice-ray. The first argument is the command `sluice`."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SLUICE = sys.argv.pop(1)


class Submit(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = directory.name

    def put_sluice_ray(self, script: str) -> None:
        file = pathlib.Path(self.path, "sluice-ray")
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def run_sluice(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{self.path}:/usr/bin:/bin"}
        return subprocess.run([SLUICE, *arguments], capture_output=True, text=True, env=environment, check=False)

    def handed_on(self, *arguments: str) -> list[str]:
        self.put_sluice_ray('for each; do printf "%s\\n" "$each"; done')
        result = self.run_sluice("submit", *arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout.splitlines()

    def test_a_program_is_submitted_with_all_that_follows(self) -> None:
        arguments = ["--master", "ray://head:10001", "--executors", "3", "./hits", "--sluice.batch=100", "a b"]
        self.assertEqual(self.handed_on(*arguments), ["submit", *arguments])
        self.assertEqual(self.handed_on("./hits", "status", "--help"), ["submit", "./hits", "status", "--help"])

    def test_commands_of_applications_are_its_own(self) -> None:
        for command in [["status", "--json"], ["logs", "--follow"], ["stop", "--graceful"], ["list"]]:
            self.assertEqual(self.handed_on(*command), command)

    def test_help_is_that_of_sluice_ray(self) -> None:
        self.assertEqual(self.handed_on("--help"), ["submit", "--help"])
        self.assertEqual(self.handed_on("logs", "-h"), ["logs", "-h"])
        self.assertEqual(self.handed_on(), ["submit"])

    def test_its_exit_status_is_that_of_sluice_ray(self) -> None:
        self.put_sluice_ray("exit 3")
        self.assertEqual(self.run_sluice("submit", "./hits").returncode, 3)

    def test_without_sluice_ray_it_says_where_that_comes_from(self) -> None:
        result = self.run_sluice("submit", "./hits")
        self.assertEqual(result.returncode, 1)
        self.assertIn("SLU-413", result.stderr)
        self.assertIn("pip install", result.stderr)


if __name__ == "__main__":
    unittest.main()
