"""A control group with a limit of memory and of processor time, of either version; only root may make one."""

import pathlib

TOP = pathlib.Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class Limits:
    """For as long as it is entered; `add` puts a process into it, which must have ended before it is left."""

    def __init__(self, name, memory_bytes, cores):
        quota = int(cores * PERIOD_US)
        if (TOP / "cgroup.controllers").exists():
            self.values = [(TOP / name, {"memory.max": memory_bytes, "memory.swap.max": 0,
                                         "cpu.max": f"{quota} {PERIOD_US}"})]
        else:
            self.values = [(TOP / "memory" / name, {"memory.limit_in_bytes": memory_bytes}),
                           (TOP / "cpu" / name, {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota})]

    def __enter__(self):
        for group, values in self.values:
            group.mkdir(exist_ok=True)
            for name, value in values.items():
                (group / name).write_text(str(value))
        return self

    def add(self, pid):
        for group, _ in self.values:
            (group / "cgroup.procs").write_text(str(pid))

    def throttled(self):
        """The share of periods in which the processor time did not suffice."""
        text = (self.values[-1][0] / "cpu.stat").read_text()
        stat = dict(line.split() for line in text.splitlines())
        return int(stat["nr_throttled"]) / max(int(stat["nr_periods"]), 1)

    def __exit__(self, *_):
        for group, _ in self.values:
            group.rmdir()
