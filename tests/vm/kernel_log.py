#!/usr/bin/env python3
"""What the kernel had to complain about while something ran.

usage: kernel_log.py COMMAND ARGUMENTS...   its exit status; 70 when only the kernel complained
"""
import os
import re
import subprocess
import sys

WARNING = 4  # the syslog level; lower ones are worse
STATUS_WARNINGS = 70

# Whatever its level, and whoever wrote it.
ALWAYS_BAD = re.compile(r"\bBUG:|\bWARNING:|blocked for more than|\bhung\b|Call Trace|\bOops\b|"
                        r"general protection|KASAN|refcount_t|lockup|\bRIP:|stall")

# What a sound guest says too, and why that is no concern of a test.
ALLOWED = [
    (r"^clocksource: |^TSC |^tsc: ", "an emulated clock is late when the host is busy"),
    (r"^hrtimer: interrupt took", "the same"),
    (r"^workqueue: .* hogged CPU", "the emulated CPU was away"),
    (r"^block (ublkb|loop|ram|nullb|dm-)\d+: the capability attribute has been deprecated",
     "what reads sysfs, not what is read"),
    (r"^ublk_batch_dispatch_fail: copy tags or post CQE failure.* ret -105$",
     "a fetch has filled its buffers; the driver hands the tags to the next one"),
    (r"^NOTICE: Automounting of tracing to debugfs", "where bpftrace of Debian 12 looks"),
    (r"^(EXT4-fs (un)?mount|set_capacity_and_notify): \d+ callbacks suppressed$",
     "tests mount often"),
]

# For tests that make I/O fail on purpose.
IO_ERRORS = [
    (r" error, dev (ublkb|ram|loop|dm-|nbd)\d+, sector ", "requests fail, with all kinds of errno"),
    (r"^ublkb\d+: guard tag error at sector ", "a checksum does not fit its block"),
    (r"^Buffer I/O error on dev", "the page cache's too"),
    (r"^EXT4-fs|^JBD2|^Aborting journal|^XFS \(|^FAT-fs", "file systems notice"),
    (r"lost (async|sync) page write", "the page cache's too"),
    (r"lost (filesystem|file I/O) error report", "more failed at once than the kernel can queue"),
    (r"^Dev ublkb\d+: unable to read RDB block", "so does who looks for partitions"),
    (r": \d+ callbacks suppressed$", "many of these"),
]

# Between these the kernel tells all about memory, with a trace.
OOM_BEGINS = re.compile(r"invoked oom-killer: ")
OOM_ENDS = re.compile(r"out of memory: Killed process ", re.I)

RECORD = re.compile(r"(\d+),(\d+),(\d+),[^;]*;(.*)")


class KernelLog:
    """From the moment it is made."""

    def __init__(self):
        self.file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.file, 0, os.SEEK_END)

    def close(self):
        os.close(self.file)

    def new_records(self):
        """(level, text) of each; userspace's have level None."""
        while True:
            try:
                record = os.read(self.file, 8192).decode(errors="replace")
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # more came than the kernel keeps
            match = RECORD.match(record)
            if match:
                priority = int(match.group(1))
                yield (priority if priority < 8 else None), match.group(4)

    def complaints(self, tolerated=(), oom_kills=False):
        """The lines since the last call that no sound guest prints; oom_kills: they are no news."""
        allowed = re.compile("|".join(pattern for pattern, _ in [*ALLOWED, *tolerated]))
        found = []
        in_oom = False
        for level, text in self.new_records():
            was_in_oom = in_oom
            in_oom = oom_kills and not OOM_ENDS.search(text) and (
                in_oom or bool(OOM_BEGINS.search(text)))
            if in_oom or was_in_oom:
                continue
            loud = level is not None and level <= WARNING and not allowed.search(text)
            if loud or ALWAYS_BAD.search(text):
                found.append(text)
        return found


def main():
    if len(sys.argv) < 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    log = KernelLog()
    status = subprocess.run(sys.argv[1:], check=False).returncode
    complaints = log.complaints(IO_ERRORS)
    if complaints:
        print("the kernel complained:", *complaints, sep="\n  ", file=sys.stderr)
    if status < 0:
        return 128 - status
    return status or (STATUS_WARNINGS if complaints else 0)


if __name__ == "__main__":
    sys.exit(main())
