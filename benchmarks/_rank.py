"""What each process of ``zoo bench ranks`` does: the same fit several times, on a core of its own."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

import zoo

COMPONENTS, FEATURES = 8, 16


def main(out: Path, rows: int, iterations: int, rounds: int) -> None:
    """Fits a mixture of full covariances by so many iterations of EM, and writes the seconds of each round."""
    rank = int(os.environ["RANK"])
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    draw = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(COMPONENTS, FEATURES, generator=draw, dtype=torch.float64)
    x = torch.randn(rows, FEATURES, generator=draw, dtype=torch.float64)
    x += centres[torch.randint(COMPONENTS, (rows,), generator=draw)]
    model = zoo.GaussianMixture(COMPONENTS, FEATURES)
    zoo.fit(model, x[:20_000], estimator="em", max_iter=2, tol=0, restarts=1)  # what is compiled once
    found: dict[str, list[float]] = {"fit": [], "iterations": [], "processor": []}
    for _ in range(rounds):
        torch.distributed.barrier()
        begun, worked = time.perf_counter(), time.process_time()
        this = zoo.fit(model, x, estimator="em", max_iter=iterations, tol=0, restarts=1)
        found["fit"].append(time.perf_counter() - begun)
        found["processor"].append(time.process_time() - worked)
        found["iterations"].append(this.seconds)
    assert this.log_likelihood is not None
    result = {**found, "log_likelihood": this.log_likelihood}
    (out / f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
