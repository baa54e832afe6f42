"""What do hidden units look at, and how good is the machine they make?

Digits of 8 x 8 points, cut to black and white. A machine of twelve hidden units is learned by chains that go on from
step to step (`pcd`), from the data anew (`cd`), and at several temperatures (`tempering`). With so few hidden units ln
Z is exact, which tells what annealed importance sampling is worth: from below and, run backwards, from above.

    python examples/restricted_boltzmann_machine.py --out digits.png

prints two tables, in about 15 seconds, and draws receptive fields and samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import zoo


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print tables, return the figures in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, help="draw the picture here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    if options.smoke:
        options.hidden, options.epochs = 4, 3
    x = zoo.load_data("digits")
    train, test = x[::2], x[1::2]
    model = zoo.RestrictedBoltzmannMachine.from_data(x, num_hidden=options.hidden)
    table = Table("estimator", "test nats an image", "seconds", title="exact log-likelihood")
    figures, console = dict[str, float](), Console()
    for estimator in ("pcd", "cd", "tempering"):
        fit = zoo.fit(model, train, estimator=estimator, max_epochs=options.epochs, progress=None)
        figures[estimator] = fit.score(test) / len(test)
        table.add_row(estimator, f"{figures[estimator]:.2f}", f"{fit.seconds:.1f}")
        if estimator == "pcd":
            kept = fit
    console.print(table)
    sums = Table("ln Z", "nats", "standard error", title="the sum over all states, three ways")
    sums.add_row("exact", f"{float(kept.model.log_partition().detach()):.3f}", "")
    for name, reverse in (("annealed", False), ("annealed backwards", True)):
        found = kept.model.annealed_log_partition(reverse=reverse)
        figures[name] = found.value
        sums.add_row(name, f"{found.value:.3f}", f"{found.standard_error:.3f}")
    figures["exact"] = float(kept.model.log_partition().detach())
    console.print(sums)
    if options.out is not None:
        draw(kept, options.out)
    return figures


def draw(fit: zoo.Fit, path: Path) -> None:
    """Receptive fields above, samples below."""
    from matplotlib.figure import Figure

    fields = fit.model.weights.detach().T[:12].reshape(-1, 8, 8)
    drawn = fit.sample(12).reshape(-1, 8, 8)
    figure = Figure(figsize=(9, 2.2), layout="constrained")
    axes = figure.subplots(2, 12)
    for row, images, name in ((0, fields, "weights"), (1, drawn, "samples")):
        for column in range(12):
            ax = axes[row, column]
            ax.set_axis_off()
            if column < len(images):
                high = float(images.abs().max())
                ax.imshow(images[column].numpy(), cmap="gray", vmin=-high if row == 0 else 0, vmax=high)
        axes[row, 0].set_title(name, fontsize=8, loc="left")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
