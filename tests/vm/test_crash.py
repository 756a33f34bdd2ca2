"""Crashes, replayed: a log layer records a file system at work; after every moment that something
became durable the disk is rebuilt, also with some of what was not, and must be a sound file system
that holds every file it promised.

ASHLAR_CRASH_ROUNDS=N makes the work N times as long and looks at more unflushed writes;
ASHLAR_CRASH_SEED=N makes it another one.
"""
import hashlib
import json
import os
import random
import tempfile
import threading
import unittest

from support import (DeviceTest, Mounted, add, ashlar, kill_server, read_text, run, wait_until)

ROUNDS = int(os.environ.get("ASHLAR_CRASH_ROUNDS", "1"))
SEED = int(os.environ.get("ASHLAR_CRASH_SEED", "1"))

# What is run at each boundary: a copy is mounted, which replays its journal; each promise in force
# is looked at; then the file system is checked. A promise is in force on the disk as it is durable
# if it was given before the next boundary and not taken back before this one; with unflushed
# writes, if it was not taken back before the next one either.
CHECK = r"""
[ "$ASHLAR_UNTIL" -le "$MADE" ] && exit 0
[ -n "$ASHLAR_UNFLUSHED" ] && [ $((ASHLAR_SEQUENCE / 64 % SAMPLE)) -ne 0 ] && exit 0
set -e
cp --sparse=always "$ASHLAR_IMAGE" "$WORK/copy"
/bin/mount -o loop "$WORK/copy" "$WORK/mount"
status=0
from=$ASHLAR_SEQUENCE
[ -n "$ASHLAR_UNFLUSHED" ] && from=$ASHLAR_UNTIL
awk -v from="$from" -v until="$ASHLAR_UNTIL" -v whole="$WORK/whole" -v gone="$WORK/gone" '
    BEGIN {printf "" >whole; printf "" >gone}
    $1 < until && ($2 == 0 || $2 >= from) {
        if ($3 == "gone") print $4 >gone; else print $3 "  " $4 >whole
        count++
    }
    END {print count + 0}' "$WORK/promises" >>"$WORK/checked"
cd "$WORK/mount"
if [ -s "$WORK/whole" ]; then sha256sum --quiet -c "$WORK/whole" >&2 || status=3; fi
while read -r file; do
    if [ -e "$file" ]; then echo "$file is back" >&2; status=3; fi
done <"$WORK/gone"
cd /
/bin/umount "$WORK/mount"
$FSCK "$WORK/copy" >"$WORK/fsck.log" 2>&1 || { cat "$WORK/fsck.log" >&2; status=4; }
exit $status
"""

FILE_SYSTEMS = {
    # Not blocks of 512 bytes: mounting rewrites the superblock in place, outside the journal, and a
    # crash that leaves one half of its two such blocks leaves no file system.
    "ext4": {"size": "48M", "block": "4K", "make": ["mkfs.ext4", "-q", "-F"],
             "fsck": "e2fsck -fn"},
    # The smallest that mkfs.xfs makes. It is at home in blocks of 512 bytes.
    "xfs": {"size": "300M", "block": "512", "make": ["mkfs.xfs", "-q", "-f"],
            "fsck": "xfs_repair -n"},
}


class Promises:
    """What the file system has promised, by lengths of the log: from when, until when."""

    def __init__(self, log):
        self.log, self.lock, self.entries, self.current = log, threading.Lock(), [], {}

    def now(self):
        """The log's length. A flush that was answered is in it."""
        return os.stat(self.log).st_size

    def give(self, path, content):
        """content is on the disk; None: there is no such file on it any more."""
        digest = "gone" if content is None else hashlib.sha256(content).hexdigest()
        entry = [self.now(), 0, digest, path]
        with self.lock:
            self.entries.append(entry)
            self.current[path] = entry

    def take_back(self, path):
        """Before the file is changed."""
        with self.lock:
            self.current.pop(path)[1] = self.now()

    def save(self, path):
        with open(path, "w", encoding="ascii") as file:
            for entry in self.entries:
                print(*entry, file=file)


