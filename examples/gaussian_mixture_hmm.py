"""Two regimes, or four?

A machine idles or works, and each regime shows as two kinds of reading, drawn anew at every step. A hidden Markov
model with one Gaussian a state needs four states to follow the shape of the readings, and then spends its transition
matrix on which kind follows which, where nothing is to be learned. With a mixture in each of two states the model
says what happens. Data are simulated: 60 + 60 sequences of different lengths.

    python examples/gaussian_mixture_hmm.py [--out gaussian_mixture_hmm.png]

prints, in about 15 seconds (seed 0):

    model           parameters   BIC       held out, nats a step   regime found
    2 states        11           35165.9   -3.8745                 63.4%
    3 states        20           32946.9   -3.5869                 98.0%
    4 states        31           32100.2   -3.4584                 98.9%
    2 states of 2   21           32020.3   -3.4574                 98.8%
    the truth                              -3.4534                 98.8%

Two states of two kinds score best with a third fewer parameters than four states. The start matters: it clusters rows,
so kinds of one regime that lie far apart, with another regime's between them, would want more restarts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo


def machine() -> zoo.GaussianMixtureHMM:
    """Either regime's kinds lie above one another, and idling leans towards working."""
    model = zoo.GaussianMixtureHMM(2, 2, 2)
    model.transition_probs = torch.tensor([[0.95, 0.05], [0.1, 0.9]], dtype=torch.float64)
    model.means = torch.tensor([[-2.5, -1.5], [-0.5, 1.5], [0.5, -1.5], [2.5, 1.5]], dtype=torch.float64)
    model.scale_tril = torch.full((4, 2), 0.9)
    model.mixture_weights = torch.tensor([[0.5, 0.5], [0.3, 0.7]], dtype=torch.float64)
    return model


def readings(model: zoo.GaussianMixtureHMM, num: int, length: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Regimes (N, T), -1 beyond a sequence's length, and the data."""
    regimes = [torch.distributions.Categorical(model.initial_probs).sample((num,))]
    for _ in range(length - 1):
        regimes.append(torch.distributions.Categorical(model.transition_probs[regimes[-1]]).sample())
    z = torch.stack(regimes, 1)
    kind = torch.distributions.Categorical(model.mixture_weights[z]).sample()
    means = model.means.detach()[2 * z + kind]
    lengths = torch.randint(length // 2, length + 1, (num,))
    z[torch.arange(length) >= lengths.unsqueeze(-1)] = -1
    return z, {"x": means + 0.9 * torch.randn_like(means), "lengths": lengths}


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print a table, return the figures in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--out", help="draw a sequence by its states here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    num, length, restarts = (10, 30, 1) if options.smoke else (60, options.length, 5)
    console = Console(width=110)
    metrics: dict[str, float] = {}

    torch.manual_seed(options.seed)
    truth = machine()
    _, x = readings(truth, num, length)
    z, new = readings(truth, num, length)
    steps, inside = int(new["lengths"].sum()), z >= 0
    models: list[tuple[str, Any]] = [
        ("2 states", zoo.GaussianHMM(2, 2)),
        ("3 states", zoo.GaussianHMM(3, 2)),
        ("4 states", zoo.GaussianHMM(4, 2)),
        ("2 states of 2", zoo.GaussianMixtureHMM(2, 2, 2)),
    ]
    table = Table("model", "parameters", "BIC", "held out, nats a step", "regime found", title="em, held-out sequences")
    for name, model in models:
        fit = zoo.fit(model, x, estimator="em", restarts=restarts, seed=options.seed, progress=None)
        score = float(fit.model.log_marginal(**new).sum().detach()) / steps
        # Several states may stand for a regime: each takes the one it meets most often.
        path = fit.model.predict(**new)[inside]
        found = sum(int(torch.bincount(z[inside][path == k], minlength=2).max()) for k in range(fit.model.num_states))
        assert fit.bic is not None
        table.add_row(name, str(fit.num_parameters), f"{fit.bic:.1f}", f"{score:.4f}", f"{found / steps:.1%}")
        metrics |= {f"{name}, bic": fit.bic, f"{name}, nats": score, f"{name}, found": found / steps}
    score = float(truth.log_marginal(**new).sum().detach()) / steps
    found = int((truth.predict(**new)[inside] == z[inside]).sum())
    table.add_row("the truth", "", "", f"{score:.4f}", f"{found / steps:.1%}")
    metrics |= {"the truth, nats": score, "the truth, found": found / steps}
    console.print(table)
    if options.out:
        fit.plot(path=options.out)
    return metrics


if __name__ == "__main__":
    main()
