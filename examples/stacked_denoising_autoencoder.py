"""Does it help a net of three layers to have looked at digits without their labels first?

Three nets of sigmoid layers learn ten classes from few labelled digits of 8 x 8 points: one as drawn, one whose layers
were plain autoencoders before, one whose layers had to mend codes of which a tenth was masked. The layers are learned
one by one, from below, and each keeps the decoder it was learned with only until the next.

    python examples/stacked_denoising_autoencoder.py --out filters.png

prints the test errors, in about 20 seconds, and draws what units of the first layer look at.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import zoo

STARTS = {
    "as drawn": {"noise": 0.0, "pretraining_epochs": 0},
    "stacked autoencoders": {"noise": 0.0, "pretraining_epochs": 400},
    "stacked denoising": {"noise": 0.1, "pretraining_epochs": 400},
}


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print the table, return the errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=int, default=500, help="digits to train on")
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--out", type=Path, help="draw the picture here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    if options.smoke:
        options.epochs = 2
    x, y = zoo.load_data("digits", labels=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[: options.labelled], order[options.labelled :]
    errors, nets = dict[str, float](), dict[str, zoo.Fit]()
    for name, start in STARTS.items():
        start = {**start, "pretraining_epochs": min(start["pretraining_epochs"], 2)} if options.smoke else start
        model = zoo.StackedDenoisingAutoencoder(64, (100, 100, 100), num_classes=10, white=16.0, **start)
        nets[name] = zoo.fit(
            model, (x[train], y[train]), estimator="eg", max_epochs=options.epochs, learning_rate=0.06, progress=None
        )
        errors[name] = 100 * float((nets[name].predict(x[test]) != y[test]).double().mean())
    table = Table("layers start", "test error, %", "seconds", title=f"digits, {options.labelled} of them labelled")
    for name, error in errors.items():
        table.add_row(name, f"{error:.2f}", f"{nets[name].seconds:.1f}")
    Console().print(table)
    if options.out is not None:
        picture(nets, options.out)
    return errors


def picture(nets: dict[str, zoo.Fit], path: Path) -> None:
    """The first filters of each net, a row each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    ax = figure.subplots()
    strips = [
        torch.nn.functional.pad(fit.model.filters()[:12].reshape(-1, 8, 8), (0, 1, 0, 1)) for fit in nets.values()
    ]
    sheet = torch.cat([(strip / strip.abs().max()).transpose(0, 1).reshape(9, -1) for strip in strips])
    ax.imshow(sheet.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_xticks([])
    ax.set_yticks([9 * k + 3.5 for k in range(len(nets))], list(nets))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
