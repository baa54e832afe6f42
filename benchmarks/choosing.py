"""Which estimator, for which model and size? Every estimator that suits, on models and data of several kinds.

    zoo bench choosing [--quick] [--out FILE]

All of a group go from the same start, by their defaults, one thread, one after the other. A row says how far the fit
ends below the best of its group, in nats a datum (of the exact ln p(x) where it is known, else of the
importance-weighted bound), and its time over the fastest's. The site's page is printed from the recorded run: an
estimator is *as good as the best* where it ends within a hundredth of a nat a datum of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import zoo
from benchmarks._parts import kept
from zoo.core.data import Data
from zoo.core.isolation import isolated, threads
from zoo.runs.variants import Variant

#: Nats a datum within which a fit is as good as the best.
CLOSE = 0.01


class Group(NamedTuple):
    """A model on data, and who is to fit it; ``options`` are for all."""

    title: str
    made: Callable[[], tuple[zoo.LatentVariableModel, Data]]
    estimators: tuple[str, ...]
    options: Mapping[str, Any] = MappingProxyType({})


def blobs(rows: int, features: int, clusters: int) -> Tensor:
    """Rows of so many Gaussians, a few standard deviations apart."""
    with isolated(0):
        centres = 3.0 * torch.randn(clusters, features, dtype=torch.float64)
        return centres[torch.randint(clusters, (rows,))] + torch.randn(rows, features, dtype=torch.float64)


def chains(sequences: int, steps: int) -> Tensor:
    """Sequences of a chain of four states that stays where it is nine times in ten."""
    with isolated(0):
        truth = zoo.GaussianHMM(4, 2)
        truth.transition_probs = torch.eye(4) * 0.9 + 0.1 / 3 * (1 - torch.eye(4))
        truth.means = 3.0 * torch.randn(4, 2)
        return truth.sample(sequences, steps)


#: Those whose E step is exact or summed, and those that sample.
DISCRETE = ("em", "hard_em", "online_em", "auto_em", "eg", "svi", "gumbel", "st_gumbel", "reinforce", "iwae", "rws")
SAMPLED = ("svi", "reinforce", "iwae", "rws")
GROUPS = (
    Group(
        "Gaussian mixture, iris, 150 × 4, K = 3", lambda: (zoo.GaussianMixture(3, 4), zoo.load_data("iris")), DISCRETE
    ),
    Group(
        "Gaussian mixture, 20 000 × 8, K = 5",
        lambda: (zoo.GaussianMixture(5, 8), blobs(20_000, 8, 5)),
        ("em", "hard_em", "online_em", "eg", "svi", "gumbel", "rws"),
        {"max_seconds": 60.0},
    ),
    Group(
        "Poisson mixture, earthquakes, 107 × 1, K = 2",
        lambda: (zoo.PoissonMixture(2, 1), zoo.load_data("earthquakes")),
        DISCRETE,
    ),
    Group(
        "Poisson HMM, earthquakes, 1 × 107, K = 3",
        lambda: (zoo.PoissonHMM(3, 1), zoo.load_data("earthquakes")),
        ("em", "hard_em", "auto_em", "eg", "svi", "gumbel", "reinforce", "iwae", "rws"),
        {"max_seconds": 60.0},
    ),
    Group(
        "Gaussian HMM, 200 × 50 × 2, K = 4",
        lambda: (zoo.GaussianHMM(4, 2), chains(200, 50)),
        ("em", "hard_em", "online_em", "eg", "svi"),
        {"max_seconds": 60.0},
    ),
    Group(
        "Factor analysis, wine, 178 × 13, 2 factors",
        lambda: (zoo.FactorAnalysis(2, 13), zoo.load_data("wine")),
        ("em", "online_em", "eg", *SAMPLED),
    ),
    Group(
        "CTC, noisy strings of symbols",
        lambda: _sized("ctc", "symbol_strings"),
        ("eg", "svi", "reinforce", "iwae"),
        {"max_seconds": 60.0},
    ),
    Group(
        "VAE, digits, 1797 × 64, 8 latents",
        lambda: (
            zoo.VAE(64, latent_dim=8, hidden_dims=(100,), white=16.0, binarization="dynamic"),
            zoo.load_data("digits"),
        ),
        SAMPLED,
        {"max_epochs": 60},
    ),
    Group(
        "VAE of 20 bits, digits, 1797 × 64",
        lambda: (
            zoo.CategoricalVAE(64, 20, 2, hidden_dims=(100,), white=16.0, binarization="dynamic"),
            zoo.load_data("digits"),
        ),
        ("gumbel", "st_gumbel", "reinforce", "iwae", "rws"),
        {"max_epochs": 60},
    ),
)


def _sized(model: str, data: str) -> tuple[zoo.LatentVariableModel, Data]:
    """A model whose sizes are read off a data set."""
    from zoo.runs.making import made

    return made(model, data, {}, None)


def run(quick: bool = False) -> dict[str, Any]:
    """Fits, prints and returns one entry a group: its rows by estimator.

    Args:
        quick: the first group only, few steps.
    """
    found = []
    with threads(0):
        for group in GROUPS[:1] if quick else GROUPS:
            rows = measured(group, {"max_epochs": 5} if quick else {})
            found.append(kept(group.title, {"title": group.title, "rows": rows}))
            print(json.dumps(found[-1], indent=1), flush=True)
    return {"close": CLOSE, "groups": found}


def measured(group: Group, few: dict[str, Any]) -> list[dict[str, Any]]:
    """A row an estimator, in the order in which they are asked for."""
    model, x = group.made()
    iterates = ("em", "hard_em", "online_em", "auto_em")  # these count iterations, not epochs
    variants = {
        name: {k: v for k, v in {**group.options, **few}.items() if k == "max_seconds" or name not in iterates}
        for name in group.estimators
    }
    budget = group.options.get("max_seconds")
    asked = [Variant(n, n, {k: v for k, v in options.items() if k != "max_seconds"}) for n, options in variants.items()]
    comparison = zoo.compare(model, x, estimators=asked, gradients=False, max_seconds=budget, seeds=1)
    scores = {this.label: comparison.score(this) for this in comparison.fits}
    best, fastest = max(s for s in scores.values() if s is not None), min(this.seconds for this in comparison.fits)
    rows = []
    for this in comparison.fits:
        score = scores[this.label]
        below = None if score is None else (best - score) / comparison.num_data
        rows.append(
            {
                "estimator": this.label,
                "below_best": below,
                "times_fastest": this.seconds / max(fastest, 1e-3),
                "seconds": this.seconds,
                "iterations": this.iterations,
                "status": this.status,
            }
        )
    return rows
