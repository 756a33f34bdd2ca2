"""Two records side by side: what changed, and what is noise."""

# What figures differ by that nothing has changed: of instructions counted, and of time at least.
NOISE = {"icount": 0.01}
NOISE_OF_TIME = 0.05
SAME = ("mode", "kernel", "cpus", "size_mib")


def mismatch(old, new):
    """Why the two do not compare; empty if they do."""
    for key in SAME:
        left, right = old["environment"][key], new["environment"][key]
        if left != right:
            return f"they differ in {key}: {left} and {right}"
    return ""


def noise_of(mode, old, new):
    return max(NOISE.get(mode, NOISE_OF_TIME), old["spread"], new["spread"])


def compare(old, new):
    """A row for each target and workload that both have: (target, workload, figure, before, after,
    change as a share, verdict)."""
    mode = old["environment"]["mode"]
    before = {(row["target"], row["workload"]): row for row in old["results"]}
    rows = []
    for row in new["results"]:
        was = before.get((row["target"], row["workload"]))
        if was is None:
            continue
        noise = noise_of(mode, was, row)
        for figure, more_is_better in (("iops", True), ("server_ns_per_io", False)):
            if not was[figure] or not row[figure]:
                continue
            change = row[figure] / was[figure] - 1
            verdict = "noise"
            if abs(change) > noise:
                verdict = "better" if (change > 0) == more_is_better else "worse"
            rows.append((row["target"], row["workload"], figure, was[figure], row[figure], change,
                         verdict))
    return rows


def text(rows):
    lines = [f"{'TARGET':<19} {'WORKLOAD':<20} {'FIGURE':<17} {'BEFORE':>10} {'AFTER':>10} "
             f"{'CHANGE':>8}"]
    for target, workload, figure, before, after, change, verdict in rows:
        lines.append(f"{target:<19} {workload:<20} {figure:<17} {before:>10.0f} {after:>10.0f} "
                     f"{change:>+8.1%}  {verdict}")
    counted = {verdict: sum(row[-1] == verdict for row in rows)
               for verdict in ("better", "worse", "noise")}
    lines.append(f"{counted['better']} better, {counted['worse']} worse, {counted['noise']} noise")
    return "\n".join(lines)
