#!/usr/bin/env python3
"""The rules of the tree that a machine can check. Prints each violation; exit status 1 if any.

usage: check_style.py [ROOT]      ROOT: a directory; default: the tree this file is in
"""
import os
import re
import subprocess
import sys

LINES_MOST = 500
TEST_LINES_MOST = 900
COLUMNS_MOST = 100

CODE = (".cc", ".h")
TEXT = CODE + (".py", ".sh", ".txt", ".cmake", ".json", ".md", ".yml", ".yaml", ".service")

# Which quoted includes a place in the tree may have, besides those of its own folder, and whether
# it may use the public headers. The arrows point one way; see "The shape" in the documentation.
ANY_PUBLIC = re.compile(r"ashlar/.*")
ARROWS = [
    # place, public headers, quoted includes
    ("include/", ANY_PUBLIC, r"$^"),
    ("src/base/", re.compile(r"$^"), r"base/.*"),
    ("src/kernel/", re.compile(r"ashlar/types\.h"), r"kernel/.*"),
    ("src/reactor/", ANY_PUBLIC, r"(base|reactor)/.*|kernel/abi\.h"),
    ("src/core/", ANY_PUBLIC, r"(base|kernel|reactor|core)/.*"),
    ("src/backends/", ANY_PUBLIC, r"base/.*|backends/{own}/.*"),
    ("src/layers/", ANY_PUBLIC, r"base/.*|layers/({own}/.*|plain\.h)"),
    ("sim/storm", ANY_PUBLIC, r"(base|kernel|core|sim)/.*|reactor/reactor\.h"),
    ("sim/", ANY_PUBLIC, r"(base|kernel|sim)/.*|reactor/reactor\.h"),
    ("cli/", ANY_PUBLIC, r"(base|cli)/.*|kernel/features\.h"),
    ("examples/", ANY_PUBLIC, r"$^"),
]
# Only these may see the kernel's and liburing's headers.
KERNEL_HEADERS = re.compile(r"(linux|asm)/.*|liburing.*")
SEES_KERNEL_HEADERS = ("src/kernel/", "src/reactor/uring_", "src/backends/file/",
                       "src/backends/memory/", "bench/micro/")

# Sources without a test of the same name beside them, and why. An entry that is no longer needed
# is a violation too.
UNTESTED = {
    "src/base/assert.cc": "ends the process: the death tests of queue_test.cc see it",
    "src/core/device.cc": "needs the driver: tests/vm; its settings: device_options_test.cc",
    "src/core/device_resize.cc": "needs the driver: tests/vm",
    "src/core/device_stages.cc": "needs the driver: tests/vm",
    "src/core/control.cc": "needs the driver: tests/vm; its messages: control_hints_test.cc",
    "src/core/arena.cc": "task_test.cc and hot_path_test.cc",
    "src/core/queue_requests.cc": "queue_test.cc and, for each data path, data_paths_test.cc",
}

# Paths there are of a guest or a container, whose / is the same on every machine.
OWN_ROOT = ("vm/guest-init", "tests/fresh/run")

# Written apart, so that this file does not break its own rules.
NOTES = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.}])/(work|root)" r"/")
POOR_NAMES = re.compile(r"\w*(Mana" r"ger|Hel" r"per|Uti" r"ls)\w*|"
                        r"\b(mana" r"ger|hel" r"per|uti" r"ls?)\b")
PRINTS = re.compile(r"std::c(out|err|log)\b|(?<!\w)(std::)?v?f?printf\s*\(|\bfmt::print|"
                    r"(?<!\w)(std::)?(puts|fputs|putchar|perror)\s*\(")
# g++ 12 compiles this without a word and crashes when it is resumed.
AWAITED_CONDITION = re.compile(r"\b(if|while|switch)\s*\([!(\s]*co_await\b|"
                               r"\bco_await\s*\([^()]*\?")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def tree(root):
    """The files that are, or would be, tracked."""
    try:
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=True).stdout.decode().split("\0")
        top = subprocess.run(["git", "-C", root, "rev-parse", "--show-toplevel"],
                             capture_output=True, check=True).stdout.decode().strip()
        if os.path.realpath(top) == os.path.realpath(root):
            return sorted(p for p in listed if p and os.path.isfile(os.path.join(root, p)))
    except (OSError, subprocess.CalledProcessError):
        pass  # an unpacked release
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [n for n in names if n not in (".git", "build")]
        found += [os.path.relpath(os.path.join(directory, f), root) for f in files]
    return sorted(found)


def without_comments(text):
    """C++ without comments and the insides of strings; the lines stay where they are."""
    def blank(match):
        token = match.group(0)
        if token.startswith("/"):
            return "\n" * token.count("\n")
        return token[0] * 2
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\''
    # A digit separator is no quote.
    text = re.sub(r"(?<=[0-9a-fA-F])'(?=[0-9a-fA-F])", "", text)
    return re.sub(pattern, blank, text, flags=re.S)


