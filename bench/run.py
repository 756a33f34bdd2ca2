"""A run: targets by turns, as often as is asked for, and what came out as one record."""
import os
import platform
import statistics
import sys
import time

from measure import count_system_calls, measure, opened
from targets import run as command

# Of a set that is measured for comparison; what is not here says nothing about speed.
FIGURES = ("iops", "mib_per_s", "p50_us", "p99_us", "p999_us", "server_ns_per_io")
ONCE = ("system_calls_per_io",)


class Progress:
    """A bar on a terminal; nothing in a pipe."""

    def __init__(self, total):
        self.total, self.done, self.shown = total, 0, sys.stderr.isatty()
        self.begun = time.monotonic()

    def step(self, what):
        self.done += 1
        if not self.shown:
            return
        share = self.done / self.total
        left = (time.monotonic() - self.begun) * (1 / share - 1)
        bar = "#" * round(30 * share)
        sys.stderr.write(f"\r[{bar:<30}] {self.done}/{self.total}, {left:.0f} s left  "
                         f"{what:<44.44}")
        if self.done == self.total:
            sys.stderr.write("\r" + " " * 110 + "\r")
        sys.stderr.flush()


def spread(values):
    """How far apart they are, as a share of their median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def merged(rows):
    """Those of one target and workload: medians, and how far the figures lay apart."""
    result = {"runs": len(rows)}
    for figure in FIGURES:
        values = [row[figure] for row in rows if row[figure] is not None]
        result[figure] = statistics.median(values) if values else None
    result["spread"] = spread([row["iops"] for row in rows])
    for figure in ONCE:
        result[figure] = rows[0].get(figure)
    return result


def environment(arguments):
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as cpus:
        for line in cpus:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "mode": os.environ.get("ASHLAR_VM_MODE", "native"),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu_model": model,
        "ashlar": command("ashlar", "--version").split()[-1],
        "fio": command("fio", "--version"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": arguments.seconds,
        "size_mib": arguments.size,
        "repetitions": arguments.repetitions,
    }


def measure_target(target, workloads, arguments, first, progress, note):
    rows = {}
    with opened(target, arguments.size) as device:
        for workload in workloads:
            progress.step(f"{target.name}: {workload.name}")
            try:
                row = measure(device, workload, arguments.seconds, arguments.size)
                if first and arguments.system_calls:
                    row["system_calls_per_io"] = count_system_calls(device, workload,
                                                                    arguments.size)
            except RuntimeError as error:
                note(f"{target.name}: {workload.name}: {str(error).splitlines()[0]}")
                continue
            rows[workload.name] = row
        device_figures = {"add_ms": device.add_ms, "memory_kib": device.memory_kib()}
    return rows, device_figures


def run_all(targets, workloads, arguments):
    rows, devices, notes = {}, {}, []

    def note(text):
        if text not in notes:
            notes.append(text)

    here = []
    for target in targets:
        if target.needs and not os.path.exists(target.needs):
            note(f"{target.name}: left out, there is no {target.needs}")
        else:
            here.append(target)
    progress = Progress(len(here) * len(workloads) * arguments.repetitions)
    for repetition in range(arguments.repetitions):
        for target in here:
            got, device = measure_target(target, workloads, arguments, repetition == 0, progress,
                                         note)
            for name, row in got.items():
                rows.setdefault((target.name, name), []).append(row)
            devices.setdefault(target.name, device)
    results = [dict(target=target, workload=workload, **merged(each))
               for (target, workload), each in rows.items()]
    families = {target.name: target.family for target in here}
    return {"environment": environment(arguments), "families": families, "devices": devices,
            "results": results, "notes": notes}
