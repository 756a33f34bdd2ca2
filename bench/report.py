"""The record of a run as one HTML page that needs nothing else: tables, and plots as SVG."""
import html

from table import COLUMNS, cell, describe

STYLE = """
:root { --ground: #fff; --text: #1d2530; --faint: #68727f; --line: #dde2e8;
        --ashlar: #1f6feb; --kernel: #8a94a3; --bare: #c8cfd8; --late: #d97706; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161c; --text: #e3e8ee; --faint: #8e99a6; --line: #2b333d;
          --ashlar: #58a6ff; --kernel: #78828f; --bare: #454e5a; --late: #f0a94a; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--ground);
       color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, figcaption, small { color: var(--faint); }
figure { margin: 0 0 1rem; } svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg .faint { fill: var(--faint); } svg line { stroke: var(--line); }
.ashlar { fill: var(--ashlar); } .kernel { fill: var(--kernel); } .bare { fill: var(--bare); }
.late { fill: var(--late); } .range { stroke: var(--late); stroke-width: 2; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
details { margin: .4rem 0 1rem; } summary { cursor: pointer; color: var(--faint); }
"""
NAME_WIDTH, PLOT_WIDTH, NUMBER_WIDTH, ROW = 140, 640, 120, 22
FAMILIES = {"ashlar": "Ashlar", "kernel": "the kernel's drivers", "bare": "what lies underneath"}


def escaped(value):
    return html.escape(str(value), quote=True)


def short(value):
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def bars(rows, figure, families, form=short):
    """Horizontal ones, the longest the largest; a row that has no such figure is left out."""
    rows = [row for row in rows if row[figure]]
    if not rows:
        return ""
    most = max(row[figure] for row in rows)
    height = len(rows) * ROW + 4
    width = NAME_WIDTH + PLOT_WIDTH + NUMBER_WIDTH
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for index, row in enumerate(rows):
        y = index * ROW + 4
        length = max(1.0, row[figure] / most * PLOT_WIDTH)
        family = families.get(row["target"], "ashlar")
        parts.append(
            f'<text x="{NAME_WIDTH - 8}" y="{y + 13}" text-anchor="end">{escaped(row["target"])}'
            f'</text><rect class="{family}" x="{NAME_WIDTH}" y="{y}" width="{length:.1f}" '
            f'height="{ROW - 6}" rx="2"/>'
            f'<text x="{NAME_WIDTH + length + 6:.1f}" y="{y + 13}">{escaped(form(row[figure]))}'
            f'</text>')
    return "".join(parts) + "</svg>"


def latencies(rows):
    """From P50 to P99.9, with P99 between, along one axis of microseconds."""
    rows = [row for row in rows if row["p999_us"]]
    if not rows:
        return ""
    most = max(row["p999_us"] for row in rows)
    height = len(rows) * ROW + 4
    width = NAME_WIDTH + PLOT_WIDTH + NUMBER_WIDTH
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for index, row in enumerate(rows):
        y = index * ROW + 12
        places = [NAME_WIDTH + row[key] / most * PLOT_WIDTH for key in
                  ("p50_us", "p99_us", "p999_us")]
        parts.append(
            f'<text x="{NAME_WIDTH - 8}" y="{y + 4}" text-anchor="end">{escaped(row["target"])}'
            f'</text><line class="range" x1="{places[0]:.1f}" x2="{places[2]:.1f}" y1="{y}" '
            f'y2="{y}"/>' +
            "".join(f'<circle class="late" cx="{place:.1f}" cy="{y}" r="{radius}"/>'
                    for place, radius in zip(places, (5, 4, 3))) +
            f'<text class="faint" x="{places[2] + 9:.1f}" y="{y + 4}">'
            f'{row["p50_us"]:.0f} / {row["p99_us"]:.0f} / {row["p999_us"]:.0f}</text>')
    return "".join(parts) + "</svg>"


def figure(svg, caption):
    return f"<figure><figcaption>{escaped(caption)}</figcaption>{svg}</figure>" if svg else ""


def rows_table(rows):
    head = "<th>target</th>" + "".join(f"<th>{escaped(name)}</th>" for _, name, _, _ in COLUMNS)
    body = "".join(
        f"<tr><td>{escaped(row['target'])}</td>" +
        "".join(f"<td>{escaped(cell(row[key], form))}</td>" for key, _, form, _ in COLUMNS) +
        f"<td>{row['spread']:.1%}</td></tr>" for row in rows)
    return (f"<details><summary>figures</summary><table><tr>{head}<th>spread</th></tr>{body}"
            "</table></details>")


def section(workload, rows, families):
    return (f"<h2>{escaped(workload)}</h2>" +
            figure(bars(rows, "iops", families), "I/Os a second: more is better") +
            figure(bars(rows, "server_ns_per_io", families, lambda ns: f"{ns:,.0f} ns"),
                   "CPU time of the server for each I/O: less is better") +
            figure(latencies(rows), "latency, microseconds: P50 / P99 / P99.9") + rows_table(rows))


def devices_table(devices):
    rows = "".join(f"<tr><td>{escaped(name)}</td><td>{device['add_ms']:.0f}</td>"
                   f"<td>{cell(device['memory_kib'], '{:,}')}</td></tr>"
                   for name, device in devices.items() if device["add_ms"] is not None)
    return ("<h2>To have one</h2><table><tr><th>target</th><th>add to usable, ms</th>"
            f"<th>server's memory (PSS), KiB</th></tr>{rows}</table>") if rows else ""


def page(record, command):
    families = record["families"]
    workloads = list(dict.fromkeys(row["workload"] for row in record["results"]))
    keys = "".join(f'<svg class="key" viewBox="0 0 10 10"><rect class="{family}" width="10" '
                   f'height="10"/></svg>{escaped(name)}' for family, name in FAMILIES.items())
    sections = "".join(
        section(workload, [row for row in record["results"] if row["workload"] == workload],
                families) for workload in workloads)
    notes = "".join(f"<li>{escaped(text)}</li>" for text in record["notes"])
    return (f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width">'
            f"<title>Ashlar: block devices side by side</title><style>{STYLE}</style>"
            f"<h1>Block devices side by side</h1><p>{escaped(describe(record['environment']))}</p>"
            f"<p>Again: <code>{escaped(command)}</code></p><p>{keys}</p>{sections}"
            f"{devices_table(record['devices'])}"
            f"{'<h2>Notes</h2><ul>' + notes + '</ul>' if notes else ''}</html>\n")