class Worker:
    """One thread's part of the work, in a directory of its own."""

    def __init__(self, point, name, promises, seed):
        self.point, self.name, self.promises = point, name, promises
        self.random = random.Random(seed)
        self.files = {}
        self.count = 0
        os.mkdir(f"{point}/{name}")

    def sync_directory(self):
        directory = os.open(f"{self.point}/{self.name}", os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def new_name(self):
        self.count += 1
        return f"{self.name}/f{self.count}"

    def write(self, path, at, content, sync=True):
        with open(f"{self.point}/{path}", "r+b" if at else "wb", buffering=0) as file:
            file.seek(at)
            file.write(content)
            if sync:
                os.fsync(file.fileno())

    def make(self):
        path, content = self.new_name(), self.random.randbytes(self.random.randrange(1, 150_000))
        # The directory first: a promise comes of one sync, and nothing makes up for it.
        self.write(path, 0, b"", sync=False)
        self.sync_directory()
        self.write(path, 0, content)
        self.files[path] = content
        self.promises.give(path, content)

    def change(self):
        path = self.random.choice(list(self.files))
        old = self.files[path]
        at = self.random.randrange(len(old)) + 1
        new = self.random.randbytes(self.random.randrange(1, 50_000))
        self.promises.take_back(path)
        self.write(path, at, new)
        self.files[path] = old[:at] + b"\0" * (at - len(old)) + new + old[at + len(new):]
        self.promises.give(path, self.files[path])

    def replace(self):
        """Written beside, then renamed over it."""
        path = self.random.choice(list(self.files))
        content = self.random.randbytes(self.random.randrange(1, 100_000))
        self.write(path + ".new", 0, content)
        self.promises.take_back(path)
        os.rename(f"{self.point}/{path}.new", f"{self.point}/{path}")
        self.sync_directory()
        self.files[path] = content
        self.promises.give(path, content)

    def delete(self):
        path = self.random.choice(list(self.files))
        self.promises.take_back(path)
        os.unlink(f"{self.point}/{path}")
        del self.files[path]
        self.sync_directory()
        self.promises.give(path, None)

    def litter(self):
        """Nothing is promised of these."""
        self.write(f"{self.name}/litter{self.random.randrange(3)}", 0,
                   self.random.randbytes(self.random.randrange(1, 200_000)), sync=False)

    def work(self, rounds):
        self.make()
        for _ in range(rounds):
            self.litter()
            jobs = [self.make]
            if self.files:
                jobs += [self.change, self.replace, self.delete]
            self.random.choice(jobs)()


class CrashTest(DeviceTest):
    def setUp(self):
        super().setUp()
        self.place = tempfile.mkdtemp(prefix="crash-", dir="/tmp")
        self.addCleanup(run, "rm", "-rf", self.place)
        self.addCleanup(run, "/bin/umount", "-q", f"{self.place}/mount", check=False)
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)
        os.mkdir(f"{self.place}/mount")
        self.log, self.image = f"{self.place}/log", f"{self.place}/image"
        self.promises = Promises(self.log)
        self.made = 0

    def add_logged(self, backend, kind, below=(), above=()):
        """A disk for that kind of file system. above, below: other layers, seen from the log's."""
        size, block = FILE_SYSTEMS[kind]["size"], FILE_SYSTEMS[kind]["block"]
        arguments = ["mem", "--size", size]
        if backend == "file":
            arguments = ["file", f"{self.place}/disk", "--create", "--size", size]
        layers = [*below, f"log:{self.log},create", *above]
        return add(*arguments, "--block-size", block, "--queues", "2",
                   *[word for layer in layers for word in ("--layer", layer)])

    def start_work(self, point, threads, rounds):
        """The threads, and the list that gets what went wrong in them."""
        failures = []

        def job(worker):
            try:
                worker.work(rounds)
            except Exception as error:  # pylint: disable=broad-except
                failures.append(error)
        workers = [Worker(point, f"d{index}", self.promises, SEED * 100 + index)
                   for index in range(threads)]
        running = [threading.Thread(target=job, args=[worker]) for worker in workers]
        for thread in running:
            thread.start()
        return running, failures

    def make_file_system(self, kind, device):
        run(*FILE_SYSTEMS[kind]["make"], device["block_device"])
        self.made = self.promises.now()

    def environment(self, kind):
        self.promises.save(f"{self.place}/promises")
        return {**os.environ, "WORK": self.place, "MADE": str(self.made),
                "SAMPLE": "5" if ROUNDS == 1 else "1", "FSCK": FILE_SYSTEMS[kind]["fsck"]}

    def replay_each(self, kind, seeds, check=True):
        """Every boundary, some with so many kinds of unflushed writes. (result, promises seen)"""
        words = [word for seed in range(seeds) for word in ("--unflushed", SEED * 1000 + seed)]
        result = ashlar("replay", self.log, "--to", self.image, "--each", CHECK, *words,
                        check=check, env=self.environment(kind), timeout=1400)
        counts = []
        if os.path.exists(f"{self.place}/checked"):
            counts = [int(line) for line in read_text(f"{self.place}/checked").split()]
        print(f"  {self.id().rsplit('.', 1)[1]}: {result.stdout.strip()}; {len(counts)} file "
              f"systems checked, {sum(counts)} promises in them", flush=True)
        return result, counts

    def check_workload(self, kind, backend):
        device = self.add_logged(backend, kind)
        self.make_file_system(kind, device)
        with Mounted(device["block_device"]) as point:
            running, failures = self.start_work(point, threads=2, rounds=2 * ROUNDS)
            run("fstrim", point)
            for thread in running:
                thread.join()
            self.assertEqual(failures, [])
        ashlar("del", device["id"])
        _, counts = self.replay_each(kind, min(ROUNDS, 3))
        # It looked at something.
        self.assertGreater(len(counts), 12)
        self.assertGreater(sum(counts), 50)
        if backend == "file":
            run("rm", self.image)
            ashlar("replay", self.log, "--to", self.image)
            run("cmp", self.image, f"{self.place}/disk")


