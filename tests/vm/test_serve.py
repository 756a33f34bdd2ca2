#!/usr/bin/env python3
"""ashlar serve: many devices in one process."""
import glob
import os
import select
import resource
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from support import (DeviceTest, Mounted, Store, ashlar, ashlar_json, fio, kernel_features,
                     read_text, run, servers, wait_until)

EXAMPLE = os.path.join(os.path.dirname(__file__), "../../examples/serve.toml")
MANY = int(os.environ.get("ASHLAR_SERVE_DEVICES", "40"))


def status_of(pid, field):
    for line in read_text(f"/proc/{pid}/status").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no {field}")


class Served:
    """A file, and the process that serves it."""

    def __init__(self, text):
        self.directory = tempfile.mkdtemp(prefix="serve-", dir="/tmp")
        self.path = f"{self.directory}/serve.toml"
        self.log_path = f"{self.directory}/log"
        self.process = None
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(f"{self.directory}/notify")
        self.manager.settimeout(300)
        self.write(text)

    def write(self, text):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)

    def start(self):
        self.forget()
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["ashlar", "serve", self.path], stderr=log, stdout=log,
                env=dict(os.environ, NOTIFY_SOCKET=f"{self.directory}/notify"))
        return self.hear("READY=1")

    def forget(self):
        """What the last process said and nobody heard."""
        while select.select([self.manager], [], [], 0)[0]:
            self.manager.recv(4096)

    def hear(self, wanted):
        """The first message that has the line; all until then."""
        while True:
            message = self.manager.recv(4096).decode()
            if wanted in message.splitlines():
                return message

    def reload(self):
        self.process.send_signal(signal.SIGHUP)
        self.hear("RELOADING=1")
        return self.hear("READY=1")

    def log(self):
        return read_text(self.log_path)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=120)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=120)
        self.manager.close()


def declared(name, **words):
    lines = [f"[device.{name}]"]
    for key, value in words.items():
        key = key.replace("_", "-")
        value = str(value).lower() if isinstance(value, (bool, int)) else f'"{value}"'
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


class ServeTest(DeviceTest):
    def served(self, text):
        served = Served(text)
        self.addCleanup(served.close)
        return served

    def file(self, served, name, size="32M"):
        path = f"{served.directory}/{name}"
        run("truncate", "-s", size, path)
        return path

    def names(self):
        """Of the devices that serve, their numbers."""
        return {device["id"] for device in ashlar_json("list") if device["state"] == "live"}


