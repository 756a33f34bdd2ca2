"""Odd surroundings: closed descriptors, odd files, rude clients, disks in use out of sight."""
import errno
import glob
import os
import re
import signal
import socket
import subprocess
import unittest

from support import (DeviceTest, Mounted, NOTHING, Store, add, ashlar, ashlar_json, fio, read_text,
                     run, servers, traces, wait_until)

MIB = 1 << 20
PROTECTIONS = {"memory-lock", "io-flusher", "oom-score", "descriptors", "mount-namespace"}


def client():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/run/ashlar/ublk0.sock")
    return connection


class Clients(DeviceTest):
    def test_odd_requests_do_no_harm(self):
        add("mem", "--size", "16M")
        for line in (b"\n", b"{}\n", b'{"request":5}\n', b'{"request":"x"}\n', b"[1,2\n", b"5\n",
                     b'{"request":null}\n', b'{"request":"set","cpus":5}\n',
                     b'{"request":"set","cpus":{"lists":5}}\n',
                     b'{"request":"set","cpus":{"lists":"0","key":"\u0000"}}\n',
                     b"\xff\xfe\n", b"a" * 100_000 + b"\n", b"no end"):
            with client() as connection:
                try:
                    connection.sendall(line)
                    connection.recv(4096)
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
        for words in ("null", "mem --size 16M --recovery queue --supervise",
                      "nbd -- nbdkit --foreground memory 16M"):
            with self.subTest(words):
                run("sh", "-c", f"exec 9>/tmp/lock; flock 9; ashlar add {words}")
                run("flock", "--nonblock", "/tmp/lock", "true")
        with subprocess.Popen(
                ["sh", "-c", "exec 9>/tmp/lock; flock 9; exec ashlar add nbd --foreground -- "
                 "nbdkit --foreground memory 16M"],
                stdout=subprocess.PIPE, text=True) as foreground:
            foreground.stdout.readline()
            for pid in run("pidof", "nbdkit").stdout.split():
                held = [os.readlink(path) for path in glob.glob(f"/proc/{pid}/fd/*")]
                self.assertNotIn("/tmp/lock", held)
            foreground.terminate()
        ashlar("del", "--all")

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


class Locks(DeviceTest):
    """What others hold locked keeps nobody."""

    def hold(self, path, *user):
        holder = subprocess.Popen([*user, "flock", "--no-fork", path, "sh", "-c",
                                   "echo up; exec sleep 600"],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        return holder.stdout.readline() == "up\n"

    def test_a_user_who_locks_what_can_be_read(self):
        ashlar("del", add("null")["id"])
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        self.assertTrue(self.hold("/run/ashlar", *nobody))
        self.assertFalse(self.hold("/run/ashlar/lock", *nobody))
        ashlar("del", add("null")["id"], timeout=60)
        self.assertEqual(traces(), NOTHING)

    def test_a_process_that_hangs(self):
        device = add("null", "--size", "16M")
        self.assertTrue(self.hold("/run/ashlar/lock"))
        refused = ashlar("add", "null", check=False, timeout=120)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("lock /run/ashlar/lock: another process holds it", refused.stderr)
        ashlar("del", device["id"], timeout=120)
        self.assertEqual(ashlar_json("list"), [])


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


def status(pid, key):
    return re.search(rf"^{key}:\s*(.*)$", read_text(f"/proc/{pid}/status"), re.M).group(1)


class Protections(DeviceTest):
    def test_all_are_had_and_shown(self):
        device = add("mem", "--size", "64G", "--log", "/tmp/log")
        self.addCleanup(os.unlink, "/tmp/log")
        pid = device["pid"]
        shown = ashlar_json("show", device["id"])["protections"]
        self.assertEqual(set(shown), PROTECTIONS)
        self.assertEqual([name for name, each in shown.items() if not each["active"]], [])
        self.assertIn("mount-namespace", ashlar("show", device["id"]).stdout)
        self.assertNotIn("warning", read_text("/tmp/log"))

        # The disk is neither locked nor populated.
        self.assertGreater(int(status(pid, "VmLck").split()[0]), 4 << 10)
        self.assertLess(int(status(pid, "VmLck").split()[0]), 1 << 20)
        self.assertLess(int(status(pid, "VmRSS").split()[0]), 64 << 10)
        self.assertEqual(read_text(f"/proc/{pid}/oom_score_adj").strip(), "-900")
        files = re.search(r"Max open files +(\d+) +(\d+)", read_text(f"/proc/{pid}/limits"))
        self.assertEqual(files.group(1), files.group(2))
        self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink("/proc/self/ns/mnt"))
        for task in os.listdir(f"/proc/{pid}/task"):
            flags = int(read_text(f"/proc/{pid}/task/{task}/stat").rsplit(")", 1)[1].split()[6])
            self.assertTrue(flags & 0x80000, f"thread {task} allocates without I/O")

    def test_what_could_not_be_had_is_told(self):
        result = run("sh", "-c", "ulimit -l 0; exec setpriv --bounding-set=-ipc_lock,-sys_resource "
                     "ashlar add mem --size 64M --log /tmp/log")
        self.addCleanup(os.unlink, "/tmp/log")
        self.assertEqual(result.stdout, "/dev/ublkb0\n")
        shown = ashlar_json("show", "0")["protections"]
        missing = {name for name, each in shown.items() if not each["active"]}
        self.assertEqual(missing, {"memory-lock", "io-flusher", "oom-score"})
        warnings = [line for line in read_text("/tmp/log").splitlines() if " warning " in line]
        self.assertEqual(len(warnings), len(missing))
        text = ashlar("show", "0").stdout
        for name in missing:
            self.assertIn(shown[name]["detail"], text)
            self.assertIn("; run it as root", shown[name]["detail"])
            self.assertIn(f" {name}: {shown[name]['detail']}", "\n".join(warnings))
        result = fio("/dev/ublkb0", rw="randwrite", bs="64k", iodepth=16, size=16 * MIB,
                     verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)

    def test_a_few_descriptors_are_told(self):
        run("sh", "-c", "ulimit -n 128; exec ashlar add mem --size 16M")
        each = ashlar_json("show", "0")["protections"]["descriptors"]
        self.assertFalse(each["active"])
        self.assertIn("at most 128 open files", each["detail"])


