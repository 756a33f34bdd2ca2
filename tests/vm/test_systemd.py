"""Units under systemd itself: process 1 of a container that has the VM's kernel, devices, /run."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from support import DeviceTest, NOTHING, read_text, run, traces, wait_until

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
UNITS = f"{ROOT}/packaging/systemd"
# What a unit of a service cannot do without; all else of this machine stays out.
TARGETS = ("basic", "default", "multi-user", "shutdown", "sysinit", "umount")

FILE = """
[device.first]
type = "file"
path = "STORE/first"
recovery = "reissue"

[device.second]
type = "mem"
size = "32M"
memory-file = "STORE/second"
recovery = "reissue"
"""


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


class Machine:
    """systemd with our units and nothing else."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="systemd-", dir="/tmp")
        self.store = tempfile.mkdtemp(prefix="systemd-", dir="/dev/shm")
        with open(f"{self.store}/first", "wb") as file:
            file.truncate(64 << 20)
        units = f"{self.directory}/units"
        etc = f"{self.directory}/etc"
        for name in (units, f"{units}/default.target.wants", etc, f"{self.directory}/work",
                     f"{self.directory}/bin"):
            os.mkdir(name)
        for name in os.listdir(UNITS):
            shutil.copy(f"{UNITS}/{name}", units)
        # A test cannot wait for as long as a busy machine may need.
        os.mkdir(f"{units}/ashlar@.service.d")
        write(f"{units}/ashlar@.service.d/test.conf", "[Service]\nWatchdogSec=4\n"
              f"StandardOutput=append:{self.directory}/served\n"
              f"StandardError=append:{self.directory}/served\n")
        for name in TARGETS:
            write(f"{units}/{name}.target", f"[Unit]\nDescription={name}\n")
        os.symlink("../ashlar.target", f"{units}/default.target.wants/ashlar.target")
        os.mkdir(f"{etc}/ashlar")
        self.write(FILE)
        os.symlink(shutil.which("ashlar"), f"{self.directory}/bin/ashlar")
        self.log = open(f"{self.directory}/log", "w", encoding="utf-8")
        script = f"""
            mount -t overlay -o lowerdir=/etc,upperdir={etc},workdir={self.directory}/work etc /etc
            mount --bind {self.directory}/bin /usr/local/bin
            exec /lib/systemd/systemd --log-target=console --show-status=no"""
        self.outside = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-ec",
             script], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
            env={"container": "ashlar", "SYSTEMD_UNIT_PATH": units,
                 "PATH": os.environ["PATH"]})
        children = f"/proc/{self.outside.pid}/task/{self.outside.pid}/children"
        wait_until(lambda: read_text(children).split(), "process 1 begins")
        self.first = read_text(children).split()[0]
        wait_until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip()
                   in ("running", "degraded"), "systemd runs")
        return self

    def write(self, text):
        write(f"{self.directory}/etc/ashlar/demo.toml", text.replace("STORE", self.store))

    def __exit__(self, *_):
        os.kill(int(self.first), signal.SIGRTMIN + 13)  # as systemctl halt
        self.outside.wait(60)
        self.log.close()
        shutil.rmtree(self.store)

    def words(self, *command):
        return ["nsenter", "--target", self.first, "--mount", "--pid", "--",
                *[str(word) for word in command]]

    def run(self, *command, check=True):
        return run(*self.words(*command), check=check)

    def systemctl(self, *arguments, check=True):
        return self.run("systemctl", *arguments, check=check)

    def shows(self, name):
        return self.systemctl("show", "--value", "--property", name, "ashlar@demo").stdout.strip()


MACHINE = Machine()


def setUpModule():
    if os.environ.get("ASHLAR_IN_VM") != "1":
        raise unittest.SkipTest("has a systemd of its own: only in the VM")
    MACHINE.__enter__()


def tearDownModule():
    MACHINE.__exit__()


