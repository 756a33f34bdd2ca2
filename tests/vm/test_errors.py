"""Bad input: one clear line, a status that is not 0, nothing half made."""
import json
import os
import unittest

from support import DeviceTest, NOTHING, ashlar, run, traces


class BadInput(DeviceTest):
    def refused(self, words, *expected, status=2):
        result = ashlar(*words, check=False)
        with self.subTest(command=" ".join(words)):
            self.assertEqual(result.returncode, status, result.stderr)
            self.assertEqual(result.stdout, "")
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            for text in expected:
                self.assertIn(text, result.stderr)
            self.assertEqual(traces(), NOTHING)

    def test_add(self):
        mem = ["add", "mem", "--size"]
        self.refused([*mem, "0"], "size")
        self.refused([*mem, "1000"], "1000", "512")
        self.refused([*mem, "5000", "--block-size", "4096"], "5000", "4096")
        self.refused([*mem, "64M", "--block-size", "3000"], "3000")
        self.refused([*mem, "64M", "--block-size", "8192"], "8192")
        self.refused([*mem, "64M", "--physical-block-size", "256"], "256")
        self.refused([*mem, "64M", "--depth", "0"], "depth", "4096")
        self.refused([*mem, "64M", "--depth", "5000"], "5000", "4096")
        self.refused([*mem, "64M", "--queues", "0"], "queues", "4096")
        self.refused([*mem, "64M", "--queues", "-1"], "-1")
        self.refused([*mem, "64M", "--io-max", "1000"], "1000")
        self.refused([*mem, "64M", "--io-max", "64M"], "64M")
        self.refused([*mem, "64M", "--id", "-3"], "-3")
        self.refused([*mem, "64M", "--id", "two"], "two")
        self.refused([*mem, "lots"], "lots")
        self.refused([*mem, "99999999T"], "99999999T")
        self.refused(["add", "mem"], "--size")
        self.refused(["add", "floppy", "--size", "1M"], "floppy")
        self.refused(["add"], "add --help")
        self.refused([*mem, "64M", "--frobnicate"], "--frobnicate")

    def test_other_commands(self):
        self.refused([], "--help")
        self.refused(["frobnicate"], "frobnicate")
        self.refused(["show"], "show --help")
        self.refused(["show", "x"], "x")
        self.refused(["show", "5"], "no such device", status=1)
        self.refused(["del"], "--all")
        self.refused(["del", "5"], "no such device", status=1)
        self.refused(["del", "ublkb"], "ublkb")
        self.refused(["del", "0", "--all"], "not both")
        self.refused(["del", "-1"], "-1")

    def test_log_that_cannot_be_written(self):
        self.refused(["add", "null", "--log", "/nowhere/at/all"], "/nowhere/at/all", status=1)

    def test_not_root(self):
        for words in (["add", "null"], ["list"], ["del", "0"], ["features"]):
            result = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ashlar",
                         *words, check=False)
            self.assertEqual(result.returncode, 1)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn("root", result.stderr)
        self.assertEqual(traces(), NOTHING)

    def test_state_directory_that_cannot_be_made(self):
        result = run("unshare", "-m", "sh", "-c",
                     "rm -rf /run/ashlar; mkdir -p /tmp/ro; mount -t tmpfs -o ro none /run; "
                     "ashlar add null", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("/run/ashlar", result.stderr)
        self.assertEqual(traces(), NOTHING)

    def test_output_that_cannot_be_written(self):
        result = run("sh", "-c", "ashlar features >/dev/full", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("cannot write", result.stderr)


class Help(unittest.TestCase):
    def test_everywhere(self):
        for words in ([], ["add"], ["add", "mem"], ["add", "null"], ["list"], ["show"], ["del"],
                      ["features"], ["doctor"]):
            result = ashlar(*words, "--help")
            self.assertIn("--help", result.stdout)
            self.assertEqual(result.stderr, "")

    def test_version(self):
        self.assertRegex(ashlar("--version").stdout, r"^ashlar \d+\.\d+\.\d+\n$")

    def test_doctor_says_that_it_works(self):
        report = json.loads(ashlar("doctor", "--json").stdout)
        self.assertTrue(report["works"])
        self.assertIn("works here", ashlar("doctor").stdout)


if __name__ == "__main__":
    unittest.main()
