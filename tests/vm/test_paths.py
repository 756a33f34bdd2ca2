"""Every backend with every data path and every kind of commands: bytes come back, or a refusal says
what is needed."""
import os
import subprocess
import unittest

from support import (DeviceTest, Mounted, Store, add, ashlar, ashlar_json, fio, kernel_features,
                     queue_threads, run, wait_until)

MIB = 1 << 20
PATHS = ("zero-copy", "zero-copy-manual", "user-copy", "get-data", "copy")
NEEDS = {"zero-copy": "support_zero_copy", "zero-copy-manual": "support_zero_copy",
         "user-copy": "user_copy", "get-data": "need_get_data", "copy": None}
SINCE = {"support_zero_copy": "6.15", "user_copy": "6.5", "need_get_data": "6.0",
         "batch_io": "7.0"}


class DataPaths(DeviceTest):
    store = None

    @classmethod
    def setUpClass(cls):
        cls.store = Store()

    @classmethod
    def tearDownClass(cls):
        ashlar("del", "--all", "--force", check=False)
        cls.store.close()

    def verify(self, *arguments):
        """Checksums of random sizes, written and read at depth."""
        device = add(*arguments)
        result = fio(device["block_device"], rw="randwrite", bsrange="4k-256k", iodepth=32,
                     size=6 * MIB, verify="crc32c", verify_fatal=1, do_verify=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        self.end(device)
        return device

    def verify_file_system(self, *arguments):
        """A file system that is mounted twice."""
        device = add(*arguments)
        path = device["block_device"]
        run("mkfs.ext4", "-q", "-F", path)
        with Mounted(path) as point:
            run("cp", "/bin/bash", f"{point}/copy")
        with Mounted(path) as point:
            run("cmp", "/bin/bash", f"{point}/copy")
        self.end(device)

    def end(self, device):
        counters = ashlar_json("show", device["id"])["queue_counters"]
        self.assertEqual(sum(queue["errors"] for queue in counters), 0)
        ashlar("del", device["id"])

    def refused(self, arguments, *words):
        result = ashlar("add", *arguments, check=False)
        self.assertNotEqual(result.returncode, 0)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1)
        self.assertEqual(ashlar_json("list"), [])

    def every_path(self, routes, make):
        """make: the arguments of a fresh backend."""
        offered = kernel_features()
        for commands in ("per-io", "batch"):
            for path in PATHS:
                with self.subTest(data_path=path, commands=commands):
                    options = [*make(), "--queues", "2", "--data-path", path,
                               "--commands", commands]
                    if path.startswith("zero-copy") and not routes:
                        self.refused(options, "this backend works on the bytes themselves")
                    elif NEEDS[path] is not None and NEEDS[path] not in offered:
                        self.refused(options, f"needs kernel {SINCE[NEEDS[path]]} or newer")
                    elif commands == "batch" and "batch_io" not in offered:
                        self.refused(options, "need kernel 7.0 or newer")
                    elif commands == "batch" and path == "get-data":
                        self.refused(options, "no batch commands with data path get-data")
                    else:
                        self.verify(*options)
        with self.subTest("auto"):
            self.verify_file_system(*make(), "--queues", "2")

    def test_memory(self):
        self.every_path(False, lambda: ["mem", "--size", "64M"])

    def test_file_buffered(self):
        self.every_path(True, lambda: ["file", self.store.fresh("64M")])

    def test_file_direct(self):
        self.every_path(True, lambda: ["file", self.store.fresh("64M"), "--direct"])

    def test_stripe_of_two_files(self):
        self.every_path(True, lambda: ["stripe", f"file:{self.store.fresh('32M')}",
                                       f"file:{self.store.fresh('32M')},direct"])

    def test_other_ways_to_submit(self):
        per_tag = "per_io_daemon" in kernel_features()
        with self.subTest("several threads a queue"):
            options = ["mem", "--size", "64M", "--queues", "2", "--threads-per-queue", "3"]
            if per_tag:
                device = self.verify(*options)
                self.assertEqual(device["queues"], min(2, os.cpu_count()))
            else:
                self.refused(options, "several threads per queue need kernel 6.16")
        with self.subTest("threads that look for work before they sleep"):
            self.verify("mem", "--size", "64M", "--queues", "2", "--busy-poll", "200")
            self.verify("file", self.store.fresh("64M"), "--busy-poll", "1000", "--commands",
                        "per-io")
        with self.subTest("polled submission"):
            self.verify("mem", "--size", "64M", "--sqpoll", "--sqpoll-idle", "50")
        with self.subTest("polled submission on one CPU, of a file"):
            self.verify("file", self.store.fresh("64M"), "--sqpoll", "--sqpoll-cpu", "0",
                        "--sqpoll-idle", "50")
        with self.subTest("polled submission, and threads that look for what it did"):
            self.verify("mem", "--size", "64M", "--sqpoll", "--busy-poll", "100")

    def test_how_long_threads_look_for_work_is_shown(self):
        device = add("null", "--busy-poll", "50")
        self.assertEqual(ashlar_json("show", device["id"])["busy_poll_us"], 50)
        self.assertRegex(ashlar("show", device["id"]).stdout, r"busy polling +50 us")
        ashlar("del", device["id"])
        self.refused(["null", "--busy-poll", "1001"], "--busy-poll", "1000")

    def test_threads_come_before_others_unless_told(self):
        for options, expected in [([], -20), (["--nice", "5"], 5), (["--nice=-1"], -1)]:
            with self.subTest(options=options):
                device = add("null", *options)
                # And so does the thread that is asked about them.
                self.assertEqual([os.getpriority(os.PRIO_PROCESS, t)
                                  for t in (*queue_threads(device).values(), device["pid"])],
                                 [expected, expected])

    def test_wake_ups_gather_where_one_submits_many_on_the_threads_cpu(self):
        device = add("null", "--no-fill", "--cpus", "0")
        queue, = queue_threads(device).values()
        for depth, policy in [(64, os.SCHED_BATCH), (1, os.SCHED_OTHER), (64, os.SCHED_BATCH)]:
            with self.subTest(depth=depth), subprocess.Popen(
                    ["fio", "--name=load", f"--filename={device['block_device']}", "--direct=1",
                     "--rw=randread", "--bs=4k", "--ioengine=io_uring", f"--iodepth={depth}",
                     "--thread=1", "--cpus_allowed=0", "--time_based", "--runtime=300"],
                    cwd="/tmp", stdout=subprocess.DEVNULL) as load:
                try:
                    wait_until(lambda: os.sched_getscheduler(queue) == policy, f"policy {policy}",
                               seconds=100)
                finally:
                    load.kill()

    def test_null_reads_zeroes_on_every_path(self):
        for path in PATHS:
            if NEEDS[path] is not None and NEEDS[path] not in kernel_features():
                continue
            with self.subTest(path):
                device = add("null", "--size", "64M", "--data-path", path)
                with open(device["block_device"], "rb", buffering=0) as disk:
                    content = disk.read(MIB)
                self.assertEqual(content.count(0), MIB)
                ashlar("del", device["id"])

    def test_show_says_what_was_picked_and_why(self):
        shown = ashlar_json("show", add("mem", "--size", "64M")["id"])
        self.assertEqual(shown["data_path"], "get-data")
        self.assertIn("copy", shown["data_path_reason"])
        self.assertEqual(shown["commands"], "per-io")
        device = add("file", self.store.fresh("64M"))
        shown = ashlar_json("show", device["id"])
        zero_copy = "auto_buf_reg" in kernel_features()
        self.assertEqual(shown["data_path"], "zero-copy" if zero_copy else "copy")
        self.assertIn("6.16" if not zero_copy else "kernel", shown["data_path_reason"])
        text = ashlar("show", device["id"]).stdout
        self.assertIn(shown["data_path_reason"], text)
        asked = add("mem", "--size", "64M", "--data-path", "copy")
        self.assertEqual(ashlar_json("show", asked["id"])["data_path_reason"], "asked for")


if __name__ == "__main__":
    unittest.main()