class Unit(DeviceTest):
    def setUp(self):
        super().setUp()
        self.addCleanup(MACHINE.systemctl, "stop", "ashlar@demo")
        MACHINE.write(FILE)

    def devices(self):
        listed = json.loads(MACHINE.run("ashlar", "list", "--json").stdout)
        return [(device["id"], device["state"]) for device in listed]

    def load(self, path):
        """Whatever happens to the server, each block that was written is read as it was."""
        return subprocess.Popen(
            ["fio", "--name=load", f"--filename={path}", "--rw=randwrite", "--bs=4k",
             "--size=16M", "--ioengine=io_uring", "--iodepth=16", "--direct=1", "--thread",
             "--rate_iops=800", "--loops=1000", "--time_based", "--runtime=14",
             "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"],
            cwd="/tmp", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def await_restart(self, before):
        wait_until(lambda: int(MACHINE.shows("NRestarts")) > before and
                   MACHINE.shows("ActiveState") == "active", "it serves again", 60)

    def test_from_start_to_stop(self):
        MACHINE.systemctl("start", "ashlar@demo")
        self.assertEqual(self.devices(), [(0, "live"), (1, "live")])
        self.assertEqual(MACHINE.shows("StatusText"), "2 of 2 devices are served")
        MACHINE.systemctl("restart", "ashlar@demo")
        self.assertEqual(self.devices(), [(0, "live"), (1, "live")])
        MACHINE.systemctl("stop", "ashlar@demo")
        self.assertEqual(MACHINE.shows("Result"), "success")
        self.assertEqual(traces(), NOTHING)

    def test_killed_under_load(self):
        MACHINE.systemctl("start", "ashlar@demo")
        loads = [self.load("/dev/ublkb0"), self.load("/dev/ublkb1")]
        for round_number in range(3):
            time.sleep(2)
            # A process that is ending already has no number, which systemctl then tells.
            MACHINE.systemctl("kill", "--signal", "KILL", "ashlar@demo", check=False)
            self.await_restart(round_number)
            self.assertEqual(self.devices(), [(0, "live"), (1, "live")])
        for load in loads:
            said = load.communicate(timeout=120)[0]
            self.assertEqual(load.returncode, 0, said)

    def test_one_that_hangs(self):
        MACHINE.systemctl("start", "ashlar@demo")
        pid = MACHINE.shows("MainPID")
        before = MACHINE.run("dd", "if=/dev/urandom", "of=/dev/ublkb1", "bs=64k", "count=1",
                             "oflag=direct")
        self.assertIn("65536 bytes", before.stderr)
        MACHINE.run("kill", "-STOP", pid)
        self.await_restart(0)
        self.assertNotEqual(MACHINE.shows("MainPID"), pid)
        self.assertEqual(self.devices(), [(0, "live"), (1, "live")])
        MACHINE.run("dd", "if=/dev/ublkb1", "of=/dev/null", "bs=64k", "count=1", "iflag=direct")

    def test_another_file(self):
        MACHINE.systemctl("start", "ashlar@demo")
        MACHINE.write(FILE + '[device.third]\ntype = "null"\n')
        MACHINE.systemctl("reload", "ashlar@demo")
        wait_until(lambda: len(self.devices()) == 3, "the third comes")
        MACHINE.write(FILE + "[device.fourth]\n")
        refused = MACHINE.systemctl("reload", "ashlar@demo", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertEqual(MACHINE.shows("ActiveState"), "active")
        self.assertEqual(len(self.devices()), 3)

    def test_one_that_is_wrong_from_the_beginning(self):
        MACHINE.write('[device.first]\ntype = "fiel"\n')
        MACHINE.systemctl("start", "--no-block", "ashlar@demo")
        wait_until(lambda: int(MACHINE.shows("NRestarts")) > 0, "it is tried again")
        self.assertEqual(self.devices(), [])
        MACHINE.write(FILE)
        wait_until(lambda: MACHINE.shows("ActiveState") == "active", "the mended one is served")

    def test_with_its_target(self):
        wants = f"{MACHINE.directory}/units/ashlar.target.wants"
        os.mkdir(wants)
        self.addCleanup(shutil.rmtree, wants)
        os.symlink("../ashlar@.service", f"{wants}/ashlar@demo.service")
        MACHINE.systemctl("daemon-reload")
        MACHINE.systemctl("stop", "ashlar.target")
        MACHINE.systemctl("start", "ashlar.target")
        wait_until(lambda: MACHINE.shows("ActiveState") == "active", "the target's unit is up")
        MACHINE.systemctl("stop", "ashlar.target")
        wait_until(lambda: MACHINE.shows("ActiveState") == "inactive", "the target's unit is down")
        self.assertEqual(traces(), NOTHING)


if __name__ == "__main__":
    unittest.main()
