"""What the benchmark makes of figures; measuring itself needs the driver."""
import contextlib
import io
import json
import os
import tempfile
import unittest

import budget
import compare
import profiler
import report
import run
import table
from commands import main
from measure import figures
from targets import TARGETS
from workloads import ALL, QUICK, SETS


def row(target="null", workload="4k randread QD1", iops=1000.0, ns=5000.0, spread=0.0):
    return {"target": target, "workload": workload, "runs": 3, "iops": iops, "mib_per_s": 4.0,
            "p50_us": 10.0, "p99_us": 20.0, "p999_us": 30.0, "server_ns_per_io": ns,
            "spread": spread, "system_calls_per_io": 0.5}


def record(*rows, mode="icount"):
    return {"environment": {"mode": mode, "kernel": "7.3", "cpus": 2, "cpu_model": "x",
                            "ashlar": "1", "fio": "fio-3", "date": "2026-01-01", "seconds": 1,
                            "size_mib": 64, "repetitions": 3},
            "families": {"null": "ashlar", "loop": "kernel"},
            "devices": {"null": {"add_ms": 5.0, "memory_kib": 100}},
            "results": list(rows), "notes": []}


def side(ios, iops):
    return {"total_ios": ios, "iops": iops, "bw_bytes": iops * 4096,
            "clat_ns": {"percentile": {"50.000000": 5000, "99.000000": 9000, "99.900000": 9500}}}


