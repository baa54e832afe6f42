"""How short a tour of fourteen cities does a mean field come to, and how often to one at all?

Potts neurons that are cooled (Peterson & Söderberg 1989) beside the circuit of Hopfield & Tank (1985) and beside going
to the nearest city, on TSPLIB's burma14, whose shortest tour has length 3323.

    python examples/hopfield_tsp.py --out tour.png --animate cooling.gif

prints, in about 10 seconds (seed 0), how many of 100 starts came to a tour, and how long these are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.tsplib import load_cities
from zoo.densities.tours import shortest, tour_lengths
from zoo.reporting.tours import animate_tour, places, plot_tour
from zoo.scores.tours import nearest_neighbour, two_opt


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Solve, print a table, return the figures in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", default="burma14", help="a named problem or a file of TSPLIB's")
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--out", type=Path, help="draw the tour here")
    parser.add_argument("--animate", type=Path, help="draw how one start is cooled here, a .gif")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of starts")
    options = parser.parse_args(args)
    if options.smoke:
        options.starts = 5
    cities = load_cities(options.problem)
    distances = torch.tensor(cities.distances)
    model = zoo.HopfieldTSP(num_cities=len(distances))
    optimum = float(shortest(distances)) if len(distances) <= 16 else None
    tour = torch.full((len(distances),), -1)
    figures = {} if optimum is None else {"shortest": optimum}
    table = Table("", "tours", "shortest", "median", title=f"{cities.name}: {options.starts} starts")
    for dynamics in ("potts", "hopfield_tank"):
        found = model.solve(distances, starts=options.starts, dynamics=dynamics)
        lengths, share = found.lengths[found.valid], float(found.valid.double().mean())
        figures[f"{dynamics}, valid"] = share
        if len(lengths):
            figures[dynamics] = float(lengths.min())
            tour = found.tours[found.lengths.nan_to_num(torch.inf).argmin()] if dynamics == "potts" else tour
            table.add_row(dynamics, f"{share:.0%}", f"{lengths.min():g}", f"{lengths.median():g}")
        else:
            table.add_row(dynamics, f"{share:.0%}", "", "")
    near = np.stack([nearest_neighbour(cities.distances, first) for first in range(len(distances))])
    for name, tours in (("nearest neighbour", near),
                        ("... and 2-opt", np.stack([two_opt(t, cities.distances) for t in near]))):  # fmt: skip
        lengths = tour_lengths(torch.tensor(tours), distances)
        figures[name] = float(lengths.min())
        table.add_row(name, "100%", f"{lengths.min():g}", f"{lengths.median():g}")
    if optimum is not None:
        table.add_row("the shortest tour", "", f"{optimum:g}", "")
    Console().print(table)
    points = places(cities.distances) if cities.coordinates is None else cities.coordinates
    if options.out is not None:
        plot_tour(tour, distances, options.out, points)
    if options.animate is not None:
        animate_tour(model.steps(distances), points, options.animate)
    return figures


if __name__ == "__main__":
    main()
