"""Jang, Gu & Poole (2017), table 1, categorical VAE: which gradient of discrete draws trains best.

"Categorical reparameterization with Gumbel-softmax", https://arxiv.org/abs/1611.01144. One matrix each way,
784-(20x10)-784, a learned prior, MNIST binarised once and for all (Larochelle & Murray 2011). The measure is the
paper's (section 4.2): the bound of 1000 samples a test image, -ln p(x) by importance sampling, samples made discrete.
Every estimator has the same epochs, the same draws a datum and step, and the learning rate out of one grid that served
the validation images best in shorter runs. The temperature falls from 1 to 0.5, the paper's lowest, over the run. The
paper used stochastic gradient descent with momentum, we use Adam.

The score function's baseline is here the mean of the other draws (Kool et al. 2019), newer than the paper. VIMCO, a row
of ours (Mnih & Rezende 2016), climbs the bound of several draws.

Beside the measure stands the bound of one sample, which may order the rows differently: a guide trained on relaxed
draws can suit discrete ones badly, while the decoder it trained is good. The learning curves of the Gumbel rows are of
the relaxed bound, which is no bound at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.data import load_data
from zoo.models.categorical_vae import CategoricalVAE
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._neural import CACHED, likelihood, teller
from zoo.reproduce._rows import each_by_itself, fit, taken
from zoo.runs.result import Fit
from zoo.scores.importance import importance_nll

ABOUT = (
    "Jang et al. 2017, table 1, categorical VAE: MNIST, fixed binarisation, test -ln p(x), 1000 discrete samples, nats"
)
ON_DEVICE = True

_SOURCE = "Jang, Gu & Poole (2017), table 1"
PUBLISHED: list[dict[str, Any]] = [
    {"name": name, "value": value, "source": _SOURCE}
    for name, value in (
        ("score function", 110.6),
        ("ST Gumbel", 107.8),
        ("Gumbel-softmax", 101.5),
        ("DARN", 128.8),
        ("MuProp", 107.0),
        ("straight-through", 110.9),
        ("annealed straight-through", 107.8),
    )
]

#: Section 4.2: the temperature starts at 1 and falls no lower than this.
LOWEST_TEMPERATURE = 0.5
#: Every row: name, estimator, options.
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("score function", "reinforce", {}),
    ("ST Gumbel", "st_gumbel", {"final_temperature": LOWEST_TEMPERATURE}),
    ("Gumbel-softmax", "gumbel", {"final_temperature": LOWEST_TEMPERATURE}),
    ("VIMCO (not in the paper)", "iwae", {}),
)


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        epochs, batch_size: the schedule; Adam's rate falls along a cosine.
        rates: what it may start at. search_epochs: of the shorter runs, one a rate, whose -ln p(x) on
            ``search_images`` validation images, by ``few`` draws each, chooses.
        draws: a datum and step, of every estimator.
        scored: how many test images have ``samples`` draws for their -ln p(x); the others have ``few``.
    """

    epochs: int
    search_epochs: int
    batch_size: int = 100
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    draws: int = 2
    scored: int = 500
    samples: int = 1000
    few: int = 100
    search_images: int = 1000


# The paper does not say how long it trained; "full" is four times as long.
SETTINGS: dict[str, Setting] = {
    "quick": Setting(epochs=10, search_epochs=2),
    "full": Setting(epochs=40, search_epochs=3, scored=10_000),
}


def images() -> tuple[Tensor, Tensor, Tensor]:
    """Binary images for training, validation and test."""
    parts = [load_data("binarized_mnist", split=split) for split in ("train", "valid", "test")]
    train, valid, test = (part for part in parts if isinstance(part, Tensor))
    return train, valid, test


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose every estimator's rate, train and score it; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    train, valid, test = images()
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []

    def trained_row(row: tuple[str, str, dict[str, Any]], say: Callable[[str], None]) -> tuple[dict[str, Any], Any]:
        name, estimator, options = row
        began, cpu = time.perf_counter(), time.process_time()
        tried: dict[float, float] = {}
        for rate in setting.rates:
            model = _fitted(name, estimator, options, rate, setting.search_epochs, setting, train, seed, say).model
            some = valid[: setting.search_images]
            tried[rate] = importance_nll(model, some, setting.few, seed=seed, max_elements=CACHED).nll
            say(f"{name}, rate {rate:g}: -ln p(x) of validation images {tried[rate]:.2f}")
        best = min(tried, key=lambda rate: tried[rate])
        fitted = _fitted(name, estimator, options, best, setting.epochs, setting, train, seed, say)
        found = likelihood(fitted.model, test, setting.samples, setting.scored, setting.few, seed)
        note = f"± {found['se']:.2f}, one sample {found['bound']:.2f}, rate {best:g}"
        made = {
            "name": name,
            "value": found.pop("nll"),
            **found,
            "estimator": estimator,
            "rate": best,
            "search": [{"rate": rate, "nll": value} for rate, value in tried.items()],
            **taken(fitted, began, cpu),
            "note": note,
        }
        say(f"{name}: {made['value']:.2f}, {note}, {made['seconds']:.0f} s")
        return made, learning_curve(name, fitted, len(train))

    for _, (made, bounds) in each_by_itself(trained_row, ROWS, say):
        rows.append(made)
        curve += bounds
    return {"setting": vars(setting), "rows": rows, "curve": curve}


def _fitted(
    name: str,
    estimator: str,
    options: dict[str, Any],
    rate: float,
    epochs: int,
    setting: Setting,
    train: Tensor,
    seed: int,
    say: Callable[[str], None],
) -> Fit:
    return fit(
        CategoricalVAE(train.shape[1], learned_prior=True),
        train,
        estimator=estimator,
        num_particles=setting.draws,
        max_epochs=epochs,
        batch_size=setting.batch_size,
        learning_rate=rate / CategoricalVAE.step,
        warmup=0,
        seed=seed,
        progress=teller(f"{name}, rate {rate:g}", epochs, len(train), say, 2),
        **options,
    )
