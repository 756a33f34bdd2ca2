"""Zoned disks: what the kernel, fio and zonefs make of them."""
import mmap
import os
import struct
import subprocess
import unittest
import zlib

from support import (DeviceTest, Mounted, add, ashlar, ashlar_json, kernel_features, kill_server,
                     run, sysfs, wait_until)

MIB = 1 << 20
ZONE = 16 * MIB


def zones_of(path):
    """The report: (start, write pointer, condition) of each zone in bytes."""
    zones = []
    for line in run("blkzone", "report", path).stdout.splitlines():
        words = line.replace(",", " ").split()
        start = int(words[1], 0) * 512
        zones.append((start, start + int(words[words.index("wptr") + 1], 0) * 512,
                      line.split("(")[1].split(")")[0]))
    return zones


def write_at(path, offset, length=4096):
    """The errno of a direct write; 0 if it was taken."""
    with mmap.mmap(-1, length) as buffer:
        buffer.write(b"z" * length)
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwritev(fd, [buffer], offset)
            return 0
        except OSError as error:
            return error.errno
        finally:
            os.close(fd)


def make_zonefs(path):
    """What mkzonefs writes: a super block in the first zone, which is conventional."""
    def block(crc):
        return struct.pack("<II64s16sQIII", 0x5A4F4653, crc, b"", os.urandom(16) if crc else
                           bytes(16), 0, 0, 0, 0o640).ljust(4096, b"\0")
    body = bytearray(block(0))
    struct.pack_into("<I", body, 4, zlib.crc32(bytes(body)) ^ 0xFFFFFFFF)
    with open(path, "r+b") as disk:
        disk.write(body)
        disk.flush()
        os.fsync(disk.fileno())


class ZonedTest(DeviceTest):
    def setUp(self):
        super().setUp()
        if "zoned" not in kernel_features():
            self.skipTest("the driver has no zoned disks before 6.6")


