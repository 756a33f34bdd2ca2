"""The record of a run as text for a terminal."""

COLUMNS = (("iops", "IOPS", "{:.0f}", 9), ("mib_per_s", "MiB/s", "{:.1f}", 8),
           ("p50_us", "P50 us", "{:.1f}", 8), ("p99_us", "P99 us", "{:.1f}", 8),
           ("p999_us", "P99.9 us", "{:.1f}", 9), ("server_ns_per_io", "NS/IO", "{:.0f}", 7),
           ("system_calls_per_io", "CALLS/IO", "{:.3f}", 8))


def cell(value, form):
    return "-" if value is None else form.format(value)


def table(record):
    lines = [describe(record["environment"]), ""]
    workloads = list(dict.fromkeys(row["workload"] for row in record["results"]))
    for workload in workloads:
        head = "".join(f" {name:>{width}}" for _, name, _, width in COLUMNS)
        lines.append(f"{workload:<20}{head}   SPREAD")
        for row in record["results"]:
            if row["workload"] != workload:
                continue
            cells = "".join(f" {cell(row[key], form):>{width}}"
                            for key, _, form, width in COLUMNS)
            apart = f"{row['spread']:.1%}" if row["runs"] > 1 else "-"
            lines.append(f"  {row['target']:<18}{cells} {apart:>8}")
        lines.append("")
    lines.append(f"{'DEVICE':<20} {'ADD ms':>9} {'PSS KiB':>8}")
    for name, device in record["devices"].items():
        if device["add_ms"] is not None:
            memory = cell(device["memory_kib"], "{}")
            lines.append(f"  {name:<18} {device['add_ms']:>9.0f} {memory:>8}")
    lines += [f"note: {text}" for text in record["notes"]]
    return "\n".join(lines)


def describe(environment):
    mode = {"icount": "a VM that counts instructions: 1 ns is one of them",
            "tcg": "an emulated VM in real time", "kvm": "a VM"}.get(environment["mode"],
                                                           environment["mode"])
    return (f"Linux {environment['kernel']}, {environment['cpus']} CPUs, {mode}; "
            f"Ashlar {environment['ashlar']}, {environment['fio']}; "
            f"{environment['repetitions']} x {environment['seconds']} s, "
            f"{environment['size_mib']} MiB, {environment['date']}")
