"""Does a heavier KL give every factor of the data a latent dimension of its own? The β-VAE on sprites.

Higgins et al. (2017), "beta-VAE", weigh the bound's KL by β; Chen, Li, Grosse & Duvenaud (2018), "Isolating sources of
disentanglement", equation 6, measure the outcome by the mutual information gap (MIG): the share of a factor's entropy
that the best latent dimension knows, less the second best's, mean over factors. The data are the package's own sprites,
every combination of shape, scale, rotation and place once, so no published figure belongs to them; both β are run with
the same seeds, pixels drawn anew as 0 or 1 from their greys for every batch.

Quick: 150 epochs, by which at β = 1 some seeds have found the use of three units and some of eight. Full: 1500 epochs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data._sprites import FACTORS, SIDE, sprites
from zoo.models.vae import VAE
from zoo.reporting.page import array
from zoo.reporting.samples import plot_sheet
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._rows import each_by_itself, fit
from zoo.runs.result import Fit
from zoo.scores.bounds import bound_parts
from zoo.scores.codes import active_units
from zoo.scores.disentanglement import mutual_information_gap

ABOUT = "beta-VAE on sprites: mutual information gap (Chen et al. 2018) at beta = 1 and 4, five seeds each"
ON_DEVICE = True

PUBLISHED: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        betas, seeds: every one with every other. epochs, batch_size, rate (Adam's, falling along a cosine).
        latent_dim, hidden_dims: of the model. samples: draws for each entropy of the MIG.
        every: of so many sprites one is taken.
    """

    betas: tuple[float, ...] = (1.0, 4.0)
    seeds: int = 5
    epochs: int = 150
    batch_size: int = 50
    rate: float = 1e-3
    latent_dim: int = 10
    hidden_dims: tuple[int, ...] = (256, 256)
    samples: int = 2000
    every: int = 1


SETTINGS: dict[str, Setting] = {"quick": Setting(), "full": Setting(epochs=1500)}


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train β-VAEs and measure their codes; the figure walks along the latent dimensions of the first seed's."""
    setting = SETTINGS[budget]
    images, factors = (torch.as_tensor(array)[:: setting.every] for array in sprites())
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    gaps: dict[float, list[float]] = {beta: [] for beta in setting.betas}
    shown: dict[str, VAE] = {}

    def measured(run: tuple[int, float], say: Callable[[str], None]) -> tuple[dict[str, Any], Fit]:
        each, beta = run
        began = time.perf_counter()
        model = VAE(images.shape[1], setting.latent_dim, setting.hidden_dims, beta=beta, binarization="dynamic")
        fitted = fit(
            model,
            images,
            estimator="svi",
            seed=each,
            max_epochs=setting.epochs,
            batch_size=setting.batch_size,
            learning_rate=setting.rate / VAE.step,
            warmup=0,
        )
        assert isinstance(fitted.model, VAE)
        name = f"MIG, beta={beta:g}, seed {each}"
        row = {"name": name, **measure(fitted.model, images, factors, setting)}
        row["seconds"] = time.perf_counter() - began
        row["note"] = f"{row['active_units']} of {setting.latent_dim} units active, bound {row['bound']:.2f}"
        say(f"{name}: {row['value']:.3f}, {row['note']}, {row['seconds']:.0f} s")
        fitted.x = None
        return row, fitted

    every = [(each, beta) for each in range(seed, seed + setting.seeds) for beta in setting.betas]
    for (_, beta), (row, fitted) in each_by_itself(measured, every, say):
        assert isinstance(fitted.model, VAE)
        shown.setdefault(f"β = {beta:g}", fitted.model)
        gaps[beta].append(row["value"])
        rows.append(row)
        curve += learning_curve(row["name"], fitted, len(images))
    for beta, found in gaps.items():
        spread = f"{min(found):.3f} to {max(found):.3f} over {len(found)} seeds"
        rows.append({"name": f"MIG, beta={beta:g}, median", "value": statistics.median(found), "note": spread})
    return {
        "setting": vars(setting),
        "rows": rows,
        "curve": curve,
        "figure": lambda path: draw_traversals(shown, images[len(images) // 2], path),
    }


@torch.no_grad()
def measure(model: VAE, images: Tensor, factors: Tensor, setting: Setting) -> dict[str, Any]:
    """MIG (value) with each factor's gap; active units; bound and its parts without β, nats an image."""
    images = images.to(next(model.parameters()).device)
    q = model.encode(images)
    found = mutual_information_gap(q.mean, q.stddev, factors, num_samples=setting.samples)
    parts = bound_parts(model, images)
    return {
        "value": found.mig,
        "gaps": {name: float(gap) for name, gap in zip(FACTORS, found.gaps, strict=True)},
        "active_units": active_units(model, images).num_active,
        "bound": parts["reconstruction"] - parts["kl"],
        "reconstruction": parts["reconstruction"],
        "kl": parts["kl"],
    }


@torch.no_grad()
def draw_traversals(models: dict[str, VAE], start: Tensor, path: Path, steps: int = 9, reach: float = 2.5) -> Path:
    """A PNG with a band a model: each row moves one latent dimension of an image's code from -reach to reach.

    Dimensions are in the order of their KL at that image's code, the busiest first; the last ones are not in use.
    """
    rows, labels = [], []
    for label, model in models.items():
        q = model.encode(start.unsqueeze(0).to(next(model.parameters()).device))
        code, spread = q.mean[0], q.stddev[0]
        for dimension in (spread.square() + code.square() - 1 - 2 * spread.log()).argsort(descending=True).tolist():
            walk = code.repeat(steps, 1)
            walk[:, dimension] = torch.linspace(-reach, reach, steps)
            rows.append(array(model.decode(walk).unflatten(-1, (SIDE, SIDE))))
            labels.append(f"{label}, z{dimension}")
    return plot_sheet(rows, path, labels=labels, bands=len(rows) // len(models))