def bench(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()


class Selections(unittest.TestCase):
    def test_names_are_of_one_each(self):
        for workloads in SETS.values():
            self.assertEqual(len({workload.name for workload in workloads}), len(workloads))
            for workload in workloads:
                self.assertEqual(ALL[workload.name].options(), workload.options())
        self.assertEqual(len({target.name for target in TARGETS}), len(TARGETS))
        self.assertLessEqual({workload.name for workload in QUICK}, set(ALL))
        self.assertLessEqual({case[1] for case in budget.CASES}, set(ALL))
        self.assertLessEqual({case[0] for case in budget.CASES}, {t.name for t in TARGETS})

    def test_the_list(self):
        status, out, _ = bench("run", "--list")
        self.assertEqual(status, 0)
        self.assertIn("kernel-loop", out)
        self.assertIn("4k randread QD64 x4", out)


class Figures(unittest.TestCase):
    def test_both_sides_of_a_mixed_load_count(self):
        got, ios = figures({"read": side(70, 700.0), "write": side(30, 300.0), "trim": side(0, 0)})
        self.assertEqual(ios, 100)
        self.assertEqual(got["iops"], 1000.0)
        self.assertEqual(got["p99_us"], 9.0)

    def test_no_io_is_an_error(self):
        with self.assertRaises(RuntimeError):
            figures({"read": side(0, 0), "write": side(0, 0), "trim": side(0, 0), "error": 5})

    def test_medians_and_how_far_apart(self):
        got = run.merged([row(iops=90.0), row(iops=100.0), row(iops=120.0)])
        self.assertEqual(got["iops"], 100.0)
        self.assertAlmostEqual(got["spread"], 0.3)
        self.assertEqual(got["runs"], 3)

    def test_what_the_kernel_serves_has_no_server(self):
        self.assertIsNone(run.merged([row(ns=None)])["server_ns_per_io"])

    def test_progress_says_nothing_in_a_pipe(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            run.Progress(2).step("something")
        self.assertEqual(err.getvalue(), "")


class Comparisons(unittest.TestCase):
    def verdicts(self, before, after, mode="icount"):
        rows = compare.compare(record(before, mode=mode), record(after, mode=mode))
        return {figure: verdict for _, _, figure, _, _, _, verdict in rows}

    def test_within_the_noise(self):
        self.assertEqual(self.verdicts(row(), row(iops=1005.0, ns=5040.0)),
                         {"iops": "noise", "server_ns_per_io": "noise"})

    def test_more_and_less(self):
        self.assertEqual(self.verdicts(row(), row(iops=1100.0, ns=5600.0)),
                         {"iops": "better", "server_ns_per_io": "worse"})

    def test_time_has_more_noise_and_what_was_seen_of_it(self):
        self.assertEqual(self.verdicts(row(), row(iops=1040.0), "tcg")["iops"], "noise")
        self.assertEqual(self.verdicts(row(spread=0.3), row(iops=1200.0), "tcg")["iops"], "noise")
        self.assertEqual(self.verdicts(row(), row(iops=1200.0), "tcg")["iops"], "better")

    def test_what_does_not_compare_is_refused(self):
        with tempfile.TemporaryDirectory() as directory:
            paths = [os.path.join(directory, name) for name in ("a", "b")]
            for path, mode in zip(paths, ("icount", "tcg")):
                with open(path, "w", encoding="ascii") as file:
                    json.dump(record(row(), mode=mode), file)
            status, _, err = bench("compare", *paths)
            self.assertEqual(status, 2)
            self.assertIn("they differ in mode", err)
            self.assertEqual(bench("compare", paths[0], paths[0])[0], 0)
            self.assertEqual(bench("compare", paths[0], directory + "/none")[0], 2)
            with open(paths[1], "w", encoding="ascii") as file:
                file.write("[]")
            self.assertEqual(bench("compare", *paths)[0], 2)


class Reports(unittest.TestCase):
    def test_the_page_needs_nothing_else_and_escapes(self):
        one = record(row(), row(target="loop", ns=None))
        one["notes"] = ["<script>"]
        page = report.page(one, 'make "x" & <y>')
        self.assertNotIn("<script", page)
        self.assertNotIn("http", page.replace("http-equiv", ""))
        self.assertIn("&lt;y&gt;", page)
        self.assertIn('class="kernel"', page)

    def test_the_table_has_each_row(self):
        text = table.table(record(row(), row(target="loop", ns=None)))
        self.assertIn("instructions", text)
        self.assertEqual(sum(line.startswith("  loop ") for line in text.splitlines()), 1)


class Profiles(unittest.TestCase):
    OUTPUT = """

@at[
    bio_endio+12
,
    0x7f00
]: 30
@at[,
    ashlar::Queue::arrived(ashlar::Tag&)+88
]: 10
@at[
    bio_endio+40
, ]: 60
"""

    def test_samples_of_a_function_add_up(self):
        counts = profiler.counted(self.OUTPUT)
        self.assertEqual(counts, {"bio_endio": 90, "ashlar::Queue::arrived(ashlar::Tag&)": 10})
        text = profiler.text(counts, 1000)
        self.assertIn("    900   90.0%  bio_endio", text)
        self.assertIn("      0    0.0%  (all others)", text)

    def test_nothing_seen_is_nothing_counted(self):
        self.assertEqual(profiler.counted("ERROR: no such probe"), {})

    def test_mistakes_are_told(self):
        self.assertIn("unknown target", bench("profile", "nul", "4k randread QD1")[2])
        self.assertIn("unknown workload", bench("profile", "null", "4k")[2])
        self.assertIn("no server", bench("profile", "kernel-loop", "4k randread QD1")[2])


class Budget(unittest.TestCase):
    KEPT = {"kernel": "7.3", "server_ns_per_io": {"null: x": 1000}}

    def test_more_than_allowed(self):
        self.assertEqual(budget.overdrawn(self.KEPT, {"null: x": 1029}, "7.3"), [])
        self.assertEqual(len(budget.overdrawn(self.KEPT, {"null: x": 1031}, "7.3")), 1)
        self.assertEqual(budget.overdrawn(self.KEPT, {"null: x": 1031}, "7.4"), [])
        self.assertEqual(len(budget.overdrawn(self.KEPT, {"null: x": 1101}, "7.4")), 1)

    def test_a_case_without_one(self):
        self.assertEqual(len(budget.overdrawn(self.KEPT, {"mem: x": 1}, "7.3")), 1)

    def test_it_is_written_as_it_is_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/budget.json"
            budget.write(path, {"null: x": 7})
            self.assertEqual(budget.read(path)["server_ns_per_io"], {"null: x": 7})

    def test_only_where_instructions_are_counted(self):
        self.assertEqual(bench("budget")[0], 2)


if __name__ == "__main__":
    unittest.main()
