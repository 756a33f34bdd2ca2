#!/usr/bin/env python3
"""Plants one violation at a time in a small tree and looks that it, and nothing else, is found."""
import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # nothing is left in the tree
import check_style  # noqa: E402

NOTE = "TO" "DO"
CLEAN = {
    "include/ashlar/types.h": "#pragma once\n#include <cstdint>\n",
    "src/base/units.h": "#pragma once\n",
    "src/base/units.cc": '#include "base/units.h"\n\n#include <cstdio>\n'
                         'void f(char* to) { std::snprintf(to, 1, "x"); }\n',
    "src/base/units_test.cc": '#include "core/queue.h"\n#include "support/x.h"\n',
    "src/kernel/codec.h": "#pragma once\n#include <linux/types.h>\n#include <ashlar/types.h>\n",
    "src/reactor/uring_reactor.cc": '#include <liburing.h>\n#include "kernel/abi.h"\n'
                                    '#include "base/units.h"\n#include <ashlar/result.h>\n',
    "src/reactor/uring_reactor_test.cc": "#include <gtest/gtest.h>\n",
    "src/core/queue.h": '#pragma once\n#include "kernel/codec.h"\n#include "reactor/reactor.h"\n',
    "src/backends/memory/memory.cc": "#include <ashlar/backends.h>\n#include <sys/mman.h>\n"
                                     '#include "backends/memory/map.h"\n',
    "src/backends/memory/memory_test.cc": "\n",
    "cli/add.cc": '#include <ashlar/device.h>\n#include "base/units.h"\n'
                  '#include "cli/command.h"\n#include "kernel/features.h"\n'
                  "#include <fmt/format.h>\n// using std::move is fine\n"
                  "using namespace std::chrono_literals;\n",
    "Makefile": "all:\n\ttrue\n",
    "docs/picture.png": b"\x89PNG\xff\x00\t \n",
}