class Namespaces(DeviceTest):
    makes_io_fail = True

    def test_a_server_that_is_the_last_of_its_namespace_ends(self):
        # It would unmount its own disk's file system while it ends, and wait for itself.
        for number in (signal.SIGKILL, signal.SIGTERM):
            with self.subTest(signal=number):
                run("unshare", "-m", "sh", "-c",
                    "ashlar add mem --size 128M && mkfs.ext4 -q /dev/ublkb0 && mkdir -p /tmp/in && "
                    "/bin/mount /dev/ublkb0 /tmp/in && "
                    "dd if=/dev/zero of=/tmp/in/dirty bs=1M count=50 2>/dev/null")
                [pid] = servers()
                os.kill(pid, number)
                wait_until(lambda: pid not in servers(), "the server ends", 10)
                ashlar("del", "--all", "--force")
                self.assertEqual(traces(), NOTHING)

    def test_mounts_of_others_are_let_go(self):
        run("mkfs.ext4", "-q", "-F", "/dev/ram0")
        with Mounted("/dev/ram0"):
            add("mem", "--size", "16M")
        # Refused while any namespace has it mounted.
        os.close(os.open("/dev/ram0", os.O_RDWR | os.O_EXCL))
        ashlar("del", "0")

    def test_what_is_mounted_later_is_not_seen(self):
        device = add("mem", "--size", "64M")
        run("mkfs.ext4", "-q", device["block_device"])
        run("/bin/mount", "--make-rshared", "/")
        self.addCleanup(run, "/bin/mount", "--make-rprivate", "/")
        other = add("mem", "--size", "16M")
        with Mounted(device["block_device"]) as point:
            for pid in (device["pid"], other["pid"]):
                self.assertNotIn(point, read_text(f"/proc/{pid}/mountinfo"))

    def test_the_file_system_of_a_backing_file_is_busy(self):
        store = Store()
        try:
            device = add("file", store.fresh("16M"))
            result = run("/bin/umount", store.point, check=False)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("busy", result.stderr)
            ashlar("del", device["id"])
        finally:
            ashlar("del", "--all", "--force", check=False)
            store.close()


