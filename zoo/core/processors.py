"""How many processors this process may use at once, and whether torch's threads find them free."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import torch

__all__ = ["processors", "threads_pay"]

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")

#: Numbers, and turns, of the work that tells whether more threads pay: a few milliseconds.
_NUMBERS, _TURNS = 2**18, 4
#: Threads that are not faster than one by this factor wait for each other, or for a core.
_GAIN = 1.1


def processors() -> int:
    """Those that the scheduler may place this process on, or fewer where its control group has a quota of time."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, int(_quota())))


@functools.lru_cache(maxsize=1)
def _quota(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> float:
    """Processors' worth of time in the control groups (version 2, or 1) of this process; a large number without."""
    limits = [float(os.cpu_count() or 1)]
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return limits[0]
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / "cpu" if controllers else groups
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root or root in folder.parents:
                limits.append(_limit(folder))
        limits.append(_limit(root))  # in a container the path may be one outside
    return min(limits)


def _limit(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else float("inf")
    except (OSError, ValueError, ZeroDivisionError):  # none, or "max"
        return float("inf")


def threads_pay(number: int) -> bool:
    """Whether torch is faster with so many threads than with one, now: measured, as other work may hold the cores."""
    before = torch.get_num_threads()
    values = torch.ones(_NUMBERS, dtype=torch.float64)
    seconds = dict.fromkeys((1, number), 0.0)
    try:
        for turn in range(_TURNS + 1):
            for threads in seconds:
                torch.set_num_threads(threads)
                begin = time.perf_counter()
                values.mul_(1.0)
                if turn:  # the first wakes them
                    seconds[threads] += time.perf_counter() - begin
            if seconds[number] > _TURNS * seconds[1]:
                break
    finally:
        torch.set_num_threads(before)
    return seconds[number] * _GAIN < seconds[1]
