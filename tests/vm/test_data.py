"""Bytes come back as they were written: every size, depth and queue."""
import os
import unittest

from support import DeviceTest, add, ashlar, ashlar_json, fio, resident_kib, run

MIB = 1 << 20


class Verify(DeviceTest):
    def verify(self, *options):
        device = add("mem", "--size", "128M", "--queues", "2", *options)
        for block in ("4k", "64k", "1m"):
            for pattern in ("randwrite", "write"):
                for depth in (1, 128):
                    with self.subTest(block=block, pattern=pattern, depth=depth):
                        size = 2 * MIB if depth == 1 else 16 * MIB
                        result = fio(device["block_device"], rw=pattern, bs=block, iodepth=depth,
                                     size=size, verify="crc32c", verify_fatal=1, do_verify=1)
                        job = result["jobs"][0]
                        self.assertEqual(job["error"], 0)
                        self.assertEqual(job["write"]["io_bytes"], size)
                        self.assertEqual(job["read"]["io_bytes"], size)
        counters = ashlar_json("show", device["id"])["queue_counters"]
        self.assertEqual(sum(queue["errors"] for queue in counters), 0)

    def test_512_byte_blocks(self):
        self.verify()

    def test_4k_blocks(self):
        self.verify("--block-size", "4096")

    def test_small_requests_only(self):
        device = add("mem", "--size", "64M", "--io-max", "4K")
        result = fio(device["block_device"], rw="randwrite", bs="1m", iodepth=8, size=32 * MIB,
                     verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)

    def test_requests_of_a_mebibyte_arrive_whole(self):
        device = add("mem", "--size", "64M")
        path = device["block_device"]
        run("blockdev", "--setra", "0", path)
        with open("/sys/block/ublkb0/queue/max_sectors_kb", "w", encoding="ascii") as file:
            file.write("1024")
        before = ashlar_json("show", device["id"])["queue_counters"][0]
        fio(path, rw="write", bs="1m", iodepth=1, size=16 * MIB)
        after = ashlar_json("show", device["id"])["queue_counters"][0]
        self.assertEqual(after["write_bytes"] - before["write_bytes"], 16 * MIB)
        # Scattered pages may make the block layer split some.
        self.assertLessEqual(after["writes"] - before["writes"], 64)

    @unittest.skipIf(os.cpu_count() < 2, "needs two CPUs for two queues")
    def test_both_queues_carry_requests(self):
        device = add("null", "--queues", "2")
        for cpu in (0, 1):
            fio(device["block_device"], rw="randread", bs="4k", iodepth=16, size=8 * MIB,
                cpus_allowed=cpu)
        counters = ashlar_json("show", device["id"])["queue_counters"]
        self.assertEqual(len(counters), 2)
        for queue in counters:
            self.assertGreaterEqual(queue["reads"], 2048)

    def test_null_reads_zeroes_whatever_was_written(self):
        device = add("null", "--size", "64M")
        path = device["block_device"]
        for _ in range(2):
            run("dd", "if=/dev/urandom", f"of={path}", "bs=64k", "count=64", "oflag=direct")
            content = run("sh", "-c", f"dd if={path} bs=64k count=64 iflag=direct | tr -d '\\000' "
                          "| wc -c").stdout
            self.assertEqual(int(content), 0)

    def test_read_only(self):
        device = add("mem", "--size", "64M", "--read-only")
        path = device["block_device"]
        self.assertEqual(run("blockdev", "--getro", path).stdout.strip(), "1")
        result = run("dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=1", "oflag=direct",
                     check=False)
        self.assertNotEqual(result.returncode, 0)
        self.assertTrue(ashlar_json("list")[0]["read_only"])


class Discard(DeviceTest):
    def filled(self):
        device = add("mem", "--size", "256M")
        fio(device["block_device"], rw="write", bs="1m", iodepth=4, size=200 * MIB)
        return device

    def test_discard_gives_memory_back(self):
        device = self.filled()
        full = resident_kib(device["pid"])
        self.assertGreater(full, 200 * 1024)
        run("blkdiscard", device["block_device"])
        self.assertLess(resident_kib(device["pid"]), full - 195 * 1024)

    def test_write_zeroes_reads_back_zeroes(self):
        device = self.filled()
        path = device["block_device"]
        # Odd edges: the zeroed range begins and ends inside a page.
        run("blkdiscard", "-z", "-o", "512", "-l", str(100 * MIB + 1024), path)
        with open(path, "rb", buffering=0) as content:
            self.assertNotEqual(content.read(512).count(0), 512)
            left = 100 * MIB + 1024
            while left > 0:
                piece = content.read(min(MIB, left))
                self.assertEqual(piece.count(0), len(piece))
                left -= len(piece)
            self.assertNotEqual(content.read(512).count(0), 512)

    def test_zeroout_without_unmap_keeps_the_memory(self):
        device = self.filled()
        full = resident_kib(device["pid"])
        run("fallocate", "--zero-range", "--offset", "0", "--length", str(64 * MIB), "--keep-size",
            device["block_device"])
        self.assertGreater(resident_kib(device["pid"]), full - 32 * 1024)

    def test_trim_of_a_file_system(self):
        device = add("mem", "--size", "256M")
        path = device["block_device"]
        run("mkfs.ext4", "-q", path)
        run("mkdir", "-p", "/tmp/trim")
        run("/bin/mount", path, "/tmp/trim")
        try:
            run("dd", "if=/dev/urandom", "of=/tmp/trim/big", "bs=1M", "count=150", "conv=fsync")
            full = resident_kib(device["pid"])
            run("rm", "/tmp/trim/big")
            run("sync")
            run("fstrim", "/tmp/trim")
            self.assertLess(resident_kib(device["pid"]), full - 100 * 1024)
        finally:
            run("/bin/umount", "/tmp/trim")


if __name__ == "__main__":
    unittest.main()
