"""What is measured: block devices of Ashlar, the kernel's own, and what lies underneath both."""
import contextlib
import glob
import json
import os
import subprocess
import tempfile
import time

SHM = "/dev/shm"
RAM_DISK = "/dev/ram0"


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                            check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stderr.strip()}")
    return result.stdout.strip()


class Device:
    """A path that fio opens; pid: of the process that serves it, if one does."""

    def __init__(self, path, pid=None, add_ms=None):
        self.path, self.pid, self.add_ms = path, pid, add_ms

    def server_ns(self):
        """CPU time of all threads of the server so far."""
        if self.pid is None:
            return None
        files = glob.glob(f"/proc/{self.pid}/task/*/schedstat")
        return sum(int(read_text(file).split()[0]) for file in files)

    def memory_kib(self):
        """What the machine would have back without the server: its proportional set size."""
        if self.pid is None:
            return None
        for line in read_text(f"/proc/{self.pid}/smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
        return None


def read_text(path):
    with open(path, encoding="ascii") as file:
        return file.read()


@contextlib.contextmanager
def ashlar(*arguments):
    begun = time.monotonic()
    device = json.loads(run("ashlar", "add", *arguments, "--json"))
    add_ms = (time.monotonic() - begun) * 1000
    try:
        yield Device(device["block_device"], device["pid"], add_ms)
    finally:
        run("ashlar", "del", device["id"])


@contextlib.contextmanager
def file_on_tmpfs(size_mib):
    with tempfile.TemporaryDirectory(dir=SHM) as directory:
        path = f"{directory}/disk"
        with open(path, "wb") as disk:
            disk.truncate(size_mib << 20)
        yield path


@contextlib.contextmanager
def nbdkit(size_mib):
    """A Unix socket at which nbdkit serves a disk in memory."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        socket = f"{directory}/socket"
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "memory", f"{size_mib}M"])
        try:
            while not os.path.exists(socket):
                time.sleep(0.01)
            yield socket
        finally:
            server.kill()
            server.wait()


# ---- Ashlar's ------------------------------------------------------------------------------------

def null(*arguments):
    return lambda size_mib: ashlar("null", "--no-fill", "--size", f"{size_mib}M", *arguments)


def mem(*arguments):
    return lambda size_mib: ashlar("mem", "--size", f"{size_mib}M", *arguments)


def file(*arguments):
    @contextlib.contextmanager
    def on_tmpfs(size_mib):
        with file_on_tmpfs(size_mib) as path, ashlar("file", path, *arguments) as device:
            yield device
    return on_tmpfs


@contextlib.contextmanager
def direct(size_mib):
    with ashlar("file", RAM_DISK, "--direct", "--length", f"{size_mib}M", "--queues", 2) as device:
        yield device


@contextlib.contextmanager
def stripe(size_mib):
    with file_on_tmpfs(size_mib // 2) as first, file_on_tmpfs(size_mib // 2) as second, \
            ashlar("stripe", f"file:{first}", f"file:{second}", "--queues", 2) as device:
        yield device


def nbd(*arguments):
    @contextlib.contextmanager
    def from_nbdkit(size_mib):
        with nbdkit(size_mib) as socket, \
                ashlar("nbd", f"nbd+unix:///?socket={socket}", *arguments) as device:
            yield device
    return from_nbdkit


# ---- The kernel's --------------------------------------------------------------------------------

@contextlib.contextmanager
def null_blk(size_mib):
    base = "/sys/kernel/config/nullb/bench"
    os.mkdir(base)
    try:
        settings = dict(size=size_mib, queue_mode=2, irqmode=0, submit_queues=2,
                        hw_queue_depth=128, completion_nsec=0, discard=1, power=1)
        for key, value in settings.items():
            with open(f"{base}/{key}", "w", encoding="ascii") as setting:
                setting.write(str(value))
        path = f"/dev/nullb{read_text(f'{base}/index').strip()}"
        yield Device(path if os.path.exists(path) else "/dev/bench")
    finally:
        os.rmdir(base)


@contextlib.contextmanager
def ram_disk(_):
    yield Device(RAM_DISK)


def loop(*arguments):
    @contextlib.contextmanager
    def on_tmpfs(size_mib):
        with file_on_tmpfs(size_mib) as disk:
            path = run("losetup", *arguments, "--find", "--show", disk)
            try:
                yield Device(path)
            finally:
                run("losetup", "--detach", path)
    return on_tmpfs


@contextlib.contextmanager
def kernel_nbd(size_mib):
    with nbdkit(size_mib) as socket:
        run("nbd-client", "-unix", socket, "/dev/nbd0")
        try:
            yield Device("/dev/nbd0")
        finally:
            run("nbd-client", "-d", "/dev/nbd0")


@contextlib.contextmanager
def bare_file(size_mib):
    with file_on_tmpfs(size_mib) as path:
        yield Device(path)


class Target:
    """open(size_mib): a context whose value is a Device. fills: what was never written is not
    there, so it is written first. needs: a path without which it cannot be measured here."""

    def __init__(self, name, family, opened, fills=True, needs=None):
        self.name, self.family, self.open = name, family, opened
        self.fills, self.needs = fills, needs


TWO = ("--queues", 2)
BUSY = ("--busy-poll", 50)
TARGETS = [
    Target("null", "ashlar", null(*TWO), fills=False),
    Target("null-1q", "ashlar", null(), fills=False),
    Target("null-copy", "ashlar", null(*TWO, "--data-path", "copy"), fills=False),
    Target("null-batch", "ashlar", null(*TWO, "--commands", "batch"), fills=False),
    Target("null-busy-poll", "ashlar", null(*TWO, *BUSY), fills=False),
    Target("null-sqpoll", "ashlar", null("--sqpoll"), fills=False),
    Target("mem", "ashlar", mem(*TWO)),
    Target("mem-1q", "ashlar", mem()),
    Target("mem-copy", "ashlar", mem(*TWO, "--data-path", "copy")),
    Target("file", "ashlar", file(*TWO)),
    Target("file-1q", "ashlar", file()),
    Target("file-copy", "ashlar", file(*TWO, "--data-path", "copy")),
    Target("file-batch", "ashlar", file(*TWO, "--commands", "batch")),
    Target("file-direct", "ashlar", direct, needs=RAM_DISK),
    Target("stripe", "ashlar", stripe),
    Target("nbd", "ashlar", nbd(), needs="/usr/bin/nbdkit"),
    Target("nbd-busy-poll", "ashlar", nbd(*BUSY), needs="/usr/bin/nbdkit"),
    Target("nbd-2q", "ashlar", nbd(*TWO), needs="/usr/bin/nbdkit"),
    Target("kernel-null_blk", "kernel", null_blk, fills=False, needs="/sys/kernel/config/nullb"),
    Target("kernel-loop", "kernel", loop(), needs="/dev/loop-control"),
    Target("kernel-loop-direct", "kernel", loop("--direct-io=on"), needs="/dev/loop-control"),
    Target("kernel-nbd", "kernel", kernel_nbd, needs="/dev/nbd0"),
    Target("kernel-brd", "bare", ram_disk, needs=RAM_DISK),
    Target("bare-file", "bare", bare_file),
]
