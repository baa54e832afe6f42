"""One fit in several processes, real ones under torchrun: it is that of one process, and ends as one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.ranks import CASES

HERE = Path(__file__).resolve().parent

#: By estimator, how close two processes come to one, relative to the largest number.
CLOSE = {"em": 1e-10, "hard_em": 1e-10, "squarem": 1e-9, "online_em": 1e-10}
#: The same of those that take steps along gradients.
CLOSE |= dict.fromkeys(("svi", "adam", "eg", "iwae", "gumbel", "reinforce", "rws"), 1e-5)


def launched(*command: str, processes: int = 2, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A command of Python's under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        [*torchrun, *command], capture_output=True, text=True, timeout=300, env=environment, check=False
    )


def compared(out: Path, names: list[str]) -> None:
    done = launched(str(HERE / "ranks.py"), str(out), *names)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["together"] == second["together"], "the ranks went apart"
    for name in names:
        close = CLOSE[name.split(", ")[1]]
        one, two = first["alone"][name], first["together"][name]
        assert (one["status"], len(one["objective"])) == (two["status"], len(two["objective"])), name
        assert math.isclose(one["score"], two["score"], rel_tol=close), (name, one["score"], two["score"])
        for what in ("objective", "parameters"):
            a, b = (torch.tensor(each[what], dtype=torch.float64) for each in (one, two))
            apart = float((a - b).abs().max() / a.abs().max())
            assert apart < close, (name, what, apart)


def test_two_processes_are_one(tmp_path: Path) -> None:
    """The history, the score and the parameters of each case; with more of them at once than in the everyday run."""
    compared(tmp_path, list(CASES))
