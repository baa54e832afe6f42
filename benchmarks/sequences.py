"""Training steps of sequence models beside what is usual for them, on the CPU.

    zoo bench sequences [--quick] [--out FILE]

A neural hidden Markov language model: ln p(x) of a batch and its gradient in all weights of the network, in float32,
beside the same network with the forward algorithm as it is written in torch, a logsumexp of (N, K, K) numbers a step,
differentiated by torch. The systems take turns, and the least of all rounds counts, as a busy machine only adds to it:
seconds on the clock, and of the processor. Values and gradients are compared in the same run.

``floor``: 6 K^2 operations a token, three products of matrices, at the rate of one large product in float64 measured
beside it. ``near`` is the floor over the time of the chain alone. The growth with T is the slope of a line through
logarithms of processor seconds of the chain and its gradient.

A deep Markov model: a training step beside the same model as Pyro programs, see ``_deep_markov.py``.
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

from benchmarks._deep_markov import STEPS, deep_markov_rows
from benchmarks._parts import kept
from zoo.models.discrete_sequence_vae import DiscreteSequenceVAE
from zoo.structures import Chain


class Shape(NamedTuple):
    """N sequences of T tokens out of V, K states."""

    states: int
    items: int
    steps: int
    symbols: int


SHAPES = (Shape(128, 64, 35, 10_000), Shape(512, 64, 35, 10_000))
QUICK_SHAPES = (Shape(64, 8, 6, 50),)
#: Of which only ours is run: the other would hold K / 512 times four times as much.
LARGE, QUICK_LARGE = (Shape(1024, 64, 35, 10_000),), ()
LENGTHS, QUICK_LENGTHS = (64, 128, 256, 512, 1024), (8, 16, 32)
ROUNDS, QUICK_ROUNDS = 5, 1

Step = Callable[[], tuple[Tensor, list[Tensor]]]


def forward_algorithm(log_initial: Tensor, log_transition: Tensor, emission: Tensor) -> Tensor:
    """ln p(x), (N,), as it is written in torch."""
    message = log_initial + emission[:, 0]
    for t in range(1, emission.shape[1]):
        message = torch.logsumexp(message.unsqueeze(-1) + log_transition, 1) + emission[:, t]
    return message.logsumexp(-1)


def log_partition(log_initial: Tensor, log_transition: Tensor, emission: Tensor) -> Tensor:
    """The same by the library."""
    return Chain(log_initial, log_transition, emission).log_partition()


def step_of(model: DiscreteSequenceVAE, x: Tensor, evidence: Callable[..., Tensor]) -> Step:
    """Values (N,) and the gradient of their sum in the network's weights."""
    parameters, lengths = list(model.network.parameters()), torch.full((len(x),), x.shape[1])

    def step() -> tuple[Tensor, list[Tensor]]:
        value = evidence(*model.network.chain(), model.network.emission(x, lengths))
        return value.detach(), list(torch.autograd.grad(value.sum(), parameters))

    return step


def chain_step(shape: Shape, seed: int = 0) -> Step:
    """The chain alone: its value and gradients, of tables that are there."""
    generator = torch.Generator().manual_seed(seed)
    k = shape.states
    leaves = [
        torch.randn(k, generator=generator).log_softmax(-1).requires_grad_(),
        torch.randn(k, k, generator=generator).log_softmax(-1).requires_grad_(),
        (torch.randn(shape.items, shape.steps, k, generator=generator) - 9).requires_grad_(),
    ]

    def step() -> tuple[Tensor, list[Tensor]]:
        value = Chain(*leaves).log_partition()
        return value.detach(), list(torch.autograd.grad(value.sum(), leaves))

    return step


