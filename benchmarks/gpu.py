"""A training step on a GPU, started kernel by kernel and repeated from a recording, beside a processor's.

    zoo bench gpu [--quick] [--out FILE]

Networks of the published sizes on 10 000 rows of 784 random bits, batches of 100, Adam, single precision. A step's time
is what a longer fit takes more than a shorter one, a step; medians of several pairs taken in turns. The last column
says whether every weight is the same after the shorter fit, recorded or not.
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

import zoo
from zoo.estimators.loop import recording

__all__ = ["run"]

ROWS, BATCH, PIXELS = 10_000, 100, 784
#: Epochs of 100 steps of the shorter and of the longer fit, and pairs of them; quickly, and else.
QUICK, WHOLE = (3, 6, 1), (4, 14, 3)

#: By name, a model, an estimator and its options.
STEPS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "VAE, 784-400-20, svi": (lambda: zoo.VAE(PIXELS, 20, (400,)), "svi", {}),
    "VAE, 784-200-200-50, iwae, 5 draws": (lambda: zoo.VAE(PIXELS, 50, (200, 200)), "iwae", {"num_particles": 5}),
    "categorical VAE, 20 x 10, gumbel": (lambda: zoo.CategoricalVAE(PIXELS), "gumbel", {"num_particles": 2}),
    "mixture VAE, 10 components, svi": (lambda: zoo.GaussianMixtureVAE(10, PIXELS), "svi", {}),
}


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
    x = torch.bernoulli(torch.full((ROWS, PIXELS), 0.3), generator=torch.Generator().manual_seed(0))
    ways: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
        "processor": ("cpu", nullcontext),
        "gpu": ("cuda", step_by_step),
        "recorded": ("cuda", nullcontext),
    }
    table = Table("step", *(f"{way}, ms" for way in ways), "same weights", title=torch.cuda.get_device_name())
    rows = []
    for name, (make, estimator, options) in STEPS.items():
        options = {"warmup": 0, "batch_size": BATCH, "optimizer": "adam", **options}

        def fitted(way: str, epochs: int, make: Any = make, how: Any = (estimator, options)) -> zoo.Fit:
            device, inside = ways[way]
            with inside():
                return zoo.fit(make(), x, estimator=how[0], device=device, max_epochs=epochs, tol=0, **how[1])

        took: dict[str, list[float]] = {way: [] for way in ways}
        weights: dict[str, Any] = {}
        for _ in range(rounds):
            for way in ways:
                short, long = fitted(way, shorter), fitted(way, longer)
                took[way].append((long.seconds - short.seconds) / ((longer - shorter) * ROWS / BATCH) * 1e3)
                weights[way] = short.model.state_dict()
        same = all(torch.equal(v, weights["recorded"][n]) for n, v in weights["gpu"].items())
        row = {way: round(statistics.median(values), 3) for way, values in took.items()}
        rows.append({"name": name, **row, "same_weights": same})
        table.add_row(name, *map(str, row.values()), str(same))
    Console().print(table)
    return {"device": torch.cuda.get_device_name(), "rows": rows}
