"""What does an autoencoder learn that is to give back what was spoilt?

Two answers. Of a density in the plane: after a little Gaussian noise the way from a point to its reconstruction points
to where the density rises, (reconstruction - x) / σ² ≈ ∇ ln p(x). The picture has that field beside the true one, of a
mixture of Gaussians, whose gradient is known. Of handwritten digits: what the units of an over-complete code look at,
without noise and with a quarter of the points masked, and what is made of digits that were spoilt.

    python examples/denoising_autoencoder.py --out denoising.png

prints how far the field is off, and draws both, in about 20 seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import zoo

#: Standard deviation of the noise, in units of each feature's own.
SIGMA = 0.2


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print, return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, help="draw the picture here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    if options.smoke:
        options.epochs = 2
    mixture = density()
    fit = fitted(mixture, options.epochs)
    at = draws(mixture, 1000, seed=1)
    found, true = fit.model.score_function(at), true_score(mixture, at)
    off = float((found - true).square().mean().sqrt() / true.square().mean().sqrt())
    digits = zoo.load_data("digits")
    coded = {
        noise: zoo.fit(
            zoo.DenoisingAutoencoder(64, (100,), noise=noise, tied=True, white=16.0),
            digits,
            estimator="svi",
            max_epochs=options.epochs,
            progress=None,
        )
        for noise in (0.0, 0.25)
    }
    figures = {"field off by": off} | {
        f"nats a digit, noise {noise:g}": one.history["denoising"][-1] / len(digits) for noise, one in coded.items()
    }
    for name, value in figures.items():
        Console().print(f"{name:<28}{value:8.3f}")
    if options.out is not None:
        picture(mixture, fit, coded, options.out)
    return figures


def density() -> Any:
    """A mixture of three Gaussians in the plane."""
    model = zoo.GaussianMixture(num_components=3, num_features=2)
    model.weights = torch.tensor([0.4, 0.3, 0.3])
    model.means = torch.tensor([[-1.6, -0.8], [1.6, -0.8], [0.0, 1.6]])
    model.covariances = torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.4, -0.2], [-0.2, 0.5]], [[0.7, 0.0], [0.0, 0.3]]])
    return model


def draws(mixture: Any, n: int, seed: int) -> Tensor:
    """Points of it, (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.multinomial(mixture.weights.detach(), n, replacement=True, generator=generator)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    factors = torch.linalg.cholesky(mixture.covariances.detach())
    return mixture.means.detach()[z] + (factors[z] @ noise.unsqueeze(-1)).squeeze(-1)


def fitted(mixture: Any, epochs: int) -> zoo.Fit:
    """An autoencoder of draws of it, by squared error, after Gaussian noise."""
    x = draws(mixture, 8000, seed=0)
    model = zoo.DenoisingAutoencoder(2, (64, 64), corruption="gaussian", noise=SIGMA, likelihood="gaussian")
    return zoo.fit(model, x, estimator="svi", max_epochs=epochs, batch_size=256, learning_rate=0.3, progress=None)


def true_score(mixture: Any, x: Tensor) -> Tensor:
    """∇ ln p(x), (N, 2), by differentiating the exact ln p(x)."""
    at = x.double().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(mixture.log_marginal(at).sum(), at)
    return gradient


def picture(mixture: Any, fit: zoo.Fit, coded: dict[float, zoo.Fit], path: Path) -> None:
    """The two fields, filters without noise and with it, digits spoilt and mended."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 9.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    line = torch.linspace(-3.6, 3.6, 21)
    at = torch.cartesian_prod(line, line)
    near = mixture.log_marginal(at.double()).detach() > -5.5
    fields = {
        "true: the gradient of ln p": true_score(mixture, at),
        "(reconstruction - x) / σ²": fit.model.score_function(at),
    }
    axes = upper.subplots(1, 2, sharex=True, sharey=True)
    x = draws(mixture, 600, seed=2)
    for ax, (name, field) in zip(axes, fields.items(), strict=True):
        ax.scatter(x[:, 0], x[:, 1], s=3, color="#b8c0cc", linewidths=0)
        ax.quiver(*at[near].T, *field[near].T, color="#0072b2", angles="xy", scale_units="xy", scale=12, width=0.004)
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_aspect("equal")
    digits = zoo.load_data("digits")[:12]
    plain, mended = coded[0.0].model.filters(), coded[0.25].model.filters()
    spoilt = coded[0.25].model.corrupt(digits)
    rows = {
        "filters,\nno noise": plain[:12],
        "filters,\na quarter\nmasked": mended[:12],
        "digits": digits,
        "spoilt": spoilt,
        "mended": coded[0.25].model.reconstruct(spoilt),
    }
    ax = lower.subplots()
    ax.imshow(torch.cat([strip(images) for images in rows.values()]).numpy(), cmap="Greys")
    ax.set_xticks([])
    ax.set_yticks([9 * k + 3.5 for k in range(len(rows))], list(rows))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure.savefig(path, dpi=130)


def strip(images: Tensor) -> Tensor:
    """Images (M, 64) side by side, (9, 9 M), each from 0 to 1 and with a white edge."""
    low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    grey = ((images - low) / (high - low)).reshape(-1, 8, 8)
    return torch.nn.functional.pad(grey, (0, 1, 0, 1)).transpose(0, 1).reshape(9, -1)


if __name__ == "__main__":
    main()
