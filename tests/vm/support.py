"""What the tests that need a real ublk driver share. They run as root inside the VM (vm/run), or
on any machine with the driver."""
import glob
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

from kernel_log import IO_ERRORS, KernelLog


def run(*command, check=True, timeout=300, **options):
    """Runs a command; its output is in the failure's message."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                            timeout=timeout, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} gave {result.returncode}\n"
                             f"{result.stdout}{result.stderr}")
    return result


def ashlar(*arguments, check=True, **options):
    return run("ashlar", *arguments, check=check, **options)


def ashlar_json(*arguments):
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return json.loads(ashlar(*arguments[:end], "--json", *arguments[end:]).stdout)


def add(*arguments):
    return ashlar_json("add", *arguments)


def read_text(path):
    """A file's text; that of a process which ends meanwhile is not found."""
    with open(path, encoding="utf-8") as file:
        try:
            return file.read()
        except ProcessLookupError as error:
            raise FileNotFoundError(path) from error


def resident_kib(pid):
    for line in read_text(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS of process {pid}")


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {seconds} s: {what}")
        time.sleep(0.02)


def servers():
    """Process ids of all ashlar processes."""
    found = []
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            if read_text(path).strip() == "ashlar":
                found.append(int(path.split("/")[2]))
        except FileNotFoundError:
            pass
    return found


def traces():
    """Everything a device can leave behind."""
    return {
        "devices": ashlar_json("list"),
        "processes": servers(),
        "nodes": sorted(glob.glob("/dev/ublk[bc]*")),
        "state": sorted(glob.glob("/run/ashlar/ublk*")),
    }


NOTHING = {"devices": [], "processes": [], "nodes": [], "state": []}


def fio(path, **options):
    settings = dict(name="test", filename=path, ioengine="io_uring", direct=1, thread=1,
                    verify_state_save=0, output_format="json")
    settings.update(options)
    words = [f"--{key.replace('_', '-') if key == 'output_format' else key}={value}"
             for key, value in settings.items()]
    text = run("fio", *words, cwd="/tmp").stdout
    return json.loads(text[text.index("{"):])  # after notes of fio's


def kill_server(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in servers() or is_zombie(pid), f"process {pid} ends")


def is_zombie(pid):
    try:
        return read_text(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Mounted:
    """A file system on a device, mounted on a fresh directory."""

    def __init__(self, path, *options):
        self.path, self.options = path, options
        self.point = tempfile.mkdtemp(prefix="mount-", dir="/tmp")

    def __enter__(self):
        run("/bin/mount", *self.options, self.path, self.point)
        return self.point

    def __exit__(self, *_):
        run("/bin/umount", self.point)
        os.rmdir(self.point)


class Store:
    """An ext4 file system, for files that back devices; on the RAM disk unless told where."""

    def __init__(self, disk="/dev/ram0"):
        if not os.path.exists(disk):
            raise unittest.SkipTest("needs a RAM disk at /dev/ram0 (modprobe brd)")
        run("mkfs.ext4", "-q", "-F", disk)
        self.mounted = Mounted(disk)
        self.point = self.mounted.__enter__()
        self.count = 0

    def name(self):
        self.count += 1
        return f"{self.point}/disk{self.count}"

    def fresh(self, size):
        """A sparse file."""
        path = self.name()
        run("truncate", "-s", size, path)
        return path

    def close(self):
        self.mounted.__exit__()


def kernel_features():
    """Names of what the running driver offers."""
    return {feature["name"] for feature in ashlar_json("features")["features"]
            if feature["available"]}


def queue_threads(device):
    """Name of each queue thread of a device's own -> its id."""
    directory = f"/proc/{device['pid']}/task"
    names = {read_text(f"{directory}/{thread}/comm").strip(): int(thread)
             for thread in os.listdir(directory)}
    return {name: thread for name, thread in names.items()
            if name.startswith(f"ublk{device['id']}-q")}


def queue_counters(device_id):
    """Of each queue; none while the server has no time to answer."""
    return ashlar_json("show", device_id)["queue_counters"] or []


def sysfs(device, attribute):
    return read_text(f"/sys/block/{device}/queue/{attribute}").strip()


def count_events(event, call):
    """How often a trace event of the kernel happens during the call."""
    directory = f"/sys/kernel/tracing/events/{event.replace(':', '/')}"
    with open(f"{directory}/trigger", "w", encoding="ascii") as trigger:
        trigger.write("hist:keys=common_pid")
    try:
        call()
        lines = read_text(f"{directory}/hist").splitlines()
    finally:
        with open(f"{directory}/trigger", "w", encoding="ascii") as trigger:
            trigger.write("!hist:keys=common_pid")
    return sum(int(line.rsplit(":", 1)[1]) for line in lines if "hitcount:" in line and "{" in line)


class DeviceTest(unittest.TestCase):
    """Starts and ends with no device; what a failed test left is removed. The kernel has nothing
    to complain about meanwhile."""

    # True in tests whose devices fail, or end in the midst of requests.
    makes_io_fail = False
    # True in tests whose processes the kernel kills for want of memory.
    runs_out_of_memory = False

    def check_kernel_log(self, log):
        complaints = log.complaints(IO_ERRORS if self.makes_io_fail else (),
                                    self.runs_out_of_memory)
        log.close()
        if complaints:
            self.fail("the kernel complained:\n  " + "\n  ".join(complaints))

    def setUp(self):
        # First, so that it ends last.
        self.addCleanup(self.check_kernel_log, KernelLog())
        ashlar("del", "--all", "--force", check=False)
        self.addCleanup(ashlar, "del", "--all", "--force", check=False)
        self.assertEqual(traces(), NOTHING)
