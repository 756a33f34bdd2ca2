"""What must not happen while a device changes its server: nothing is lost on the way."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from support import (DeviceTest, Store, add, ashlar, ashlar_json, is_zombie, kernel_features,
                     kill_server, run, wait_until)

BLOCK = 4096


def state_file(device):
    return Path(f"/run/ashlar/ublk{device['id']}.json")


def state(device):
    return json.loads(state_file(device).read_text(encoding="utf-8"))


def write_block(device, content):
    fd = os.open(device["block_device"], os.O_WRONLY | os.O_SYNC)
    try:
        return os.pwrite(fd, content * BLOCK, 0)
    finally:
        os.close(fd)


def read_block(device):
    with open(device["block_device"], "rb", buffering=0) as disk:
        return disk.read(BLOCK)


def is_running(process):
    return not is_zombie(process)


def shown(device):
    return ashlar_json("show", device["id"])


class HandOver(DeviceTest):
    makes_io_fail = True  # what is in flight, if anything is

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)

    def program(self, text):
        path = f"{self.directory}/program"
        with open(path, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)
        return path

    def file(self):
        path = f"{self.directory}/disk"
        run("truncate", "-s", "64M", path)
        return path

    def memory(self, *options):
        device = add("mem", "--size", "64M", "--supervise", *options)
        write_block(device, b"m")
        return device

    def check_memory(self, device):
        self.assertEqual(read_block(device), b"m" * BLOCK)

    def fill_run(self):
        """No room in /run for another byte, until make_room()."""
        self.addCleanup(self.make_room)
        used = int(run("df", "--output=used", "/run").stdout.split()[-1])
        run("/bin/mount", "-o", f"remount,size={used + 4}k", "/run")
        run("sh", "-c", "cat /dev/zero >/run/fill", check=False)

    def make_room(self):
        run("/bin/mount", "-o", "remount,size=50%", "/run")
        Path("/run/fill").unlink(missing_ok=True)


class Supervisors(HandOver):
    def test_it_stays_while_its_disk_is_made_anew(self):
        device = self.memory("--recovery", "queue")
        supervisor = state(device)["supervisor"]
        for _ in range(8):
            ashlar("stop", device["id"])
            time.sleep(0.12)
            ashlar("recover", device["id"])
        self.check_memory(device)
        time.sleep(0.3)
        self.assertTrue(is_running(supervisor))
        kill_server(shown(device)["pid"])
        self.check_memory(device)

    def test_a_state_file_that_cannot_be_read(self):
        device = self.memory("--recovery", "queue")
        time.sleep(0.2)  # by then the supervisor knows which device is its own
        kept = state_file(device).read_text(encoding="utf-8")
        state_file(device).write_text(kept.replace('"version":2', '"version":99'),
                                      encoding="utf-8")
        kill_server(device["pid"])
        wait_until(lambda: shown(device)["state"] == "quiesced", "nobody serves it")
        time.sleep(0.5)
        state_file(device).write_text(kept, encoding="utf-8")
        wait_until(lambda: shown(device)["state"] == "live", "it is brought back")
        self.check_memory(device)

    def test_terminated_while_its_disk_is_paused(self):
        device = self.memory("--recovery", "reissue")
        supervisor = state(device)["supervisor"]
        ashlar("quiesce", device["id"])
        os.kill(supervisor, signal.SIGTERM)
        wait_until(lambda: ashlar_json("list") == [], "the device is gone")
        wait_until(lambda: not is_running(supervisor), "the supervisor has ended")
        self.assertFalse(state_file(device).exists())

    def test_its_number_is_another_process(self):
        with subprocess.Popen(["sleep", "100"]) as other:
            device = self.memory("--recovery", "queue")
            told = state(device)
            os.kill(told["supervisor"], signal.SIGKILL)
            told["supervisor"] = other.pid
            state_file(device).write_text(json.dumps(told), encoding="utf-8")
            begin = time.monotonic()
            ashlar("del", device["id"])
            self.assertLess(time.monotonic() - begin, 20)
            other.kill()


class Stopped(HandOver):
    def test_somebody_still_has_it_open(self):
        device = self.memory("--recovery", "queue")
        with open(device["block_device"], "rb"):
            ashlar("stop", device["id"])
            refused = ashlar("recover", device["id"], check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("still has it open", refused.stderr)
        ashlar("recover", device["id"])
        self.check_memory(device)

    def test_what_goes_with_its_server_is_not_stopped(self):
        kinds = [["mem", "--size", "64M"], ["stripe", "mem:size=32M", "mem:size=32M"]]
        if "integrity" in kernel_features():
            kinds.append(["file", self.file(), "--metadata", "crc16"])
        for words in kinds:
            with self.subTest(words):
                device = add(*words)
                write_block(device, b"m")
                for command in (["stop"], ["stop", "--if-unused"], ["quiesce"], ["upgrade"]):
                    refused = ashlar(*command, device["id"], check=False)
                    self.assertEqual(refused.returncode, 1)
                    self.assertIn(f"type 'ashlar del {device['id']}'", refused.stderr)
                    self.assertEqual(refused.stderr.count("\n"), 1)
                self.check_memory(device)
                ashlar("del", device["id"])

    def test_removals_beside_it_take_nothing_of_it(self):
        device = add("file", self.file(), "--recovery", "reissue")
        for _ in range(6):
            ashlar("stop", device["id"])
            with subprocess.Popen(["ashlar", "recover", str(device["id"])],
                                  stdout=subprocess.DEVNULL) as recover:
                while recover.poll() is None:
                    ashlar("del", "9", check=False)
            self.assertEqual(recover.returncode, 0)
            self.assertTrue(state_file(device).exists())
            ashlar("quiesce", device["id"])
            ashlar("recover", device["id"])


class NoRoom(HandOver):
    def test_for_the_state_of_the_next_server(self):
        path = self.file()
        for recovery in ("queue", "fail", "reissue"):
            with self.subTest(recovery):
                added = ashlar("add", "file", path, "--recovery", recovery, "--json", check=False)
                if added.returncode != 0:
                    self.assertIn("needs kernel", added.stderr)
                    continue
                device = json.loads(added.stdout)
                kill_server(device["pid"])
                wait_until(lambda: shown(device)["state"] != "live", "nobody serves it")
                self.fill_run()
                refused = ashlar("recover", device["id"], check=False)
                self.assertEqual(refused.returncode, 1)
                self.assertIn("ENOSPC", refused.stderr)
                self.assertEqual([one["id"] for one in ashlar_json("list")], [device["id"]])
                self.make_room()
                ashlar("recover", device["id"])
                self.assertEqual(shown(device)["state"], "live")
                ashlar("del", device["id"])

    def test_for_a_pause(self):
        device = self.memory("--recovery", "queue")
        self.fill_run()
        refused = ashlar("quiesce", device["id"], check=False)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertEqual(shown(device)["state"], "live")
        self.check_memory(device)
        self.make_room()


class Upgrades(HandOver):
    def upgrade(self, device, program):
        return ashlar("upgrade", device["id"], "--binary", program, check=False)

    def test_to_what_serves_nothing(self):
        device = self.memory("--recovery", "reissue")
        for text in ("exit 0", "sleep 100 & exit 0", "ashlar recover $2 $3 && "
                     "kill -9 $(ashlar show $2 --json | jq .pid) && sleep 0.1"):
            with self.subTest(text):
                refused = self.upgrade(device, self.program(text))
                if refused.returncode != 0:
                    self.assertIn("the old program serves it again", refused.stderr)
                wait_until(lambda: shown(device)["state"] == "live", "it is served")
                self.check_memory(device)

    def test_nobody_stops_it_half_way(self):
        device = self.memory("--recovery", "reissue")
        slow = self.program('sleep 1; exec ashlar "$@"')
        with subprocess.Popen(["ashlar", "upgrade", str(device["id"]), "--binary", slow],
                              stdout=subprocess.DEVNULL, process_group=0) as upgrade:
            time.sleep(0.5)
            os.killpg(upgrade.pid, signal.SIGINT)
            upgrade.wait(timeout=40)
        self.assertEqual(shown(device)["state"], "live")
        self.check_memory(device)

    def test_a_file_that_is_not_there_any_more(self):
        path = self.file()
        device = add("file", path, "--recovery", "reissue")
        os.rename(path, path + ".moved")
        for command in ("upgrade", "quiesce"):
            refused = ashlar(command, device["id"], check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("cannot be opened by another server", refused.stderr)
        self.file()
        refused = ashlar("upgrade", device["id"], check=False)
        self.assertIn("is another file by now", refused.stderr)
        self.assertEqual(shown(device)["pid"], device["pid"])
        os.rename(path + ".moved", path)
        ashlar("upgrade", device["id"])

    def test_a_path_need_not_be_utf8(self):
        path = os.fsencode(self.directory) + b"/d\xe9j\xe0"
        with open(path, "wb") as file:
            file.truncate(16 << 20)
        device = add("file", os.fsdecode(path), "--recovery", "reissue")
        write_block(device, b"d")
        os.rename(path, path + b"-vu")
        refused = ashlar("upgrade", device["id"], check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("cannot be opened by another server", refused.stderr)
        self.assertEqual(shown(device)["pid"], device["pid"])
        self.assertEqual(read_block(device), b"d" * BLOCK)
        os.rename(path + b"-vu", path)
        ashlar("upgrade", device["id"])
        kill_server(shown(device)["pid"])
        ashlar("recover", device["id"])
        self.assertEqual(read_block(device), b"d" * BLOCK)

    def test_memory_that_nobody_holds(self):
        device = self.memory("--recovery", "reissue")
        supervisor = state(device)["supervisor"]
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: not is_running(supervisor), "the supervisor has ended")
        refused = ashlar("upgrade", device["id"], check=False)
        self.assertEqual(refused.returncode, 1)
        self.check_memory(device)


class OnAFileSystemOfItsOwn(HandOver):
    """Which the server has left, but not the next one."""

    def setUp(self):
        super().setUp()
        self.store = Store()
        self.addCleanup(self.store.close)
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)
        self.path = self.store.fresh("64M")

    def check(self, device):
        self.assertEqual(shown(device)["state"], "live")
        self.assertEqual(read_block(device), b"s" * BLOCK)

    def test_from_one_server_to_the_next(self):
        os.symlink(self.path, f"{self.directory}/link")
        link = add("file", f"{self.directory}/link", "--recovery", "reissue")
        member = add("stripe", f"file:{self.store.fresh('64M')}", f"file:{self.store.fresh('64M')}",
                     "--recovery", "reissue")
        for device in (link, member):
            write_block(device, b"s")
            ashlar("upgrade", device["id"])
            self.assertNotEqual(shown(device)["pid"], device["pid"])
            self.check(device)
            for command in ("quiesce", "stop"):
                ashlar(command, device["id"])
                ashlar("recover", device["id"])
                self.check(device)

    def test_what_is_not_there_any_more(self):
        device = add("file", self.path, "--recovery", "reissue")
        write_block(device, b"s")
        os.rename(self.path, self.path + ".moved")
        for command in ("upgrade", "quiesce", "stop"):
            refused = ashlar(command, device["id"], check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("cannot be opened by another server", refused.stderr)
        os.rename(self.path + ".moved", self.path)
        self.check(device)

    def test_seen_as_by_who_asks(self):
        device = add("file", self.path, "--recovery", "reissue")
        write_block(device, b"s")
        elsewhere = run("unshare", "--mount", "sh", "-c",
                        f"umount {self.store.point} && ashlar upgrade {device['id']}", check=False)
        self.assertEqual(elsewhere.returncode, 1)
        self.assertIn("cannot be opened by another server", elsewhere.stderr)
        ashlar("upgrade", device["id"])
        self.check(device)
        ashlar("del", device["id"])
        # A link from / on leads to what is in the caller's root, be that another than everybody's.
        os.symlink(self.path, f"{self.directory}/link")
        device = add("file", f"{self.directory}/link", "--recovery", "reissue")
        root = f"{self.directory}/root"
        os.mkdir(root)
        rooted = run("unshare", "--mount", "sh", "-c",
                     f"mount --rbind / {root} && umount {root}{self.store.point} && "
                     f"chroot {root} ashlar upgrade {device['id']}", check=False)
        self.assertEqual(rooted.returncode, 1)
        self.assertIn("cannot be opened by another server", rooted.stderr)
        self.check(device)


if __name__ == "__main__":
    unittest.main()
