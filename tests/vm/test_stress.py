"""Disks that go away under load. make vm-stress runs Rounds; a round's seed makes it happen again:
ASHLAR_STRESS_SEED=N ASHLAR_STRESS_ROUNDS=1 tests/vm/run test_stress.Rounds"""
import glob
import os
import random
import signal
import subprocess
import time
import unittest

from kernel_log import IO_ERRORS, KernelLog
from support import (DeviceTest, NOTHING, Store, add, ashlar, ashlar_json, fio, kernel_features,
                     kill_server, queue_counters, read_text, traces, wait_until)

MIB = 1 << 20
JOBS = 8
HALF = 32 * MIB  # the first half is written and verified, the second under load
REMOVAL_SECONDS = 10
BUSY_REMOVAL_SECONDS = 20  # while other disks are under load too
# Drivers before 6.16 miss the death of a server whose tags are all busy until a request is so old.
UNNOTICED_SECONDS = 30
FIO_ENDS_SECONDS = 30


def zombies():
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            name, rest = read_text(path).split("(", 1)[1].rsplit(")", 1)
        except FileNotFoundError:
            continue
        if rest.split()[0] == "Z":
            found.append(name)
    return found


def start_load(device, offset=0, size=64 * MIB, **options):
    """fio with eight jobs that only an error ends; returns when they are under way."""
    settings = dict(name="load", filename=device["block_device"], rw="randrw", bsrange="4k-128k",
                    iodepth=16, numjobs=JOBS, thread=1, direct=1, ioengine="io_uring",
                    offset=offset, size=size, time_based=1, runtime=120)
    settings.update(options)
    load = subprocess.Popen(["fio", *(f"--{key}={value}" for key, value in settings.items())],
                            cwd="/tmp", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = requests(device)
    wait_until(lambda: requests(device) > before + 200, "the load is under way")
    return load


def requests(device):
    return sum(queue["reads"] + queue["writes"] for queue in queue_counters(device["id"]))


def timed_removal(device):
    """Seconds that del --force takes under load."""
    start = time.monotonic()
    ashlar("del", device["id"], "--force")
    return time.monotonic() - start


class HotRemoval(DeviceTest):
    makes_io_fail = True

    def removed_under_load(self, *arguments, **load_options):
        device = add(*arguments)
        load = start_load(device, **load_options)
        seconds = timed_removal(device)
        self.assertLess(seconds, REMOVAL_SECONDS)
        self.assertNotEqual(load.wait(timeout=FIO_ENDS_SECONDS), 0)
        self.assertEqual(traces(), NOTHING)
        return seconds

    def test_of_a_memory_disk(self):
        self.removed_under_load("mem", "--size", "64M", "--queues", "2")

    def test_of_a_file(self):
        store = Store()
        self.addCleanup(store.close)
        self.removed_under_load("file", store.fresh("64M"), "--direct", "--queues", "2")

    def test_of_a_slow_disk(self):
        # Its requests are under way for a second; those that wait for a tag are many more.
        self.removed_under_load("mem", "--size", "64M", "--layer", "delay:read=1s,write=1s",
                                "--depth", "128", iodepth=64)

    def test_one_of_two(self):
        kept, gone = (add("mem", "--size", "64M") for _ in range(2))
        load = start_load(gone)
        still = start_load(kept, size=HALF)
        self.assertLess(timed_removal(gone), REMOVAL_SECONDS)
        self.assertNotEqual(load.wait(timeout=FIO_ENDS_SECONDS), 0)
        result = fio(kept["block_device"], rw="randwrite", bs="16k", iodepth=16, offset=HALF,
                     size=HALF, verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        still.terminate()
        still.wait(timeout=FIO_ENDS_SECONDS)
        queues = ashlar_json("show", kept["id"])["queue_counters"]
        self.assertEqual(sum(queue["errors"] for queue in queues), 0)


class Disk:
    """One of a round: what it was made of, by the dice."""

    def __init__(self, dice, store):
        self.dice = dice
        self.kind = dice.choice(("mem", "null", "file", "file-direct", "stripe"))
        self.lasts = self.kind not in ("mem", "null")
        self.backend = {
            "mem": lambda: ["mem", "--size", "64M"],
            "null": lambda: ["null", "--size", "64M"],
            "file": lambda: ["file", store.fresh("64M")],
            "file-direct": lambda: ["file", store.fresh("64M"), "--direct"],
            "stripe": lambda: ["stripe", f"file:{store.fresh('32M')}",
                               f"file:{store.fresh('32M')},direct"],
        }[self.kind]()
        self.device = None

    def arguments(self):
        offered = kernel_features()
        paths = ["auto", "copy", "get-data", "user-copy"]
        if self.kind != "mem" and "auto_buf_reg" in offered:
            paths += ["zero-copy", "zero-copy-manual"]
        path = self.dice.choice(paths)
        words = [*self.backend, "--queues", str(self.dice.randint(1, 2)),
                 "--depth", str(self.dice.choice((2, 16, 128))), "--data-path", path]
        if "batch_io" in offered and path not in ("auto", "get-data") and self.dice.random() < 0.5:
            words += ["--commands", "batch"]
        elif "per_io_daemon" in offered and self.dice.random() < 0.3:
            words += ["--threads-per-queue", "2"]
        return words

    def start(self):
        words = self.arguments()
        print("   ", *words, flush=True)
        self.device = add(*words)

    def verify(self, **options):
        if self.kind == "null":
            return 0
        result = fio(self.device["block_device"], name="verified", rw="randwrite",
                     bsrange="4k-64k", iodepth=16, numjobs=JOBS, size=HALF // JOBS,
                     offset_increment=HALF // JOBS, verify="crc32c", verify_fatal=1, randseed=1,
                     group_reporting=1, end_fsync=1, **options)
        return sum(job["error"] for job in result["jobs"])


@unittest.skipUnless(os.environ.get("ASHLAR_STRESS_ROUNDS"), "make vm-stress")
class Rounds(DeviceTest):
    makes_io_fail = True

    def test_rounds(self):
        rounds = int(os.environ["ASHLAR_STRESS_ROUNDS"])
        first = int(os.environ.get("ASHLAR_STRESS_SEED") or random.randrange(10**6))
        for number in range(rounds):
            with self.subTest(seed=first + number):
                print(f"round {number + 1} of {rounds}, seed {first + number}", flush=True)
                begin = time.monotonic()
                self.one_round(random.Random(first + number))
                print(f"  {time.monotonic() - begin:.1f} s", flush=True)

    def one_round(self, dice):
        log = KernelLog()
        store = Store()
        try:
            disks = [Disk(dice, store) for _ in range(dice.randint(2, 3))]
            for disk in disks:
                disk.start()
                self.assertEqual(disk.verify(), 0)
            # Eight jobs a disk, yet an emulated machine must be left some time of its own.
            loads = [start_load(disk.device, offset=HALF, size=HALF, iodepth=4) for disk in disks]
            for disk, load in zip(disks, loads):
                self.end(disk, load, dice.choice(("del", "kill", "term")))
            self.assertEqual(traces(), NOTHING)
            for disk in disks:
                if disk.lasts:
                    disk.start()
                    self.assertEqual(disk.verify(verify_only=1), 0, "promised, but not there")
            ashlar("del", "--all")
        finally:
            ashlar("del", "--all", "--force", check=False)
            store.close()
        self.assertEqual(traces(), NOTHING)
        wait_until(lambda: not zombies(), "no zombies")
        self.assertEqual(log.complaints(IO_ERRORS), [], "the kernel's log")
        log.close()

    def end(self, disk, load, how):
        begin = time.monotonic()
        if how == "kill":
            kill_server(disk.device["pid"])
        if how == "term":
            os.kill(disk.device["pid"], signal.SIGTERM)
            wait_until(lambda: disk.device["id"] not in
                       [device["id"] for device in ashlar_json("list")], "the device is gone")
        else:
            removed = ashlar("del", disk.device["id"], "--force", check=False)
            if removed.returncode != 0:
                # fio takes its time to notice that all its I/O fails; the id is free after that.
                self.assertIn("(fio) still has it open", removed.stderr)
                load.wait(timeout=FIO_ENDS_SECONDS)
                wait_until(lambda: disk.device["id"] not in
                           [device["id"] for device in ashlar_json("list")], "the device is gone")
        seconds = time.monotonic() - begin
        print(f"    {how} of {disk.kind}: {seconds:.2f} s", flush=True)
        missed = how == "kill" and "quiesce" not in kernel_features()
        self.assertLess(seconds, BUSY_REMOVAL_SECONDS + (UNNOTICED_SECONDS if missed else 0))
        self.assertNotEqual(load.wait(timeout=FIO_ENDS_SECONDS), 0)


if __name__ == "__main__":
    unittest.main()
