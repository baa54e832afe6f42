"""The exact sum over alignments and its gradient beside torch's ``ctc_loss``, on the CPU.

    zoo bench ctc [--quick] [--out FILE]

A step is what training does: log_softmax of logits, ln p(y | x), and its gradient in the logits, in float32 and in
float64, as many threads to both. They take turns, and the least of all rounds counts, as a busy machine only adds to
it: seconds on the clock, and of the processor. What is compiled is compiled before. Values and gradients of all rows
are compared in the same run. The growth with T is the slope of a line through logarithms of processor seconds. The
hard rows, of long sequences and extreme logits, say whether all is finite and equal to torch's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zoo.structures import Alignment


class Shape(NamedTuple):
    """N items of T frames, V symbols and a blank, targets of U symbols."""

    frames: int
    items: int
    symbols: int
    target: int


SHAPES = (Shape(200, 32, 30, 30), Shape(1000, 8, 30, 100))
QUICK_SHAPES = (Shape(50, 4, 30, 10),)
LENGTHS, QUICK_LENGTHS = (500, 1000, 2000, 4000, 8000), (50, 100, 200)
#: Frames, and what the logits are multiplied by.
HARD, QUICK_HARD = ((400, 1.0), (1000, 30.0), (5000, 1.0), (5000, 100.0)), ((200, 1.0), (200, 100.0))
ROUNDS, QUICK_ROUNDS = 25, 2

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_data(shape: Shape, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits (N, T, V + 1), float32, and targets (N, U) of symbols 1..V; every item is as long as can be."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape.items, shape.frames, shape.symbols + 1, generator=generator)
    return logits, torch.randint(1, shape.symbols + 1, (shape.items, shape.target), generator=generator)


def ours(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N,) and the gradient of their sum in the logits."""
    leaf = logits.detach().requires_grad_()
    value = Alignment(leaf.log_softmax(-1), targets).log_partition()
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def theirs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torch."""
    leaf = logits.detach().requires_grad_()
    (items, frames), size = leaf.shape[:2], targets.shape[1]
    sizes = (torch.full((items,), frames), torch.full((items,), size))
    log_probs = leaf.log_softmax(-1).transpose(0, 1)
    value = -torch.nn.functional.ctc_loss(log_probs, targets, *sizes, reduction="none")
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


SYSTEMS: dict[str, Step] = {"zoo": ours, "torch": theirs}


def timed(steps: dict[str, Step], logits: Tensor, targets: Tensor, rounds: int) -> dict[str, float]:
    """The least milliseconds of a step by system, on the clock and of the processor, the first round left out."""
    spent: dict[str, list[float]] = {f"{name}_{kind}": [] for name in steps for kind in ("ms", "cpu_ms")}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            clock, processor = time.perf_counter(), time.process_time()
            step(logits, targets)
            spent[f"{name}_cpu_ms"].append(1e3 * (time.process_time() - processor))
            spent[f"{name}_ms"].append(1e3 * (time.perf_counter() - clock))
    return {name: min(values[1:]) for name, values in spent.items()}


def differences(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """By how much value (relative) and gradient (absolute) differ from torch's in float64."""
    (value, gradient), (value_64, gradient_64) = ours(logits, targets), theirs(logits.double(), targets)
    off = ((value.double() - value_64) / value_64).abs().max()
    return {"value": float(off), "gradient": float((gradient.double() - gradient_64).abs().max())}


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns milliseconds, ratios and differences.

    Args:
        quick: small shapes, few rounds.
    """
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows = []
    for shape in QUICK_SHAPES if quick else SHAPES:
        logits, targets = make_data(shape)
        for data in (logits, logits.double()):
            spent = timed(SYSTEMS, data, targets, rounds)
            rows.append(
                {
                    **shape._asdict(),
                    "dtype": str(data.dtype).removeprefix("torch."),
                    **spent,
                    "times_faster": spent["torch_ms"] / spent["zoo_ms"],
                    "times_faster_cpu": spent["torch_cpu_ms"] / spent["zoo_cpu_ms"],
                    "off_by": differences(data, targets),
                }
            )
    result = {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "rows": rows,
        "growth": growth(QUICK_LENGTHS if quick else LENGTHS, rounds),
        "hard": [hard(*each) for each in (QUICK_HARD if quick else HARD)],
    }
    show(result)
    return result


def growth(lengths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Processor milliseconds of our step by T at a target of 50, and the slope of their logarithms."""
    spent = []
    for frames in lengths:
        logits, targets = make_data(Shape(frames, 4, 30, min(50, frames // 3)))
        spent.append(timed({"zoo": ours}, logits, targets, rounds)["zoo_cpu_ms"])
    slope = float(np.polyfit(np.log(lengths), np.log(spent), 1)[0])
    return {"frames": list(lengths), "ms": spent, "slope": slope}


def hard(frames: int, scale: float) -> dict[str, Any]:
    """A long sequence of extreme logits, in float32: is everything finite, and what torch says of it in float64?"""
    logits, targets = make_data(Shape(frames, 2, 30, min(100, frames // 4)), seed=1, scale=scale)
    value, gradient = ours(logits, targets)
    finite = bool(value.isfinite().all() and gradient.isfinite().all())
    return {"frames": frames, "scale": scale, "finite": finite, "off_by": differences(logits, targets)}


def show(result: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console = Console(width=122)
    table = Table(title=f"log_softmax, ln p(y | x) and gradient, {result['threads']} threads, ms")
    for heading in (
        "T x N x V, U",
        "dtype",
        "zoo",
        "torch",
        "times faster",
        "by processor",
        "value off by",
        "gradient off by",
    ):
        table.add_column(heading, justify="left" if heading == "dtype" else "right")
    for row in result["rows"]:
        shape = f"{row['frames']} x {row['items']} x {row['symbols']}, {row['target']}"
        off = row["off_by"]
        table.add_row(
            shape, row["dtype"], f"{row['zoo_ms']:.2f}", f"{row['torch_ms']:.2f}", f"{row['times_faster']:.1f}",
            f"{row['times_faster_cpu']:.1f}",            f"{off['value']:.1e}", f"{off['gradient']:.1e}",
        )  # fmt: skip
    console.print(table)
    grown = result["growth"]
    spent = ", ".join(f"{ms:.2f}" for ms in grown["ms"])
    console.print(f"T {', '.join(map(str, grown['frames']))}: {spent} ms, slope {grown['slope']:.2f}")
    for row in result["hard"]:
        off, state = row["off_by"], "finite" if row["finite"] else "NOT FINITE"
        console.print(
            f"T {row['frames']}, logits x {row['scale']:g}: {state}, value off by {off['value']:.1e}, gradient by "
            f"{off['gradient']:.1e}"
        )
