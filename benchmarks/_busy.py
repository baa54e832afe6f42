"""EM beside scikit-learn and hmmlearn while another process keeps each core busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import gaussian_mixture, hmm
from benchmarks._turns import in_turns, summary
from zoo.core.isolation import threads

ROWS, QUICK_ROWS = 300_000, 10_000
ITERATIONS = 3
SPIN = "while True: pass"


@contextmanager
def busy() -> Iterator[int]:
    """One process that never rests, pinned to each core that this process may use; how many there are."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    others = [
        subprocess.Popen([sys.executable, "-c", f"import os\nos.sched_setaffinity(0, [{core}])\n{SPIN}"])
        for core in cores
    ]
    try:
        yield len(others)
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(rounds: int, quick: bool = False) -> dict[str, Any]:
    """Seconds of an EM iteration of each system, under load and without, and its ratio to ours.

    "gaussian_mixture": 300 000 x 16, 16 full components. "hmm": the shapes of the bench of that name.
    """
    rows = QUICK_ROWS if quick else ROWS
    shapes = hmm.QUICK_SHAPES if quick else hmm.SHAPES
    found: dict[str, Any] = {"rows": rows}
    for name in ("alone", "busy"):
        if name == "busy":
            with busy() as found["processes"]:
                found[name] = _both(rows, shapes, rounds)
        else:
            found[name] = _both(rows, shapes, rounds)
    return found


def _both(rows: int, shapes: tuple[tuple[int, int, int], ...], rounds: int) -> dict[str, Any]:
    return {"gaussian_mixture": _mixture(rows, rounds), "hmm": {str(shape): _hmm(shape, rounds) for shape in shapes}}


def _mixture(rows: int, rounds: int) -> dict[str, Any]:
    x, start = gaussian_mixture.make_data(rows)
    ours = gaussian_mixture.Ours(x, start)
    seconds: dict[str, list[float]] = {"zoo": [], "scikit-learn": []}
    ours.iterate()
    for _ in range(rounds):
        seconds["zoo"] += in_turns({"zoo": ours.iterate}, ITERATIONS, warm=0)["zoo"]
        short, _ = gaussian_mixture.scikit_learn(x, start, 1)
        long, _ = gaussian_mixture.scikit_learn(x, start, 1 + ITERATIONS)
        seconds["scikit-learn"].append((long - short) / ITERATIONS)
    return summary(seconds, "zoo")


def _hmm(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    x, start = hmm.make_data(*shape)
    ours = hmm.Ours(x, start)
    modes = [f"hmmlearn {mode}" for mode in ("scaling", "log")]
    seconds: dict[str, list[float]] = {name: [] for name in ("zoo", *modes)}
    with threads(x.numel()):
        ours.iterate()
        for _ in range(rounds):
            ours.reset()
            seconds["zoo"] += in_turns({"zoo": ours.iterate}, 3 * ITERATIONS, warm=0)["zoo"]
            for name in modes:
                short, _ = hmm.hmmlearn(x, start, name.split()[1], 1)
                long, _ = hmm.hmmlearn(x, start, name.split()[1], 1 + ITERATIONS)
                seconds[name].append((long - short) / ITERATIONS)
    return summary(seconds, "zoo")
