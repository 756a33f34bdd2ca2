import unittest
import test_crash as tc
from support import *
class Plant(tc.CrashTest):
    makes_io_fail = True
    def test_above(self):
        device = self.add_logged("mem", "48M", above=["fault:volatile-cache"])
        self.make_file_system("ext4", device)
        with Mounted(device["block_device"]) as point:
            running, failures = self.start_work(point, threads=2, rounds=2)
            for t in running: t.join()
        ashlar("del", device["id"])
        r, _ = self.replay_each("ext4", 0, check=False)
        print("ABOVE", r.returncode, r.stderr[-600:])
    def test_below(self):
        tc.Crashes.test_what_is_left_keeps_all_promises(self)