def timed(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """The least milliseconds by system, on the clock and of the processor, the first round left out."""
    spent: dict[str, list[float]] = {f"{name}_{kind}": [] for name in steps for kind in ("ms", "cpu_ms")}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            clock, processor = time.perf_counter(), time.process_time()
            step()
            spent[f"{name}_cpu_ms"].append(1e3 * (time.process_time() - processor))
            spent[f"{name}_ms"].append(1e3 * (time.perf_counter() - clock))
    return {name: min(values[1:]) for name, values in spent.items()}


def rate(size: int = 1000, rounds: int = 5) -> float:
    """Operations a millisecond of the clock in one large product of matrices, float64."""
    a = torch.rand(size, size, dtype=torch.float64)
    return 2.0 * size**3 / timed({"product": lambda: (a @ a, [])}, rounds)["product_ms"]


def neural_hmm_row(shape: Shape, rounds: int, both: bool) -> dict[str, Any]:
    """One row: milliseconds of both, of the chain alone and of its floor, and by how much values differ."""
    model = DiscreteSequenceVAE(shape.states, shape.symbols, hidden_dim=128).train()
    x = torch.randint(shape.symbols, (shape.items, shape.steps), generator=torch.Generator().manual_seed(0))
    ours, theirs = (step_of(model, x, evidence) for evidence in (log_partition, forward_algorithm))
    steps = {"zoo": ours, **({"torch": theirs} if both else {}), "chain": chain_step(shape)}
    floor = 6.0 * shape.states**2 * shape.items * (shape.steps - 1) / rate()
    row: dict[str, Any] = {"model": "neural HMM", **shape._asdict(), **timed(steps, rounds), "floor_ms": floor}
    row["near"] = floor / row["chain_ms"]
    if both:
        row["times_faster"] = row["torch_ms"] / row["zoo_ms"]
        row["times_faster_cpu"] = row["torch_cpu_ms"] / row["zoo_cpu_ms"]
        (value, gradients), (expected, others) = ours(), theirs()
        off = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, others, strict=True))
        row["off_by"] = {"value": float(((value - expected) / expected).abs().max()), "gradient": off}
    return row


def growth(lengths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Processor milliseconds of the chain and its gradient by T, and the slope of their logarithms."""
    spent = [timed({"zoo": chain_step(Shape(128, 16, t, 1))}, rounds)["zoo_cpu_ms"] for t in lengths]
    return {"steps": list(lengths), "ms": spent, "slope": float(np.polyfit(np.log(lengths), np.log(spent), 1)[0])}


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns milliseconds, ratios and differences.

    Args:
        quick: small shapes, few rounds.
    """
    rounds = QUICK_ROUNDS if quick else ROUNDS
    shapes = [(shape, True) for shape in (QUICK_SHAPES if quick else SHAPES)]
    shapes += [(shape, False) for shape in (QUICK_LARGE if quick else LARGE)]
    rows = [kept(f"{shape}", neural_hmm_row(shape, rounds, beside)) for shape, beside in shapes]
    result = {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "rows": rows,
        "growth": growth(QUICK_LENGTHS if quick else LENGTHS, rounds),
        "deep_markov": deep_markov_rows(rounds, QUICK_LENGTHS if quick else STEPS),
    }
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    console = Console(width=122)
    table = Table(title=f"A training step of a neural hidden Markov model, {result['threads']} threads, ms")
    headings = ("K, N x T, V", "zoo", "torch", "times faster", "by processor", "chain", "floor", "near", "off by")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        off = row.get("off_by")
        table.add_row(
            f"{row['states']}, {row['items']} x {row['steps']}, {row['symbols']}",
            f"{row['zoo_ms']:.1f}",
            f"{row['torch_ms']:.1f}" if off else "",
            f"{row['times_faster']:.1f}" if off else "",
            f"{row['times_faster_cpu']:.1f}" if off else "",
            f"{row['chain_ms']:.1f}",
            f"{row['floor_ms']:.1f}",
            f"{row['near']:.0%}",
            f"{off['value']:.0e}, {off['gradient']:.0e}" if off else "",
        )
    console.print(table)
    grown = result["growth"]
    spent = ", ".join(f"{ms:.1f}" for ms in grown["ms"])
    console.print(f"T {', '.join(map(str, grown['steps']))}: {spent} ms of the chain, slope {grown['slope']:.2f}")
    compared, grown = result["deep_markov"]
    console.print(
        f"{compared['what']}: {compared['zoo_ms']:.0f} ms, as Pyro programs {compared['pyro_ms']:.0f} ms, by processor "
        f"{compared['ratio']:.2f} of these; bounds of one draw off by {compared['difference']:.0e}"
    )
    spent = ", ".join(f"{ms:.0f}" for ms in grown["cpu_ms"])
    console.print(f"T {', '.join(map(str, grown['steps']))}: {spent} ms of its step, slope {grown['slope']:.2f}")
