"""A training step on a GPU, started kernel by kernel and repeated from a recording, beside a processor's.

    zoo bench gpu [--quick] [--out FILE]

Networks of the published sizes on 10 000 rows of 784 random bits, batches of 100, and on 200 random sequences of 20 to
120 chords, batches of 20; Adam, single precision. A step's time is what a longer fit takes more than a shorter one, a
step; medians of several pairs taken in turns, after a shorter fit that is not counted. The last column is the largest
difference between a weight recorded and not, after the shorter fit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import zoo
from benchmarks._parts import kept
from zoo.core.data import num_data
from zoo.estimators.loop import recording

__all__ = ["run"]

PIXELS, CHORD = 784, 88
#: Steps of the shorter and of the longer fit, and pairs of them; quickly, and else.
QUICK, WHOLE = (300, 600, 1), (400, 1400, 3)


def _bits() -> Tensor:
    return torch.bernoulli(torch.full((10_000, PIXELS), 0.3), generator=torch.Generator().manual_seed(0))


def _chords() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 121, (200,), generator=generator)
    lengths[0] = 120
    return {"x": torch.bernoulli(torch.full((200, 120, CHORD), 0.05), generator=generator), "lengths": lengths}


#: By name, a model, an estimator and its options, data and the size of a batch.
STEPS: dict[str, tuple[Callable[[], Any], str, dict[str, Any], Callable[[], Any], int]] = {
    "VAE, 784-400-20, svi": (lambda: zoo.VAE(PIXELS, 20, (400,)), "svi", {}, _bits, 100),
    "VAE, 784-200-200-50, iwae, 5 draws": (
        lambda: zoo.VAE(PIXELS, 50, (200, 200)), "iwae", {"num_particles": 5}, _bits, 100,
    ),
    "categorical VAE, 20 x 10, gumbel": (
        lambda: zoo.CategoricalVAE(PIXELS), "gumbel", {"num_particles": 2}, _bits, 100,
    ),
    "mixture VAE, 10 components, svi": (lambda: zoo.GaussianMixtureVAE(10, PIXELS), "svi", {}, _bits, 100),
    "deep Markov model, 64-200, svi": (lambda: zoo.DeepMarkovModel(CHORD), "svi", {"annealing": 0.0}, _chords, 20),
}  # fmt: skip


def step_by_step() -> AbstractContextManager[Any]:
    """Inside, nothing is recorded."""
    return mock.patch.object(recording, "REPEATING", frozenset())


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns milliseconds a step; nothing without a GPU.

    Args:
        quick: one pair of shorter fits.
    """
    if not torch.cuda.is_available():
        Console().print("no GPU that torch can use: nothing to measure")
        return {}
    shorter, longer, rounds = QUICK if quick else WHOLE
    ways: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
        "processor": ("cpu", nullcontext),
        "gpu": ("cuda", step_by_step),
        "recorded": ("cuda", nullcontext),
    }
    table = Table("step", *(f"{way}, ms" for way in ways), "difference", title=torch.cuda.get_device_name())
    rows = []
    for name, (make, estimator, options, data, batch) in STEPS.items():
        x = data()
        in_epoch = num_data(x) // batch
        options = {"warmup": 0, "batch_size": batch, "optimizer": "adam", "estimator": estimator, "tol": 0, **options}

        def fitted(way: str, epochs: int, make: Any = make, x: Any = x, how: Any = options) -> zoo.Fit:
            device, inside = ways[way]
            with inside():
                return zoo.fit(make(), x, device=device, max_epochs=epochs, **how)

        few, many = shorter // in_epoch, longer // in_epoch
        weights = {way: fitted(way, few).model.state_dict() for way in ways}
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                more = fitted(way, many).seconds - fitted(way, few).seconds
                took[way].append(more / ((many - few) * in_epoch) * 1e3)
        apart = max(float((v - weights["recorded"][n]).abs().max()) for n, v in weights["gpu"].items() if v.numel())
        row = {way: round(statistics.median(values), 3) for way, values in took.items()}
        rows.append(kept(name, {"name": name, **row, "difference": apart}))
        table.add_row(name, *map(str, row.values()), f"{apart:.0e}")
    Console().print(table)
    return {"device": torch.cuda.get_device_name(), "rows": rows}
