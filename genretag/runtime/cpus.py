"""Number of CPUs that this process may use: its CPU affinity, or less if its control group has a CPU quota.

A container with a CPU limit still sees all CPUs of its host, because the limit is a quota of CPU time. If a process has
more threads than the quota has CPUs, the kernel stops all threads for a part of each tenth of a second.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cpus_here(root: Path = ROOT) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    A quota of 1.5 CPUs counts as 2, so that no CPU time stays unused. `root` is the folder that holds `proc` and `sys`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota(root)) - 1e-9))


def cpu_quota(root: Path = ROOT) -> float:
    """Return the smallest CPU quota, in CPUs, of this process's control group and all groups above that group.

    If there is no quota, or the system is not Linux, return infinity. Control groups of version 2 (`cpu.max`) and
    version 1 (`cpu.cfs_quota_us`) are read. Sources: Documentation/admin-guide/cgroup-v2.rst and
    scheduler/sched-bwc.rst of the Linux kernel.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = [mount for line in _lines(root / "proc/self/mountinfo") if (mount := _mount(line))]
    except OSError:  # no Linux, or no /proc
        return math.inf
    quotas = []
    for line in groups:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for mount in mounts:
            if mount.controls_cpu(controllers):
                quotas += [_quota(folder) for folder in mount.folders(path, root)]
    return min(quotas, default=math.inf)


@dataclass(frozen=True)
class _Mount:
    """A mounted tree of control groups of type `kind`. The group `top` of the tree is mounted at the path `place`."""

    top: str
    place: str
    kind: str
    options: tuple[str, ...]

    def controls_cpu(self, controllers: str) -> bool:
        """Return whether this tree of control groups (Linux cgroups) limits CPUs.

        `controllers` is the second field of a line of /proc/self/cgroup: a list such as `cpu,cpuacct`. In version 2 of
        control groups it is empty.
        """
        if self.kind == "cgroup2":
            return not controllers
        return "cpu" in controllers.split(",") and "cpu" in self.options

    def folders(self, path: str, root: Path) -> Iterator[Path]:
        """Yield the folders of the group `path` and of all groups above it, as far as they are mounted below `root`."""
        place = root / self.place.lstrip("/")
        below = PurePosixPath("/" + path.strip("/"))
        if below.is_relative_to(self.top):
            below = PurePosixPath("/") / below.relative_to(self.top)
        for group in (below, *below.parents):
            folder = place / str(group).lstrip("/")
            if folder.is_dir():  # in a container, `path` may be that of the host, and only its last groups are mounted
                yield folder


def _mount(line: str) -> _Mount | None:
    """Read a line of /proc/self/mountinfo. Return None if the line is not a mount of control groups."""
    left, _, right = line.partition(" - ")
    kind, _, rest = right.partition(" ")
    if not kind.startswith("cgroup"):
        return None
    fields = left.split(" ")
    return _Mount(top=fields[3], place=fields[4], kind=kind, options=tuple(rest.split(" ")[-1].split(",")))


def _quota(folder: Path) -> float:
    """Return the quota of the control group in `folder`, in CPUs. If no quota can be read, return infinity."""
    found = " ".join(_lines(folder / "cpu.max"))
    if not found:
        found = " ".join(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))
    quota, _, period = found.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):  # `max` or -1 is no quota
        return math.inf
    return int(quota) / int(period)


def _lines(file: Path) -> list[str]:
    """Return the lines of a file, or an empty list if the file cannot be read."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
