"""Quadrant completion (Sohn, Lee & Yan 2015, section 5.1): a conditional VAE beside the net that has no code.

Given the bottom left quarter of a digit (then the left half, then all but the bottom right), what are the other pixels?
The baseline is one network, pixels independent given what is seen; the conditional VAE has a latent code whose prior
has seen it too. Score: -ln p(y | x) of the hidden pixels of test images, nats; the conditional VAE's by importance
sampling, with its bound beside it.

Pixels are drawn to be 0 or 1, a grey being a probability: anew for every batch of training (dynamic binarisation), once
for the test images, before they are cut. Pyro's tutorial keeps grey targets under a Bernoulli, and scores its
validation split; how Sohn et al. made theirs binary we do not know. The levels compare roughly, the gaps well.

Quick: one quadrant given, ten epochs over all training images, scored on the first 1000 test images with 500 draws.
Full: one, two and three quadrants, 100 epochs, all test images with 1000 draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import load_data
from zoo.models.conditional_vae import ConditionalVAE, quadrants
from zoo.reproduce._neural import CACHED, trained
from zoo.reproduce._rows import each_by_itself
from zoo.scores.importance import importance_nll

ABOUT = "CVAE and a deterministic net: -ln p(hidden pixels | 1, 2, 3 quadrants of an MNIST digit)"

_SOHN = "Sohn, Lee & Yan (2015), table 1: recalled, not read"
_PYRO = "Pyro's tutorial on CVAE, read: grey targets, its validation split"


def _rows(name: str, values: tuple[float, float, float], source: str) -> list[dict[str, Any]]:
    return [
        {"name": name.format(given), "value": value, "source": source}
        for given, value in zip((1, 2, 3), values, strict=True)
    ]


PUBLISHED: list[dict[str, Any]] = [
    *_rows("baseline, {} given", (99.75, 62.18, 25.99), _SOHN),
    *_rows("CVAE, {} given", (63.91, 44.73, 20.95), _SOHN),
    *_rows("baseline, {} given, tutorial", (100.4, 61.9, 25.4), _PYRO),
    *_rows("CVAE's bound, {} given", (71.8, 51.0, 24.2), _PYRO),
]


@dataclass(frozen=True)
class Setting:
    """What a budget is.

    Attributes:
        given: how many quadrants are seen, one table row each.
        epochs: of each model. batch_size, rate (Adam's, falling along a cosine), width (two hidden layers), latent_dim.
        test_rows: the first so many test images are scored; None scores all.
        draws: an image, for the importance sampler.
        data: a data set with a split "test", or "digits", whose last 300 are held out.
    """

    given: tuple[int, ...] = (1,)
    epochs: int = 10
    batch_size: int = 100
    rate: float = 1e-3
    width: int = 500
    latent_dim: int = 50
    test_rows: int | None = 1000
    draws: int = 500
    data: str = "mnist"


SETTINGS: dict[str, Setting] = {
    "quick": Setting(),
    "full": Setting((1, 2, 3), epochs=100, test_rows=None, draws=1000),
}


def images(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Grey images to train on, (N, D) in [0, 1], and binary ones for scores."""
    if setting.data == "digits":
        whole = torch.as_tensor(load_data("digits")).float() / 16
        train, test = whole[:-300], whole[-300:]
    else:
        train = torch.as_tensor(load_data(setting.data)).float()
        test = torch.as_tensor(load_data(setting.data, split="test")).float()
    test = test[: setting.test_rows]
    return train, torch.bernoulli(test, generator=torch.Generator().manual_seed(seed))


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score both models for every number of quadrants; rows and learning curves."""
    setting = SETTINGS[budget]
    train, test = images(setting, seed)
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []

    def scored(which: tuple[int, str, int], say: Callable[[str], None]) -> tuple[Any, float, list[dict[str, Any]]]:
        given, kind, size = which
        began, (seen, hidden) = time.perf_counter(), quadrants(train, given)
        model = ConditionalVAE(
            seen.shape[1], hidden.shape[1], size, (setting.width, setting.width), binarization="dynamic"
        )
        fitted, bounds = trained(
            f"{kind}, {given} given",
            model,
            (seen, hidden),
            len(train),
            say,
            times=3,
            estimator="svi",
            seed=seed,
            max_epochs=setting.epochs,
            batch_size=setting.batch_size,
            learning_rate=setting.rate / ConditionalVAE.step,
            warmup=0,
        )
        draws = setting.draws if size else 1
        score = importance_nll(fitted.model, quadrants(test, given), draws, seed=seed, max_elements=CACHED)
        seconds = time.perf_counter() - began
        say(f"{kind}, {given} given: {score.nll:.2f} nats ({seconds:.0f} s)")
        return score, seconds, bounds

    sizes = {"baseline": 0, "CVAE": setting.latent_dim}
    every = [(given, kind, size) for given in setting.given for kind, size in sizes.items()]
    done = {(given, kind): found for (given, kind, _), found in each_by_itself(scored, every, say)}
    for given in setting.given:
        scores = {}
        for kind, size in sizes.items():
            name, (score, seconds, bounds) = f"{kind}, {given} given", done[given, kind]
            scores[kind] = score.nll
            note = f"± {score.data_se:.2f} over {score.num_data} test images"
            row = {"name": name, "value": score.nll, "data_se": score.data_se, "seconds": seconds, "note": note}
            if size:
                row |= {"monte_carlo_se": score.se, "draws": setting.draws}
                row["note"] = f"{note}; {setting.draws} draws each, ± {score.se:.3f}"
            rows.append(row)
            if size:
                rows.append({"name": f"CVAE's bound, {given} given", "value": score.elbo, "note": "minus the bound"})
            curve += bounds
        rows.append(
            {
                "name": f"baseline less CVAE, {given} given",
                "value": scores["baseline"] - scores["CVAE"],
                "note": "nats that a code is worth",
            }
        )
    return {"rows": rows, "curve": curve, "setting": vars(setting) | {"binarization": "dynamic"}}
