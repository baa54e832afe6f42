"""The travelling salesman by a mean field: six problems of TSPLIB, one setting for all of them.

Peterson & Söderberg (1989) cool Potts neurons; Hopfield & Tank (1985) let a circuit relax, with the constants of their
paper, which Wilson & Pawley (1988), "On the stability of the travelling salesman problem algorithm of Hopfield and
Tank", could not make to work: of their 100 runs 15 ended in a tour, as recalled. From 100 starts; a start is valid
where each city's most probable position makes a tour. Nothing is repaired and nothing improved, but in the rows that
say so: the same tours, and those of the nearest neighbour from every city, after exchanges of two links.

Gaps are above the proven optimum, in percent. Quick: Hopfield and Tank's circuit on the four smallest. Full: on all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.tsplib import Cities, load_cities
from zoo.densities.tours import tour_lengths
from zoo.models.hopfield_tsp import HopfieldTSP
from zoo.scores.tours import nearest_neighbour, two_opt

ABOUT = "Tours of TSPLIB's problems by mean fields, 100 starts: valid, and gaps above the optimum, percent"

_WILSON = "Wilson & Pawley (1988), ten cities at random"
PUBLISHED: list[dict[str, Any]] = [
    {"name": "hopfield_tank, valid", "value": 15.0, "source": f"{_WILSON}; recalled, not read again"},
]
#: Lengths of shortest tours, proven: TSPLIB's table.
OPTIMA = {"burma14": 3323, "ulysses16": 6859, "gr17": 2085, "att48": 10628, "eil51": 426, "berlin52": 7542}


@dataclass(frozen=True)
class Setting:
    """What a budget is.

    Attributes:
        starts: of either dynamics. problems: names. circuit: the most cities that the circuit is run on.
    """

    starts: int = 100
    problems: tuple[str, ...] = tuple(OPTIMA)
    circuit: int = 48


SETTINGS: dict[str, Setting] = {"quick": Setting(circuit=20), "full": Setting(circuit=100)}


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Solve and measure; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    rows: list[dict[str, Any]] = []
    shown: list[tuple[Cities, NDArray]] = []

    def row(name: str, value: float, note: str) -> None:
        rows.append({"name": name, "value": value, "note": note})
        say(f"{name}: {value:.1f} ({note})")

    came = tried = 0
    for name in setting.problems:
        cities, optimum = load_cities(name), OPTIMA[name]
        distances = torch.tensor(cities.distances)
        for dynamics in ("potts", "hopfield_tank"):
            if dynamics == "hopfield_tank" and len(distances) > setting.circuit:
                continue
            began = time.perf_counter()
            found = HopfieldTSP(len(distances)).solve(distances, setting.starts, dynamics, seed)
            took = time.perf_counter() - began
            count = int(found.valid.sum())
            if dynamics == "hopfield_tank":
                came, tried = came + count, tried + setting.starts
            note = f"{interval(count, setting.starts)}; {took:.1f} s"
            row(f"{name}, {dynamics}, valid", 100 * count / setting.starts, note)
            if count:
                tours = found.tours[found.valid].numpy()
                gaps(row, f"{name}, {dynamics}", tours, cities, optimum)
                if dynamics == "potts":
                    polished = np.stack([two_opt(tour, cities.distances) for tour in tours])
                    gaps(row, f"{name}, {dynamics} and 2-opt", polished, cities, optimum)
                    shown.append((cities, tours[int(lengths(tours, cities).argmin())]))
        near = np.stack([nearest_neighbour(cities.distances, first) for first in range(len(distances))])
        gaps(row, f"{name}, nearest neighbour", near, cities, optimum)
        gaps(row, f"{name}, nearest neighbour and 2-opt",
             np.stack([two_opt(tour, cities.distances) for tour in near]), cities, optimum)  # fmt: skip
    row("hopfield_tank, valid", 100 * came / tried, f"{interval(came, tried)}, over all problems")
    return {"setting": vars(setting), "rows": rows, "figure": lambda path: draw(shown, path)}


def lengths(tours: NDArray, cities: Cities) -> NDArray[np.float64]:
    return np.asarray(tour_lengths(torch.as_tensor(tours), torch.tensor(cities.distances)))


def gaps(row: Callable[[str, float, str], None], name: str, tours: NDArray, cities: Cities, optimum: int) -> None:
    """Rows of the best and the median tour."""
    found = lengths(tours, cities)
    for which, length in (("best", float(found.min())), ("median", float(np.median(found)))):
        row(f"{name}, {which}", 100 * (length / optimum - 1), f"length {length:g}, optimum {optimum}")


def interval(count: int, whole: int) -> str:
    """In which a share lies with 95 % (Wilson 1927), in words."""
    share, z = count / whole, 1.96
    centre = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z / (1 + z * z / whole) * (share * (1 - share) / whole + z * z / (4 * whole * whole)) ** 0.5
    return f"95 % interval {max(0.0, 100 * (centre - half)):.1f} to {min(100.0, 100 * (centre + half)):.1f}"


def draw(shown: list[tuple[Cities, NDArray]], path: Path) -> Any:
    """The best tour of each problem."""
    from zoo.reporting.tours import plot_maps

    return plot_maps({each.name: (each.distances, each.coordinates, tour) for each, tour in shown}, path)