class Zoned(ZonedTest):
    @staticmethod
    def attribute(device, name):
        return sysfs(f"ublkb{device['id']}", name)

    def random_writes(self, path, *options):
        return ["fio", "--name=zones", f"--filename={path}", "--zonemode=zbd", "--rw=randwrite",
                "--bs=16k", "--io_size=24M", "--direct=1", "--ioengine=io_uring", "--iodepth=8",
                "--verify=crc32c", "--max_open_zones=3", *options]

    def test_the_kernel_sees_zones(self):
        device = add("zoned", "mem:size=256M", "--zone-size", "16M", "--conventional", "2",
                     "--open-max", "4", "--active-max", "6")
        self.assertEqual(self.attribute(device, "zoned"), "host-managed")
        self.assertEqual(self.attribute(device, "nr_zones"), "16")
        self.assertEqual(self.attribute(device, "chunk_sectors"), str(ZONE // 512))
        self.assertEqual(self.attribute(device, "max_open_zones"), "4")
        self.assertEqual(self.attribute(device, "max_active_zones"), "6")
        zones = zones_of(device["block_device"])
        self.assertEqual(len(zones), 16)
        self.assertEqual([zone[2] for zone in zones], ["nw"] * 2 + ["em"] * 14)
        self.assertEqual(zones[5][:2], (5 * ZONE, 5 * ZONE))

    def test_random_writes_go_zone_by_zone(self):
        device = add("zoned", "mem:size=256M", "--zone-size", "16M", "--queues", "2")
        run(*self.random_writes(device["block_device"]), cwd="/tmp")
        self.assertGreater(len([zone for zone in zones_of(device["block_device"])
                                if zone[1] > zone[0]]), 0)
        self.assertGreater(ashlar_json("stats", device["id"])["report_zones"]["count"], 0)

    def test_zonefs(self):
        device = add("zoned", "mem:size=256M", "--zone-size", "16M", "--conventional", "1")
        path = device["block_device"]
        run("modprobe", "zonefs", check=False)
        make_zonefs(path)
        os.makedirs("/tmp/zonefs", exist_ok=True)
        run("mount", "-t", "zonefs", path, "/tmp/zonefs")
        try:
            self.assertEqual(len(os.listdir("/tmp/zonefs/seq")), 15)
            data = os.urandom(MIB)
            with open("/tmp/random", "wb") as file:
                file.write(data)
            for _ in range(2):
                run("dd", "if=/tmp/random", "of=/tmp/zonefs/seq/3", "bs=64k", "oflag=direct,append",
                    "conv=notrunc,nocreat", "status=none")
            self.assertEqual(os.path.getsize("/tmp/zonefs/seq/3"), 2 * MIB)
            with open("/tmp/zonefs/seq/3", "rb") as file:
                self.assertEqual(file.read(), data * 2)
            os.truncate("/tmp/zonefs/seq/3", 0)
            os.truncate("/tmp/zonefs/seq/4", ZONE)
        finally:
            run("umount", "/tmp/zonefs")
        zones = zones_of(path)
        self.assertEqual(zones[4][2], "em")
        self.assertEqual(zones[5][2], "fu")

    def test_btrfs_appends(self):
        device = add("zoned", "mem:size=2G", "--zone-size", "64M")
        path = device["block_device"]
        run("mkfs.btrfs", "-q", "-O", "zoned", "-d", "single", "-m", "single", path)
        with Mounted(path) as directory:
            data = os.urandom(24 * MIB)
            for name in ("a", "b"):
                with open(f"{directory}/{name}", "wb") as file:
                    file.write(data)
            os.sync()
            self.assertGreater(ashlar_json("stats", device["id"])["zone_append"]["count"], 0)
        with Mounted(path) as directory:
            for name in ("a", "b"):
                with open(f"{directory}/{name}", "rb") as file:
                    self.assertEqual(file.read(), data)
        run("btrfs", "check", path)

    def test_a_file_keeps_its_zones(self):
        run("truncate", "-s", "128M", "/tmp/zones.img")
        words = ("zoned", "file:/tmp/zones.img", "--zone-size", "16M")
        missing = ashlar("add", *words, check=False)
        self.assertEqual(missing.returncode, 1)
        self.assertIn("create", missing.stderr)
        device = add(*words, "--create")
        self.assertEqual(write_at(device["block_device"], 0, 65536), 0)
        run("sync")
        ashlar("del", device["id"])
        device = add(*words)
        self.assertEqual(zones_of(device["block_device"])[0], (0, 65536, "cl"))
        self.assertEqual(write_at(device["block_device"], 65536), 0)
        self.assertNotEqual(ashlar("add", *words, check=False).returncode, 0, "it is taken")

    def survives(self, *words):
        device = add(*words, "--zone-size", "16M", "--recovery", "reissue", "--supervise")
        path = device["block_device"]
        with subprocess.Popen(self.random_writes(path, "--io_size=48M", "--rate_iops=400"),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd="/tmp") as load:
            pid = device["pid"]
            for _ in range(3):
                written = ashlar_json("stats", device["id"])["write"]["count"]
                wait_until(lambda: ashlar_json("stats", device["id"])["write"]["count"] >
                           written + 20 or load.poll() is not None, "load")
                kill_server(pid)
                wait_until(lambda: ashlar_json("show", device["id"])["pid"] not in (None, pid) and
                           ashlar_json("show", device["id"])["state"] == "live", "a server")
                pid = ashlar_json("show", device["id"])["pid"]
            output = load.communicate(timeout=200)[0]
            self.assertEqual(load.returncode, 0, output[-3000:])

    def test_a_disk_in_memory_survives_its_server(self):
        self.survives("zoned", "mem:size=256M")

    def test_a_disk_in_a_file_survives_its_server(self):
        run("truncate", "-s", "256M", "/tmp/survives.img")
        self.survives("zoned", "file:/tmp/survives.img", "--create")

    def test_bad_settings_are_refused(self):
        for words, sentence in (
                (("mem:size=256M", "--zone-size", "10M"), "power of two"),
                (("mem:size=4M", "--zone-size", "16M"), "less than one zone"),
                (("mem:size=256M", "--zone-size", "16M", "--conventional", "16"), "sequential"),
                (("mem:size=256M", "--zone-size", "16M", "--open-max", "17"), "at most"),
                (("mem:size=256M", "--commands", "batch"), "per-io"),
                (("mem:size=256M", "--data-path", "copy"), "user-copy"),
                (("mem:size=256M", "--create"), "--state"),
                (("mem:size=256M", "--recovery", "queue"), "--supervise"),
                (("mem:size=256M", "--layer", "delay:read=1ms"), "below"),
                (("mem:size=256M", "mem:size=256M"), "one disk")):
            refused = ashlar("add", "zoned", *words, check=False)
            self.assertNotEqual(refused.returncode, 0, words)
            self.assertIn(sentence, refused.stderr)
            self.assertEqual(refused.stderr.count("\n"), 1, refused.stderr)
        self.assertEqual(ashlar_json("list"), [])


class Refusals(ZonedTest):
    makes_io_fail = True

    def test_what_is_not_at_the_write_pointer_fails(self):
        device = add("zoned", "mem:size=256M", "--zone-size", "16M", "--conventional", "1")
        path = device["block_device"]
        self.assertEqual(write_at(path, 8 * MIB), 0, "a conventional zone")
        self.assertEqual(write_at(path, ZONE), 0)
        self.assertNotEqual(write_at(path, ZONE + 8192), 0)
        # The kernel takes writes again when it has seen where the zone's pointer is.
        self.assertEqual(zones_of(path)[1][:2], (ZONE, ZONE + 4096))
        self.assertEqual(write_at(path, ZONE + 4096), 0)
        run("blkzone", "finish", "-o", str(ZONE // 512), "-c", "1", path)
        self.assertEqual(zones_of(path)[1][2], "fu")
        self.assertNotEqual(write_at(path, ZONE + 8192), 0)
        run("blkzone", "reset", "-o", str(ZONE // 512), "-c", "1", path)
        self.assertEqual(zones_of(path)[1], (ZONE, ZONE, "em"))
        with open(path, "rb") as disk:
            disk.seek(ZONE)
            self.assertEqual(disk.read(4096), bytes(4096))
        self.assertEqual(write_at(path, ZONE), 0)
        run("blkzone", "reset", path, check=False)  # also of the conventional one: refused
        run("blkzone", "reset", "-o", str(ZONE // 512), path)
        self.assertEqual({zone[2] for zone in zones_of(path)[1:]}, {"em"})

    def test_limits(self):
        device = add("zoned", "mem:size=256M", "--zone-size", "16M", "--open-max", "2")
        path = device["block_device"]
        for zone in (0, 1):
            run("blkzone", "open", "-o", str(zone * ZONE // 512), "-c", "1", path)
        self.assertEqual([zone[2] for zone in zones_of(path)[:3]], ["oe", "oe", "em"])
        self.assertNotEqual(write_at(path, 2 * ZONE), 0)
        run("blkzone", "close", "-o", "0", "-c", "1", path)
        zones_of(path)
        self.assertEqual(write_at(path, 2 * ZONE), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
