"""Burda, Grosse & Salakhutdinov (2016), table 1, one stochastic layer: what more samples in the bound buy on MNIST.

"Importance weighted autoencoders", https://arxiv.org/abs/1509.00519. 50 latents, two layers of 200 tanh units each way,
pixels drawn anew as 0 or 1 from their greys for every batch. The VAE climbs the mean of k log-weights, the IWAE the log
of the mean weight; at k = 1 they are the same. The measure is -ln p(x) of the test images by 5000 importance samples.

The quick budget has another schedule than the paper, :data:`SETTINGS`, and takes 5000 samples of some test images only:
all of them are scored with 100 samples, and the mean difference that 5000 make on the some is added.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import load_data
from zoo.models.vae import VAE
from zoo.reproduce._neural import likelihood, trained
from zoo.reproduce._rows import each_by_itself, taken
from zoo.scores.codes import active_units

ABOUT = "Burda et al. 2016, table 1, one layer: MNIST, dynamic binarisation, test -ln p(x) by 5000 samples, nats"
ON_DEVICE = True

_SOURCE = "Burda, Grosse & Salakhutdinov (2016), table 1"
PUBLISHED: list[dict[str, Any]] = [
    {"name": name, "value": value, "source": _SOURCE}
    for name, value in (
        ("VAE k=1", 86.76),
        ("VAE k=5", 86.47),
        ("VAE k=50", 86.35),
        ("IWAE k=5", 85.54),
        ("IWAE k=50", 84.78),
    )
]

#: Every row there is: name, estimator, k.
ROWS: tuple[tuple[str, str, int], ...] = (
    ("VAE k=1", "svi", 1),
    ("VAE k=5", "svi", 5),
    ("VAE k=50", "svi", 50),
    ("IWAE k=5", "iwae", 5),
    ("IWAE k=50", "iwae", 50),
)


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        rows: names out of :data:`ROWS`.
        epochs, batch_size, decay: the schedule, see :class:`zoo.core.schedule.Schedule`. rate: Adam's.
        scored: how many test images have ``samples`` draws for their -ln p(x); the others have ``few``.
    """

    rows: tuple[str, ...]
    epochs: int
    batch_size: int
    rate: float
    decay: str
    scored: int
    samples: int = 5000
    few: int = 100


SETTINGS: dict[str, Setting] = {
    "quick": Setting(("VAE k=1", "IWAE k=5"), epochs=80, batch_size=50, rate=2e-3, decay="cosine", scored=500),
    # Section 5: eight stages, the i-th (from 0) of 3^i epochs at 1e-3 * 10^(-i/7), batches of 20.
    "full": Setting(tuple(r[0] for r in ROWS), epochs=3280, batch_size=20, rate=1e-3, decay="stages", scored=10_000),
}


def images() -> tuple[Tensor, Tensor]:
    """Grey training images, and test images made binary by one draw that is always the same."""
    train, test = load_data("mnist"), load_data("mnist", split="test")
    assert isinstance(train, Tensor)
    assert isinstance(test, Tensor)
    return train, torch.bernoulli(test, generator=torch.Generator().manual_seed(0))


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score the budget's rows; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    train, test = images()
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []

    def trained_row(asked: tuple[str, str, int], say: Callable[[str], None]) -> tuple[dict[str, Any], Any]:
        name, estimator, k = asked
        began, cpu = time.perf_counter(), time.process_time()
        fitted, bounds = trained(
            name,
            VAE(train.shape[1], 50, (200, 200), activation="tanh", binarization="dynamic"),
            train,
            len(train),
            say,
            estimator=estimator,
            num_particles=k,
            max_epochs=setting.epochs,
            batch_size=setting.batch_size,
            learning_rate=setting.rate / VAE.step,
            decay=setting.decay,
            warmup=0,
            seed=seed,
        )
        found = likelihood(fitted.model, test, setting.samples, setting.scored, setting.few, seed)
        used = active_units(fitted.model, test)
        note = f"± {found['se']:.3f}, {used.num_active} of {len(used.active)} units active"
        row = {
            "name": name,
            "value": found.pop("nll"),
            **found,
            "active_units": used.num_active,
            **taken(fitted, began, cpu),
            "note": note,
        }
        say(f"{name}: {row['value']:.2f} {note}, {row['seconds']:.0f} s")
        return row, bounds

    for _, (row, bounds) in each_by_itself(trained_row, [row for row in ROWS if row[0] in setting.rows], say):
        rows.append(row)
        curve += bounds
    return {"setting": vars(setting), "rows": rows, "curve": curve}