class Short(DeviceTest):
    """Of processes, memory, room: one clear line, and nothing half made."""

    makes_io_fail = True
    group = "/sys/fs/cgroup/ashlar-short"

    def setUp(self):
        super().setUp()
        self.assertEqual(set(read_text("/sys/fs/cgroup/cgroup.controllers").split()) &
                         {"pids", "memory"}, {"pids", "memory"})
        self.write("/sys/fs/cgroup/cgroup.subtree_control", "+pids +memory")
        os.makedirs(self.group, exist_ok=True)
        self.addCleanup(lambda: wait_until(self.group_is_gone, "the cgroup is empty"))
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)

    def group_is_gone(self):
        try:
            os.rmdir(self.group)
        except OSError as error:
            return error.errno == errno.ENOENT
        return True

    @staticmethod
    def write(path, text):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)

    def in_group(self, command):
        return run("sh", "-c", f"echo $$ >{self.group}/cgroup.procs; exec {command}", check=False)

    def check_refusal(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"^ashlar: [^\n]+\n$")
        self.assertEqual(result.stdout, "")
        for word in words:
            self.assertIn(word, result.stderr)
        wait_until(lambda: traces() == NOTHING, f"nothing is left: {traces()}", 5)

    def test_of_processes(self):
        made = False
        for most in range(1, 12):
            with self.subTest(most=most):
                self.write(f"{self.group}/pids.max", str(most))
                result = self.in_group("ashlar add mem --size 16M --queues 2")
                made = result.returncode == 0
                if made:
                    ashlar("del", "0")
                else:
                    self.check_refusal(result, "(E")
        self.assertTrue(made, "eleven processes are enough")

    def test_of_room_for_the_state(self):
        # In a namespace of its own: what lies in /run/ashlar of the VM stays.
        for prepare, word in (
                ("mount -t tmpfs -o size=4k x /run/ashlar; "
                 "head -c 4096 /dev/zero >/run/ashlar/full", "ENOSPC"),
                ("mount -t tmpfs -o nr_inodes=1 x /run/ashlar", "ENOSPC"),
                ("mount -t tmpfs -o nr_inodes=2 x /run/ashlar", "ENOSPC"),
                ("mount -t tmpfs -o nr_inodes=3 x /run/ashlar", "ENOSPC"),
                ("mount -t tmpfs -o nr_inodes=1 x /run", "ENOSPC"),
                ("mount -t tmpfs -o ro x /run", "EROFS")):
            with self.subTest(prepare):
                result = run("unshare", "-m", "sh", "-c",
                             f"/bin/{prepare}; ashlar add mem --size 16M; status=$?; "
                             "ls /run/ashlar 2>/dev/null | grep ublk; exit $status", check=False)
                self.check_refusal(result, word, "/run/ashlar")

    def test_of_address_space(self):
        result = run("sh", "-c", "ulimit -v 100000; exec ashlar add mem --size 1M", check=False)
        self.check_refusal(result, "ENOMEM")
        result = run("sh", "-c", "ulimit -v 300000; exec ashlar add mem --size 1G", check=False)
        self.check_refusal(result, "ENOMEM", "ask for a smaller size")

    def test_a_memory_disk_outgrows_its_memory(self):
        # Its server is killed; it does not try for ever, and no other disk is touched.
        self.runs_out_of_memory = True
        other = add("mem", "--size", "64M")
        self.write(f"{self.group}/memory.max", "40M")
        self.assertEqual(self.in_group("ashlar add mem --size 64M").returncode, 0)
        result = run("dd", "if=/dev/zero", "of=/dev/ublkb1", "bs=1M", "count=60", "oflag=direct",
                     check=False, timeout=60)
        self.assertIn("error", result.stderr)
        wait_until(lambda: ashlar_json("list")[1]["state"] == "dead", "the list shows it dead")
        result = fio(other["block_device"], rw="randwrite", bs="64k", iodepth=16, size=32 * MIB,
                     verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        ashlar("del", "1")
        ashlar("del", "0")


class Crash(DeviceTest):
    makes_io_fail = True

    def test_of_one_server_touches_no_other(self):
        kept, gone = (add("mem", "--size", "64M") for _ in range(2))
        with open("/proc/sys/kernel/core_pattern", encoding="ascii") as file:
            pattern = file.read()
        self.addCleanup(Short.write, "/proc/sys/kernel/core_pattern", pattern)
        Short.write("/proc/sys/kernel/core_pattern", "/tmp/core.%p")
        core = f"/tmp/core.{gone['pid']}"
        secret = b"contents of the disk " * 25
        with open(gone["block_device"], "r+b", buffering=0) as disk:
            disk.write(secret[:512] * 2048)
            os.fsync(disk.fileno())
        run("prlimit", "--pid", str(gone["pid"]), "--core=unlimited")
        os.kill(gone["pid"], signal.SIGSEGV)
        wait_until(lambda: gone["pid"] not in servers(), "the server is gone")
        self.addCleanup(os.unlink, core)
        with open(core, "rb") as file:
            content = file.read()
        self.assertGreater(len(content), 100_000, "a core to learn from")
        self.assertLess(len(content), 32 * MIB)
        self.assertNotIn(secret[:512], content)
        result = fio(kept["block_device"], rw="randwrite", bs="64k", iodepth=16, size=32 * MIB,
                     verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        ashlar("del", "--all")
        self.assertEqual(traces(), NOTHING)


if __name__ == "__main__":
    unittest.main()
