"""Layers on a real device: depth through a delay, faults as told, and what a flush promises."""
import mmap
import os
import random
import subprocess
import unittest

from support import (DeviceTest, Mounted, Store, add, ashlar, ashlar_json, fio, kill_server,
                     read_text, run, wait_until)

MIB = 1 << 20


class Layers(DeviceTest):
    def test_a_delay_does_not_cost_depth(self):
        device = add("null", "--size", "64M", "--depth", "64", "--layer", "delay:read=200ms")
        name = os.path.basename(device["block_device"])
        with subprocess.Popen(
                ["fio", "--name=d", f"--filename={device['block_device']}", "--ioengine=io_uring",
                 "--direct=1", "--rw=randread", "--bs=4k", "--iodepth=64", "--runtime=4",
                 "--time_based", "--thread=1"], stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            # inflight: reads, writes. Held back, yet all of them under way.
            wait_until(lambda: read_text(f"/sys/block/{name}/inflight").split()[0] == "64",
                       "64 reads are in flight")
            self.assertEqual(job.wait(), 0)
        reads = ashlar_json("show", device["id"])["queue_counters"][0]["reads"]
        self.assertGreaterEqual(reads, 64 * 4)

    def test_faults_reach_the_caller_as_told(self):
        self.makes_io_fail = True
        device = add("mem", "--size", "64M", "--layer",
                     "fault:error,ops=read,range=1M+4K,errno=ENOSPC")
        path = device["block_device"]
        run("dd", "if=/dev/zero", f"of={path}", "bs=1M", "count=4", "oflag=direct")
        run("dd", f"if={path}", "of=/dev/null", "bs=4k", "count=256", "iflag=direct")
        hit = run("dd", f"if={path}", "of=/dev/null", "bs=4k", "count=1", "skip=256",
                  "iflag=direct", check=False)
        self.assertIn("No space left on device", hit.stderr)
        errors = ashlar_json("show", device["id"])["queue_counters"][0]["errors"]
        self.assertGreaterEqual(errors, 1)

    def test_layers_stack(self):
        device = add("stripe", "mem:size=32M|delay:write=1ms", "mem:size=32M", "--chunk", "16K",
                     "--layer", "delay:read=uniform/1ms/1ms")
        self.assertEqual(device["size_bytes"], 64 * MIB)
        result = fio(device["block_device"], rw="randwrite", bsrange="4k-256k", iodepth=16,
                     size=8 * MIB, verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        device = add("linear", "mem:size=8M", "mem:size=24M")
        self.assertEqual(device["size_bytes"], 32 * MIB)
        result = fio(device["block_device"], rw="randwrite", bsrange="4k-256k", iodepth=16,
                     size=32 * MIB, verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)

    def test_bad_layers(self):
        for spec, word in (("delay:read=soon", "soon"), ("delay:reed=1ms", "reed"),
                           ("haste", "haste"), ("fault:error,rate=2", "2"),
                           ("fault:error,errno=EWHAT", "EWHAT"), ("fault", "fault")):
            with self.subTest(spec):
                result = ashlar("add", "mem", "--size", "1M", "--layer", spec, check=False)
                self.assertNotEqual(result.returncode, 0)
                self.assertIn(word, result.stderr)
                self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertEqual(ashlar_json("list"), [])


class Promises(DeviceTest):
    """A server that is killed loses what was not flushed, and nothing else."""

    def setUp(self):
        super().setUp()
        self.store = Store()
        self.addCleanup(self.store.close)
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)

    def workload(self, path, promised, rounds, generator):
        """Writes blocks past the page cache; promised: what they were at the last fsync."""
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
        written = dict(promised)
        page = mmap.mmap(-1, 4096)
        try:
            for _ in range(rounds):
                for _ in range(generator.randrange(1, 20)):
                    block = generator.randrange(512)
                    content = generator.randrange(1, 256)
                    page[:] = bytes([content]) * 4096
                    os.pwrite(descriptor, page, block * 4096)
                    written[block] = content
                os.fsync(descriptor)
                promised.clear()
                promised.update(written)
            # Not flushed: to be lost.
            page[:] = bytes([255]) * 4096
            for block in range(512, 576):
                os.pwrite(descriptor, page, block * 4096)
        finally:
            os.close(descriptor)

    def check(self, path, promised):
        with open(path, "rb", buffering=0) as disk:
            content = disk.read(4 * MIB)
        for block, value in promised.items():
            self.assertEqual(content[block * 4096:(block + 1) * 4096], bytes([value]) * 4096)
        lost = content[512 * 4096:576 * 4096]
        self.assertEqual(lost.count(0), len(lost), "the layer kept what was never flushed")

    def test_what_a_completed_fsync_promised_survives(self):
        self.makes_io_fail = True
        for seed, options in enumerate(([], ["--direct"])):
            with self.subTest(options):
                path = self.store.fresh("16M")
                promised = {}
                device = add("file", path, *options, "--layer", "fault:volatile-cache")
                self.workload(device["block_device"], promised, 30, random.Random(seed))
                kill_server(device["pid"])
                ashlar("del", device["id"], "--force")
                device = add("file", path)
                self.check(device["block_device"], promised)
                ashlar("del", device["id"])

    def test_a_file_system_keeps_its_word(self):
        self.makes_io_fail = True
        path = self.store.fresh("64M")
        device = add("file", path, "--layer", "fault:volatile-cache")
        run("mkfs.ext4", "-q", "-F", device["block_device"])
        with Mounted(device["block_device"]) as point:
            for index in range(20):
                with open(f"{point}/file{index}", "wb") as file:
                    file.write(bytes([index]) * 40000)
                    file.flush()
                    os.fsync(file.fileno())
            kill_server(device["pid"])
        ashlar("del", device["id"], "--force")
        device = add("file", path)
        run("fsck.ext4", "-fp", device["block_device"], check=False)
        with Mounted(device["block_device"]) as point:
            for index in range(20):
                with open(f"{point}/file{index}", "rb") as file:
                    self.assertEqual(file.read(), bytes([index]) * 40000)


if __name__ == "__main__":
    unittest.main()
