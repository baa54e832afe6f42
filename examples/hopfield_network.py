"""Which of four letters was this, when some of its points are wrong?

T, X, B and K on 5 x 5 points are stored in 25 units, by three rules and by a Boltzmann machine that has learned them
(`pcd`; its couplings are then used at temperature zero). X, K and the paper of B resemble each other, so that the
Hebbian rule, which only adds up, mixes them; the others tell them apart. Beside them a modern Hopfield network, which
keeps the letters themselves.

    python examples/hopfield_network.py --out recall.gif

prints, in about 10 seconds (seed 0), how many of 400 letters with so many points turned come back without an error. It
draws letters on their way back by the pseudo-inverse rule, as an animation, and beside it `recall.png`: how far from a
letter each memory still finds back.
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
from zoo.reporting.recalls import animate_recall, plot_basins
from zoo.scores.recall import flipped, recall_errors

TURNED = (1, 3, 5, 7)


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Store, recall, print a table, return the figures in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=100, help="states of each letter to recall from")
    parser.add_argument("--epochs", type=int, default=300, help="of the Boltzmann machine")
    parser.add_argument("--out", type=Path, help="write the animation here (.gif), and the picture (.png) beside it")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    if options.smoke:
        options.starts, options.epochs = 5, 5
    x = torch.as_tensor(zoo.load_data("letters"))
    memories: dict[str, Any] = {}
    for rule in ("hebbian", "storkey", "pseudo_inverse"):
        memories[rule] = zoo.fit(zoo.HopfieldNetwork(25, rule), x, progress=None).model
    learned = zoo.fit(
        zoo.BoltzmannMachine(25), x.repeat(25, 1), estimator="pcd", max_epochs=options.epochs, progress=None
    )
    cold = zoo.HopfieldNetwork(25)
    cold.couplings, cold.biases = learned.model.couplings, learned.model.biases
    memories["boltzmann machine"] = cold.eval()
    memories["modern"] = zoo.fit(
        zoo.ModernHopfieldNetwork.from_data(x), x, estimator="closed_form", progress=None
    ).model
    table = Table("memory", *(f"{k} turned" for k in TURNED), title="Letters that come back without an error, %")
    figures: dict[str, float] = {}
    for name, model in memories.items():
        torch.manual_seed(0)
        shares = [float((recall_errors(model, x, k / 25, options.starts) == 0).double().mean()) for k in TURNED]
        table.add_row(name, *(f"{100 * share:.0f}" for share in shares))
        figures |= {f"{name}, {k}": share for k, share in zip(TURNED, shares, strict=True)}
    Console().print(table)
    if options.out is not None:
        torch.manual_seed(2)
        animate_recall(memories["pseudo_inverse"], list(flipped(x, 0.24)), options.out)
        plot_basins(memories, x, options.out.with_suffix(".png"))
    return figures


if __name__ == "__main__":
    main()
