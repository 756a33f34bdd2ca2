"""Odd surroundings: closed descriptors, odd files, rude clients, disks in use out of sight."""
import os
import socket
import subprocess
import unittest

from support import (DeviceTest, NOTHING, add, ashlar, ashlar_json, read_text, run, servers,
                     traces, wait_until)


def client():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/run/ashlar/ublk0.sock")
    return connection


class Clients(DeviceTest):
    def test_odd_requests_do_no_harm(self):
        add("mem", "--size", "16M")
        for line in (b"\n", b"{}\n", b'{"request":5}\n', b'{"request":"x"}\n', b"[1,2\n", b"5\n",
                     b'{"request":null}\n', b"\xff\xfe\n", b"a" * 100_000 + b"\n", b"no end"):
            with client() as connection:
                try:
                    connection.sendall(line)
                except (BrokenPipeError, ConnectionResetError):
                    pass
        self.assertEqual(ashlar_json("list")[0]["state"], "live")
        self.assertIsNotNone(ashlar_json("show", "0")["queue_counters"])

    def test_a_slow_client_does_not_keep_the_server(self):
        add("mem", "--size", "16M")
        with client() as connection:
            connection.send(b"{")
            trickle = subprocess.Popen(
                ["python3", "-c", "import os, time\nfor _ in range(100):\n"
                 f" os.write({connection.fileno()}, b' '); time.sleep(0.1)"],
                pass_fds=[connection.fileno()], stderr=subprocess.DEVNULL)
            ashlar("del", "0")
            trickle.kill()
            trickle.wait()
        self.assertEqual(traces(), NOTHING)


class Surroundings(DeviceTest):
    def test_closed_descriptors(self):
        for closed in ("<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"):
            with self.subTest(closed=closed):
                run("sh", "-c", f"exec ashlar add mem --size 16M --log /tmp/log {closed}",
                    check=False, timeout=60)
                devices = ashlar_json("list")
                self.assertEqual(len(devices), 1)
                ashlar("del", "0")
                self.assertIn("removed", read_text("/tmp/log"))
                os.unlink("/tmp/log")

    def test_a_path_that_cannot_be_told_is_taken_back(self):
        result = run("sh", "-c", "exec ashlar add mem --size 16M >/dev/full", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("removed again", result.stderr)
        wait_until(lambda: traces() == NOTHING, "nothing is left")

    def test_stderr_that_takes_nothing(self):
        result = run("sh", "-c", "exec ashlar add mem 2>/dev/full", check=False)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(run("sh", "-c", "exec ashlar add null --log /dev/full").stdout,
                         "/dev/ublkb0\n")
        ashlar("del", "0")

    def test_inherited_descriptors_are_let_go(self):
        run("sh", "-c", "exec 9>/tmp/lock; flock 9; ashlar add null")
        run("flock", "--nonblock", "/tmp/lock", "true")

    def test_a_file_with_the_disks_name(self):
        with open("/dev/ublkb0", "w", encoding="ascii") as file:
            file.write("in the way")
        try:
            result = ashlar("add", "null", check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn("/dev/ublkb0", result.stderr)
        finally:
            os.unlink("/dev/ublkb0")
        self.assertEqual(traces(), NOTHING)

    def test_few_descriptors(self):
        result = run("sh", "-c", "ulimit -n 64; exec ashlar add null --queues 2")
        self.assertEqual(result.stdout, "/dev/ublkb0\n")
        ashlar("del", "0")
        for limit in range(3, 20):
            run("sh", "-c", f"ulimit -n {limit}; exec ashlar add null", check=False)
            ashlar("del", "--all")
            self.assertEqual(traces(), NOTHING)

    def test_odd_state_files(self):
        device = add("mem", "--size", "16M")
        path = "/run/ashlar/ublk0.json"
        good = read_text(path)
        odd = ["", "{", "[]", '{"version":"1"}', '{"version":1,"pid":"x","type":"mem"}',
               '{"version":1,"pid":1,"identity":5,"type":7}',
               good.replace('"mem"', '"\\u001b[31m"'), "x" * 1_000_000]
        for text in odd:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            listed = ashlar_json("list")
            self.assertEqual(listed[0]["pid"], device["pid"])
            self.assertIsNone(listed[0]["type"])
        os.unlink(path)
        os.mkdir(path)
        self.assertEqual(len(ashlar_json("list")), 1)
        os.rmdir(path)
        os.mkfifo(path)
        self.assertEqual(len(ashlar_json("list")), 1)
        os.unlink(path)
        for name in ("x.json", "ublk.json", "ublkx.json"):
            with open(f"/run/ashlar/{name}", "w", encoding="ascii") as file:
                file.write(good)
        ashlar("del", "--all")
        for name in ("x.json", "ublk.json", "ublkx.json"):
            os.unlink(f"/run/ashlar/{name}")
        wait_until(lambda: servers() == [], "the server ends")

    def test_numbers_are_decimal(self):
        self.assertEqual(ashlar("add", "null", "--id", "010").stdout, "/dev/ublkb10\n")
        self.assertEqual(ashlar("add", "null", "--size", "", check=False).returncode, 2)


class OutOfSight(DeviceTest):
    def refused(self, text):
        result = ashlar("del", "0", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(text, result.stderr)
        self.assertEqual(ashlar_json("list")[0]["state"], "live")

    def test_mounted_in_another_namespace(self):
        device = add("mem", "--size", "64M")
        run("mkfs.ext4", "-q", device["block_device"])
        os.makedirs("/tmp/elsewhere", exist_ok=True)
        holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c",
             f"mount {device['block_device']} /tmp/elsewhere && echo up && sleep 600"],
            stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(holder.stdout.readline(), "up\n")
            self.refused("in use")
        finally:
            run("pkill", "-P", str(holder.pid), check=False)
            holder.kill()
            holder.wait()
            holder.stdout.close()
        wait_until(lambda: ashlar("del", "0", check=False).returncode == 0, "the mount is gone")

    def test_under_a_loop_device(self):
        device = add("mem", "--size", "64M")
        loop = run("losetup", "--find", "--show", device["block_device"]).stdout.strip()
        try:
            self.refused(f"the disk of {os.path.basename(loop)}")
        finally:
            run("losetup", "--detach", loop)

    def test_held_open_by_a_process(self):
        add("mem", "--size", "16M")
        holder = subprocess.Popen(["sh", "-c", "exec sleep 600 </dev/ublkb0"])
        try:
            wait_until(lambda: os.readlink(f"/proc/{holder.pid}/fd/0") == "/dev/ublkb0", "open")
            result = ashlar("del", "0", check=False)
            self.assertEqual(result.returncode, 1)
            self.assertIn(f"process {holder.pid} (sleep) still has it open", result.stderr)
        finally:
            holder.kill()
            holder.wait()
        wait_until(lambda: traces()["nodes"] == [], "the id is free")
        wait_until(lambda: servers() == [], "the server ends")


if __name__ == "__main__":
    unittest.main()
