"""Persistent contrastive divergence of restricted Boltzmann machines beside scikit-learn's and a plain torch loop.

    zoo bench rbm [--quick] [--out FILE]

Images a second of learning: 784 visible and 500 hidden units, batches of 100, as many chains, one sweep a step; MNIST
cut at one half, or random bits of its size where it is not at hand. Ours is ``zoo.fit`` by ``pcd`` with Adam and all
that a fit watches, an epoch by its history's clock; ``BernoulliRBM`` as it is, in float32 and in float64 (what it
takes other numbers for); the loop is written out below. They take turns, and the fastest of all rounds counts, as a
busy machine only adds to it. The floor is what a step cannot do without: its five products of matrices, timed alone,
and a uniform for each unit of the chains.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import zoo

VISIBLE, HIDDEN, BATCH = 784, 500, 100
IMAGES, ROUNDS = 6000, 8
QUICK_IMAGES, QUICK_ROUNDS = 600, 1
RATE = 0.01


def make_data(images: int) -> tuple[Tensor, str]:
    """Binary images (N, 784), float32, and what they are."""
    try:
        return (torch.as_tensor(zoo.load_data("mnist"))[:images] > 0.5).float(), "mnist"
    except zoo.ZooError:
        bits = torch.rand(images, VISIBLE, generator=torch.Generator().manual_seed(0)) < 0.13
        return bits.float(), "random bits"


def ours(x: Tensor, hidden: int = HIDDEN, epochs: int = 3) -> tuple[float, Any]:
    """Seconds of the fastest epoch, and the fit."""
    fit = zoo.fit(
        zoo.RestrictedBoltzmannMachine(x.shape[1], hidden), x,
        estimator="pcd", batch_size=BATCH, max_epochs=epochs, learning_rate=0.05,
    )  # fmt: skip
    clock = fit.history["seconds"]
    return min(late - early for early, late in itertools.pairwise(clock)), fit


def plain(x: Tensor, hidden: int = HIDDEN, epochs: int = 1) -> tuple[float, tuple[Tensor, Tensor, Tensor]]:
    """Seconds of an epoch of a loop as one writes it, and weights and biases."""
    w, b, c = 0.01 * torch.randn(x.shape[1], hidden), torch.zeros(x.shape[1]), torch.zeros(hidden)
    chains = torch.bernoulli(torch.full((BATCH, x.shape[1]), 0.5))
    begin = time.perf_counter()
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(BATCH):
            data = x[index]
            of_data = torch.sigmoid(data @ w + c)
            units = torch.bernoulli(torch.sigmoid(chains @ w + c))
            chains = torch.bernoulli(torch.sigmoid(units @ w.T + b))
            of_chains = torch.sigmoid(chains @ w + c)
            w += RATE / BATCH * (data.T @ of_data - chains.T @ of_chains)
            b += RATE * (data.mean(0) - chains.mean(0))
            c += RATE * (of_data.mean(0) - of_chains.mean(0))
    return (time.perf_counter() - begin) / epochs, (w, b, c)


def theirs(x: Tensor, dtype: torch.dtype) -> float:
    """Seconds of an epoch of scikit-learn's."""
    from sklearn.neural_network import BernoulliRBM

    rows = x.to(dtype).numpy()
    machine = BernoulliRBM(HIDDEN, learning_rate=RATE, batch_size=BATCH, n_iter=1, random_state=0)
    begin = time.perf_counter()
    machine.fit(rows)
    return time.perf_counter() - begin


def floor(rounds: int) -> dict[str, float]:
    """Milliseconds a step of its products alone, and of its random numbers; the products' speed."""
    both, chains = torch.rand(2 * BATCH, VISIBLE), torch.rand(BATCH, HIDDEN)
    w, of_both = torch.rand(VISIBLE, HIDDEN), torch.rand(2 * BATCH, HIDDEN)
    found = {
        "products_ms": least(lambda: (both @ w, chains @ w.T, both.T @ of_both), rounds),
        "uniforms_ms": least(lambda: torch.rand(BATCH, VISIBLE + HIDDEN), rounds),
    }
    operations = 5 * 2 * BATCH * VISIBLE * HIDDEN
    return {
        "operations": operations,
        **found,
        "gflops": operations / found["products_ms"] / 1e6,
        "images_per_second": 1e3 * BATCH / sum(found.values()),
    }


def least(step: Callable[[], Any], rounds: int, steps: int = 20) -> float:
    """Milliseconds of a step, the least mean of ``steps`` in all rounds."""
    step()
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        spent.append(1e3 * (time.perf_counter() - begin) / steps)
    return min(spent)


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns images a second, and their ratios.

    Args:
        quick: few images, one round.
    """
    images, rounds = (QUICK_IMAGES, QUICK_ROUNDS) if quick else (IMAGES, ROUNDS)
    x, data = make_data(images)
    systems: dict[str, Callable[[], float]] = {
        "zoo": lambda: ours(x)[0],
        "torch_loop": lambda: plain(x)[0],
        "sklearn_float32": lambda: theirs(x, torch.float32),
        "sklearn_float64": lambda: theirs(x, torch.float64),
    }
    spent: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, epoch in systems.items():
            spent[name].append(epoch())
    speed = {name: len(x) / min(seconds) for name, seconds in spent.items()}
    bound = floor(5 * rounds)
    result = {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "data": data,
        "images": len(x),
        "images_per_second": speed,
        "times_faster_than": {name: speed["zoo"] / other for name, other in speed.items() if name != "zoo"},
        "floor": bound,
        "share_of_floor": speed["zoo"] / bound["images_per_second"],
    }
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    console = Console(width=110)
    table = Table(title=f"pcd, 784 x {HIDDEN} units, batches of {BATCH}, {result['data']}, {result['threads']} threads")
    for heading in ("system", "images a second", "zoo is times faster"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for name, speed in result["images_per_second"].items():
        ratio = result["times_faster_than"].get(name)
        table.add_row(name, f"{speed:,.0f}", "" if ratio is None else f"{ratio:.2f}")
    console.print(table)
    bound = result["floor"]
    console.print(
        f"floor: {bound['images_per_second']:,.0f} images a second, by {bound['operations'] / 1e6:.0f} million "
        f"operations a step at {bound['gflops']:.0f} GFLOP/s ({bound['products_ms']:.2f} ms) and uniforms "
        f"({bound['uniforms_ms']:.2f} ms); zoo has {100 * result['share_of_floor']:.0f}% of it"
    )
