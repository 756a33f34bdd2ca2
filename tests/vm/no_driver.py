"""On a kernel whose ublk driver is not loaded: what the commands say. Run apart from the others
(vm/run --no-driver)."""
import os
import unittest

from support import ashlar


class NoDriver(unittest.TestCase):
    def setUp(self):
        self.assertFalse(os.path.exists("/dev/ublk-control"), "the driver is loaded here")

    def test_one_line_that_says_what_to_type(self):
        for words in (["add", "null"], ["add", "mem", "--size", "1G"], ["list"], ["show", "0"],
                      ["del", "0"], ["del", "--all"], ["features"]):
            result = ashlar(*words, check=False)
            self.assertEqual(result.returncode, 1, words)
            self.assertEqual(result.stdout, "", words)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn("modprobe ublk_drv", result.stderr)

    def test_doctor(self):
        result = ashlar("doctor", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("does not work here yet", result.stdout)


if __name__ == "__main__":
    unittest.main()
