"""The lower half of a digit from its upper half, through layers of coin tosses.

A deterministic network blurs what the upper half leaves open; a stochastic binary network (Raiko et al. 2015) tosses
its hidden units and commits itself. Its likelihood is a sum over all states of two layers, estimated with many draws.
The first row does not look at the upper half at all: every pixel of the lower one by its own frequency.

By default 1797 digits of 8 x 8 pixels, cut at one half, with layers of 32 bits; with files at hand (ZOO_DATA),
--data binarized_mnist is 392-200-200-392 of Jang et al. (2017), scored with 1000 draws, and --categories 10 their
392-(20x10)-(20x10)-392 (theirs, table 1, in nats: score function 73.1, Gumbel softmax 59.0).

    python examples/stochastic_binary_network.py [--out stochastic_binary_network.png]

prints, in about 2 minutes (nats per image, 300 held-out digits; seed 0):

    ┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┓
    ┃                               ┃ -ln p(lower | upper) ┃ one draw ┃
    ┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━┩
    │ pixels by themselves          │ 12.61                │          │
    │ score function, 8 draws       │ 11.74 ± 0.001        │ 11.94    │
    │ VIMCO, 8 draws                │ 10.03 ± 0.005        │ 13.49    │
    │ Gumbel softmax                │ 10.17 ± 0.003        │ 10.76    │
    │ straight-through              │ 10.28 ± 0.002        │ 10.77    │
    │ straight-through, recognition │ 9.79 ± 0.001         │ 10.02    │
    └───────────────────────────────┴──────────────────────┴──────────┘
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.models.stochastic_binary_network import halves
from zoo.reporting.samples import plot_sheet
from zoo.scores.importance import importance_nll

#: What to train: a label, the estimator, its options, and arguments of the network.
RUNS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("score function, 8 draws", "reinforce", {"num_particles": 8}, {}),
    ("VIMCO, 8 draws", "iwae", {"num_particles": 8}, {}),
    ("Gumbel softmax", "gumbel", {"final_temperature": 0.5}, {}),
    ("straight-through", "st_gumbel", {"final_temperature": 0.5}, {}),
    ("straight-through, recognition", "st_gumbel", {"final_temperature": 0.5}, {"recognition": True}),
)


def images(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary images for training and for scores."""
    if name == "binarized_mnist":
        parts = zoo.load_data(name), zoo.load_data(name, split="test")
        assert isinstance(parts[0], torch.Tensor)
        assert isinstance(parts[1], torch.Tensor)
        return parts[0], parts[1]
    digits = zoo.load_data("digits")
    assert isinstance(digits, torch.Tensor)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    binary = (digits > 8).float()
    return binary[300:], binary[:300]


def draw(fit: zoo.Fit, upper: torch.Tensor, lower: torch.Tensor, path: Path) -> None:
    """Fifteen digits: whole, what the network saw, three lower halves that it drew, and the mean of a hundred."""
    seen, side = upper[:15], round((2 * upper.shape[1]) ** 0.5)
    drawn = torch.stack([fit.sample(given=seen, seed=number) for number in range(100)])
    halves_below = [lower[:15], torch.full_like(seen, torch.nan), *drawn[:3], drawn.mean(0)]
    rows = [torch.cat([seen, below], 1).reshape(-1, side, side).numpy() for below in halves_below]
    plot_sheet(rows, path, labels=["data", "upper half", "the rest drawn", "again", "and again", "mean of 100"], gap=2)


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Train, print a table; return the figures (nats per image, held out)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "binarized_mnist"), default="digits")
    parser.add_argument("--categories", type=int, default=2, help="values of each variable: 2 for bits")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--samples", type=int, default=1000, help="draws an image for the likelihood")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="draw lower halves here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)

    x, held_out = images(options.data)
    units = 20 if options.categories > 2 else 200 if options.data == "binarized_mnist" else 32
    if options.smoke:
        x, held_out, options.epochs, options.samples = x[:200], held_out[:50], 3, 50
    train, test = halves(x), halves(held_out)
    alone = torch.distributions.Bernoulli(train[1].mean(0).clamp(1e-3, 1 - 1e-3)).log_prob(test[1]).sum(-1).mean()
    metrics: dict[str, float] = {"pixels alone": -float(alone)}
    table = Table("", "-ln p(lower | upper)", "one draw")
    table.add_row("pixels by themselves", f"{-float(alone):.2f}", "")
    for label, estimator, settings, arguments in RUNS[:3] if options.smoke else RUNS:
        model = zoo.StochasticBinaryNetwork(
            train[0].shape[1], train[1].shape[1], (units, units), options.categories, **arguments
        )
        fit = zoo.fit(
            model,
            train,
            estimator=estimator,
            seed=options.seed,
            max_epochs=options.epochs,
            batch_size=50,
            warmup=0,
            learning_rate=0.04,
            progress=None,
            **settings,
        )
        score = importance_nll(fit.model, test, options.samples)
        table.add_row(label, f"{score.nll:.2f} ± {score.se:.3f}", f"{score.elbo:.2f}")
        metrics |= {f"{label}: nll": score.nll, f"{label}: bound": score.elbo}
    Console(width=110).print(table)
    if options.out:
        draw(fit, *test, options.out)
    return metrics


if __name__ == "__main__":
    main()
