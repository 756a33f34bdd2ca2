"""Disks that nbdkit serves."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from support import (DeviceTest, Store, add, ashlar, ashlar_json, fio, kill_server, run,
                     wait_until)

MIB = 1 << 20
ROUNDS = int(os.environ.get("ASHLAR_NBD_ROUNDS", "5"))


class Served(DeviceTest):
    def make_directory(self):
        directory = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(directory.cleanup)
        return directory.name

    def setUp(self):
        super().setUp()
        self.directory = self.make_directory()
        self.socket = f"{self.directory}/socket"
        self.server = None
        self.addCleanup(self.end_server)
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def serve(self, *words):
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.server = subprocess.Popen(words, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, cwd="/tmp")
        wait_until(lambda: os.path.exists(self.socket), "the server listens")

    def nbdkit(self, *words):
        self.serve("nbdkit", "-f", "-U", self.socket, *words)

    def end_server(self):
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None

    def file(self, size=64 * MIB):
        path = f"{self.directory}/disk"
        with open(path, "wb") as file:
            file.truncate(size)
        return path


class Disks(Served):
    def test_verified_on_every_data_path(self):
        self.nbdkit("memory", "64M")
        for path in ("auto", "zero-copy", "user-copy", "get-data", "copy"):
            with self.subTest(path):
                added = ashlar("add", "nbd", self.uri(), "--queues", "2", "--data-path", path,
                               "--json", check=False)
                if added.returncode != 0:
                    self.assertIn("needs kernel", added.stderr)
                    continue
                device = json.loads(added.stdout)
                shown = ashlar_json("show", device["id"])
                self.assertEqual("short writes are copied" in shown["data_path_reason"],
                                 shown["data_path"] == "zero-copy")
                for size in ("4k-4k", "4k-256k"):
                    result = fio(device["block_device"], rw="randwrite", bsrange=size, iodepth=32,
                                 size=4 * MIB, verify="crc32c", verify_fatal=1)
                    self.assertEqual(result["jobs"][0]["error"], 0)
                ashlar("del", device["id"])

    def test_verified_through_tls(self):
        keys = f"{self.directory}/keys"
        with open(keys, "w", encoding="ascii") as file:
            file.write("somebody:00112233445566778899aabbccddeeff\n")
        self.nbdkit("--tls=require", f"--tls-psk={keys}", "memory", "64M")
        uri = f"nbds+unix://somebody@/?socket={self.socket}&tls-psk-file={keys}"
        device = add("nbd", uri, "--queues", "2")
        result = fio(device["block_device"], rw="randwrite", bsrange="4k-256k", iodepth=32,
                     size=8 * MIB, verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)
        refused = ashlar("add", "nbd", self.uri(), check=False)
        self.assertIn("write nbds in place of nbd", refused.stderr)

    def test_from_a_virtual_machines_socket(self):
        run("modprobe", "vsock_loopback")
        self.server = subprocess.Popen(["nbdkit", "-f", "--vsock", "memory", "64M"], cwd="/tmp",
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        uri = "nbd+vsock://1"  # this machine
        wait_until(lambda: ashlar("nbd", "list", uri, check=False).returncode == 0,
                   "the server listens")
        device = add("nbd", uri, "--queues", "2")
        result = fio(device["block_device"], rw="randwrite", bsrange="4k-256k", iodepth=32,
                     size=8 * MIB, verify="crc32c", verify_fatal=1)
        self.assertEqual(result["jobs"][0]["error"], 0)

    def test_list(self):
        self.nbdkit("--filter=exportname", "memory", "3M", "exportname-list=explicit",
                    "exportname=one", "exportname=two", "exportdesc=fixed:a disk")
        exports = json.loads(ashlar("nbd", "list", self.uri(), "--json").stdout)
        self.assertEqual(exports, [{"name": name, "size_bytes": 3 * MIB, "read_only": False,
                                    "description": "a disk"} for name in ("one", "two")])
        self.assertRegex(ashlar("nbd", "list", self.uri()).stdout, r"two +3 MiB read-write a disk")

    def test_one_connection_makes_one_queue(self):
        self.nbdkit("--filter=multi-conn", "memory", "64M", "multi-conn-mode=disable")
        added = ashlar("add", "nbd", self.uri(), "--queues", "2", "--json")
        self.assertIn("1 queues instead of 2: the backend takes no more", added.stderr)
        self.assertEqual(json.loads(added.stdout)["queues"], 1)
        refused = ashlar("add", "nbd", self.uri(), "--threads-per-queue", "2", check=False)
        self.assertEqual(refused.returncode, 1)

    def test_what_makes_no_sense(self):
        for words, status, said in (
                ([self.uri()], 1, "is the socket's path right"),
                (["nbd://127.0.0.1:1/"], 1, "is the server running"),
                (["http://somewhere/"], 1, "nbd://HOST"), ([], 2, "uri"),
                ([self.uri(), "--reconnect", "soon"], 2, "soon")):
            with self.subTest(words):
                refused = ashlar("add", "nbd", *words, check=False)
                self.assertEqual(refused.returncode, status, refused.stderr)
                self.assertIn(said, refused.stderr)
                self.assertEqual(refused.stderr.count("\n"), 1)
        self.assertEqual(ashlar_json("list"), [])


class Reconnect(Served):
    def load(self, device, seconds):
        return subprocess.Popen(
            ["fio", "--name=load", f"--filename={device['block_device']}", "--direct=1",
             "--ioengine=io_uring", "--iodepth=16", "--rw=randrw", "--bs=4k", "--size=24M",
             "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--time_based",
             f"--runtime={seconds}", "--fsync=64"], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd="/tmp")

    def test_a_server_that_errs_and_comes_back_every_second(self):
        path = self.file()

        def serve():
            self.nbdkit("--filter=error", "--filter=delay", "file", path, "error-rate=2%",
                        "rdelay=1ms", "wdelay=1ms")
        serve()
        device = add("nbd", self.uri(), "--reconnect", "30", "--queues", "2")
        with self.load(device, ROUNDS + 2) as load:
            for _ in range(ROUNDS):
                time.sleep(1)
                self.end_server()
                time.sleep(0.1)
                serve()
            output = load.communicate(timeout=180)[0]
            self.assertEqual(load.returncode, 0, output[-2000:])
        backend = ashlar_json("stats", device["id"])["backend"]
        self.assertGreaterEqual(backend["reconnects"], ROUNDS)

    def test_the_servers_faults(self):
        self.makes_io_fail = True
        self.nbdkit("--filter=error", "memory", "64M", "error=ENOSPC", "error-pwrite-rate=100%")
        device = add("nbd", self.uri())
        failed = run("dd", "if=/dev/zero", f"of={device['block_device']}", "bs=4k", "count=1",
                     "oflag=direct", check=False)
        self.assertIn("No space left on device", failed.stderr)
        ashlar("del", device["id"])

    def test_a_deadline_and_after(self):
        self.makes_io_fail = True
        path = self.file()
        self.nbdkit("file", path)
        device = add("nbd", self.uri(), "--reconnect", "1")
        self.end_server()
        begin = time.monotonic()
        failed = run("dd", f"if={device['block_device']}", "of=/dev/null", "bs=4k", "count=1",
                     "iflag=direct", check=False)
        self.assertNotEqual(failed.returncode, 0)
        self.assertGreater(time.monotonic() - begin, 0.9)
        self.nbdkit("file", path)
        wait_until(lambda: run("dd", f"if={device['block_device']}", "of=/dev/null", "bs=4k",
                               "count=1", "iflag=direct", check=False).returncode == 0,
                   "it works again")

    def test_ended_while_the_other_side_is_silent(self):
        self.makes_io_fail = True
        self.nbdkit("memory", "64M")
        device = add("nbd", self.uri(), "--reconnect", "3600")
        self.server.send_signal(signal.SIGSTOP)
        with subprocess.Popen(["dd", f"if={device['block_device']}", "of=/dev/null", "bs=4k",
                               "count=1", "iflag=direct"], stderr=subprocess.DEVNULL) as reader:
            time.sleep(0.5)
            os.kill(device["pid"], signal.SIGTERM)
            self.assertNotEqual(reader.wait(timeout=25), 0)
            wait_until(lambda: ashlar_json("list") == [], "the device is gone")
        self.server.send_signal(signal.SIGCONT)

    def test_recovered_with_its_uri(self):
        path = self.file()
        self.nbdkit("file", path)
        device = add("nbd", self.uri(), "--recovery", "reissue", "--supervise", "--reconnect", "9")
        with self.load(device, 5) as load:
            for _ in range(2):
                time.sleep(1.5)
                old = ashlar_json("show", device["id"])["pid"]
                kill_server(old)
                wait_until(lambda: ashlar_json("show", device["id"])["pid"] not in (None, old),
                           "a new server")
            output = load.communicate(timeout=180)[0]
            self.assertEqual(load.returncode, 0, output[-2000:])


class OnAFileSystemOfItsOwn(Served):
    """The disk's server leaves the mount namespace after its first connection."""

    def make_directory(self):
        store = Store()
        self.addCleanup(store.close)
        return store.point

    def kept(self, device):
        told = ashlar_json("show", device["id"])["protections"]["mount-namespace"]["detail"]
        return told.partition(" but ")[2]

    def test_every_connection_finds_socket_and_keys(self):
        keys = f"{self.directory}/keys"
        with open(keys, "w", encoding="ascii") as file:
            file.write("somebody:00112233445566778899aabbccddeeff\n")
        path = self.file()

        def serve():
            self.nbdkit("--tls=require", f"--tls-psk={keys}", "file", path)
        serve()
        uri = f"nbds+unix://somebody@/?socket={self.socket}&tls-psk-file={keys}"
        device = add("nbd", uri, "--queues", "2", "--reconnect", "30")
        self.assertEqual(self.kept(device), self.directory)
        for _ in range(2):
            result = fio(device["block_device"], rw="randwrite", bsrange="4k-64k", iodepth=16,
                         size=4 * MIB, numjobs=2, offset_increment="8M", verify="crc32c",
                         verify_fatal=1)
            self.assertEqual([job["error"] for job in result["jobs"]], [0, 0])
            self.end_server()
            serve()

    def test_by_a_path_from_the_callers_directory(self):
        self.nbdkit("memory", "64M")
        added = ashlar("add", "nbd", "nbd+unix:///?socket=socket", "--queues", "2", "--recovery",
                       "reissue", "--json", cwd=self.directory)
        device = json.loads(added.stdout)
        ashlar("upgrade", device["id"])
        run("dd", f"if={device['block_device']}", "of=/dev/null", "bs=1M", "count=8",
            "iflag=direct")
        self.assertEqual(self.kept(device), self.directory)

    def test_a_file_needs_no_mount(self):
        self.assertEqual(self.kept(add("file", self.file())), "")


if __name__ == "__main__":
    unittest.main()
