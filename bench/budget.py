"""What an I/O may cost: the server's instructions for a few cases, kept in bench/budget.json."""
import json
import platform

# (target, workload) of each case; the figure is server ns per I/O of a VM that counts instructions.
CASES = (("null", "4k randread QD64"), ("null", "4k randread QD1"), ("mem", "4k randread QD64"),
         ("file", "4k randread QD64"), ("file", "4k randwrite QD64"))
MORE = 0.03
MORE_ELSEWHERE = 0.10  # another kernel has other instructions


def read(path):
    with open(path, encoding="ascii") as file:
        return json.load(file)


def write(path, costs):
    with open(path, "w", encoding="ascii") as file:
        json.dump({"kernel": platform.release(), "server_ns_per_io": costs}, file, indent=1)
        file.write("\n")


def name(target, workload):
    return f"{target}: {workload}"


def overdrawn(budget, costs, kernel):
    """A line for each case that costs more than it may, or that has no budget."""
    allowed = MORE if kernel == budget["kernel"] else MORE_ELSEWHERE
    lines = []
    for case, cost in costs.items():
        was = budget["server_ns_per_io"].get(case)
        if was is None:
            lines.append(f"{case} has no budget")
        elif cost > was * (1 + allowed):
            lines.append(f"{case} costs {cost:.0f} ns an I/O, {cost / was - 1:+.1%} on {was:.0f}; "
                         f"{allowed:.0%} are allowed")
    return lines
