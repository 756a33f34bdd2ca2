#!/usr/bin/env python3
"""Measures block devices side by side on the running kernel: Ashlar's and the kernel's own.

Figures: IOPS, bandwidth, completion latency percentiles from fio, and server ns per I/O: the CPU
time of all threads of Ashlar's server (field 1 of schedstat) divided by the I/Os done. Under an
instruction-counting VM (vm/run --icount) the last repeats within about 1 %.
"""
import argparse
import contextlib
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

WORKLOADS = {
    "4k randread QD1": dict(rw="randread", bs="4k", iodepth=1),
    "4k randread QD64": dict(rw="randread", bs="4k", iodepth=64),
    "4k randwrite QD64": dict(rw="randwrite", bs="4k", iodepth=64),
    "128k read QD16": dict(rw="read", bs="128k", iodepth=16),
    "128k write QD16": dict(rw="write", bs="128k", iodepth=16),
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Ashlar:
    """A device of `ashlar add`; knows its server's CPU time."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __enter__(self):
        device = json.loads(run("ashlar", "add", *self.arguments, "--json"))
        self.path, self.pid, self.id = device["block_device"], device["pid"], device["id"]
        return self

    def __exit__(self, *_):
        run("ashlar", "del", str(self.id))

    def server_ns(self):
        files = glob.glob(f"/proc/{self.pid}/task/*/schedstat")
        return sum(int(open(file).read().split()[0]) for file in files)


class Kernel:
    """A device of one of the kernel's own drivers."""

    def __init__(self, name, set_up, tear_down):
        self.name, self.set_up, self.tear_down = name, set_up, tear_down

    def __enter__(self):
        self.path = self.set_up()
        return self

    def __exit__(self, *_):
        self.tear_down(self.path)

    def server_ns(self):
        return None


def null_blk():
    base = "/sys/kernel/config/nullb/bench"
    if not os.path.isdir("/sys/kernel/config/nullb"):
        run("modprobe", "null_blk", "nr_devices=0")
        subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"],
                       capture_output=True, check=False)

    def set_up():
        os.mkdir(base)
        for key, value in dict(size=262144, queue_mode=2, irqmode=0, submit_queues=2,
                               hw_queue_depth=128, completion_nsec=0).items():
            open(f"{base}/{key}", "w").write(str(value))
        open(f"{base}/power", "w").write("1")
        index = open(f"{base}/index").read().strip()
        path = f"/dev/nullb{index}"
        return path if os.path.exists(path) else "/dev/bench"

    return Kernel("kernel null_blk", set_up, lambda _: os.rmdir(base))


def loop(size_mib):
    directory = tempfile.mkdtemp(dir="/dev/shm")
    file = f"{directory}/disk"

    def set_up():
        with open(file, "wb") as disk:
            disk.truncate(size_mib << 20)
        subprocess.run(["modprobe", "loop"], capture_output=True, check=False)
        return run("losetup", "--find", "--show", file)

    def tear_down(path):
        run("losetup", "--detach", path)
        os.unlink(file)
        os.rmdir(directory)

    return Kernel("kernel loop on tmpfs", set_up, tear_down)


@contextlib.contextmanager
def served_by_nbdkit(size_mib, device_of):
    """A device of what nbdkit has in memory, over a Unix socket by one connection."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        socket = f"{directory}/socket"
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "memory", f"{size_mib}M"])
        try:
            while not os.path.exists(socket):
                time.sleep(0.01)
            with device_of(socket) as device:
                # What was never written has no memory behind it.
                run("dd", "if=/dev/urandom", f"of={device.path}", "bs=1M", f"count={size_mib}",
                    "oflag=direct")
                yield device
        finally:
            server.kill()
            server.wait()


def ashlar_nbd(socket):
    return Ashlar("ashlar nbd", "nbd", f"nbd+unix:///?socket={socket}")


def ashlar_nbd_by_two(socket):
    return Ashlar("ashlar nbd, 2 queues", "nbd", f"nbd+unix:///?socket={socket}", "--queues", "2")


def kernel_nbd(socket):
    def set_up():
        subprocess.run(["modprobe", "nbd"], capture_output=True, check=False)
        run("nbd-client", "-unix", socket, "/dev/nbd0")
        return "/dev/nbd0"

    return Kernel("kernel nbd", set_up, lambda path: run("nbd-client", "-d", path))


def measure(target, workload, seconds, size_mib):
    options = dict(WORKLOADS[workload], name="bench", filename=target.path, ioengine="io_uring",
                   direct=1, size=f"{size_mib}m", time_based=1, runtime=seconds, norandommap=1,
                   randrepeat=1, thread=1)
    before = target.server_ns()
    result = json.loads(run("fio", "--output-format=json",
                            *[f"--{key}={value}" for key, value in options.items()]))
    after = target.server_ns()
    job = result["jobs"][0]
    side = job["write"] if "write" in options["rw"] else job["read"]
    latency = side["clat_ns"].get("percentile", {})
    ios = side["total_ios"]
    return {
        "target": target.name,
        "workload": workload,
        "iops": side["iops"],
        "mib_per_s": side["bw_bytes"] / 2**20,
        "p50_us": latency.get("50.000000", 0) / 1000,
        "p99_us": latency.get("99.000000", 0) / 1000,
        "p999_us": latency.get("99.900000", 0) / 1000,
        "server_ns_per_io": None if before is None or not ios else (after - before) / ios,
    }


HEADER = (f"{'TARGET':<22} {'WORKLOAD':<18} {'IOPS':>9} {'MiB/s':>8} {'P50 us':>8} {'P99 us':>8} "
          f"{'P99.9 us':>9} {'SERVER ns/IO':>13}")


def row(r):
    server = "-" if r["server_ns_per_io"] is None else f"{r['server_ns_per_io']:.0f}"
    return (f"{r['target']:<22} {r['workload']:<18} {r['iops']:>9.0f} {r['mib_per_s']:>8.1f} "
            f"{r['p50_us']:>8.1f} {r['p99_us']:>8.1f} {r['p999_us']:>9.1f} {server:>13}")


def targets(size_mib):
    return {
        "null": Ashlar("ashlar null", "null", "--no-fill", "--queues", "2"),
        "mem": Ashlar("ashlar mem", "mem", "--size", f"{size_mib}M", "--queues", "2"),
        "null_blk": null_blk(),
        "loop": loop(size_mib),
        "nbd": served_by_nbdkit(size_mib, ashlar_nbd),
        "nbd_by_two": served_by_nbdkit(size_mib, ashlar_nbd_by_two),
        "kernel_nbd": served_by_nbdkit(size_mib, kernel_nbd),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="of each workload")
    parser.add_argument("--size", type=int, default=256, help="MiB of each device")
    parser.add_argument("--targets", default="null,mem,null_blk,loop,nbd,nbd_by_two,kernel_nbd")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--json", metavar="FILE", help="also write the results here")
    arguments = parser.parse_args()
    known = targets(arguments.size)
    wanted = arguments.targets.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"unknown target {unknown[0]}; known are {', '.join(known)}")
    results = []
    print(f"kernel {os.uname().release}, {os.cpu_count()} CPUs, {arguments.seconds} s a row")
    print(HEADER)
    for name in wanted:
        with known[name] as target:
            for workload in arguments.workloads.split(","):
                result = measure(target, workload, arguments.seconds, arguments.size)
                results.append(result)
                print(row(result), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"kernel": os.uname().release, "results": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