class Rules(unittest.TestCase):
    def violations(self, **changes):
        files = dict(CLEAN)
        files.update(changes.pop("files", {}))
        with tempfile.TemporaryDirectory() as root:
            for path, content in files.items():
                if content is None:
                    continue
                whole = os.path.join(root, path)
                os.makedirs(os.path.dirname(whole), exist_ok=True)
                with open(whole, "wb") as file:
                    file.write(content if isinstance(content, bytes) else content.encode())
            return check_style.check(root)

    def one(self, path, content, expected):
        found = self.violations(files={path: content})
        self.assertEqual(len(found), 1, found)
        self.assertIn(expected, found[0])
        self.assertTrue(found[0].startswith(path), found[0])

    def none(self, path, content):
        self.assertEqual(self.violations(files={path: content}), [])

    def test_a_clean_tree_passes(self):
        self.assertEqual(self.violations(), [])

    def test_arrows(self):
        for path, include in [
                ("src/base/units.h", '"core/queue.h"'),
                ("src/base/units.h", '"kernel/abi.h"'),
                ("src/base/units.h", "<ashlar/types.h>"),
                ("src/kernel/codec.h", '"base/units.h"'),
                ("src/kernel/codec.h", "<ashlar/result.h>"),
                ("src/reactor/reactor.h", '"core/queue.h"'),
                ("src/reactor/reactor.h", '"kernel/codec.h"'),
                ("src/core/queue.h", '"backends/memory/map.h"'),
                ("src/core/queue.h", '"cli/command.h"'),
                ("src/backends/memory/map.h", '"core/queue.h"'),
                ("src/backends/memory/map.h", '"kernel/abi.h"'),
                ("src/backends/memory/map.h", '"backends/file/file.h"'),
                ("src/layers/stats/stats.h", '"core/queue.h"'),
                ("src/layers/stats/stats.h", '"backends/memory/map.h"'),
                ("include/ashlar/types.h", '"base/units.h"'),
                ("sim/driver.h", '"core/queue.h"'),
                ("sim/driver.h", '"reactor/uring_reactor.h"'),
                ("cli/command.h", '"core/queue.h"'),
                ("cli/command.h", '"kernel/codec.h"'),
                ("examples/x.h", '"base/units.h"')]:
            with self.subTest(path=path, include=include):
                self.one(path, f"#pragma once\n#include {include}\n", "points against the arrows")

    def test_arrows_that_are_allowed(self):
        self.none("sim/driver.h", '#pragma once\n#include "reactor/reactor.h"\n'
                                  '#include "kernel/codec.h"\n')
        self.none("sim/storm.h", '#pragma once\n#include "core/queue.h"\n')
        self.none("src/layers/stats/stats.h", '#pragma once\n#include "layers/stats/x.h"\n'
                                              "#include <ashlar/backend.h>\n")
        self.none("src/backends/memory/map.h", '#pragma once\n#include "base/units.h"\n'
                                               '#include "backends/memory/x.h"\n')
        self.none("src/backends/file/limits.h", "#pragma once\n#include <linux/fs.h>\n")

    def test_kernel_headers(self):
        for header in ("<linux/fs.h>", "<liburing.h>", "<liburing/io_uring.h>", "<asm/types.h>"):
            for path in ("src/core/queue.h", "src/reactor/reactor.h", "cli/command.h",
                         "src/backends/null/map.h", "include/ashlar/types.h"):
                with self.subTest(path=path, header=header):
                    self.one(path, f"#pragma once\n#include {header}\n", "see " + header)

    def test_files_are_short(self):
        self.none("src/core/queue.h", "#pragma once\n" + "\n" * 499)
        self.one("src/core/queue.h", "#pragma once\n" + "\n" * 500, "501 lines; at most 500")
        self.none("src/base/units_test.cc", "\n" * 900)
        self.one("src/base/units_test.cc", "\n" * 901, "901 lines; at most 900")
        self.one("tools/x.py", "\n" * 501, "501 lines; at most 500")

    def test_lines_are_short(self):
        self.none("src/core/queue.h", "#pragma once\n// " + "x" * 97 + "\n")
        self.one("src/core/queue.h", "#pragma once\n// " + "x" * 98 + "\n", "101 columns")
        self.one("CMakeLists.txt", "# " + "x" * 99 + "\n", "101 columns")
        self.none("README.md", "x" * 300 + "\n")

    def test_headers_have_pragma_once(self):
        self.one("src/core/queue.h", "\n", "no #pragma once")

    def test_blanks(self):
        self.one("src/core/queue.h", "#pragma once\n\tint x;\n", ": a tab")
        self.one("tools/x.py", "if x:\n\ty\n", ": a tab")
        self.one("src/core/queue.h", "#pragma once \n", "trailing blanks")
        self.one("README.md", "text  \n", "trailing blanks")
        self.one("src/core/queue.h", "#pragma once\r\n", "trailing blanks")

    def test_notes_to_self(self):
        for note in (NOTE, "FIX" "ME", "X" "XX"):
            self.one("src/core/queue.h", f"#pragma once\n// {note}: later\n", "a note to self")
        self.one("README.md", f"{NOTE}\n", "a note to self")
        self.none("src/core/queue.h", "#pragma once\n// mkstemp wants " + "X" * 6 + "\n")

    def test_sources_have_tests(self):
        self.one("src/core/queue.cc", "\n", "no queue_test.cc beside it")
        self.one("src/backends/memory/map.cc", "\n", "no map_test.cc beside it")
        self.none("cli/list.cc", "\n")

    def test_the_list_of_sources_without_tests_stays_true(self):
        all_of_them = {path: "\n" for path in check_style.UNTESTED}
        self.assertEqual(self.violations(files=all_of_them), [])
        found = self.violations(files=all_of_them | {"src/core/arena_test.cc": "\n"})
        self.assertEqual(len(found), 1, found)
        self.assertIn("take it off the list", found[0])
        found = self.violations(files=all_of_them | {"src/core/arena.cc": None})
        self.assertEqual(len(found), 1, found)
        self.assertIn("is gone", found[0])

    def test_names(self):
        for name in ("DeviceMana" "ger", "Hel" "per", "SizeUti" "ls", "QueueHel" "pers"):
            self.one("src/core/queue.h", f"#pragma once\nclass {name};\n", "name it after")
        self.one("src/core/queue.h", "#pragma once\nnamespace uti" "l {}\n", "name it after")
        self.one("src/core/queue_hel" "per.h", "#pragma once\n", "name the file after")
        self.none("src/core/queue.h", "#pragma once\n// a mana" "ger of people\n")

    def test_using_namespace_std(self):
        self.one("cli/add.cc", "using namespace std;\n", "using namespace std")
        self.one("src/base/units_test.cc", "using namespace  ::std ;\n", "using namespace std")
        self.none("cli/add.cc", "// using namespace std;\n")

    def test_the_library_never_prints(self):
        for call in ("std::cout << 1;", "std::cerr << 1;", 'printf("x");', 'std::printf("x");',
                     'fprintf(stderr, "x");', 'std::fprintf(stderr, "x");', 'fmt::print("x");',
                     'std::puts("x");', 'perror("x");'):
            with self.subTest(call=call):
                self.one("src/core/queue.h", f"#pragma once\nvoid f() {{ {call} }}\n",
                         "never prints")
        self.none("cli/add.cc", 'void f() { std::printf("x"); }\n')
        self.none("src/core/queue.h", "#pragma once\n// printf(3) is like this\n")
        self.none("src/core/queue.h", '#pragma once\nconst char* c = "std::cout";\n')

    def test_awaits_that_the_compiler_gets_wrong(self):
        for code in ("if ((co_await io.sleep(t)).ok()) x();", "while (!co_await ready()) x();",
                     "co_await (a ? x() : y());"):
            with self.subTest(code=code):
                self.one("src/core/queue.h", f"#pragma once\n{code}\n", "miscompiles")
        self.none("src/core/queue.h",
                  "#pragma once\nif (const auto r = co_await x(); r.ok()) co_return r;\n")

    def test_paths_of_one_machine(self):
        for path in ("/wo" "rk/main/x", "/ro" "ot/x"):
            self.one("README.md", f"see {path}\n", "a path of one machine")
            self.one("src/core/queue.h", f'#pragma once\n// "{path}"\n', "a path of one machine")
        self.none("README.md", "see build/wo" "rk/x and https://example.org/wo" "rk/x\n")

    def test_digit_separators_are_no_quotes(self):
        self.one("src/core/queue.h", "#pragma once\nint x = 1'000;\nclass Uti" "ls {};\n"
                                     "int y = 2'000;\n", "name it after")

    def test_the_program_says_so_and_fails(self):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_style.py")
        with tempfile.TemporaryDirectory() as root:
            def run():
                return subprocess.run([sys.executable, program, root], capture_output=True,
                                      text=True, check=False)
            self.assertEqual(run().returncode, 0)
            with open(os.path.join(root, "x.h"), "w", encoding="utf-8") as file:
                file.write("\n")
            self.assertEqual(run().returncode, 1)
            self.assertIn("x.h: no #pragma once", run().stdout)
            subprocess.run(["git", "init", "-q", root], check=True)
            self.assertEqual(run().returncode, 1, "a file that is not tracked yet counts")
            with open(os.path.join(root, ".gitignore"), "w", encoding="utf-8") as file:
                file.write("x.h\n")
            self.assertEqual(run().returncode, 0, "an ignored file does not")


if __name__ == "__main__":
    unittest.main()
