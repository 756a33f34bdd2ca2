#!/usr/bin/env python3
"""A device outlives its server: recovery, hand-over, pauses."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from support import (DeviceTest, add, ashlar, ashlar_json, kernel_features, wait_until)

ROUNDS = int(os.environ.get("ASHLAR_RECOVERY_ROUNDS", "4"))
BLOCK = 4096


def server_of(device_id):
    return ashlar_json("show", device_id)["pid"]


def state_of(device_id):
    return ashlar_json("show", device_id)["state"]


def kill_server(device_id):
    pid = server_of(device_id)
    os.kill(pid, signal.SIGKILL)
    return pid


def read_block(device, count=1):
    with open(device["block_device"], "rb", buffering=0) as disk:
        return disk.read(BLOCK * count)


def write_block(device, content):
    fd = os.open(device["block_device"], os.O_WRONLY | os.O_SYNC)
    try:
        return os.pwrite(fd, content * BLOCK, 0)
    finally:
        os.close(fd)


class Load:
    """fio that writes and verifies until it is told to end."""

    def __init__(self, device, seconds):
        self.process = subprocess.Popen(
            ["fio", "--name=load", f"--filename={device['block_device']}", "--direct=1",
             "--ioengine=io_uring", "--iodepth=16", "--rw=randrw", "--bs=4k", "--size=24M",
             "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--time_based",
             f"--runtime={seconds}", "--lat_percentiles=1", "--output-format=json"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def result(self):
        output = self.process.communicate(timeout=180)[0]
        if self.process.returncode != 0:
            raise AssertionError(f"fio gave {self.process.returncode}:\n{output[-2000:]}")
        job = json.loads(output[output.index("{"):])["jobs"][0]
        if job["error"] != 0:
            raise AssertionError(f"fio met errors: {job['error']}")
        longest = max(job[way]["clat_ns"]["max"] for way in ("read", "write"))
        return job["read"]["total_ios"] + job["write"]["total_ios"], longest / 1e6


class Supervised(DeviceTest):
    def test_killed_again_and_again_under_load(self):
        for backend in (["mem", "--size", "64M"], self.file()):
            with self.subTest(backend=backend[0]):
                device = add(*backend, "--recovery", "reissue", "--supervise", "--queues", "2")
                load = Load(device, ROUNDS * 2 + 2)
                for _ in range(ROUNDS):
                    time.sleep(2)
                    old = kill_server(device["id"])
                    wait_until(lambda: server_of(device["id"]) not in (old, -1), "a new server")
                count, longest = load.result()
                self.assertGreater(count, 100)
                print(f"{backend[0]}: {ROUNDS} kills, {count} I/Os, longest {longest:.0f} ms")
                ashlar("del", device["id"])

    def file(self):
        directory = tempfile.mkdtemp()
        Path(directory, "disk").touch()
        os.truncate(f"{directory}/disk", 64 << 20)
        return ["file", f"{directory}/disk"]

    def test_upgraded_again_and_again_under_load(self):
        device = add("mem", "--size", "64M", "--recovery", "reissue", "--supervise")
        load = Load(device, ROUNDS + 3)
        for _ in range(ROUNDS):
            time.sleep(0.7)
            old = server_of(device["id"])
            ashlar("upgrade", device["id"])
            self.assertNotEqual(server_of(device["id"]), old)
        count, longest = load.result()
        print(f"{ROUNDS} upgrades, {count} I/Os, longest {longest:.0f} ms")
        refused = ashlar("upgrade", device["id"], "--binary", "/bin/false", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("the old program serves it again", refused.stderr)
        self.assertEqual(write_block(device, b"u"), BLOCK)

    def test_memory_is_held_and_let_go(self):
        self.makes_io_fail = True  # what is in flight, if anything is
        device = add("mem", "--size", "64M", "--recovery", "queue", "--supervise")
        write_block(device, b"m")
        old = kill_server(device["id"])
        self.assertEqual(read_block(device), b"m" * BLOCK)
        self.assertNotEqual(server_of(device["id"]), old)
        shown = ashlar_json("show", device["id"])
        self.assertEqual(shown["recovery"], "queue")
        ashlar("del", device["id"])
        wait_until(lambda: b"ashlar-super" not in b"".join(
            Path(p, "comm").read_bytes() for p in Path("/proc").glob("[0-9]*")
            if Path(p, "comm").exists()), "the supervisor has ended")

    def test_a_pause_is_respected(self):
        device = add("mem", "--size", "64M", "--recovery", "reissue", "--supervise")
        write_block(device, b"p")
        ashlar("quiesce", device["id"])
        time.sleep(0.5)
        self.assertEqual(state_of(device["id"]), "quiesced")
        with subprocess.Popen(["dd", f"if={device['block_device']}", "of=/dev/null", "bs=4k",
                               "count=1", "iflag=direct"], stderr=subprocess.DEVNULL) as reader:
            time.sleep(0.3)
            self.assertIsNone(reader.poll(), "it waits")
            ashlar("recover", device["id"])
            self.assertEqual(reader.wait(timeout=20), 0)
        self.assertEqual(read_block(device), b"p" * BLOCK)
        ashlar("stop", device["id"])
        self.assertEqual(state_of(device["id"]), "dead")
        self.assertFalse(Path(device["block_device"]).exists())
        ashlar("recover", device["id"])
        self.assertEqual(read_block(device), b"p" * BLOCK)

    def test_terminated_it_ends_with_its_device(self):
        add("mem", "--size", "64M", "--recovery", "reissue", "--supervise", "--id", "3")
        supervisor = json.loads(Path("/run/ashlar/ublk3.json").read_text())["supervisor"]
        os.kill(supervisor, signal.SIGTERM)
        wait_until(lambda: ashlar_json("list") == [], "the device is gone")


class Unsupervised(DeviceTest):
    makes_io_fail = True

    def setUp(self):
        super().setUp()
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = f"{self.directory.name}/disk"
        Path(self.path).touch()
        os.truncate(self.path, 64 << 20)

    def read_later(self, device):
        return subprocess.Popen(["dd", f"if={device['block_device']}", "of=/dev/null", "bs=4k",
                                 "count=1", "iflag=direct"], stderr=subprocess.DEVNULL)

    def write_later(self, device):
        return subprocess.Popen(["dd", "if=/dev/zero", f"of={device['block_device']}", "bs=4k",
                                 "count=1", "oflag=direct", "conv=notrunc"],
                                stderr=subprocess.DEVNULL)

    def test_queue_fails_what_is_in_flight_once(self):
        device = add("file", self.path, "--recovery", "queue", "--layer", "delay:write=2s")
        first = self.write_later(device)
        time.sleep(0.5)
        kill_server(device["id"])
        self.assertNotEqual(first.wait(timeout=20), 0, "it was in flight")
        wait_until(lambda: state_of(device["id"]) == "quiesced", "it waits for a server")
        second = self.read_later(device)
        time.sleep(0.3)
        self.assertIsNone(second.poll(), "new requests wait")
        ashlar("recover", device["id"])
        self.assertEqual(second.wait(timeout=20), 0)

    def test_reissue_fails_nothing(self):
        device = add("file", self.path, "--recovery", "reissue", "--layer", "delay:write=1s")
        first = self.write_later(device)
        time.sleep(0.5)
        kill_server(device["id"])
        wait_until(lambda: state_of(device["id"]) == "quiesced", "it waits for a server")
        self.assertIsNone(first.poll())
        ashlar("recover", "--all")
        self.assertEqual(first.wait(timeout=20), 0)

    def test_fail_fails_until_recovered(self):
        options = ["file", self.path, "--recovery", "fail"]
        if "user_recovery_fail_io" not in kernel_features():
            refused = ashlar("add", *options, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("6.13", refused.stderr)
            return
        device = add(*options)
        kill_server(device["id"])
        wait_until(lambda: state_of(device["id"]) == "fail_io", "requests fail")
        self.assertNotEqual(self.read_later(device).wait(timeout=20), 0)
        ashlar("recover", device["id"])
        self.assertEqual(self.read_later(device).wait(timeout=20), 0)

    def test_another_backend_is_refused(self):
        device = add("file", self.path, "--recovery", "reissue")
        kill_server(device["id"])
        os.rename(self.path, self.path + ".old")
        Path(self.path).touch()
        os.truncate(self.path, 64 << 20)
        refused = ashlar("recover", device["id"], check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("ESTALE", refused.stderr)
        os.rename(self.path + ".old", self.path)
        ashlar("recover", device["id"])
        again = ashlar("recover", device["id"], check=False)
        self.assertEqual(again.returncode, 1)
        self.assertIn("is alive", again.stderr)

    def test_two_at_once_make_one_server(self):
        device = add("file", self.path, "--recovery", "reissue")
        kill_server(device["id"])
        both = [subprocess.Popen(["ashlar", "recover", str(device["id"])],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for _ in range(2)]
        self.assertEqual(sorted(process.wait(timeout=30) for process in both), [0, 1])
        self.assertEqual(len(read_block(device)), BLOCK)

    def test_stop_if_unused(self):
        device = add("file", self.path)
        with open(device["block_device"], "rb"):
            refused = ashlar("stop", device["id"], "--if-unused", check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertEqual(state_of(device["id"]), "live")
        ashlar("stop", device["id"], "--if-unused")
        self.assertEqual(state_of(device["id"]), "dead")

    def test_removal_that_is_not_waited_for(self):
        device = add("file", self.path)
        ashlar("del", device["id"], "--async")
        wait_until(lambda: ashlar_json("list") == [] and
                   not list(Path("/run/ashlar").glob("ublk*")), "everything is gone")

    def test_what_makes_no_sense_is_refused(self):
        cases = [(["add", "mem", "--size", "64M", "--recovery", "queue"], 2, "--supervise"),
                 (["add", "mem", "--size", "64M", "--supervise"], 2, "--recovery"),
                 (["recover"], 2, "which device"), (["recover", "7"], 1, "no such device"),
                 (["quiesce", "7"], 1, "no such device"), (["upgrade", "7"], 1, "no such device")]
        for command, status, words in cases:
            with self.subTest(command=command):
                refused = ashlar(*command, check=False)
                self.assertEqual(refused.returncode, status)
                self.assertIn(words, refused.stderr)
                self.assertEqual(refused.stderr.count("\n"), 1)
        device = add("file", self.path)
        refused = ashlar("quiesce", device["id"], check=False)
        self.assertIn("recovery", refused.stderr)
        self.assertEqual(refused.returncode, 1)


if __name__ == "__main__":
    unittest.main()
