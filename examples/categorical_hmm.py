"""Which rolls came from the loaded die?

The occasionally dishonest casino of Durbin, Eddy, Krogh & Mitchison (1998), Biological Sequence Analysis, section 3.2:
a fair die is exchanged for a loaded one (a six half of the time) with probability 0.05 before a roll, and taken back
with 0.1. Only the rolls are seen. BIC says how many dice are worth their parameters; the best path of the fitted model
is compared with that of the true one, which nobody can beat by much.

    python examples/categorical_hmm.py [--out categorical_hmm.png]

prints, in about 40 seconds (100 games of 100 rolls, totals in nats; seed 0):

    true model -17466.40, its best path right in 81.6% of rolls

    dice   log-likelihood   BIC
    1      -17587.58        35221.21
    2      -17461.07        35041.87
    3      -17454.59        35121.02

    estimator   log-likelihood   p(six), both dice   right   steps
    em          -17461.07        0.162, 0.509        81.6%   224
    hard_em     -17579.23        0.000, 0.473        56.4%   3
    eg          -17461.07        0.162, 0.509        81.6%   37

Two dice it is, and they are the casino's. hard_em stays where it started: with states that overlap so much, the best
path alone says too little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo

FAIR, LOADED = [1 / 6] * 6, [0.1] * 5 + [0.5]


def casino() -> zoo.CategoricalHMM:
    """The casino itself, met at any time of the night."""
    model = zoo.CategoricalHMM(2, 6)
    model.initial_probs = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    model.transition_probs = torch.tensor([[0.95, 0.05], [0.1, 0.9]], dtype=torch.float64)
    model.emission_probs = torch.tensor([FAIR, LOADED], dtype=torch.float64)
    return model


def rolls(model: zoo.CategoricalHMM, games: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice (games, length) and what they showed, (games, length, 1)."""
    dice = [torch.distributions.Categorical(model.initial_probs).sample((games,))]
    for _ in range(length - 1):
        dice.append(torch.distributions.Categorical(model.transition_probs[dice[-1]]).sample())
    z = torch.stack(dice, 1)
    return z, torch.distributions.Categorical(model.emission_probs[z]).sample().double().unsqueeze(-1)


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print two tables, return the figures in them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--games", type=int, default=100)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--out", help="draw a game by its dice here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    games, length = (8, 50) if options.smoke else (options.games, options.length)
    console = Console(width=110)
    metrics: dict[str, float] = {}

    torch.manual_seed(options.seed)
    truth = casino()
    z, x = rolls(truth, games, length)
    metrics["true_log_likelihood"] = float(truth.log_marginal(x).sum().detach())
    metrics["true_accuracy"] = float((truth.predict(x) == z).double().mean())
    console.print(f"{games} games of {length} rolls; true model {metrics['true_log_likelihood']:.2f} nats,")
    console.print(f"its best path right in {metrics['true_accuracy']:.1%} of rolls")

    table = Table("dice", "log-likelihood", "BIC", title="How many dice? (em)")
    for k in (1, 2, 3):
        model = zoo.CategoricalHMM(k, 6)
        fit = zoo.fit(model, x, estimator="em", restarts=1 if options.smoke else 3, seed=options.seed, progress=None)
        assert fit.log_likelihood is not None
        assert fit.bic is not None
        table.add_row(str(k), f"{fit.log_likelihood:.2f}", f"{fit.bic:.2f}")
        metrics[f"log_likelihood_{k}"], metrics[f"bic_{k}"] = fit.log_likelihood, fit.bic
    console.print(table)

    reference = zoo.fit(truth, x, estimator="em", init="current", max_iter=1, progress=None)  # which die is which
    table = Table("estimator", "log-likelihood", "p(six), both dice", "right", "steps", title="Two dice")
    for name in ("em", "hard_em", "eg"):
        epochs: dict[str, Any] = {"max_epochs": 20 if options.smoke else 1000} if name == "eg" else {}
        model = zoo.CategoricalHMM(2, 6)
        fit = zoo.align(zoo.fit(model, x, estimator=name, seed=options.seed, progress=None, **epochs), reference)
        fitted: Any = fit.model
        sixes = ", ".join(f"{v:.3f}" for v in fitted.emission_probs[:, 5].tolist())
        right = float((fitted.predict(x) == z).double().mean())
        assert fit.log_likelihood is not None
        table.add_row(name, f"{fit.log_likelihood:.2f}", sixes, f"{right:.1%}", str(fit.iterations))
        metrics |= {name: fit.log_likelihood, f"{name}_accuracy": right}
    console.print(table)
    if options.out:
        reference.plot(path=options.out)
    return metrics


if __name__ == "__main__":
    main()
