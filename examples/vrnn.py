"""What does resampling buy? One recurrent network with latents, trained by three bounds and scored by all of them.

A variational recurrent network (Chung et al. 2015) reads and writes images of digits row by row: eight steps of eight
pixels, black or white. The plain bound takes one path of latents a sequence; the importance-weighted bound (Burda et
al. 2016) the mean of the weights of several; the filtering bound (Maddison et al. 2017) weighs them step by step and
lets the likely ones go on. On one model each of these is at least as tight as the one before, in this order.

The picture has images from the held-out part, what the network makes of them, images of its own, and, below the upper
halves of the first row, what it goes on with: half an image is read, the rest is drawn (``fit.forecast``).

    python examples/vrnn.py --out figures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.core.particles import particle_bound
from zoo.reporting.samples import plot_sheet

PARTICLES = 8


def images(smoke: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as sequences of rows, for training and for scores, (N, 8, 8) of 0 and 1."""
    digits = zoo.load_data("digits")
    assert isinstance(digits, torch.Tensor)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    x = (digits[order].reshape(-1, 8, 8) > 7).float()
    return (x[40:200], x[:40]) if smoke else (x[300:], x[:300])


def bounds(model: zoo.VRNN, x: torch.Tensor) -> dict[str, float]:
    """Minus each bound on held-out images, nats per image."""
    data = model.prepare(x)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = model.elbo_parts(**data, num_particles=PARTICLES)[0]
        weighted = particle_bound(model, data, PARTICLES, threshold=0.0).bound
        filtered = particle_bound(model, data, PARTICLES).bound
    return {"-ELBO": -float(plain.mean()), "-IWAE": -float(weighted.mean()), "-FIVO": -float(filtered.mean())}


def draw(fit: zoo.Fit, x: torch.Tensor, path: Path) -> None:
    """Fifteen images a row: the data, their reconstructions, draws, and draws that go on from the upper halves."""
    seen, many = x[:15], 15
    going_on = fit.forecast(seen[:, :4], 4, num_samples=2, seed=1)
    rows = [seen, fit.model.reconstruct(seen), fit.sample(many, seed=1)]
    rows += [torch.cat([seen[:, :4], drawn], 1) for drawn in going_on]
    labels = ["data", "reconstruction", "samples", "upper half read,", "the rest drawn"]
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_sheet([row.numpy() for row in rows], path, labels=labels, gap=2)


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Train, print a table, perhaps draw; return the figures (nats per image, held out)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for vrnn.png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)

    x, held_out = images(options.smoke)
    epochs = 2 if options.smoke else options.epochs
    common = {"seed": options.seed, "max_epochs": epochs, "batch_size": 64}
    metrics: dict[str, float] = {}
    table = Table("trained by", "-ELBO", "-IWAE", "-FIVO", title=f"{PARTICLES} particles, nats per image")
    for estimator in ("svi", "iwae", "fivo"):
        settings = {} if estimator == "svi" else {"num_particles": 4}
        model = zoo.VRNN(8, latent_dim=8, hidden_dim=32)
        fit = zoo.fit(model, x, estimator=estimator, **common, **settings)
        found = bounds(fit.model, held_out)
        table.add_row(estimator, *(f"{value:.2f}" for value in found.values()))
        metrics |= {f"{estimator}: {name}": value for name, value in found.items()}
        if options.out and estimator == "fivo":
            draw(fit, held_out, options.out / "vrnn.png")
    Console(width=80).print(table)
    if options.out:
        print(f"drawn: {options.out / 'vrnn.png'}")
    return metrics


if __name__ == "__main__":
    main()
