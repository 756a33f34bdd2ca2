"""Where a server's time goes: functions of the kernel and of its own, by samples."""
import collections
import re
import signal
import subprocess
import time

from measure import measure

# Prime, so that it does not beat with anything periodic.
SAMPLES_A_SECOND = 4999
PROGRAM = "profile:hz:%d /pid == %d/ { @at[kstack(1), ustack(1)] = count(); }"


def counted(output):
    """Samples for each function in what bpftrace says: the innermost, the kernel's first."""
    counts = collections.Counter()
    for stacks, count in re.findall(r"@at\[\s*(.*?)\s*\]: (\d+)", output, re.S):
        lines = [line.strip(" ,") for line in stacks.splitlines() if line.strip(" ,")]
        name = re.sub(r"\+\d+$", "", lines[0]) if lines else "unknown"
        counts[name] += int(count)
    return counts


def profile(device, workload, seconds, size_mib):
    """Samples for each function, and the server's ns per I/O without anybody looking."""
    cost = min(measure(device, workload, 0.2, size_mib)["server_ns_per_io"] for _ in range(3))
    tracer = subprocess.Popen(
        ["bpftrace", "-q", "-e", PROGRAM % (SAMPLES_A_SECOND, device.pid)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(5)  # until it has attached
        measure(device, workload, seconds, size_mib)
    finally:
        tracer.send_signal(signal.SIGINT)
        output = tracer.communicate()[0]
    counts = counted(output)
    if not counts:
        raise RuntimeError(f"bpftrace saw nothing: {output.strip()}")
    return counts, cost


def text(counts, cost, least=0.005):
    """A line for each function that has a share of at least so much."""
    total = sum(counts.values())
    lines = [f"{cost:.0f} ns an I/O; {total} samples", "", f"{'NS/IO':>7} {'SHARE':>7}  FUNCTION"]
    for name, count in counts.most_common():
        share = count / total
        if share >= least:
            lines.append(f"{cost * share:>7.0f} {share:>7.1%}  {name}")
    rest = sum(count for count in counts.values() if count / total < least)
    lines.append(f"{cost * rest / total:>7.0f} {rest / total:>7.1%}  (all others)")
    return "\n".join(lines)
