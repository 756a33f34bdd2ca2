"""What can be changed of a device while it is served; and where its requests can be traced."""
import os
import subprocess
import time
import unittest

from support import (DeviceTest, add, ashlar, ashlar_json, fio, kill_server, queue_threads, run,
                     wait_until)


def threads_of(device):
    """Name of each queue thread -> the CPUs it may run on."""
    return {name: os.sched_getaffinity(thread) for name, thread in queue_threads(device).items()}


class Set(DeviceTest):
    def becomes(self, device, expected):
        wait_until(lambda: threads_of(device) == expected, f"{expected} of {threads_of(device)}")

    def test_cpus(self):
        device = add("mem", "--size", "64M", "--queues", "2")
        first, second = f"ublk{device['id']}-q0", f"ublk{device['id']}-q1"
        before = threads_of(device)
        self.assertEqual(len(before), 2)
        with subprocess.Popen(["fio", "--name=load", f"--filename={device['block_device']}",
                               "--rw=randwrite", "--bs=4k", "--size=32M", "--iodepth=8",
                               "--ioengine=io_uring", "--direct=1", "--verify=crc32c",
                               "--time_based", "--runtime=4"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, cwd="/tmp") as load:
            ashlar("set", device["id"], "--cpus", "1")
            self.becomes(device, {first: {1}, second: {1}})
            ashlar("set", device["id"], "--queue-cpus", "1/0")
            self.becomes(device, {first: {1}, second: {0}})
            ashlar("set", device["id"], "--cpus", "0-1")
            self.becomes(device, {first: {0, 1}, second: {0, 1}})
            ashlar("set", device["id"], "--cpus", "auto")
            self.becomes(device, before)
            output = load.communicate(timeout=120)[0]
            self.assertEqual(load.returncode, 0, output[-2000:])

    def test_the_next_server_runs_there_too(self):
        device = add("mem", "--size", "64M", "--cpus", "0", "--recovery", "reissue", "--supervise")
        name = f"ublk{device['id']}-q0"
        self.assertEqual(threads_of(device), {name: {0}})
        ashlar("set", device["id"], "--cpus", "1")
        self.becomes(device, {name: {1}})
        pid = device["pid"]
        kill_server(pid)
        wait_until(lambda: ashlar_json("show", device["id"])["pid"] not in (None, pid) and
                   ashlar_json("show", device["id"])["state"] == "live", "the next server")
        device["pid"] = ashlar_json("show", device["id"])["pid"]
        self.becomes(device, {name: {1}})

    def test_log_level(self):
        device = add("mem", "--size", "64M", "--log", "/tmp/set.log")
        ashlar("set", device["id"], "--log-level", "error")
        ashlar("set", device["id"], "--cpus", "0")
        ashlar("set", device["id"], "--log-level", "info")
        ashlar("set", device["id"], "--cpus", "1")
        with open("/tmp/set.log", encoding="ascii") as log:
            lines = [line for line in log if "CPUs" in line]
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0].endswith("runs on other CPUs: 1\n"))
        os.unlink("/tmp/set.log")

    def test_bad_settings_are_refused(self):
        device = add("mem", "--size", "64M", "--queues", "2")
        number = device["id"]
        before = threads_of(device)
        for words, status, sentence in (
                ((number,), 2, "set what"),
                ((number, "--cpus", "x"), 2, "no list of CPUs"),
                ((number, "--cpus", "0", "--queue-cpus", "0/1"), 2, "two ways"),
                ((number, "--log-level", "loud"), 2, "info, warning and error"),
                ((number, "--cpus", "77"), 1, "CPU 77 is none that this process may use"),
                ((number, "--queue-cpus", "0/1/0"), 1, "3 lists of CPUs for 2 queues"),
                ((number + 7, "--cpus", "0"), 1, "no such device")):
            refused = ashlar("set", *words, check=False)
            self.assertEqual(refused.returncode, status, words)
            self.assertIn(sentence, refused.stderr)
        self.assertEqual(threads_of(device), before)
        refused = ashlar("add", "mem", "--size", "64M", "--cpus", "77", check=False)
        self.assertIn("CPU 77", refused.stderr)
        self.assertEqual(len(ashlar_json("list")), 1)


class Tracing(DeviceTest):
    SCRIPT = os.path.join(os.path.dirname(__file__), "../../packaging/bpftrace/ashlar-latency.bt")

    def test_the_script_sees_each_request(self):
        device = add("mem", "--size", "64M")
        with open(self.SCRIPT, encoding="ascii") as script:
            text = script.read().replace("/usr/bin/ashlar:",
                                         os.readlink(f"/proc/{device['pid']}/exe") + ":")
        with open("/tmp/latency.bt", "w", encoding="ascii") as script:
            script.write(text)
        with subprocess.Popen(["bpftrace", "-p", str(device["pid"]), "/tmp/latency.bt"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as tracer:
            line = tracer.stdout.readline()
            if "Attaching" not in line:
                tracer.kill()
                self.fail(line + tracer.stdout.read())
            time.sleep(3)  # it says that it attaches, not that it has
            fio(device["block_device"], rw="randwrite", bs="4k", size="32M", number_ios=500)
            tracer.send_signal(2)
            output = tracer.communicate(timeout=60)[0]
        number = device["id"]
        self.assertIn(f"@requests[{number}, 1]: 500\n", output)
        self.assertIn(f"@microseconds[{number}, 1]:", output)
        self.assertNotIn("@errors[", output)


if __name__ == "__main__":
    unittest.main(verbosity=2)
