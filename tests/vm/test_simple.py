"""The main job: a disk that is formatted, mounted, written, mounted again and compared."""
import hashlib
import os
import unittest

from support import DeviceTest, Mounted, NOTHING, add, ashlar, ashlar_json, read_text, run, traces


def write_tree(root, files, size):
    """Files of recorded random content; answers their checksums."""
    sums = {}
    for index in range(files):
        directory = os.path.join(root, f"d{index % 7}")
        os.makedirs(directory, exist_ok=True)
        content = os.urandom(size + index)
        path = os.path.join(directory, f"f{index}")
        with open(path, "wb") as file:
            file.write(content)
        sums[os.path.relpath(path, root)] = hashlib.sha256(content).hexdigest()
    os.sync()
    return sums


def read_tree(root):
    sums = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                sums[os.path.relpath(path, root)] = hashlib.sha256(file.read()).hexdigest()
    return sums


class Simple(DeviceTest):
    def round_trip(self, mkfs, *options):
        device = add("mem", "--size", "512M", "--queues", "2", *options)
        path = device["block_device"]
        run(*mkfs, path)
        with Mounted(path) as root:
            expected = write_tree(root, 60, 40_000)
        run("blockdev", "--flushbufs", path)
        with Mounted(path) as root:
            self.assertEqual(read_tree(root), expected)
        ashlar("del", device["id"])
        self.assertEqual(traces(), NOTHING)

    def test_ext4(self):
        self.round_trip(["mkfs.ext4", "-q"])

    def test_xfs(self):
        self.round_trip(["mkfs.xfs", "-q"])

    def test_ext4_on_4k_blocks(self):
        self.round_trip(["mkfs.ext4", "-q"], "--block-size", "4096")

    def test_xfs_on_4k_blocks(self):
        self.round_trip(["mkfs.xfs", "-q"], "--block-size", "4096")

    def test_add_prints_the_path_and_nothing_else(self):
        result = ashlar("add", "mem", "--size", "64M")
        self.assertEqual(result.stdout, "/dev/ublkb0\n")
        self.assertEqual(result.stderr, "")

    def test_json_tells_what_the_kernel_tells(self):
        device = add("mem", "--size", "64M", "--depth", "32", "--block-size", "4096")
        path = device["block_device"]
        self.assertEqual(device["size_bytes"], 64 << 20)
        self.assertEqual(int(run("blockdev", "--getsize64", path).stdout), 64 << 20)
        self.assertEqual(int(run("blockdev", "--getss", path).stdout), 4096)
        self.assertEqual(device["depth"], 32)
        self.assertEqual(device["state"], "live")
        self.assertEqual(device["type"], "mem")
        self.assertTrue(os.path.exists(device["char_device"]))
        os.kill(device["pid"], 0)
        self.assertIsInstance(device["features"], list)
        listed = ashlar_json("list")
        self.assertEqual(listed, [device])

    def test_geometry_reaches_the_block_layer(self):
        add("null", "--size", "1T", "--block-size", "1K", "--physical-block-size", "8K",
            "--io-max", "2M")
        queue = "/sys/block/ublkb0/queue/"

        def value(name):
            return int(read_text(queue + name))

        self.assertEqual(value("logical_block_size"), 1024)
        self.assertEqual(value("physical_block_size"), 8192)
        self.assertEqual(value("max_hw_sectors_kb"), 2048)
        self.assertEqual(value("nr_requests") > 0, True)


if __name__ == "__main__":
    unittest.main()