class OneProcess(ServeTest):
    def test_a_file_that_is_wrong_makes_nothing(self):
        served = self.served(declared("a", type="mem", size="5X"))
        for words in (["--check"], []):
            refused = ashlar("serve", *words, served.path, check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(f"{served.path}:3: device 'a': size", refused.stderr)
            self.assertEqual(refused.stderr.count("\n"), 1)
        served.write(declared("a", type="mem", size="5M"))
        self.assertIn("1 devices, nothing is wrong", ashlar("serve", "--check", served.path).stdout)
        self.assertEqual(ashlar_json("list"), [])
        self.assertEqual(ashlar("serve", check=False).returncode, 2)
        ashlar("serve", "--check", EXAMPLE)

    def test_the_other_commands_work_with_its_devices(self):
        served = self.served(declared("a", type="mem", size="16M", id=3) +
                             declared("b", type="mem", size="16M") +
                             declared("c", type="null", size="16M", queues=2))
        self.assertIn("STATUS=3 of 3 devices are served", served.start())
        self.assertEqual(self.names(), {0, 1, 3})
        self.assertEqual(set(servers()), {served.process.pid})
        again = ashlar("serve", served.path, check=False)
        self.assertEqual(again.returncode, 1)
        self.assertIn("another process serves it", again.stderr)
        modes = {os.stat(lock).st_mode & 0o777 for lock in glob.glob("/run/ashlar/serve-*.lock")}
        self.assertEqual(modes, {0o600})
        fio("/dev/ublkb3", rw="randwrite", bs="4k", size="4M", verify="crc32c")
        shown = ashlar_json("show", 3)
        self.assertEqual(shown["pid"], served.process.pid)
        self.assertGreater(sum(queue["writes"] for queue in shown["queue_counters"]), 1000)
        refused = ashlar("upgrade", 3, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("serves all devices of", refused.stderr)
        refused = ashlar("quiesce", 3, check=False)
        self.assertEqual(refused.returncode, 1)
        ashlar("del", 3)
        wait_until(lambda: self.names() == {0, 1}, "it is gone, and only it")
        self.assertFalse(os.path.exists("/run/ashlar/ublk3.json"))
        refused = ashlar("stop", 0, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("'ashlar del 0'", refused.stderr)
        ashlar("stop", 1)
        self.assertEqual(self.names(), {0})
        self.assertIn("STATUS=2 of 3 devices are served", served.reload())
        fio("/dev/ublkb0", rw="randread", bs="4k", size="1M")
        ashlar("del", 1)
        self.assertEqual(served.stop(), 0)
        self.assertEqual(ashlar_json("list"), [])

    def test_one_that_cannot_be_opened_leaves_the_others(self):
        served = self.served(declared("a", type="file", path="/nowhere/disk") +
                             declared("b", type="mem", size="16M"))
        self.assertIn("1 of 2 devices", served.start())
        self.assertIn("error a: ", served.log())
        fio("/dev/ublkb0", rw="write", bs="64k", size="4M", verify="crc32c")
        served.stop()
        served.write(declared("a", type="file", path="/nowhere/disk"))
        alone = ashlar("serve", served.path, check=False)
        self.assertEqual(alone.returncode, 1)
        self.assertIn("none of the devices can be served", alone.stderr)

    def test_what_lies_on_file_systems_of_their_own(self):
        store = Store()
        self.addCleanup(store.close)
        server = subprocess.Popen(["nbdkit", "-f", "-U", f"{store.point}/socket", "memory", "32M"],
                                  cwd="/tmp", stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait_until(lambda: os.path.exists(f"{store.point}/socket"), "the server listens")
        served = self.served("")
        os.symlink(store.point, f"{served.directory}/link")
        served.write(declared("n", type="nbd", uri="nbd+unix:///?socket=link/socket", queues=2) +
                     declared("f", type="file", path=store.fresh("32M"), recovery="reissue"))
        self.assertIn("STATUS=2 of 2 devices are served", served.start())
        fio("/dev/ublkb0", rw="randwrite", bs="4k", size="4M", verify="crc32c")
        kept = ashlar_json("show", 0)["protections"]["mount-namespace"]["detail"]
        self.assertTrue(kept.endswith(f" but {store.point}"), kept)
        ashlar("stop", 1)
        self.assertEqual(self.names(), {0})
        self.assertEqual(served.stop(), 0)

    def test_the_file_is_read_again(self):
        served = self.served(declared("a", type="mem", size="16M") +
                             declared("b", type="mem", size="16M"))
        served.start()
        run("mkfs.ext4", "-q", "/dev/ublkb1")
        served.write("[device.a]\ntype = 5\n")
        self.assertIn("nothing is changed", served.reload())
        self.assertEqual(self.names(), {0, 1})
        path = self.file(served, "c")
        with Mounted("/dev/ublkb1"):
            served.write(declared("a", type="mem", size="32M", depth=64) +
                         declared("c", type="file", path=path))
            self.assertIn("STATUS=3 of 3", served.reload())
            self.assertIn("depth: declared otherwise by now, which needs a restart", served.log())
            grown = int(run("blockdev", "--getsize64", "/dev/ublkb0").stdout)
            if "update_size" in kernel_features():
                self.assertEqual(grown, 32 << 20)
            else:
                self.assertIn("6.16", served.log())
                self.assertEqual(grown, 16 << 20)
            self.assertRegex(served.log(), "b: no longer declared, but /dev/ublkb1 is mounted on")
            self.assertEqual(self.names(), {0, 1, 2})
            fio("/dev/ublkb2", rw="randwrite", bs="4k", size="4M", verify="crc32c")
        self.assertIn("STATUS=2 of 2", served.reload())
        self.assertEqual(self.names(), {0, 2})
        self.assertEqual(served.stop(), 0)


class Killed(ServeTest):
    makes_io_fail = True

    def test_devices_with_recovery_go_on(self):
        served = self.served("")
        words = "".join(declared(f"f{n}", type="file", path=self.file(served, f"disk{n}"),
                                 recovery="reissue") for n in range(3))
        served.write(words + declared("m", type="mem", size="16M"))
        served.start()
        before = {device["block_device"]: device for device in ashlar_json("list")}
        self.assertEqual(len(before), 4)
        loads = [subprocess.Popen(
            ["fio", "--name=load", f"--filename=/dev/ublkb{n}", "--direct=1", "--rw=randrw",
             "--ioengine=io_uring", "--iodepth=8", "--bs=4k", "--size=16M", "--verify=crc32c",
             "--verify_fatal=1", "--verify_backlog=128", "--time_based", "--runtime=12"],
            cwd="/tmp", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for n in range(3)]
        for _ in range(2):
            time.sleep(3)
            served.kill()
            time.sleep(0.3)
            self.assertIn("4 of 4", served.start())
        for load in loads:
            output = load.communicate(timeout=120)[0]
            self.assertEqual(load.returncode, 0, output[-2000:])
        self.assertEqual(served.log().count(": recovered file at"), 6)
        self.assertEqual({device["block_device"] for device in ashlar_json("list")}, set(before))
        fio("/dev/ublkb3", rw="write", bs="64k", size="4M", verify="crc32c")
        self.assertEqual(served.stop(), 0)
        self.assertEqual(ashlar_json("list"), [])


class Threads(ServeTest):
    makes_io_fail = True

    def let_hang(self, seconds):
        """A task that waits so long is no complaint of the kernel's."""
        path = "/proc/sys/kernel/hung_task_timeout_secs"
        self.addCleanup(run, "sh", "-c", f"echo {read_text(path).strip()} >{path}")
        run("sh", "-c", f"echo {seconds} >{path}")

    def test_their_end_takes_only_what_has_no_recovery(self):
        self.let_hang(600)
        store = Store()
        self.addCleanup(store.close)
        served = self.served("")
        rest = "".join(
            declared(name, type="file", path=self.file(served, name), recovery="reissue", **words)
            for name, words in (("shared", {}), ("own", {"threads": 1})))
        rest += declared("alone", type="mem", size="16M", threads=1)
        served.write(rest + declared("stuck", type="file", path=store.fresh("16M")))
        self.assertIn("4 of 4", served.start())
        kept = [device["id"] for device in ashlar_json("list")][:2]
        for number in kept:
            fio(f"/dev/ublkb{number}", rw="write", bs="64k", size="1M", verify="crc32c")
        run("fsfreeze", "--freeze", store.point)
        thaw = ["fsfreeze", "--unfreeze", store.point]
        writer = subprocess.Popen(["dd", "if=/dev/zero", "of=/dev/ublkb3", "bs=4k", "count=1",
                                   "oflag=direct"], stderr=subprocess.DEVNULL)
        self.addCleanup(writer.wait)
        self.addCleanup(run, *thaw, check=False)
        time.sleep(1)
        served.write("[server]\nforce = true\n" + rest)
        served.process.send_signal(signal.SIGHUP)
        # The threads end at the third time-out; their end waits for the write.
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline and "error stuck: " not in served.log():
            time.sleep(0.5)
        run(*thaw)
        self.assertEqual(served.process.wait(timeout=60), 1)
        self.assertIn("the queue threads have ended; devices with recovery wait", served.log())
        self.assertEqual([device["id"] for device in ashlar_json("list")], kept)
        served.write(rest)
        self.assertIn("3 of 3", served.start())
        self.assertEqual(served.log().count(": recovered file at"), 2)
        for number in kept:
            fio(f"/dev/ublkb{number}", rw="read", bs="64k", size="1M", verify="crc32c")
        self.assertEqual(served.stop(), 0)


class Many(ServeTest):
    def test_many_devices_serve_and_cost_little(self):
        text = "[server]\nthreads = 2\n"
        for n in range(MANY):
            text += declared(f"d{n}", type="mem", size="1M", depth=4, io_max="64K")
        served = self.served(text)
        began = time.monotonic()
        self.assertIn(f"{MANY} of {MANY}", served.start())
        took = time.monotonic() - began
        pid = served.process.pid
        for n in range(MANY):
            content = n.to_bytes(4, "little") * 1024
            fd = os.open(f"/dev/ublkb{n}", os.O_RDWR)
            os.pwrite(fd, content, 4096)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self.assertEqual(os.pread(fd, 4096, 4096), content)
            os.close(fd)
        threads, rss = status_of(pid, "Threads"), status_of(pid, "VmRSS")
        files = len(os.listdir(f"/proc/{pid}/fd"))
        began = time.monotonic()
        self.assertEqual(served.stop(), 0)
        print(f"{MANY} devices: up in {took:.1f} s, {threads} threads, {rss} KiB resident, "
              f"{files} descriptors, gone in {time.monotonic() - began:.1f} s")
        self.assertLessEqual(threads, 4)
        self.assertLessEqual(files, 5 * MANY + 64)
        self.assertLessEqual(rss, 64 * 1024 + 300 * MANY)

    def test_too_few_descriptors_are_told_at_once(self):
        served = self.served("".join(declared(f"d{n}", type="null") for n in range(100)))
        refused = run("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource",
                      "ashlar", "serve", served.path, check=False,
                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)))
        self.assertEqual(refused.returncode, 1)
        self.assertIn("raise the hard limit", refused.stderr)
        self.assertIn("728 open files, and 512 are allowed", refused.stderr)


if __name__ == "__main__":
    unittest.main()
