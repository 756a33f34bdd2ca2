"""What only newer drivers have: metadata, memory shared with clients, partitions left unread."""
import errno
import mmap
import os
import struct
import threading
import time
import unittest

from support import DeviceTest, add, ashlar, ashlar_json, fio, kernel_features, read_text, run

MIB = 1 << 20


class Feature(DeviceTest):
    """Each is refused where the driver does not have it, in words that name the kernel."""
    flag = None

    def needs(self, *words):
        if self.flag in kernel_features():
            return
        refused = ashlar("add", *words, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertRegex(refused.stderr, r"needs kernel 7\.\d or newer")
        self.assertEqual(ashlar_json("list"), [])
        self.skipTest(f"the driver has no {self.flag}; that it is refused was tested")


def read_at(path, offset, length=4096):
    with mmap.mmap(-1, length) as buffer:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(fd, [buffer], offset)
            return bytes(buffer)
        finally:
            os.close(fd)


class Metadata(Feature):
    flag = "integrity"
    makes_io_fail = True

    def setUp(self):
        super().setUp()
        self.needs("mem", "--size", "64M", "--metadata", "crc16")

    def test_the_kernel_writes_and_checks_it(self):
        for kind, name in (("crc16", "T10-DIF-TYPE1-CRC"), ("ip", "T10-DIF-TYPE1-IP"),
                           ("crc64", "EXT-DIF-TYPE1-CRC64")):
            device = add("mem", "--size", "64M", "--metadata", kind, "--queues", "2")
            self.assertEqual(read_text(f"/sys/block/ublkb{device['id']}/integrity/format").strip(),
                             name)
            fio(device["block_device"], rw="randwrite", bs="4k", io_size="8M", iodepth=16,
                verify="crc32c")
            run("mkfs.ext4", "-q", device["block_device"])
            run("e2fsck", "-fn", device["block_device"])
            ashlar("del", device["id"])

    def test_a_block_that_changed_behind_its_back_is_found(self):
        words = ("file", "/tmp/checked.img", "--metadata", "crc16,path=/tmp/checked.meta")
        run("truncate", "-s", "64M", "/tmp/checked.img")
        device = add(*words[:-1], words[-1] + ",create")
        path = device["block_device"]
        fio(path, rw="write", bs="64k", size="4M")
        run("sync")
        ashlar("del", device["id"])
        with open("/tmp/checked.img", "r+b") as file:
            file.seek(8192 + 100)
            byte = file.read(1)
            file.seek(8192 + 100)
            file.write(bytes([byte[0] ^ 1]))
        device = add(*words)
        path = device["block_device"]
        self.assertEqual(len(read_at(path, 4096)), 4096)
        with self.assertRaises(OSError) as failed:
            read_at(path, 8192)
        self.assertEqual(failed.exception.errno, errno.EILSEQ)
        run("dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=1", "seek=2", "oflag=direct",
            "status=none")
        self.assertEqual(read_at(path, 8192), bytes(4096))

    def test_what_was_discarded_is_not_checked(self):
        device = add("mem", "--size", "64M", "--metadata", "crc16")
        path = device["block_device"]
        fio(path, rw="write", bs="64k", size="4M")
        run("blkdiscard", "-o", "0", "-l", str(MIB), path)
        self.assertEqual(read_at(path, 0), bytes(4096))
        self.assertEqual(len(read_at(path, 2 * MIB)), 4096)

    def test_bad_settings_are_refused(self):
        for value, sentence in (("crc32", "crc16"), ("crc16,ip", "which kind"),
                                ("crc16,create", "path"), ("crc16,path=meta", "whole path")):
            refused = ashlar("add", "mem", "--size", "64M", "--metadata", value, check=False)
            self.assertNotEqual(refused.returncode, 0, value)
            self.assertIn(sentence, refused.stderr)
        self.assertEqual(ashlar_json("list"), [])


class SharedMemory(Feature):
    flag = "shmem_zc"

    def setUp(self):
        super().setUp()
        with open("/dev/shm/area", "wb") as area:
            area.write(bytes(4 * MIB))
        self.needs("mem", "--size", "64M", "--shared-memory", "/dev/shm/area")

    def tearDown(self):
        super().tearDown()
        os.unlink("/dev/shm/area")

    def moves_data(self, *words):
        device = add(*words, "--shared-memory", "/dev/shm/area")
        with open("/dev/shm/area", "r+b") as area, mmap.mmap(area.fileno(), 0) as memory:
            fd = os.open(device["block_device"], os.O_RDWR | os.O_DIRECT)
            view = memoryview(memory)
            try:
                data = os.urandom(256 * 1024)
                view[MIB:MIB + len(data)] = data
                os.pwritev(fd, [view[MIB:MIB + len(data)]], 3 * MIB)
                os.preadv(fd, [view[2 * MIB:2 * MIB + len(data)]], 3 * MIB)
                self.assertEqual(bytes(view[2 * MIB:2 * MIB + len(data)]), data)
                self.assertEqual(read_at(device["block_device"], 3 * MIB, len(data)), data,
                                 "also to who shares nothing")
            finally:
                os.close(fd)
                view.release()
        return device

    def test_data_is_right_on_every_path(self):
        with open("/tmp/shared.img", "wb") as file:
            file.truncate(64 * MIB)
        for words in (("mem", "--size", "64M"), ("mem", "--size", "64M", "--data-path", "copy"),
                      ("mem", "--size", "64M", "--data-path", "user-copy"),
                      ("file", "/tmp/shared.img"),
                      ("file", "/tmp/shared.img", "--data-path", "copy")):
            ashlar("del", self.moves_data(*words)["id"])

    def test_nothing_is_copied(self):
        # What is stored is what the memory has when the server looks, not when it was sent.
        device = add("mem", "--size", "64M", "--layer", "delay:write=1s", "--shared-memory",
                     "/dev/shm/area")
        with open("/dev/shm/area", "r+b") as area, mmap.mmap(area.fileno(), 0) as memory:
            fd = os.open(device["block_device"], os.O_RDWR | os.O_DIRECT)
            view = memoryview(memory)
            try:
                view[0:4096] = b"a" * 4096
                write = threading.Thread(target=os.pwritev, args=(fd, [view[0:4096]], 0))
                write.start()
                time.sleep(0.3)
                view[0:4096] = b"b" * 4096
                write.join()
                self.assertEqual(read_at(device["block_device"], 0), b"b" * 4096)
            finally:
                os.close(fd)
                view.release()

    def test_it_is_there_after_recovery(self):
        device = self.moves_data("mem", "--size", "64M", "--recovery", "reissue", "--supervise")
        os.kill(device["pid"], 9)
        deadline = time.monotonic() + 20
        while ashlar_json("show", device["id"])["pid"] in (None, device["pid"]):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        with open("/dev/shm/area", "r+b") as area, mmap.mmap(area.fileno(), 0) as memory:
            fd = os.open(device["block_device"], os.O_RDWR | os.O_DIRECT)
            view = memoryview(memory)
            try:
                os.preadv(fd, [view[0:65536]], 3 * MIB)
                self.assertEqual(bytes(view[0:65536]), bytes(view[MIB:MIB + 65536]))
            finally:
                os.close(fd)
                view.release()

    def test_the_example(self):
        device = add("mem", "--size", "64M", "--shared-memory", "/dev/shm/area")
        told = run("shared_client", device["block_device"], "/dev/shm/area").stdout
        self.assertIn("none of them copied", told)

    def test_bad_settings_are_refused(self):
        for path, sentence in (("/dev/shm/none", "No such file"), ("area", "whole path"),
                               ("/dev/zero", "regular file")):
            refused = ashlar("add", "mem", "--size", "64M", "--shared-memory", path, check=False)
            self.assertNotEqual(refused.returncode, 0, path)
            self.assertIn(sentence, refused.stderr)
        self.assertEqual(ashlar_json("list"), [])


class Partitions(Feature):
    flag = "no_auto_part_scan"

    def test_they_are_left_alone(self):
        self.needs("mem", "--size", "64M", "--no-partition-scan")
        with open("/tmp/parted.img", "wb") as file:
            file.truncate(64 * MIB)
            # A partition table of one: type 83, from sector 2048 on.
            file.seek(446)
            file.write(struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, 8192))
            file.seek(510)
            file.write(b"\x55\xaa")
        for words, expected in (((), True), (("--no-partition-scan",), False)):
            device = add("file", "/tmp/parted.img", *words)
            name = f"ublkb{device['id']}"
            time.sleep(0.5)
            self.assertEqual(os.path.exists(f"/sys/block/{name}/{name}p1"), expected)
            ashlar("del", device["id"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
