"""From the start of a process to its answer: the command line beside an import of torch and Pyro."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = ROOT / "examples" / "data" / "people.csv"

COMMANDS: dict[str, tuple[list[str], str]] = {
    "import torch, pyro": (["-c", "import torch, pyro; print('imported', flush=True)"], "imported"),
    "zoo fit": (["-m", "zoo.cli", "fit", "gaussian_mixture", "--data", "x.csv"], "parameters to"),
    "zoo fit, words beside": (
        ["-m", "zoo.cli", "fit", "gaussian_mixture", "--data", str(PEOPLE), "--labels", "group"],
        "parameters to",
    ),
    "zoo models": (["-m", "zoo.cli", "models"], "gaussian_mixture"),
}
"""Arguments of Python, and what stands in the line that is the answer. ``x.csv`` has 300 rows of two numbers."""


def measure(rounds: int) -> dict[str, Any]:
    """Seconds from the start of each process to its answer and to its end, medians of turns; the first are not
    counted: they read the files from disk. "fit_by_import": a fit's answer, by what the import takes from start to
    end."""
    answers: dict[str, list[float]] = {name: [] for name in COMMANDS}
    ends: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, (arguments, sign) in COMMANDS.items():
            answer, end = _timed(arguments, sign)
            if turn:
                answers[name].append(answer)
                ends[name].append(end)
    found = {
        name: {"answer": statistics.median(answers[name]), "end": statistics.median(ends[name])} for name in COMMANDS
    }
    imported = found["import torch, pyro"]["end"]
    return {"seconds": found, "fit_by_import": found["zoo fit"]["answer"] / imported}


def _timed(arguments: list[str], sign: str) -> tuple[float, float]:
    """Seconds to the first line with ``sign`` in it, and to the end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    rows = np.random.default_rng(0).normal(size=(300, 2)) + 4.0 * (np.arange(300) % 2)[:, np.newaxis]
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(Path(folder) / "x.csv", rows, delimiter=",", header="length,width", comments="")
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env=environment,
        )
        assert process.stdout is not None
        answer = None
        for line in process.stdout:
            if answer is None and sign in line:
                answer = time.perf_counter() - begin
        if process.wait() or answer is None:
            raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode} and no {sign!r}")
        return answer, time.perf_counter() - begin


if __name__ == "__main__":
    print(measure(3))
