"""Which of twelve signs hold together, and which part?

The data were drawn from a machine on a grid of 3 x 4 whose couplings are known. The exact gradient (`eg`) sums over all
4096 states; chains of Gibbs sampling (`pcd`) do without that sum, and come to nearly the same couplings.

    python examples/boltzmann_machine.py --out couplings.png

prints, in about 15 seconds (seed 0), how far each estimate lies from the truth, and draws the three matrices.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data._spins import spin_couplings


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print a table, return the figures in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, help="draw the picture here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    if options.smoke:
        options.rows, options.epochs = 200, 5
    x = zoo.load_data("spins")[: options.rows]
    couplings = torch.tensor(spin_couplings())
    truth = zoo.BoltzmannMachine(12)
    truth.couplings, truth.biases = couplings, torch.zeros(12)
    figures = {"truth": float(truth.log_marginal(x).sum().detach())}
    table = Table("", "log-likelihood", "couplings off by (rms)", "seconds", title=f"{len(x)} draws of 12 signs")
    table.add_row("the truth", f"{figures['truth']:.1f}", "", "")
    found = {"truth": couplings}
    for estimator in ("eg", "pcd", "cd"):
        fit = zoo.fit(zoo.BoltzmannMachine(12), x, estimator=estimator, max_epochs=options.epochs, progress=None)
        away = float((fit.model.couplings - couplings).square().mean().sqrt())
        table.add_row(estimator, f"{fit.log_likelihood:.1f}", f"{away:.3f}", f"{fit.seconds:.1f}")
        figures[estimator], found[estimator] = float(fit.log_likelihood), fit.model.couplings
    Console().print(table)
    if options.out is not None:
        draw(found, options.out)
    return figures


def draw(found: dict[str, torch.Tensor], path: Path) -> None:
    """The couplings side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(found), 3.2), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, (name, couplings) in zip(axes, found.items(), strict=True):
        image = ax.imshow(couplings.detach().numpy(), vmin=-0.8, vmax=0.8, cmap="RdBu")
        ax.set(title=name, xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, label="coupling")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
