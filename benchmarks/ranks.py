"""One fit in one process and in two, under torchrun, each on a core of its own.

    zoo bench ranks [--quick] [--out FILE]

EM of a mixture of eight full Gaussians on 2,000,000 x 16. Seconds of the whole fit, with its start and score, which
every process does on all rows; of the iterations alone; and of the processor, the busiest process's: on a machine that
is busy with something else the last one is what counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS, ITERATIONS, ROUNDS = 2_000_000, 100, 3


def run(quick: bool = False, rows: int | None = None, iterations: int | None = None) -> dict[str, Any]:
    """Measures, prints a table and returns its numbers.

    Args:
        quick: one round of 20 iterations on a twentieth of the rows.

    Returns:
        By number of processes the seconds of each round; "faster": how many times two processes are as fast as one;
        "apart": how far their log-likelihoods lie apart, relative.
    """
    rows = rows or (ROWS // 20 if quick else ROWS)
    iterations = iterations or (20 if quick else ITERATIONS)
    found = {number: _measured(number, rows, iterations, 1 if quick else ROUNDS) for number in (1, 2)}
    medians = {number: {name: statistics.median(each[name]) for name in _NAMES} for number, each in found.items()}
    one, two = (each["log_likelihood"] for each in found.values())
    result: dict[str, Any] = {
        "rows": rows,
        "iterations": iterations,
        "processes": {str(number): each for number, each in found.items()},
        "faster": {name: medians[1][name] / medians[2][name] for name in _NAMES},
        "apart": abs(one - two) / abs(one),
    }
    table = Table("seconds", "one process", "two", "times as fast", title=f"EM, {rows:,} x 16, {iterations} iterations")
    for name, words in _NAMES.items():
        table.add_row(words, f"{medians[1][name]:.2f}", f"{medians[2][name]:.2f}", f"{result['faster'][name]:.2f}")
    Console().print(table)
    return result


_NAMES = {"fit": "the fit", "iterations": "its iterations", "processor": "of the busiest processor"}


def _measured(processes: int, rows: int, iterations: int, rounds: int) -> dict[str, Any]:
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        work = [str(root / "benchmarks" / "_rank.py"), folder, *map(str, (rows, iterations, rounds))]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        subprocess.run([*launcher, *work], check=True, env=environment)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]
    busiest = {name: [max(times) for times in zip(*(rank[name] for rank in ranks), strict=True)] for name in _NAMES}
    return {**busiest, "log_likelihood": ranks[0]["log_likelihood"]}
