"""What do more samples buy? One variational autoencoder, trained by the plain bound and by importance-weighted ones.

Kingma & Welling's bound (2014) averages ln p(x, z) / q(z | x) over draws; Burda, Grosse & Salakhutdinov's (2016) takes
the logarithm of an average of K weights, and tightens as K grows. With the same draws a step, the first only spends
them on less noise. The table holds both against the negative log-likelihood of held-out images, estimated with many
draws, and says how many latent dimensions are in use (active units); a β above 1 trades them for a smaller KL.

By default 1797 digits of 8 x 8 pixels, grey levels being probabilities drawn anew at every step; with MNIST's files at
hand (ZOO_DATA), --data mnist is the setting of Burda et al., table 1, whose full schedule is
--epochs 3280 --batch-size 20 (there: VAE 86.8, IWAE 84.8 with K = 50).

    python examples/vae.py --out figures

prints, in about 2 minutes (nats per image, 300 held-out digits; seed 0):

    ┏━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━━━━━━━┳━━━━━━┳━━━━━━━━┓
    ┃                 ┃ -ln p(x)      ┃ -bound ┃ reconstruction ┃ KL   ┃ active ┃
    ┡━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━━━━━━━╇━━━━━━╇━━━━━━━━┩
    │ VAE, k = 1      │ 23.13 ± 0.001 │ 23.31  │ 18.49          │ 4.93 │ 10/10  │
    │ VAE, k = 8      │ 22.98 ± 0.001 │ 23.20  │ 18.25          │ 5.04 │ 10/10  │
    │ IWAE, k = 8     │ 22.85 ± 0.001 │ 23.52  │ 19.19          │ 4.54 │ 10/10  │
    │ two layers      │ 22.94 ± 0.001 │ 23.25  │ 18.37          │ 4.88 │ 27/30  │
    │ flow (iaf)      │ 23.08 ± 0.001 │ 23.21  │ 18.54          │ 4.68 │ 10/10  │
    │ β = 2           │ 24.23 ± 0.001 │ 24.75  │ 23.42          │ 1.33 │ 5/10   │
    │ β = 2, annealed │ 24.18 ± 0.001 │ 24.73  │ 23.43          │ 1.35 │ 5/10   │
    └─────────────────┴───────────────┴────────┴────────────────┴──────┴────────┘
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.scores.bounds import bound_parts
from zoo.scores.codes import active_units
from zoo.scores.importance import importance_nll

#: What to train: a label, the estimator and its options, and arguments of the model.
RUNS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("VAE, k = 1", "svi", {}, {}),
    ("VAE, k = 8", "svi", {"num_particles": 8}, {}),
    ("IWAE, k = 8", "iwae", {"num_particles": 8}, {}),
    ("two layers", "svi", {}, {"num_layers": 2}),
    ("flow (iaf)", "svi", {}, {"flow": "iaf"}),
    ("β = 2", "svi", {}, {"beta": 2.0}),
    ("β = 2, annealed", "svi", {"anneal_epochs": 50}, {"beta": 2.0}),
)


def images(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey images in [0, 1], for training and for scores."""
    if name == "mnist":
        parts = zoo.load_data("mnist"), zoo.load_data("mnist", split="test")
        assert isinstance(parts[0], torch.Tensor)
        assert isinstance(parts[1], torch.Tensor)
        return parts[0], parts[1]
    digits = zoo.load_data("digits")
    assert isinstance(digits, torch.Tensor)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    digits = digits[order].float() / 16
    return digits[300:], digits[:300]


def draw(model: Any, x: torch.Tensor, path: Path) -> None:
    """Ten images, their reconstructions, and ten draws from the prior, one row each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with torch.no_grad():
        rows = [x[:10], model.decode(model.encode(x[:10]).mean), model.decode(torch.randn(10, model.latent_dim))]
    side = round(x.shape[1] ** 0.5)
    figure, axes = plt.subplots(3, 10, figsize=(10, 3.2), layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        for cell, pixels in zip(line, row, strict=True):
            cell.imshow(pixels.reshape(side, side).numpy(), cmap="gray_r", vmin=0, vmax=1)
            cell.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Train, print a table, perhaps draw; return the figures (nats per image, held out)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--samples", type=int, default=5000, help="draws an image for the likelihood")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for vae.png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)

    x, held_out = images(options.data)
    if options.smoke:
        x, held_out, options.epochs, options.samples = x[:200], held_out[:50], 3, 50
    # A learning rate of 0.02 is Adam's 1e-3 for networks, see zoo.models.shared.neural.
    common = {"max_epochs": options.epochs, "batch_size": options.batch_size, "warmup": 0, "seed": options.seed}
    latent, widths = (50, (200, 200)) if options.data == "mnist" else (10, (200,))
    metrics: dict[str, float] = {}
    table = Table("", "-ln p(x)", "-bound", "reconstruction", "KL", "active")
    for label, estimator, settings, arguments in RUNS[:3] if options.smoke else RUNS:
        model = zoo.VAE(x.shape[1], latent, widths, activation="tanh", binarization="dynamic", **arguments)
        fit = zoo.fit(model, x, estimator=estimator, progress=None, **common, **settings)
        print(f"{label}: trained in {fit.seconds:.0f} s", flush=True)
        score = importance_nll(fit.model, held_out, options.samples)
        print(f"{label}: {score.nll:.2f} nats by {options.samples} draws an image", flush=True)
        parts = bound_parts(fit.model, held_out)
        used = active_units(fit.model, held_out)
        table.add_row(
            label,
            f"{score.nll:.2f} ± {score.se:.3f}",
            f"{score.elbo:.2f}",
            f"{-parts['reconstruction']:.2f}",
            f"{parts['kl']:.2f}",
            f"{used.num_active}/{len(used.active)}",
        )
        metrics |= {f"{label}: nll": score.nll, f"{label}: bound": score.elbo, f"{label}: active": used.num_active}
        if options.out and label == "VAE, k = 1":
            draw(fit.model, held_out, options.out / "vae.png")
    Console(width=110).print(table)
    if options.out:
        print(f"drawn: {options.out / 'vae.png'}")
    return metrics


if __name__ == "__main__":
    main()
