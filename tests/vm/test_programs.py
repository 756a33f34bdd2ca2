"""Programs that are started to serve a disk, and end with it."""
import fcntl
import os
import signal
import subprocess
import tempfile
import time
import unittest

from support import (DeviceTest, Mounted, add, ashlar, ashlar_json, kill_server, run, wait_until)

MIB = 1 << 20


def running(name):
    return run("pgrep", "-x", name, check=False).stdout.split()


def sockets():
    return [name for name in os.listdir("/run/ashlar") if name.startswith("nbd-")]


class Started(DeviceTest):
    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)

    def tearDown(self):
        ashlar("del", "--all", "--force", check=False)
        wait_until(lambda: not running("nbdkit") and not running("qemu-nbd"), "no program is left")
        self.assertEqual(sockets(), [])
        super().tearDown()

    def write(self, device, offset=0):
        content = os.urandom(2 * MIB)
        fd = os.open(device["block_device"], os.O_WRONLY)
        os.pwrite(fd, content, offset)
        os.fsync(fd)
        os.close(fd)
        return content

    def read(self, device):
        run("blockdev", "--flushbufs", device["block_device"])
        with open(device["block_device"], "rb") as file:
            return file.read(2 * MIB)


class Programs(Started):
    def test_it_ends_with_the_device(self):
        device = add("nbd", "--queues", "2", "--", "nbdkit", "memory", "64M")
        self.assertEqual(len(running("nbdkit")), 1)
        self.assertEqual(self.read(device), bytes(2 * MIB))
        ashlar("del", device["id"])
        self.assertEqual(running("nbdkit"), [])

    def test_it_outlives_servers(self):
        device = add("nbd", "--recovery", "reissue", "--", "nbdkit", "memory", "64M")
        content = self.write(device)
        kill_server(device["pid"])
        wait_until(lambda: ashlar_json("show", device["id"])["state"] != "live", "no server")
        ashlar("recover", device["id"])
        self.assertEqual(self.read(device), content)
        ashlar("upgrade", device["id"])
        self.assertEqual(self.read(device), content)

    def test_its_supervisor_brings_servers_back(self):
        device = add("nbd", "--recovery", "reissue", "--supervise", "--", "nbdkit", "memory", "64M")
        content = self.write(device)
        kill_server(device["pid"])
        self.assertEqual(self.read(device), content)
        self.assertEqual(len(running("nbdkit")), 1)

    def test_it_goes_with_a_device_that_died(self):
        self.makes_io_fail = True
        device = add("nbd", "--", "nbdkit", "memory", "64M")
        kill_server(device["pid"])
        wait_until(lambda: ashlar_json("show", device["id"])["state"] == "dead", "dead")
        self.assertEqual(len(running("nbdkit")), 1)
        ashlar("del", device["id"])
        self.assertEqual(running("nbdkit"), [])

    def test_its_supervisor_looks_while_the_device_goes(self):
        self.makes_io_fail = True
        device = add("nbd", "--", "nbdkit", "memory", "64M")
        kill_server(device["pid"])
        wait_until(lambda: ashlar_json("show", device["id"])["state"] == "dead", "dead")
        state = os.open("/run/ashlar/lock", os.O_RDONLY)
        fcntl.flock(state, fcntl.LOCK_EX)  # del gets no further than the device's end
        with subprocess.Popen(["ashlar", "del", str(device["id"])]) as removal:
            wait_until(lambda: not os.path.exists(device["block_device"]), "it is gone")
            time.sleep(0.5)  # several looks
            os.close(state)
            self.assertEqual(removal.wait(timeout=20), 0)

    def test_it_dies(self):
        self.makes_io_fail = True
        log = f"{self.directory}/log"
        device = add("nbd", "--log", log, "--", "nbdkit", "memory", "64M")
        os.kill(int(running("nbdkit")[0]), signal.SIGKILL)
        failed = run("dd", f"if={device['block_device']}", "of=/dev/null", "count=1",
                     "iflag=direct", check=False)
        self.assertNotEqual(failed.returncode, 0)

        def log_says(text):
            with open(log, encoding="utf-8") as file:
                return text in file.read()
        wait_until(lambda: log_says("nbdkit was killed by signal 9"), "the log says so")

    def test_in_the_foreground(self):
        with subprocess.Popen(["ashlar", "add", "nbd", "--foreground", "--", "nbdkit", "memory",
                               "64M"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as server:
            self.assertRegex(server.stdout.readline(), "/dev/ublkb")
            server.send_signal(signal.SIGINT)
            self.assertEqual(server.wait(timeout=20), 0)
        self.assertEqual(running("nbdkit"), [])

    def test_what_cannot_be_started(self):
        for words, status, said in (
                (["nbd", "--", "nbdkit", "floppy"], 1, "start nbdkit"),
                (["nbd", "--", "false"], 1, "start false: it ended with exit status 1"),
                (["nbd", "--", "no-such-program"], 1, "is it installed"),
                (["nbd", "nbd:/disk"], 1, "start nbd:/disk"),
                (["nbd", "--foreground", "--recovery", "queue", "--", "nbdkit", "null"], 2,
                 "leave --foreground"),
                (["image", "/tmp/nothing.qcow2"], 1, "No such file"),
                (["image", "/etc/hostname"], 2, "--format is missing"),
                (["image", "/etc/hostname", "--format", "qcow2"], 1, "start qemu-nbd")):
            with self.subTest(words):
                refused = ashlar("add", *words, check=False)
                self.assertEqual(refused.returncode, status, refused.stderr)
                self.assertIn(said, refused.stderr)
                self.assertEqual(refused.stderr.count("\n"), 1, refused.stderr)
        self.assertEqual(ashlar_json("list"), [])


class Images(Started):
    def test_a_file_system_in_each_format(self):
        for kind in ("qcow2", "vmdk", "vdi"):
            with self.subTest(kind):
                image = f"{self.directory}/disk.{kind}"
                run("qemu-img", "create", "-q", "-f", kind, image, "256M")
                device = add("image", image, "--queues", "2")
                self.assertEqual(device["type"], "image")
                run("mkfs.ext4", "-q", device["block_device"])
                content = os.urandom(3 * MIB)
                with Mounted(device["block_device"]) as point:
                    with open(f"{point}/file", "wb") as file:
                        file.write(content)
                    run("fstrim", point, check=False)
                ashlar("del", device["id"])
                run("qemu-img", "check", "-q", image)
                device = add("image", image, "--read-only")
                with Mounted(device["block_device"], "-o", "ro") as point:
                    with open(f"{point}/file", "rb") as file:
                        self.assertEqual(file.read(), content)
                ashlar("del", device["id"])

    def test_twice_at_once(self):
        image = f"{self.directory}/disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
        add("image", image)
        refused = ashlar("add", "image", image, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("lock", refused.stderr)

    def test_as_a_member(self):
        images = [f"{self.directory}/{name}.qcow2" for name in "ab"]
        for image in images:
            run("qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
        device = add("stripe", *(f"image:{image}" for image in images))
        self.assertEqual(len(running("qemu-nbd")), 2)
        content = self.write(device)
        self.assertEqual(self.read(device), content)
        ashlar("del", device["id"])
        for image in images:
            run("qemu-img", "check", "-q", image)


if __name__ == "__main__":
    unittest.main()
