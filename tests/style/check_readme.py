#!/usr/bin/env python3
"""The code in the documents is code that is compiled: the program that opens the README is
examples/ram_disk.cc, and each C++ block of docs/*.md is a part of the file that the line before it
names, "<!-- examples/mirror.cc -->". A block may leave out the indentation of that part.

usage: check_readme.py [ROOT]      ROOT: a directory; default: the tree this file is in
"""
import pathlib
import re
import sys
import textwrap

INDENTATIONS = ("", " " * 4, " " * 8, " " * 12)
BLOCK = re.compile(r"(?:^<!-- (?P<path>\S+) -->\n)?^```cpp\n(?P<code>.*?)^```$", re.M | re.S)


def holds(program, code):
    """Whether the lines of code are lines of the program, in a row."""
    return any("\n" + textwrap.indent(code, indentation) in "\n" + program
               for indentation in INDENTATIONS)


def check_document(root, document):
    text = document.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        path, code = block["path"], block["code"]
        where = f"{document.relative_to(root)}:{text.count(chr(10), 0, block.start('code'))}"
        if path is None:
            yield f"{where}: name the block's file in the line before it: <!-- examples/x.cc -->"
        elif not (root / path).is_file():
            yield f"{where}: there is no {path}"
        elif not code.strip() or not holds((root / path).read_text(encoding="utf-8"), code):
            yield f"{where}: the block is no part of {path}"


def check_readme(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    program = (root / "examples" / "ram_disk.cc").read_text(encoding="utf-8")
    block = BLOCK.search(readme)
    if block is None or block["code"] != program:
        yield "README.md: the first program differs from examples/ram_disk.cc"


def check(root):
    violations = list(check_readme(root))
    for document in sorted((root / "docs").glob("**/*.md")):
        violations += check_document(root, document)
    return violations


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2]
    found = check(pathlib.Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else here)
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(1 if found else 0)
