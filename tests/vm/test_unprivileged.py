"""Users who are not root have devices of their own, and nobody else's. udev itself runs here, with
the rules that are installed."""
import glob
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import unittest

from support import (DeviceTest, NOTHING, add, ashlar, ashlar_json, kernel_features, kill_server,
                     read_text, run, traces, wait_until)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
RULES = "/run/udev/rules.d/60-ashlar.rules"
UBLKS_MAX = "/sys/module/ublk_drv/parameters/ublks_max"
GROUP = 990
EPERM = "(EPERM: Operation not permitted)"


def rules(program):
    text = read_text(f"{ROOT}/packaging/udev/60-ashlar.rules.in")
    return text.replace("@ashlar_program@", program)


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


class Machine:
    """One with udev, and with the group that the package makes."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="users-", dir="/tmp")
        os.chmod(self.directory, 0o755)
        # Where the tree lies, users may not be able to go.
        shutil.copy(shutil.which("ashlar"), f"{self.directory}/ashlar")
        write(f"{self.directory}/group", read_text("/etc/group") + f"ublk:x:{GROUP}:\n")
        run("mount", "--bind", f"{self.directory}/group", "/etc/group")
        os.makedirs(os.path.dirname(RULES), exist_ok=True)
        write(RULES, rules(shutil.which("ashlar")))
        # It goes on while a test stands still.
        self.udev = subprocess.Popen(["/lib/systemd/systemd-udevd"], stderr=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists("/run/udev/control"), "udev runs")
        run("udevadm", "trigger", "--settle", "/dev/ublk-control")
        return self

    def __exit__(self, *_):
        self.udev.terminate()
        self.udev.wait(60)
        os.unlink(RULES)
        if os.path.exists("/run/udev/control"):
            os.unlink("/run/udev/control")
        run("umount", "/etc/group")
        os.chown("/dev/ublk-control", 0, 0)
        os.chmod("/dev/ublk-control", 0o600)
        shutil.rmtree(self.directory)


MACHINE = Machine()


def setUpModule():
    if os.environ.get("ASHLAR_IN_VM") != "1":
        raise unittest.SkipTest("changes the machine's udev: only in the VM")
    MACHINE.__enter__()


def tearDownModule():
    MACHINE.__exit__()


class User:
    def __init__(self, uid, groups=(GROUP,)):
        self.uid, self.groups = uid, groups
        self.home = f"/run/user/{uid}"
        os.makedirs(self.home, exist_ok=True)
        os.chown(self.home, uid, uid)
        os.chmod(self.home, 0o700)
        self.environment = {"XDG_RUNTIME_DIR": self.home, "LANG": "C.UTF-8",
                            "PATH": MACHINE.directory + ":" + os.environ["PATH"]}

    def words(self, *command):
        groups = ",".join(str(group) for group in (self.uid, *self.groups))
        return ["setpriv", "--reuid", self.uid, "--regid", self.uid, "--groups", groups,
                "--inh-caps=-all", *command]

    def run(self, *command, check=True, **environment):
        return run(*self.words(*command), check=check, cwd="/tmp",
                   env=self.environment | environment)

    def ashlar(self, *arguments, check=True, **environment):
        return self.run("ashlar", *arguments, check=check, **environment)

    def add(self, *arguments):
        """Answers the number of the device."""
        path = self.ashlar("add", *arguments, "--unprivileged").stdout.strip()
        if not path.startswith("/dev/ublkb"):
            raise AssertionError(f"add printed {path!r}")
        return int(path.removeprefix("/dev/ublkb"))

    def devices(self):
        lines = self.ashlar("list").stdout.splitlines()[1:]
        return [line.split()[0] for line in lines]

    def state(self):
        return sorted(glob.glob(f"{self.home}/ashlar/ublk*"))


class UserTest(DeviceTest):
    def setUp(self):
        super().setUp()
        self.anna, self.ben = User(1001), User(1002)

    def assert_nothing_is_left(self):
        wait_until(lambda: traces() == NOTHING, "nothing is left")
        self.assertEqual(self.anna.state() + self.ben.state(), [])

    def assert_refused(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


class Own(UserTest):
    def check_nodes(self, number):
        for node in (f"/dev/ublkb{number}", f"/dev/ublkc{number}"):
            about = os.stat(node)
            self.assertEqual(about.st_uid, self.anna.uid, node)
            self.assertEqual(about.st_mode & stat.S_IRWXO, 0, node)

    def use(self, path):
        self.anna.run("mkfs.ext4", "-q", path)
        self.anna.run("fsck.ext4", "-fn", path)
        self.anna.run("fio", "--name=verify", f"--filename={path}", "--rw=randwrite", "--bs=4k-64k",
                      "--size=16M", "--ioengine=libaio", "--iodepth=8", "--direct=1", "--thread",
                      "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0")

    def test_a_disk_in_memory_from_beginning_to_end(self):
        number = self.anna.add("mem", "--size", "64M")
        self.check_nodes(number)  # as soon as it is told
        path = f"/dev/ublkb{number}"
        self.use(path)
        run("udevadm", "settle")  # what udev does after a disk was written
        self.check_nodes(number)
        self.assertEqual(self.anna.devices(), [path])
        shown = self.anna.ashlar("show", number).stdout
        self.assertRegex(shown, r"owner +user 1001\n")
        self.assertIn("unprivileged_dev", shown)
        self.assertRegex(self.anna.ashlar("stats", number).stdout, r"\nwrite +[1-9]")
        self.assertNotEqual(self.anna.state(), [])
        self.assertEqual(stat.S_IMODE(os.stat(f"{self.anna.home}/ashlar").st_mode), 0o700)
        self.anna.ashlar("del", number)
        self.assert_nothing_is_left()

    def test_every_data_path_and_kind_of_commands(self):
        ways = [("--data-path", "copy"), ("--data-path", "get-data"), ("--queues", "2")]
        if "batch_io" in kernel_features():
            ways.append(("--commands", "batch"))
        for way in ways:
            with self.subTest(way=way):
                number = self.anna.add("mem", "--size", "32M", *way)
                self.use(f"/dev/ublkb{number}")
                self.anna.ashlar("del", number)
        self.assert_nothing_is_left()

    def test_a_file_of_the_users(self):
        file = f"{self.anna.home}/disk"
        number = self.anna.add("file", file, "--create", "--size", "16M")
        self.addCleanup(os.unlink, file)
        pattern = os.urandom(1 << 20)
        source = f"{self.anna.home}/pattern"
        with open(source, "wb") as out:
            out.write(pattern)
        os.chmod(source, 0o644)
        self.addCleanup(os.unlink, source)
        self.anna.run("dd", f"if={source}", f"of=/dev/ublkb{number}", "bs=64k", "oflag=direct",
                      "conv=fsync")
        self.anna.ashlar("del", number)
        with open(file, "rb") as disk:
            self.assertEqual(disk.read(1 << 20), pattern)
        self.assert_nothing_is_left()

    def test_a_disk_that_a_program_serves(self):
        number = 5
        self.anna.ashlar("add", "nbd", "--unprivileged", "--id", number, "--", "nbdkit", "memory",
                         "32M")
        self.use(f"/dev/ublkb{number}")
        self.anna.ashlar("del", number)
        self.assert_nothing_is_left()

    def test_resize_and_start_anew(self):
        number = self.anna.add("mem", "--size", "16M", "--memory-file",
                               f"{self.anna.home}/memory")
        self.addCleanup(os.unlink, f"{self.anna.home}/memory")
        size = 16 << 20
        if "update_size" in kernel_features():
            self.anna.ashlar("resize", number, "+16M")
            size = 32 << 20
        self.assertEqual(int(run("blockdev", "--getsize64", f"/dev/ublkb{number}").stdout), size)
        self.anna.ashlar("stop", number)
        self.assertFalse(os.path.exists(f"/dev/ublkb{number}"))
        self.anna.ashlar("recover", number)
        self.check_nodes(number)
        self.use(f"/dev/ublkb{number}")
        self.anna.ashlar("del", number)
        self.assert_nothing_is_left()

    def test_a_killed_server_leaves_nothing_that_del_does_not_remove(self):
        number = self.anna.add("mem", "--size", "16M")
        kill_server(ashlar_json("show", number)["pid"])
        wait_until(lambda: not os.path.exists(f"/dev/ublkb{number}"), "the disk goes")
        wait_until(lambda: ashlar_json("show", number)["state"] == "dead", "the device is dead")
        self.anna.ashlar("del", number)
        self.assert_nothing_is_left()

    def test_many_in_one_process(self):
        file = f"{self.anna.home}/serve.toml"
        write(file, "".join(f'[device.d{index}]\ntype = "mem"\nsize = "16M"\nunprivileged = true\n'
                            for index in range(3)))
        self.addCleanup(os.unlink, file)
        words = [str(word) for word in self.anna.words("ashlar", "serve", file)]
        server = subprocess.Popen(words, env=self.anna.environment, cwd="/tmp")
        wait_until(lambda: len(self.anna.devices()) == 3 and
                   all(os.path.exists(f"/dev/ublkb{index}") and
                       os.stat(f"/dev/ublkb{index}").st_uid == self.anna.uid
                       for index in range(3)), "three devices")
        self.use("/dev/ublkb1")
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(60), 0)
        self.assert_nothing_is_left()


class Others(UserTest):
    COMMANDS = (("show",), ("stats",), ("del",), ("del", "--force"), ("del", "--async"), ("stop",),
                ("stop", "--if-unused"), ("quiesce",), ("recover",), ("upgrade",),
                ("set", "--log-level", "error"))

    def assert_beyond_reach(self, user, number):
        """Of a user who has no part in it."""
        self.assertEqual(user.devices(), [])
        self.assertEqual(user.ashlar("list", "--json").stdout.strip(), "[]")
        for command in (*self.COMMANDS, ("resize",)):
            arguments = (number, "+1M") if command == ("resize",) else (number,)
            with self.subTest(command=command):
                self.assert_refused(user.ashlar(*command, *arguments, check=False), EPERM,
                                    f"ublk{number}",
                                    "the device is not yours", "'ashlar list'")
        user.ashlar("del", "--all")
        self.assertNotIn("ublkb", user.ashlar("export", "--once").stdout)
        for node in (f"/dev/ublkb{number}", f"/dev/ublkc{number}"):
            opened = user.run("dd", f"if={node}", "of=/dev/null", "count=1", check=False)
            self.assertIn("Permission denied", opened.stderr)
        taken = user.ashlar("add", "mem", "--size", "16M", "--unprivileged", "--id", number,
                            check=False)
        self.assert_refused(taken, "the id is in use (EEXIST")

    def test_another_users_device(self):
        number = self.anna.add("mem", "--size", "16M")
        self.assert_beyond_reach(self.ben, number)
        own = self.ben.add("mem", "--size", "16M")
        self.assertEqual(self.ben.devices(), [f"/dev/ublkb{own}"])
        self.assertEqual(self.anna.devices(), [f"/dev/ublkb{number}"])
        self.ben.ashlar("del", "--all")
        # Not even whoever is let in by the node.
        os.chmod(f"/dev/ublkb{number}", 0o666)
        opened = self.ben.run("dd", f"if=/dev/ublkb{number}", "of=/dev/null", "count=1",
                              check=False)
        self.assertIn("Operation not permitted", opened.stderr)
        self.assertEqual(self.anna.devices(), [f"/dev/ublkb{number}"])
        self.anna.run("dd", f"if=/dev/ublkb{number}", "of=/dev/null", "count=1")

    def test_roots_device(self):
        number = add("mem", "--size", "16M")["id"]
        run("udevadm", "settle")
        self.assert_beyond_reach(self.anna, number)
        self.assertEqual(os.stat(f"/dev/ublkb{number}").st_uid, 0)
        self.assertEqual(os.stat(f"/dev/ublkc{number}").st_uid, 0)
        run("dd", f"if=/dev/ublkb{number}", "of=/dev/null", "count=1")

    def test_root_sees_and_removes_all(self):
        first, second = (user.add("mem", "--size", "16M") for user in (self.anna, self.ben))
        own = add("null")["id"]
        self.assertEqual([(device["id"], device["owner_uid"]) for device in ashlar_json("list")],
                         [(first, 1001), (second, 1002), (own, 0)])
        self.assertEqual(ashlar_json("show", second)["size_bytes"], 16 << 20)
        self.assert_refused(ashlar("stats", first, check=False), "its own user, 1001")
        run("dd", "if=/dev/zero", f"of=/dev/ublkb{first}", "bs=64k", "count=1", "oflag=direct")
        ashlar("del", first)
        self.assertEqual(self.anna.devices(), [])
        self.assertEqual(self.ben.devices(), [f"/dev/ublkb{second}"])
        ashlar("del", "--all")
        self.assert_nothing_is_left()

    def test_a_number_changes_hands(self):
        for _ in range(10):
            number = self.anna.add("mem", "--size", "16M")
            self.anna.ashlar("del", number)
            self.assertEqual(add("null", "--id", number)["id"], number)
            self.assertEqual(os.stat(f"/dev/ublkc{number}").st_uid, 0)
            run("udevadm", "settle")  # with all that it still had to do
            for node in (f"/dev/ublkb{number}", f"/dev/ublkc{number}"):
                self.assertEqual(os.stat(node).st_uid, 0, node)
            self.assertEqual(self.anna.devices(), [])
            ashlar("del", number)

    def test_what_udev_runs(self):
        number = add("null")["id"]
        ashlar("udev-owner", f"ublkb{number}")
        self.assertEqual(os.stat(f"/dev/ublkb{number}").st_uid, 0)
        theirs = self.anna.add("mem", "--size", "16M")
        self.assert_refused(self.ben.ashlar("udev-owner", f"ublkb{theirs}", check=False), EPERM)
        ashlar("udev-owner", "ublkb77")  # gone meanwhile
        for name in (f"ublkb{number}p1", "sda", "../null", f"/dev/ublkb{number}"):
            wrong = ashlar("udev-owner", name, check=False)
            self.assertEqual(wrong.returncode, 2, name)
        self.assertNotIn("udev-owner", ashlar("--help").stdout)


class Refused(UserTest):
    def add(self, *arguments, user=None, **environment):
        return (user or self.anna).ashlar("add", "mem", "--size", "16M", *arguments, check=False,
                                          **environment)

    def test_what_the_kernel_does_not_grant(self):
        self.assert_refused(self.add(), EPERM, "--unprivileged")
        for path in ("user-copy",):
            self.assert_refused(self.add("--unprivileged", "--data-path", path), "EINVAL", path,
                                "privileged devices only", "auto, get-data, copy")
        for recovery in ("queue", "reissue"):
            self.assert_refused(self.add("--unprivileged", "--supervise", "--recovery", recovery),
                                "EINVAL", "privileged devices only")
        self.assert_refused(ashlar("add", "null", "--unprivileged", check=False),
                            "root's devices are privileged (EINVAL")
        self.assert_nothing_is_left()

    def test_del_does_not_wait_only_where_the_driver_can(self):
        number = self.anna.add("mem", "--size", "16M")
        self.assert_refused(self.anna.ashlar("del", "--async", number, check=False), "EOPNOTSUPP",
                            "privileged devices only")
        self.anna.ashlar("del", number)

    def test_who_is_no_member_of_the_group(self):
        carl = User(1003, groups=())
        for command in (("add", "null", "--unprivileged"), ("list",), ("del", "0")):
            self.assert_refused(carl.ashlar(*command, check=False), "EACCES", "group ublk")
        doctor = carl.ashlar("doctor", check=False)
        self.assertEqual(doctor.returncode, 1)
        self.assertIn("usermod -aG ublk", doctor.stdout)

    def test_doctor(self):
        fine = self.anna.ashlar("doctor").stdout
        self.assertIn(RULES, fine)
        self.assertIn("ublk works here.", fine)
        self.assertIn(f"members of group {GROUP} may", ashlar("doctor").stdout)
        os.rename(RULES, RULES + ".away")
        try:
            self.assertIn("packaging/udev/60-ashlar.rules",
                          self.anna.ashlar("doctor", check=False).stdout)
            ashlar("doctor")  # root needs none
        finally:
            os.rename(RULES + ".away", RULES)

    def test_where_the_state_goes(self):
        for value, word in (("", "XDG_RUNTIME_DIR is not set"),
                            ("relative", "XDG_RUNTIME_DIR is not set"),
                            ("/run/user/1001/" + "x" * 80, "ENAMETOOLONG"),
                            ("/run/user/1002", "EACCES"), ("/nowhere", "/nowhere/ashlar")):
            with self.subTest(value=value):
                self.assert_refused(self.add("--unprivileged", XDG_RUNTIME_DIR=value), word)
        self.assert_nothing_is_left()

    def test_the_drivers_limit(self):
        before = read_text(UBLKS_MAX)
        self.addCleanup(write, UBLKS_MAX, before)
        write(UBLKS_MAX, "2")
        for _ in range(2):
            self.anna.add("mem", "--size", "16M")
        self.assert_refused(self.add("--unprivileged", user=self.ben),
                            "the driver's limit on devices is reached (EACCES", "ublks_max as root")
        self.anna.ashlar("del", "0")
        self.ben.add("mem", "--size", "16M")

    def test_without_the_rule_nothing_is_made(self):
        os.rename(RULES, RULES + ".away")
        try:
            file = f"{self.anna.home}/disk"
            result = self.anna.ashlar("add", "file", file, "--create", "--size", "1M",
                                      "--unprivileged", check=False)
            self.assert_refused(result, "ENOENT", "packaging/udev/60-ashlar.rules")
            self.assertFalse(os.path.exists(file))
        finally:
            os.rename(RULES + ".away", RULES)
        self.assert_nothing_is_left()

    def test_a_rule_that_does_not_work(self):
        write(RULES, rules("/nowhere/ashlar"))
        run("udevadm", "control", "--reload")
        try:
            result = self.add("--unprivileged")
        finally:
            write(RULES, rules(shutil.which("ashlar")))
            run("udevadm", "control", "--reload")
        self.assert_refused(result, "ETIMEDOUT", "wait for /dev/ublkc0", "60-ashlar.rules",
                            "'ashlar del 0'")
        ashlar("del", "0")
        self.assert_nothing_is_left()


class Silent(UserTest):
    makes_io_fail = True

    def test_the_kernel_kills_a_server_that_keeps_a_request(self):
        number = int(self.anna.ashlar("add", "null", "--unprivileged", "--layer", "delay:read=60s")
                     .stdout.strip().removeprefix("/dev/ublkb"))
        server = ashlar_json("show", number)["pid"]
        timeout = f"/sys/block/ublkb{number}/queue/io_timeout"
        self.assertEqual(read_text(timeout).strip(), "30000")
        write(timeout, "1000")
        read = self.anna.run("dd", f"if=/dev/ublkb{number}", "of=/dev/null", "count=1",
                             "iflag=direct", check=False)
        self.assertIn("Input/output error", read.stderr)
        wait_until(lambda: not os.path.exists(f"/proc/{server}"), "the server is killed")
        self.anna.ashlar("del", number)
        self.assert_nothing_is_left()


if __name__ == "__main__":
    unittest.main()
