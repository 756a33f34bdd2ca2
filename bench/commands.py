"""Block devices side by side: python3 bench run|compare|profile|budget, see --help of each."""
import argparse
import json
import math
import os
import platform
import shlex
import sys

import budget
import compare
import profiler
import report
from measure import measure, opened
from run import run_all
from table import table
from targets import TARGETS
from workloads import ALL, SETS

BUDGET_RUNS = 4
BUDGET_SERVERS = 3
KNOWN = {target.name: target for target in TARGETS}


class Mistake(Exception):
    """Of whoever typed the command: told in one line."""


def chosen(words, known, what):
    wanted = words.split(",")
    for word in wanted:
        if word not in known:
            raise Mistake(f"unknown {what} '{word}'; known are: {', '.join(known)}")
    return [known[word] for word in wanted]


def choose_workloads(words):
    if words in SETS:
        return SETS[words]
    return chosen(words, ALL, "workload")


def run_command(arguments):
    if arguments.list:
        print("targets:   " + ", ".join(KNOWN))
        print("workloads: " + ", ".join(ALL))
        print("sets:      " + ", ".join(f"{name} ({len(each)})" for name, each in SETS.items()))
        return 0
    targets = chosen(arguments.targets, KNOWN, "target") if arguments.targets else TARGETS
    workloads = choose_workloads(arguments.workloads)
    if not os.path.exists("/dev/ublk-control"):
        raise Mistake("no /dev/ublk-control: 'modprobe ublk_drv', or type 'make vm-benchmark'")
    record = run_all(targets, workloads, arguments)
    print(table(record))
    base = arguments.report
    if base:
        with open(base + ".json", "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
        with open(base + ".html", "w", encoding="utf-8") as file:
            file.write(report.page(record, arguments.command or shlex.join(["make", "bench"])))
    return 0 if record["results"] else 1


def compare_command(arguments):
    records = []
    for path in (arguments.before, arguments.after):
        try:
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
            record["environment"], record["results"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Mistake(f"{path} is no record of a run: {error}") from error
        records.append(record)
    why = compare.mismatch(*records)
    if why:
        raise Mistake(f"{arguments.before} and {arguments.after} do not compare: {why}")
    print(compare.text(compare.compare(*records)))
    return 0


def measure_costs(costs, arguments):
    """The least that each case of the budget costs, in costs or now."""
    for target in dict.fromkeys(case[0] for case in budget.CASES):
        with opened(KNOWN[target], arguments.size) as device:
            # The first runs warm it up.
            for workload in BUDGET_RUNS * [case[1] for case in budget.CASES if case[0] == target]:
                case = budget.name(target, workload)
                cost = measure(device, ALL[workload], arguments.seconds, arguments.size)
                costs[case] = min(costs.get(case, math.inf), round(cost["server_ns_per_io"]))


def budget_command(arguments):
    if os.environ.get("ASHLAR_VM_MODE") != "icount":
        raise Mistake("instructions are counted in a VM only: type 'make budget'")
    kept = None if arguments.write else budget.read(arguments.file)
    costs, lines = {}, []
    # A server may start with its memory or its threads worse placed than usual: what is over the
    # budget is measured on new ones before it is believed.
    for _ in range(BUDGET_SERVERS):
        measure_costs(costs, arguments)
        lines = budget.overdrawn(kept, costs, platform.release()) if kept else []
        if not lines:
            break
    for case, cost in costs.items():
        print(f"{case:<28} {cost:>7} ns")
    if arguments.write:
        budget.write(arguments.file, costs)
        return 0
    if kept["kernel"] != platform.release():
        print(f"the budget was measured on {kept['kernel']}; this is {platform.release()}")
    for line in lines:
        print(f"over budget: {line}", file=sys.stderr)
    if lines:
        print("if it is worth that: make budget-write, and say why in the commit", file=sys.stderr)
    return 1 if lines else 0


def profile_command(arguments):
    target = chosen(arguments.target, KNOWN, "target")[0]
    workload = chosen(arguments.workload, ALL, "workload")[0]
    if target.family != "ashlar":
        raise Mistake(f"{target.name} has no server: the kernel's own are not looked into")
    with opened(target, arguments.size) as device:
        counts, cost = profiler.profile(device, workload, arguments.seconds, arguments.size)
    print(profiler.text(counts, cost))
    return 0


def parse(words):
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("run", help="measure")
    one.set_defaults(run=run_command)
    one.add_argument("--targets", help="comma-separated; default: all that can be had here")
    one.add_argument("--workloads", default="quick", help="a set, or names; default: quick")
    one.add_argument("--seconds", type=float, default=1, help="of each measurement")
    one.add_argument("--size", type=int, default=128, help="MiB of each device")
    one.add_argument("--repetitions", type=int, default=1, help="interleaved; medians are told")
    one.add_argument("--system-calls", action="store_true", help="count the server's, too")
    one.add_argument("--report", metavar="PATH", help="also write PATH.json and PATH.html")
    one.add_argument("--command", help="what the page says it is made with")
    one.add_argument("--list", action="store_true", help="say what there is to choose from")
    two = commands.add_parser("compare", help="two records: what changed, what is noise")
    two.set_defaults(run=compare_command)
    two.add_argument("before")
    two.add_argument("after")
    three = commands.add_parser("budget", help="fail when an I/O costs more than it may")
    three.set_defaults(run=budget_command)
    three.add_argument("--file", default="bench/budget.json")
    three.add_argument("--write", action="store_true", help="make what it costs now the budget")
    three.add_argument("--seconds", type=float, default=0.2)
    three.add_argument("--size", type=int, default=64)
    four = commands.add_parser("profile", help="where the server's time goes, by bpftrace")
    four.set_defaults(run=profile_command)
    four.add_argument("target")
    four.add_argument("workload")
    four.add_argument("--seconds", type=float, default=2)
    four.add_argument("--size", type=int, default=64, help="MiB of the device")
    return parser.parse_args(words)


def main(words):
    arguments = parse(words)
    try:
        return arguments.run(arguments)
    except (Mistake, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

