"""What stats, top and the exporter tell, beside what is known of the load."""
import json
import os
import re
import subprocess
import unittest
import urllib.request

from support import (DeviceTest, add, ashlar, ashlar_json, fio, kill_server, run,
                     wait_until)

DASHBOARD = os.path.join(os.path.dirname(__file__), "../../packaging/grafana-dashboard.json")
PERCENTILES = (("p50", "50.000000"), ("p99", "99.000000"))


def load(device, **options):
    """fio at a known rate: what it counted, and what stats counted meanwhile."""
    before = ashlar_json("stats", device["id"])
    job = fio(device["block_device"], **options)["jobs"][0]
    after = ashlar_json("stats", device["id"])
    return before, job, after


class Stats(DeviceTest):
    def agree(self, before, job, after, kind):
        did = after[kind]["count"] - before[kind]["count"]
        moved = after[kind]["bytes"] - before[kind]["bytes"]
        self.assertAlmostEqual(did, job[kind]["total_ios"], delta=job[kind]["total_ios"] / 100)
        self.assertAlmostEqual(moved, job[kind]["io_bytes"], delta=job[kind]["io_bytes"] / 100)

    def test_agrees_with_fio(self):
        # fio's times hold ours and what fio and the kernel wait for a CPU besides, which on a busy
        # machine is anything; ours hold the delays. Each is a bound, but for the buckets' width.
        least = {("read", "p50"): 360e6, ("read", "p99"): 580e6,
                 ("write", "p50"): 600e6, ("write", "p99"): 600e6}
        device = add("mem", "--size", "64M", "--queues", "2", "--layer",
                     "delay:read=uniform/400ms/200ms,write=600ms")
        before, job, after = load(device, rw="randrw", bssplit="4k/50:16k/50", iodepth=128,
                                  runtime=8, time_based=1, rate_iops=150)
        for kind in ("read", "write"):
            self.agree(before, job, after, kind)
            for ours, theirs in PERCENTILES:
                found = after[kind]["latency_ns"][ours]
                self.assertLess(found, job[kind]["clat_ns"]["percentile"][theirs] * 1.05)
                self.assertGreater(found, least[kind, ours] * 0.95)
            self.assertIn(after[kind]["size_bytes"]["max"], (16384, 32768))
        self.assertEqual(sum(queue["write"]["count"] for queue in after["queues"]),
                         after["write"]["count"])
        self.assertEqual(after["in_flight"], 0)

    def test_flushes_share_syncs(self):
        path = os.path.join("/tmp", "stats.img")
        device = add("file", path, "--create", "--size", "64M", "--layer", "delay:flush=5ms")
        fio(device["block_device"], rw="randwrite", bs="4k", iodepth=1, numjobs=8, fsync=1,
            size="1M", io_size="256k", group_reporting=1)
        stats = ashlar_json("stats", device["id"])
        self.assertGreater(stats["flush"]["count"], 50)
        self.assertGreater(stats["backend"]["syncs"], 0)
        self.assertLessEqual(stats["backend"]["syncs"], stats["flush"]["count"])

    def test_errors_and_levels(self):
        self.makes_io_fail = True
        device = add("mem", "--size", "64M", "--layer", "fault:error,ops=write,errno=ENOSPC",
                     "--layer", "delay:read=300ms")
        run("dd", "if=/dev/zero", f"of={device['block_device']}", "bs=4k", "count=1",
            "oflag=direct", check=False)
        self.assertGreaterEqual(ashlar_json("stats", device["id"])["write"]["errors"], 1)
        with subprocess.Popen(["fio", "--name=d", f"--filename={device['block_device']}",
                               "--ioengine=io_uring", "--direct=1", "--rw=randread", "--bs=4k",
                               "--iodepth=32", "--runtime=3", "--time_based", "--thread=1"],
                              stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            wait_until(lambda: ashlar_json("stats", device["id"])["in_flight"] == 32,
                       "32 reads in flight")
            self.assertEqual(job.wait(), 0)

    def test_intervals(self):
        device = add("mem", "--size", "64M")
        with subprocess.Popen(["fio", "--name=d", f"--filename={device['block_device']}",
                               "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=4k",
                               "--rate_iops=500", "--runtime=5", "--time_based", "--thread=1"],
                              stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            wait_until(lambda: ashlar_json("stats", device["id"])["write"]["count"] > 100, "load")
            lines = ashlar("stats", device["id"], "--interval", "1", "--count", "2",
                           "--json").stdout.splitlines()
            table = ashlar("stats", device["id"], "--interval", "0.5", "--count", "1").stdout
            self.assertEqual(job.wait(), 0)
        self.assertEqual(len(lines), 2)
        for line in lines:
            told = json.loads(line)
            # No fewer than asked for; a busy machine may wake it late, and fio catches up then.
            self.assertGreaterEqual(told["seconds"], 0.9)
            self.assertAlmostEqual(told["write"]["per_second"] * told["seconds"],
                                   told["write"]["count"], delta=1)
        self.assertGreater(sum(json.loads(line)["write"]["count"] for line in lines), 500)
        self.assertRegex(table, r"(?m)^ +READS/S")
        self.assertEqual(len(table.splitlines()), 2)

    def test_recoveries_are_counted(self):
        device = add("mem", "--size", "64M", "--recovery", "reissue", "--supervise")
        self.assertEqual(ashlar_json("stats", device["id"])["recoveries"], 0)
        pid = ashlar_json("show", device["id"])["pid"]
        kill_server(pid)
        wait_until(lambda: ashlar_json("show", device["id"])["state"] == "live" and
                   ashlar_json("show", device["id"])["pid"] != pid, "the next server")
        wait_until(lambda: ashlar("stats", device["id"], check=False).returncode == 0, "it answers")
        self.assertEqual(ashlar_json("stats", device["id"])["recoveries"], 1)

    def test_without_times(self):
        device = add("mem", "--size", "64M", "--no-metrics")
        fio(device["block_device"], rw="write", bs="64k", size="4M")
        stats = ashlar_json("stats", device["id"])
        self.assertGreaterEqual(stats["write"]["count"], 64)
        self.assertFalse(stats["timed"])
        self.assertNotIn("latency_ns", stats["write"])

    def test_wrong_words(self):
        device = add("null", "--size", "64M")
        for words, status, said in ((["9"], 1, "no such device"),
                                    (["x"], 2, "'x' is no device"),
                                    ([device["id"], "--interval", "0"], 2, "interval"),
                                    ([device["id"], "--count", "2"], 2, "needs --interval")):
            with self.subTest(words):
                result = ashlar("stats", *words, check=False)
                self.assertEqual(result.returncode, status)
                self.assertIn(said, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1)


class Export(DeviceTest):
    def serve(self, *words):
        server = subprocess.Popen(["ashlar", "export", *words], stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        return server, server.stdout.readline().strip()

    def test_prometheus_takes_it_under_load(self):
        run("ip", "link", "set", "lo", "up")
        device = add("mem", "--size", "64M", "--queues", "2")
        add("file", "/tmp/export.img", "--create", "--size", "16M")
        _, address = self.serve("--listen", "127.0.0.1:9857")
        self.assertEqual(address, "http://127.0.0.1:9857/metrics")
        with subprocess.Popen(["fio", "--name=d", f"--filename={device['block_device']}",
                               "--ioengine=io_uring", "--direct=1", "--rw=randrw", "--bs=4k",
                               "--iodepth=16", "--runtime=6", "--time_based", "--thread=1"],
                              stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            wait_until(lambda: ashlar_json("stats", device["id"])["read"]["count"] > 100, "load")
            with urllib.request.urlopen(address, timeout=30) as reply:
                text = reply.read().decode()
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True,
                                     capture_output=True, check=False, timeout=120)
            self.assertEqual(job.wait(), 0)
        # What the library adds of its own is not ours to name.
        ours = [line for line in (checked.stdout + checked.stderr).splitlines()
                if "exposer_" not in line]
        self.assertEqual(ours, [])
        for name in ("ublkb0", "ublkb1"):
            self.assertIn(f'ashlar_server_up{{device="{name}"}} 1', text)
        self.assertRegex(text, r'requests_total\{device="ublkb0",queue="1",op="read"\} [1-9]')
        self.assertIn("ashlar_backend_syncs_total", text)

    def test_the_dashboard_asks_for_what_there_is(self):
        device = add("mem", "--size", "64M")
        fio(device["block_device"], rw="randwrite", bs="4k", size="4M")
        text = ashlar("export", "--once").stdout
        told = set(re.findall(r"(?m)^(ashlar_\w+)", text))
        with open(DASHBOARD, encoding="utf-8") as file:
            asked = set(re.findall(r"ashlar_\w+", " ".join(
                target["expr"] for panel in json.load(file)["panels"]
                for target in panel["targets"])))
        self.assertGreater(len(asked), 8)
        self.assertEqual(asked - told, set())

    def test_once(self):
        device = add("mem", "--size", "64M")
        fio(device["block_device"], rw="write", bs="64k", size="4M")
        writes = ashlar_json("stats", device["id"])["write"]["count"]
        text = ashlar("export", "--once").stdout
        self.assertIn(f'ashlar_requests_total{{device="ublkb0",queue="0",op="write"}} {writes}',
                      text)

    def test_addresses(self):
        run("ip", "link", "set", "lo", "up")
        self.serve("--listen", "127.0.0.1:9858")
        for words, status, said in ((["--listen", "127.0.0.1:9858"], 1, "EADDRINUSE"),
                                    (["--listen", "9858"], 2, "no port"),
                                    (["--listen", "here:9858"], 2, "no address of numbers")):
            with self.subTest(words):
                result = ashlar("export", *words, check=False)
                self.assertEqual(result.returncode, status, result.stderr)
                self.assertIn(said, result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1)


class Top(DeviceTest):
    def tmux(self, *words):
        return run("tmux", "-L", "ashlar-test", *words).stdout

    def setUp(self):
        super().setUp()
        self.addCleanup(run, "tmux", "-L", "ashlar-test", "kill-server", check=False)

    def screen(self):
        return self.tmux("capture-pane", "-p", "-t", "top")

    def line(self, name):
        return next((line for line in self.screen().splitlines() if line.startswith(name)), "")

    def test_shows_the_load(self):
        busy = add("mem", "--size", "64M", "--layer", "delay:write=50ms")
        add("null", "--size", "64M")
        with subprocess.Popen(["fio", "--name=d", f"--filename={busy['block_device']}",
                               "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=4k",
                               "--iodepth=32", "--rate_iops=200", "--runtime=25", "--time_based",
                               "--thread=1"], stdout=subprocess.DEVNULL, cwd="/tmp") as job:
            self.tmux("new-session", "-d", "-s", "top", "-x", "160", "-y", "30",
                      "ashlar top --interval 2; echo status $?; sleep 60")

            def as_known():
                words = self.line("ublkb0").split()
                # DEVICE TYPE STATE READS/S WRITES READ/S with unit, WRITTEN/S, P50, P99: the delay.
                return (len(words) > 13 and 180 <= float(words[4]) <= 220
                        and 49 <= float(words[9]) <= 58
                        and words[10] == "ms")
            wait_until(as_known, "rate and latency are those of the load", 20)
            self.assertIn("mem of 64 MiB, 1 queues of depth 256", self.screen())
            self.tmux("send-keys", "-t", "top", "Down")
            wait_until(lambda: "/dev/ublkb1: null" in self.screen(), "the other one is picked")
            self.tmux("send-keys", "-t", "top", "s")
            wait_until(lambda: "by operations" in self.screen(), "another order")
            self.tmux("send-keys", "-t", "top", "q")
            wait_until(lambda: "status 0" in self.screen(), "it ends")
            job.terminate()

    def test_needs_a_terminal(self):
        result = ashlar("top", check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn("ashlar stats N --interval", result.stderr)


if __name__ == "__main__":
    unittest.main()
