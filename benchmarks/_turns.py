"""Seconds of several systems that take turns, so that a busy machine slows them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["in_turns", "summary"]


def in_turns(systems: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, a list a system; ``warm`` rounds before them are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(warm + rounds):
        for name, call in systems.items():
            begin = time.perf_counter()
            call()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def summary(seconds: Mapping[str, list[float]], ours: str) -> dict[str, dict[str, Any]]:
    """For each system its seconds, their median and quartiles, and its median as a multiple of that of ``ours``."""
    own = statistics.median(seconds[ours])
    found = {}
    for name, times in seconds.items():
        quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3
        found[name] = {
            "seconds": times,
            "median": statistics.median(times),
            "quartiles": [quartiles[0], quartiles[2]],
            "ratio": statistics.median(times) / own,
        }
    return found