def is_test(path):
    return path.endswith(("_test.cc", "_test.py")) or path.startswith("tests/")


def check_text(path, lines):
    executable_text = not path.endswith(".md")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if MACHINE_PATHS.search(line) and path not in OWN_ROOT:
            yield f"{where}: a path of one machine"
        if NOTES.search(line):
            yield f"{where}: a note to self; do it, or open an issue"
        if line != line.rstrip():
            yield f"{where}: trailing blanks"
        if not path.endswith(TEXT):
            continue
        if "\t" in line:
            yield f"{where}: a tab"
        if executable_text and not path.endswith(".json") and len(line) > COLUMNS_MOST:
            yield f"{where}: {len(line)} columns; at most {COLUMNS_MOST}"


def check_length(path, lines):
    if not path.endswith(CODE + (".py", ".sh")):
        return
    most = TEST_LINES_MOST if is_test(path) else LINES_MOST
    if len(lines) > most:
        yield f"{path}: {len(lines)} lines; at most {most}"


def check_code(path, text):
    if not path.endswith(CODE):
        return
    if path.endswith(".h") and "#pragma once" not in text:
        yield f"{path}: no #pragma once"
    for number, line in enumerate(without_comments(text).split("\n"), 1):
        where = f"{path}:{number}"
        if re.search(r"\busing\s+namespace\s+(::)?std\s*;", line):
            yield f"{where}: using namespace std"
        if AWAITED_CONDITION.search(line):
            yield f"{where}: g++ 12 miscompiles this await; give the result a name first"
        if POOR_NAMES.search(line):
            yield f"{where}: name it after what it does: {POOR_NAMES.search(line).group(0)}"
        if path.startswith("src/") and not is_test(path) and path != "src/base/assert.cc":
            if PRINTS.search(line):
                yield f"{where}: the library never prints"


def check_file_name(path):
    stem = os.path.splitext(os.path.basename(path))[0]
    if path.endswith(CODE) and re.search(r"(^|_)(mana" r"ger|hel" r"pers?|uti" r"ls?)(_|$)", stem):
        yield f"{path}: name the file after what it holds"


def arrow_of(path):
    for place, public, quoted in ARROWS:
        if path.startswith(place):
            own = path.split("/")[2] if path.count("/") > 2 else ""
            return public, re.compile(quoted.replace("{own}", re.escape(own)))
    return None


def check_includes(path, text):
    if not path.endswith(CODE) or is_test(path):
        return
    arrow = arrow_of(path)
    for number, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, angled = match.groups()
        where = f"{path}:{number}"
        name = quoted or angled
        if KERNEL_HEADERS.fullmatch(name) and not path.startswith(SEES_KERNEL_HEADERS):
            yield f"{where}: only {' and '.join(SEES_KERNEL_HEADERS)} see <{name}>"
        if arrow is None:
            continue
        public, allowed = arrow
        if angled and angled.startswith("ashlar/") and not public.fullmatch(angled):
            yield f"{where}: <{angled}> points against the arrows"
        if quoted and not allowed.fullmatch(quoted):
            yield f"{where}: \"{quoted}\" points against the arrows"


def check_siblings(paths):
    known = set(paths)
    for path in paths:
        if not path.startswith("src/") or not path.endswith(".cc") or is_test(path):
            continue
        tested = path[:-3] + "_test.cc" in known
        if not tested and path not in UNTESTED:
            yield f"{path}: no {os.path.basename(path)[:-3]}_test.cc beside it"
        if tested and path in UNTESTED:
            yield f"{path}: has a test; take it off the list of those without"
    for path in UNTESTED:
        if "src/base/assert.cc" in known and path not in known:
            yield f"{path}: is gone; take it off the list of sources without a test"


def check(root):
    """All violations of the tree at root, as lines."""
    paths = tree(root)
    violations = list(check_siblings(paths))
    for path in paths:
        with open(os.path.join(root, path), "rb") as file:
            content = file.read()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue  # not text: seeds of fuzzers, pictures
        if "\0" in text:
            continue
        lines = text.removesuffix("\n").split("\n")
        if not path.startswith("tests/fuzz/corpus/"):
            violations += check_text(path, lines)
        violations += check_length(path, lines)
        violations += check_file_name(path)
        violations += check_code(path, text)
        violations += check_includes(path, text)
    return violations


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(here))
    if len(sys.argv) > 2 or not os.path.isdir(root):
        print("usage: check_style.py [ROOT]", file=sys.stderr)
        return 2
    violations = check(root)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