class Workloads(CrashTest):
    def test_ext4_in_memory(self):
        self.check_workload("ext4", "mem")

    def test_xfs_in_a_file(self):
        self.check_workload("xfs", "file")


class Crashes(CrashTest):
    """A server that is killed, on a disk with a cache: a crash as it happens."""

    makes_io_fail = True

    def test_what_is_left_keeps_all_promises(self):
        device = self.add_logged("file", "ext4", below=["fault:volatile-cache"])
        self.make_file_system("ext4", device)
        with Mounted(device["block_device"]) as point:
            running, _ = self.start_work(point, threads=3, rounds=1000)
            wait_until(lambda: len(self.promises.entries) > 20, "some promises are given")
            kill_server(device["pid"])
            for thread in running:
                thread.join()
        ashlar("del", device["id"], "--force")
        compared = ashlar("replay", self.log, "--to", self.image, "--compare",
                          f"{self.place}/disk", "--json")
        self.assertEqual(json.loads(compared.stdout)["size_bytes"], 48 << 20)
        run("sh", "-c", CHECK, env={
            **self.environment("ext4"), "ASHLAR_IMAGE": f"{self.place}/disk",
            "ASHLAR_SEQUENCE": str(self.promises.now()), "ASHLAR_UNTIL": str(1 << 62),
            "ASHLAR_UNFLUSHED": ""})
        self.assertGreater(int(read_text(f"{self.place}/checked")), 0)

    def test_the_log_goes_on_when_it_is_opened_again(self):
        device = self.add_logged("file", "ext4")
        run("dd", "if=/dev/urandom", f"of={device['block_device']}", "bs=64k", "count=20",
            "oflag=direct", "conv=fsync")
        kill_server(device["pid"])
        ashlar("del", device["id"], "--force")
        device = add("file", f"{self.place}/disk", "--block-size", "4K", "--layer",
                     f"log:{self.log}")
        run("dd", "if=/dev/urandom", f"of={device['block_device']}", "bs=64k", "count=20",
            "seek=10", "oflag=direct", "conv=fsync")
        ashlar("del", device["id"])
        ashlar("replay", self.log, "--to", self.image)
        run("cmp", self.image, f"{self.place}/disk")


class BrokenPromises(CrashTest):
    """That all this finds something."""

    makes_io_fail = True

    def test_a_disk_that_loses_what_was_flushed(self):
        device = self.add_logged("file", "ext4", below=["fault:lost,ops=write,range=1M+4K"])
        run("dd", "if=/dev/urandom", f"of={device['block_device']}", "bs=64k", "count=100",
            "oflag=direct", "conv=fsync")
        ashlar("del", device["id"])
        compared = ashlar("replay", self.log, "--to", self.image, "--compare",
                          f"{self.place}/disk", check=False)
        self.assertEqual(compared.returncode, 1)
        self.assertIn("the block at byte 1048576 is neither", compared.stderr)

    def test_a_promise_that_was_not_kept(self):
        device = self.add_logged("mem", "ext4")
        self.make_file_system("ext4", device)
        with Mounted(device["block_device"]) as point:
            running, _ = self.start_work(point, threads=1, rounds=1)
            running[0].join()
            # In the page cache only, where it stays for seconds.
            with open(f"{point}/early", "wb") as file:
                file.write(bytes(10_000))
            self.promises.give("early", bytes(10_000))
            running, _ = self.start_work(f"{point}/d0", threads=1, rounds=1)
            running[0].join()
        ashlar("del", device["id"])
        result, _ = self.replay_each("ext4", 0, check=False)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("the command gave 3 at sequence", result.stderr)


class Logs(unittest.TestCase):
    """Logs that are none, or not whole."""

    def refused(self, content):
        with tempfile.NamedTemporaryFile(dir="/tmp") as file:
            file.write(content)
            file.flush()
            result = ashlar("replay", file.name, "--list", check=False)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        return result.stderr

    def test_what_is_no_log(self):
        self.assertIn("it is empty", self.refused(b""))
        self.assertIn("it has 10 bytes", self.refused(b"ashlrlog\1\0"))
        self.assertIn("it is no log", self.refused(bytes(64)))
        self.assertIn("version 9; this program reads version 1",
                      self.refused(b"ashlrlog\x09\0\0\0" + bytes(52)))
        self.assertIn("damaged", self.refused(b"ashlrlog\1\0\0\0" + bytes(52)))

    def test_usage(self):
        for words, said in (([], "--to FILE"), (["--list", "--to", "x"], "leave --to out"),
                            (["--to", "x", "--at", "1", "--each", "y"], "only one"),
                            (["--to", "x", "--unflushed", "1"], "--unflushed is for")):
            result = ashlar("replay", "/none", *words, check=False)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertIn(said, result.stderr)
        self.assertIn("No such file", ashlar("replay", "/none", "--list", check=False).stderr)


if __name__ == "__main__":
    unittest.main()
