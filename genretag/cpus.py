"""How many CPUs this process may use: those it may run on, or fewer where its control group has a quota.

A container with a CPU limit still sees all CPUs of its host: the limit is a quota of CPU time. More threads than the
quota has CPUs are stopped for a part of each tenth of a second, all at once.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cpus_here(root: Path = ROOT) -> int:
    """Return how many CPUs this process may use, at least 1: a quota of 1.5 CPUs counts as 2, so that none is idle.

    `root` is where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota(root)) - 1e-9))


def cpu_quota(root: Path = ROOT) -> float:
    """Return the CPUs' worth of time that the control group and all above it allow; infinite without a limit.

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`): Documentation/admin-guide/cgroup-v2.rst and
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
    """A mounted tree of control groups: `top` is the group that stands at `place`."""

    top: str
    place: str
    kind: str
    options: tuple[str, ...]

    def controls_cpu(self, controllers: str) -> bool:
        """Tell whether a line of /proc/self/cgroup with these controllers is about this tree, and about CPUs."""
        if self.kind == "cgroup2":
            return not controllers
        return "cpu" in controllers.split(",") and "cpu" in self.options

    def folders(self, path: str, root: Path) -> Iterator[Path]:
        """Yield the folder of a group and of all above it, as far as they are mounted."""
        place = root / self.place.lstrip("/")
        below = PurePosixPath("/" + path.strip("/"))
        if below.is_relative_to(self.top):
            below = PurePosixPath("/") / below.relative_to(self.top)
        for group in (below, *below.parents):
            folder = place / str(group).lstrip("/")
            if folder.is_dir():  # in a container the path may be that of the host, and only its end be mounted
                yield folder


def _mount(line: str) -> _Mount | None:
    """Read a line of /proc/self/mountinfo; none where it is no tree of control groups."""
    left, _, right = line.partition(" - ")
    kind, _, rest = right.partition(" ")
    if not kind.startswith("cgroup"):
        return None
    fields = left.split(" ")
    return _Mount(top=fields[3], place=fields[4], kind=kind, options=tuple(rest.split(" ")[-1].split(",")))


def _quota(folder: Path) -> float:
    """Return a group's own quota; infinite where it has none, or one that cannot be read."""
    found = " ".join(_lines(folder / "cpu.max"))
    if not found:
        found = " ".join(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))
    quota, _, period = found.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):  # max, or -1
        return math.inf
    return int(quota) / int(period)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
