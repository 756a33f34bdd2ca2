#!/usr/bin/env python3
"""The program that opens the README is the one in examples/, which is compiled."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
readme = (root / "README.md").read_text(encoding="utf-8")
program = (root / "examples" / "ram_disk.cc").read_text(encoding="utf-8")
block = re.search(r"```cpp\n(.*?)```", readme, re.DOTALL)
if block is None or block.group(1) != program:
    sys.exit("README.md: the first program differs from examples/ram_disk.cc")
