"""Disks that get another size while they are in use."""
import os
import subprocess
import unittest

from support import (DeviceTest, Mounted, add, ashlar, ashlar_json, fio, kernel_features,
                     kill_server, run, wait_until)

MIB = 1 << 20


def size_of(device):
    return int(run("blockdev", "--getsize64", device["block_device"]).stdout)


class Resize(DeviceTest):
    def setUp(self):
        super().setUp()
        if "update_size" not in kernel_features():
            self.skipTest("the driver has no UPDATE_SIZE before 6.16; see OldDriver")

    def grows_under_load(self, *words):
        device = add(*words)
        path = device["block_device"]
        run("mkfs.ext4", "-q", path)
        with Mounted(path) as directory:
            with subprocess.Popen(
                    ["fio", "--name=load", f"--directory={directory}", "--ioengine=io_uring",
                     "--rw=randwrite", "--bs=4k", "--iodepth=8", "--size=16M", "--time_based",
                     "--runtime=6", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64",
                     "--fsync=32"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    cwd="/tmp") as load:
                wait_until(lambda: ashlar_json("stats", device["id"])["write"]["count"] > 100,
                           "load")
                for size in (96, 160, 256):
                    ashlar("resize", device["id"], f"{size}M")
                    run("resize2fs", path)
                output = load.communicate(timeout=120)[0]
                self.assertEqual(load.returncode, 0, output[-2000:])
            about = os.statvfs(directory)
            self.assertGreater(about.f_blocks * about.f_frsize, 200 * MIB)
            # What is new is real.
            run("dd", "if=/dev/urandom", f"of={directory}/large", "bs=1M", "count=150",
                "conv=fsync")
        run("e2fsck", "-fn", path)
        self.assertEqual(size_of(device), 256 * MIB)
        return device

    def test_memory_grows_under_a_file_system(self):
        self.grows_under_load("mem", "--size", "64M", "--queues", "2")

    def test_a_file_grows_under_a_file_system(self):
        device = self.grows_under_load("file", "/tmp/grows.img", "--create", "--size", "64M",
                                       "--recovery", "reissue", "--supervise")
        self.assertEqual(os.path.getsize("/tmp/grows.img"), 256 * MIB)
        pid = ashlar_json("show", device["id"])["pid"]
        kill_server(pid)
        wait_until(lambda: ashlar_json("show", device["id"])["pid"] not in (None, pid) and
                   ashlar_json("show", device["id"])["state"] == "live", "the next server")
        self.assertEqual(size_of(device), 256 * MIB)
        run("e2fsck", "-fn", device["block_device"])

    def test_a_part_of_a_file_grows_within_it(self):
        run("truncate", "-s", "64M", "/tmp/part.img")
        device = add("file", "/tmp/part.img", "--offset", "4M", "--length", "8M")
        ashlar("resize", device["id"], "16M")
        self.assertEqual(size_of(device), 16 * MIB)
        refused = ashlar("resize", device["id"], "61M", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("make that larger first", refused.stderr)
        self.assertEqual(size_of(device), 16 * MIB)
        self.assertEqual(os.path.getsize("/tmp/part.img"), 64 * MIB)

    def test_shrinking_needs_force_and_loses_the_rest(self):
        for words in (("mem", "--size", "64M"),
                      ("file", "/tmp/shrinks.img", "--create", "--size", "64M")):
            with self.subTest(words):
                device = add(*words)
                fio(device["block_device"], rw="write", bs="1M", size=64 * MIB)
                refused = ashlar("resize", device["id"], "32M", check=False)
                self.assertEqual(refused.returncode, 1)
                self.assertIn("--force", refused.stderr)
                self.assertEqual(size_of(device), 64 * MIB)
                ashlar("resize", device["id"], "32M", "--force")
                self.assertEqual(size_of(device), 32 * MIB)
                ashlar("resize", device["id"], "+32M")
                with open(device["block_device"], "rb") as disk:
                    disk.seek(32 * MIB)
                    self.assertEqual(disk.read().strip(b"\0"), b"")
                if words[0] == "file":
                    self.assertEqual(os.path.getsize("/tmp/shrinks.img"), 64 * MIB)
                ashlar("del", device["id"])

    def test_shrinks_under_load(self):
        self.makes_io_fail = True
        device = add("mem", "--size", "64M", "--queues", "2", "--layer", "delay:read=2ms")
        with subprocess.Popen(["fio", "--name=d", f"--filename={device['block_device']}",
                               "--ioengine=io_uring", "--direct=1", "--rw=randread", "--bs=4k",
                               "--iodepth=32", "--runtime=8", "--time_based", "--thread=1",
                               "--continue_on_error=all"],
                              stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            wait_until(lambda: ashlar_json("stats", device["id"])["read"]["count"] > 100, "load")
            for _ in range(5):
                ashlar("resize", device["id"], "8M", "--force")
                ashlar("resize", device["id"], "64M")
            job.wait()
        self.assertEqual(ashlar_json("show", device["id"])["state"], "live")
        fio(device["block_device"], rw="randwrite", bs="4k", iodepth=16, size=64 * MIB,
            verify="crc32c", verify_fatal=1)

    def test_memory_that_grew_gives_back_what_is_discarded(self):
        device = add("mem", "--size", "16M")
        ashlar("resize", device["id"], "64M")
        fio(device["block_device"], rw="write", bs="1M", size=64 * MIB)
        run("blkdiscard", device["block_device"])
        with open(device["block_device"], "rb") as disk:
            self.assertEqual(disk.read().strip(b"\0"), b"")

    def test_wrong_words(self):
        device = add("mem", "--size", "64M")
        null = add("null")
        for words, status, said in (([device["id"], "many"], 2, "is not a size"),
                                    ([device["id"], "64M1"], 2, "is not a size"),
                                    ([device["id"], "+1"], 1, "multiple"),
                                    ([device["id"], "100T"], 1, "address space"),
                                    ([9, "1G"], 1, "no such device"),
                                    ([null["id"], "1T"], 1, "cannot be resized")):
            with self.subTest(words):
                result = ashlar("resize", *words, check=False)
                self.assertEqual(result.returncode, status, result.stderr)
                self.assertIn(said, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1)
        self.assertEqual(size_of(device), 64 * MIB)
        self.assertEqual(size_of(null), 250 << 30)


class OldDriver(DeviceTest):
    def test_is_refused_clearly(self):
        if "update_size" in kernel_features():
            self.skipTest("this driver can resize; see Resize")
        device = add("mem", "--size", "64M")
        refused = ashlar("resize", device["id"], "128M", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("6.16", refused.stderr)
        self.assertEqual(size_of(device), 64 * MIB)


if __name__ == "__main__":
    unittest.main()
