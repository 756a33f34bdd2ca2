"""The file backend on a real kernel: windows, locks, sparse files, what lies underneath, errors."""
import errno
import mmap
import os
import threading
import unittest

from support import (DeviceTest, Mounted, Store, add, ashlar, ashlar_json, count_events, fio, run,
                     sysfs)

MIB = 1 << 20


def blocks(path):
    """Bytes that the file takes."""
    return os.stat(path).st_blocks * 512


class Files(DeviceTest):
    store = None

    @classmethod
    def setUpClass(cls):
        cls.store = Store()

    @classmethod
    def tearDownClass(cls):
        ashlar("del", "--all", "--force", check=False)
        cls.store.close()

    def refused(self, *arguments, says):
        result = ashlar("add", "file", *arguments, check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(says, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertEqual(ashlar_json("list"), [])

    def test_content_outlives_the_device(self):
        path = self.store.fresh("320M")
        for options in ([], ["--direct"]):
            device = add("file", path, *options)
            run("mkfs.xfs" if options else "mkfs.ext4", "-q", "-f" if options else "-F",
                device["block_device"])
            with Mounted(device["block_device"]) as point:
                run("cp", "/bin/bash", f"{point}/copy")
            ashlar("del", device["id"])
            device = add("file", path)
            with Mounted(device["block_device"]) as point:
                run("cmp", "/bin/bash", f"{point}/copy")
            ashlar("del", device["id"])

    def test_a_window_of_a_file(self):
        path = self.store.fresh("16M")
        device = add("file", path, "--offset", "4M", "--length", "8M")
        self.assertEqual(device["size_bytes"], 8 * MIB)
        run("dd", "if=/dev/urandom", f"of={device['block_device']}", "bs=1M", "count=8",
            "oflag=direct")
        ashlar("del", device["id"])
        with open(path, "rb") as file:
            content = file.read()
        self.assertEqual(content[:4 * MIB].count(0), 4 * MIB)
        self.assertEqual(content[12 * MIB:].count(0), 4 * MIB)
        self.assertNotEqual(content[4 * MIB:12 * MIB].count(0), 8 * MIB)
        self.refused(path, "--offset", "15M", "--length", "2M", says="15")

    def test_create_and_preallocate(self):
        path = self.store.name()
        self.refused(path, says="No such file")
        device = add("file", path, "--create", "--size", "32M")
        self.assertLess(blocks(path), MIB)
        ashlar("del", device["id"])
        self.refused(path, "--create", "--size", "32M", says="exists")
        path = self.store.name()
        add("file", path, "--create", "--size", "32M", "--preallocate")
        self.assertGreaterEqual(blocks(path), 32 * MIB)
        path = self.store.name()
        ashlar("del", "--all")
        self.refused(path, "--create", "--size", "2G", "--preallocate", says="No space left")
        self.assertFalse(os.path.exists(path))

    def test_a_second_writer_is_kept_out(self):
        path = self.store.fresh("16M")
        first = add("file", path)
        result = ashlar("add", "file", path, check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("EBUSY", result.stderr)
        self.assertEqual(len(ashlar_json("list")), 1)
        ashlar("del", first["id"])
        readers = [add("file", path, "--read-only") for _ in range(2)]
        self.assertEqual([reader["read_only"] for reader in readers], [True, True])
        self.assertNotEqual(ashlar("add", "file", path, check=False).returncode, 0)

    def test_sparse_files_stay_sparse(self):
        for options in ([], ["--direct"]):
            with self.subTest(options):
                path = self.store.fresh("128M")
                device = add("file", path, *options)
                disk = device["block_device"]
                run("dd", f"if={disk}", "of=/dev/null", "bs=1M")
                self.assertEqual(blocks(path), 0)
                run("mkfs.ext4", "-q", disk)
                with Mounted(disk) as point:
                    run("dd", "if=/dev/urandom", f"of={point}/big", "bs=1M", "count=80",
                        "conv=fsync")
                    full = blocks(path)
                    self.assertGreater(full, 80 * MIB)
                    os.unlink(f"{point}/big")
                    run("sync")
                    run("fstrim", point)
                    self.assertLess(blocks(path), full - 70 * MIB)
                run("dd", "if=/dev/urandom", f"of={disk}", "bs=1M", "count=32", "oflag=direct")
                full = blocks(path)
                run("fallocate", "--punch-hole", "--offset", "4096", "--length", str(16 * MIB),
                    disk)
                self.assertLess(blocks(path), full - 15 * MIB)
                with open(disk, "rb", buffering=0) as content:
                    self.assertNotEqual(content.read(4096).count(0), 4096)
                    for _ in range(16):
                        self.assertEqual(content.read(MIB).count(0), MIB)
                # blkdiscard -z asks that the space stays taken.
                run("dd", "if=/dev/urandom", f"of={disk}", "bs=1M", "count=16", "oflag=direct")
                full = blocks(path)
                run("blkdiscard", "-z", "-o", "0", "-l", str(8 * MIB), disk)
                self.assertGreaterEqual(blocks(path), full - MIB)
                with open(disk, "rb", buffering=0) as content:
                    self.assertEqual(content.read(MIB).count(0), MIB)
                ashlar("del", device["id"])

    def test_errors_surface_as_themselves(self):
        self.makes_io_fail = True
        run("mkdir", "-p", "/tmp/small")
        run("/bin/mount", "-t", "tmpfs", "-o", "size=8M", "none", "/tmp/small")
        try:
            device = add("file", "/tmp/small/disk", "--create", "--size", "64M")
            with open(device["block_device"], "r+b", buffering=0) as disk:
                with self.assertRaises(OSError) as raised:
                    for _ in range(64):
                        disk.write(os.urandom(MIB))
                        os.fsync(disk.fileno())
                self.assertIn(raised.exception.errno, (errno.ENOSPC, errno.EIO))
            dd = run("dd", "if=/dev/zero", f"of={device['block_device']}", "bs=1M", "count=32",
                     "oflag=direct", check=False)
            self.assertIn("No space left on device", dd.stderr)
        finally:
            ashlar("del", "--all")
            run("/bin/umount", "/tmp/small")

    def test_a_file_that_shrinks_is_an_error(self):
        self.makes_io_fail = True
        path = self.store.fresh("16M")
        device = add("file", path)
        os.truncate(path, MIB)
        dd = run("dd", f"if={device['block_device']}", "of=/dev/null", "bs=1M", "skip=8", "count=1",
                 "iflag=direct", check=False)
        self.assertIn("Input/output error", dd.stderr)

    def test_a_block_device_underneath(self):
        below = add("mem", "--size", "128M", "--block-size", "4096")
        for options in ([], ["--direct"]):
            with self.subTest(options):
                device = add("file", below["block_device"], *options)
                self.assertEqual(device["size_bytes"], 128 * MIB)
                if options:
                    self.assertEqual(device["logical_block_size"], 4096)
                self.assertTrue(device["discard"])
                result = fio(device["block_device"], rw="randwrite", bs="64k", iodepth=16,
                             size=64 * MIB, verify="crc32c", verify_fatal=1)
                self.assertEqual(result["jobs"][0]["error"], 0)
                run("mkfs.ext4", "-q", "-F", device["block_device"])
                run("blkdiscard", "-f", device["block_device"])
                run("blkdiscard", "-z", device["block_device"])
                discards = sum(queue["discards"] for queue in
                               ashlar_json("show", below["id"])["queue_counters"])
                self.assertGreater(discards, 0)
                busy = ashlar("add", "file", below["block_device"], check=False)
                self.assertIn("EBUSY", busy.stderr)
                ashlar("del", device["id"])
        run("mkfs.ext4", "-q", "-F", below["block_device"])
        with Mounted(below["block_device"]):
            mounted = ashlar("add", "file", below["block_device"], check=False)
            self.assertNotEqual(mounted.returncode, 0)
            self.assertIn("EBUSY", mounted.stderr)

    def test_limits_of_what_lies_underneath(self):
        device = add("file", self.store.fresh("64M"), "--direct")
        name = os.path.basename(device["block_device"])
        self.assertGreaterEqual(int(sysfs(name, "logical_block_size")), 512)
        self.assertIn("write back", sysfs(name, "write_cache"))
        self.assertGreaterEqual(int(sysfs(name, "discard_granularity")), 4096)

    def test_bad_input(self):
        path = self.store.fresh("1M")
        self.refused("/nowhere/disk", says="No such file")
        self.refused("/tmp", says="/tmp")
        self.refused(path, "--offset", "100", says="100")
        self.refused(path, "--length", "2M", says="1048576")
        self.refused(path, "--size", "2M", says="--create")
        os.truncate(path, 100)
        self.refused(path, says="100")


class GroupCommit(DeviceTest):
    """Flushes that wait together share one fdatasync, on a store whose flushes take their time."""

    def setUp(self):
        super().setUp()
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)
        slow = add("file", "/tmp/slow", "--create", "--size", "128M", "--layer",
                   "delay:flush=30ms")
        self.addCleanup(os.unlink, "/tmp/slow")
        self.store = Store(slow["block_device"])
        self.addCleanup(self.store.close)
        self.device = add("file", self.store.fresh("32M"))
        self.addCleanup(lambda: ashlar("del", self.device["id"], "--force", check=False))

    def burst(self, write):
        """64 threads at once; the fdatasyncs of the store's file system."""
        start = threading.Barrier(64)
        failures = []

        def one(index):
            try:
                start.wait()
                write(self.device["block_device"], index)
            except OSError as error:
                failures.append(error)

        def all_threads():
            threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        syncs = count_events("ext4:ext4_sync_file_enter", all_threads)
        self.assertEqual(failures, [])
        self.assertGreater(syncs, 0)
        self.assertLess(syncs, 24)

    def test_a_burst_of_fsyncs(self):
        def write(path, index):
            descriptor = os.open(path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, bytes([index]) * 4096, index * 4096)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self.burst(write)

    def test_a_burst_of_durable_writes(self):
        """FUA, which the engine makes of a write and a flush each."""
        def write(path, index):
            descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
            page = mmap.mmap(-1, 4096)
            try:
                os.pwrite(descriptor, page, index * 4096)
            finally:
                os.close(descriptor)
        self.burst(write)


if __name__ == "__main__":
    unittest.main()
