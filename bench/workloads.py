"""What fio does to a device."""
import itertools


class Workload:
    def __init__(self, kind, block, depth, jobs=1):
        self.kind, self.block, self.depth, self.jobs = kind, block, depth, jobs
        self.name = f"{block} {kind} QD{depth}" + (f" x{jobs}" if jobs > 1 else "")

    def options(self):
        """fio's. Random ones hit a block as often as it comes; each job has the whole device."""
        options = dict(rw=self.kind, bs=self.block, iodepth=self.depth, numjobs=self.jobs,
                       ioengine="io_uring", direct=1, norandommap=1, randrepeat=1, thread=1,
                       group_reporting=1)
        if self.kind == "randrw":
            options.update(rwmixread=70)
        if self.kind == "fsync":
            options.update(rw="randwrite", fdatasync=1)
        if self.kind == "trim":
            options.update(rw="randtrim")
        return options


def crossed(kinds, blocks, depths, jobs=(1,)):
    return [Workload(*each) for each in itertools.product(kinds, blocks, depths, jobs)]


QUICK = [Workload("randread", "4k", 1), Workload("randread", "4k", 64),
         Workload("randwrite", "4k", 64), Workload("read", "128k", 16),
         Workload("write", "128k", 16)]
FULL = (crossed(["randread", "randwrite", "randrw"], ["4k"], [1, 16, 64, 128]) +
        crossed(["randread", "randwrite"], ["4k"], [64], [2, 4]) +
        crossed(["read", "write"], ["128k", "1M"], [16]) +
        [Workload("fsync", "4k", 1), Workload("fsync", "4k", 16), Workload("trim", "4k", 16)])
# How it grows with those who use it: in real time, for each needs CPUs.
JOBS = (crossed(["randread", "randwrite"], ["4k"], [64], [1, 4]) +
        crossed(["randread"], ["4k"], [1], [1, 2, 4]) + crossed(["randread"], ["4k"], [64], [2]))
SETS = {"quick": QUICK, "full": FULL, "jobs": JOBS}
ALL = {workload.name: workload for workload in FULL + JOBS}
