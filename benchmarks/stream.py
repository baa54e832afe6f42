"""EM on more data than memory: memory, time a row beside data in memory, and how time grows with the rows.

    zoo bench stream [--quick] [--out FILE]

A Gaussian mixture, 5 full components, rows of 16 in float64, five iterations from one start, each fit in a process of
its own: on a mapped ``.npy`` of an eighth, a quarter, half and all of 10 GB, or of what is free on the disk of
temporary files less a fifth; on an eighth of it in memory, and from Parquet, in turns with the mapped one. Time is the
processor's, of the fastest iteration; "peak" is what is resident in the process, mapped pages too, looked at every
5 ms, and "start" the same before the data are touched. A file is on the disk alone when the first fit begins: what was
written just now lies in the system's memory in small pages, and takes longer to map.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._parts import kept

__all__ = ["run"]

FEATURES, COMPONENTS, ITERATIONS, ROUNDS = 16, 5, 5, 2
LARGEST, QUICK = 10e9, 0.16e9
#: Rows that are written at a time.
PART = 100_000

CHILD = """
import json, resource, sys, threading, time
import numpy as np, torch
import zoo
path, kind, iterations, components = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
import zoo.data.opening as opening
opening.STREAMED = 2**20
model = zoo.GaussianMixture(components, 16)
zoo.fit(model, torch.randn(60_000, 16, dtype=torch.float64), estimator="em", max_iter=2, tol=0, restarts=1)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
start, peak, over, clock = resident(), [0.0], threading.Event(), []
def watch():
    while not over.wait(0.005):
        peak[0] = max(peak[0], resident())
watching = threading.Thread(target=watch)
watching.start()
began = time.process_time()
x = path if kind == "parquet" else np.load(path, mmap_mode="r")
x = torch.from_numpy(np.array(x)) if kind == "memory" else x
fit = zoo.fit(model, x, estimator="em", max_iter=iterations, tol=0, restarts=1,
              progress=lambda *row: clock.append(time.process_time()))
over.set()
watching.join()
steps = [b - a for a, b in zip(clock, clock[1:])]
print(json.dumps({"rows": fit.num_data, "seconds_an_iteration": min(steps), "seconds": time.process_time() - began,
                  "start_mb": start, "peak_mb": peak[0], "log_likelihood": fit.log_likelihood}))
"""


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints a table and returns its numbers.

    Args:
        quick: 160 MB at most, one round.

    Returns:
        "fits": by kind and rows, what each process measured; "slope" of the logarithm of time over that of rows;
        "times_in_memory": by kind, time a row over that of the same rows in memory; "largest_gb".
    """
    with tempfile.TemporaryDirectory(prefix="zoo-bench-") as folder:
        free = shutil.disk_usage(folder).free
        largest = QUICK if quick else min(LARGEST, 0.8 * free / (1 + 2 / 8))
        rows = [int(largest / (8 * FEATURES) / share) for share in (8, 4, 2, 1)]
        result = _measured(Path(folder), rows, 1 if quick else ROUNDS)
    result["largest_gb"] = largest / 1e9
    _print(result)
    return result


def _measured(folder: Path, rows: list[int], rounds: int) -> dict[str, Any]:
    fits: dict[str, list[dict[str, float]]] = {"mapped": [], "memory": [], "parquet": []}
    array, table = folder / "x.npy", folder / "x.parquet"
    for size in rows:
        _write(array, size)
        if size == rows[0]:
            _write_table(array, table)
        turns = ("memory", "mapped", "parquet") if size == rows[0] else ("mapped",)
        tried = [{kind: _child(table if kind == "parquet" else array, kind) for kind in turns} for _ in range(rounds)]
        for kind in turns:
            least = min((each[kind] for each in tried), key=lambda one: one["seconds_an_iteration"])
            fits[kind].append(kept(f"{kind}, {size} rows", least))
        table.unlink(missing_ok=True)
    times = [math.log(fit["seconds_an_iteration"]) for fit in fits["mapped"]]
    slope = float(np.polyfit([math.log(size) for size in rows], times, 1)[0])
    first = {kind: fit[0]["seconds_an_iteration"] for kind, fit in fits.items()}
    relative = {kind: first[kind] / first["memory"] for kind in ("mapped", "parquet")}
    return {"fits": fits, "slope": slope, "times_in_memory": relative, "threads": 1}


def _write(path: Path, rows: int) -> None:
    """Rows of overlapping clusters, part by part."""
    generator = torch.Generator().manual_seed(0)
    means = 1.2 * torch.randn(COMPONENTS, FEATURES, generator=generator, dtype=torch.float64)
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, FEATURES)}
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, rows, PART):
            z = torch.randint(COMPONENTS, (min(PART, rows - begin),), generator=generator)
            noise = torch.randn(len(z), FEATURES, generator=generator, dtype=torch.float64)
            file.write((means[z] + noise).numpy().tobytes())
    _let_go(path)


def _write_table(array: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = np.load(array, mmap_mode="r")
    schema = pa.schema([(f"x{i}", pa.float64()) for i in range(FEATURES)])
    with pq.ParquetWriter(path, schema) as writer:
        for begin in range(0, len(x), PART):
            part = np.array(x[begin : begin + PART])
            writer.write_table(pa.table({f"x{i}": part[:, i] for i in range(FEATURES)}, schema=schema))
    _let_go(path)


def _let_go(path: Path) -> None:
    """Have the system keep nothing of a file in memory, where it can be told so."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _child(path: Path, kind: str) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(path), kind, str(ITERATIONS), str(COMPONENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _print(result: dict[str, Any]) -> None:
    title = f"EM, {COMPONENTS} full components, rows of {FEATURES}, one thread, up to {result['largest_gb']:.3g} GB"
    table = Table("", "rows", "ns a row and iteration", "MB at start", "MB at peak", title=title)
    for kind, fits in result["fits"].items():
        for fit in fits:
            each = 1e9 * fit["seconds_an_iteration"] / fit["rows"]
            table.add_row(kind, f"{fit['rows']:,}", f"{each:.0f}", f"{fit['start_mb']:.0f}", f"{fit['peak_mb']:.0f}")
    console = Console()
    console.print(table)
    console.print(f"time grows as rows to the power {result['slope']:.3f}")
    for kind, times in result["times_in_memory"].items():
        console.print(f"{kind}: {times:.2f} times the time of data in memory")
