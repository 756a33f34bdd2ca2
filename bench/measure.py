"""One workload on one device, measured."""
import contextlib
import json
import os

from targets import read_text, run

TRACING = "/sys/kernel/tracing/events/raw_syscalls/sys_enter"
COUNTED_SECONDS = 0.3
PERCENTILES = {"p50_us": "50.000000", "p99_us": "99.000000", "p999_us": "99.900000"}


def fio(device, workload, seconds, size_mib):
    options = dict(workload.options(), name="bench", filename=device.path, size=f"{size_mib}m",
                   time_based=1, runtime=seconds)
    text = run("fio", "--output-format=json",
               *[f"--{key}={value}" for key, value in options.items()])
    return json.loads(text[text.index("{"):])["jobs"][0]


def figures(job):
    """Those of a group of fio's jobs. A mixed one's latency is that of its reads."""
    sides = [job[side] for side in ("read", "write", "trim") if job[side]["total_ios"]]
    if not sides:
        raise RuntimeError(f"fio did no I/O (error {job.get('error')})")
    latency = sides[0]["clat_ns"].get("percentile", {})
    result = {"iops": sum(side["iops"] for side in sides),
              "mib_per_s": sum(side["bw_bytes"] for side in sides) / 2**20}
    for name, key in PERCENTILES.items():
        result[name] = latency.get(key, 0) / 1000
    return result, sum(side["total_ios"] for side in sides)


def measure(device, workload, seconds, size_mib):
    before = device.server_ns()
    job = fio(device, workload, seconds, size_mib)
    after = device.server_ns()
    result, ios = figures(job)
    result["server_ns_per_io"] = None if before is None else (after - before) / ios
    return result


class SystemCalls:
    """Counts those of one process's threads, in a run of its own: counting costs time."""

    def __init__(self, pid):
        threads = os.listdir(f"/proc/{pid}/task")
        self.filter = " || ".join(f"common_pid == {thread}" for thread in threads)

    def __enter__(self):
        self.command("hist:keys=common_type if " + self.filter)
        return self

    def __exit__(self, *_):
        self.command("!hist:keys=common_type if " + self.filter)

    @staticmethod
    def command(text):
        with open(f"{TRACING}/trigger", "w", encoding="ascii") as trigger:
            trigger.write(text)

    @staticmethod
    def count():
        for line in read_text(f"{TRACING}/hist").splitlines():
            if line.strip().startswith("Hits:"):
                return int(line.split()[1])
        return 0


def count_system_calls(device, workload, size_mib):
    """Of the server for each I/O; None where there is no server, or no tracing."""
    if device.pid is None:
        return None
    try:
        with SystemCalls(device.pid) as calls:
            job = fio(device, workload, COUNTED_SECONDS, size_mib)
            counted = calls.count()
    except OSError:
        return None
    return counted / figures(job)[1]


@contextlib.contextmanager
def opened(target, size_mib):
    """A device of the target's, written as a whole if what was never written would not be there."""
    with target.open(size_mib) as device:
        if target.fills:
            fill(device, size_mib)
        yield device


def fill(device, size_mib):
    run("dd", "if=/dev/urandom", f"of={device.path}", "bs=1M", f"count={size_mib}", "oflag=direct",
        "conv=notrunc", "status=none")
