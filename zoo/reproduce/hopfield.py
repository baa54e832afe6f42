"""How many patterns a Hopfield network holds: the share of units that are wrong by patterns a unit, three rules.

Patterns are drawn evenly, recall starts from each of them and goes on until it ends, as in Amit, Gutfreund &
Sompolinsky (1985), "Storing infinite numbers of patterns in a spin-glass model of neural networks": of many units, up
to 0.138 patterns each come back with at most 1.6 % of their units wrong by the Hebbian rule, and none beyond, where the
theory knows no state near a pattern and recall still ends with fewer than half of the units wrong. That all patterns
come back without an error has another limit, N / (4 ln N), up to which it holds with a probability that goes to one as
N grows (McEliece, Posner, Rodemich & Venkatesh 1987, "The capacity of the Hopfield associative memory"): the share of
runs in which it does is a row. The figure has all loads.

Quick: 200 units 20 times, 1000 units three times. Full: 100 and ten times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.models.hopfield_network import HopfieldNetwork
from zoo.models.shared.memory import CRITICAL_LOAD, RULES, capacity, perfect, retrieval_error
from zoo.reporting.page import PALETTE, Page
from zoo.runs.fit import fit

ABOUT = "Hopfield networks: the share of units that are wrong where recall from a stored pattern ends"

_AGS = "Amit, Gutfreund & Sompolinsky (1985)"
LOADS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.138, 0.16, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Setting:
    """What a budget is: how often networks of so many units are filled with new patterns, by their size."""

    runs: tuple[tuple[int, int], ...] = ((200, 20), (1000, 3))
    loads: tuple[float, ...] = LOADS


SETTINGS: dict[str, Setting] = {"quick": Setting(), "full": Setting(((200, 100), (1000, 10)))}


def _published() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def row(name: str, value: float, source: str) -> None:
        rows.append({"name": name, "value": value, "source": source})

    for n, _ in SETTINGS["quick"].runs:
        for load in (0.1, 0.12):
            row(named(n, "hebbian", load), retrieval_error(load), f"many units, their equations solved, {_AGS}")
        row(named(n, "hebbian", 0.138), 0.016, f"many units, {_AGS}, read")
        row(held(n, "hebbian"), 1.0, "as N grows, McEliece and others (1987), recalled")
        row(held(n, "pseudo_inverse"), 1.0, "Personnaz, Guyon & Dreyfus (1985), recalled")
        row(held(n, "storkey"), 1.0, "as N grows, Storkey & Valabregue (1999), recalled")
    return rows


def named(num_units: int, rule: str, load: float) -> str:
    """A row of errors."""
    return f"{num_units} units, {rule}, {load:g} N patterns: units wrong"


def held(num_units: int, rule: str) -> str:
    """A row of runs in which all patterns come back as they were, at the published limit of that."""
    most = perfect(num_units) if rule == "hebbian" else capacity(rule, num_units)
    law = {"hebbian": "N / (4 ln N)", "storkey": "N / sqrt(2 ln N)", "pseudo_inverse": "N - 1"}[rule]
    return f"{num_units} units, {rule}, {math.floor(most)} patterns, {law}: runs without an error"


PUBLISHED: list[dict[str, Any]] = _published()


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill networks and recall; see :mod:`zoo.reproduce`."""
    setting = SETTINGS[budget]
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    for n, runs in setting.runs:
        for rule in RULES:
            for load in setting.loads:
                wrong = [errors(n, round(load * n), rule, generator) for _ in range(runs)]
                each = torch.stack([share.mean() for share in wrong])
                row = {"name": named(n, rule, load), "value": float(each.mean()), "note": _spread(each)}
                curve.append({"units": n, "rule": rule, "load": load, "error": row["value"]})
                if load in (0.1, 0.12, 0.138, 0.16, 0.2, 0.4):
                    rows.append(row)
            most = int(held(n, rule).split(", ")[2].split()[0])
            perfectly = [bool((errors(n, most, rule, generator) == 0).all()) for _ in range(runs)]
            note = f"{sum(perfectly)} of {runs}"
            rows.append({"name": held(n, rule), "value": sum(perfectly) / runs, "note": note})
            say(f"{rows[-1]['name']}: {note}")
    setting_said = {"runs": [list(pair) for pair in setting.runs], "loads": list(setting.loads)}
    return {"setting": setting_said, "rows": rows, "curve": curve, "figure": lambda path: draw(curve, path)}


def errors(num_units: int, num_patterns: int, rule: str, generator: torch.Generator) -> Tensor:
    """The share of units that are wrong where recall from each of new patterns ends, (num_patterns,)."""
    x = torch.randint(2, (num_patterns, num_units), generator=generator).double() * 2 - 1
    found = fit(HopfieldNetwork(num_units, rule), x, estimator="closed_form")
    return (found.predict(x) != x).double().mean(1)


def _spread(each: Tensor) -> str:
    return f"± {float(each.std()) / math.sqrt(len(each)):.2g} by {len(each)} runs" if len(each) > 1 else "one run"


def draw(curve: list[dict[str, Any]], path: Path) -> Path:
    """Errors against load, by rule and size, beside the published curve."""
    page = Page(7.2, 5.2, False)
    (ax,) = page.axes()
    theory = np.linspace(0.002, CRITICAL_LOAD, 400)
    handles = ax.plot(
        [*theory, CRITICAL_LOAD, 0.3], [*map(retrieval_error, theory), 0.5, 0.5], color=page.theme.quiet, linewidth=1.2,
        linestyle=":", label=f"hebbian, many units ({_AGS})",
    )  # fmt: skip
    sizes = list(dict.fromkeys(point["units"] for point in curve))
    for i, rule in enumerate(RULES):
        for size, style in zip(sizes, ("-", "--"), strict=False):
            points = [p for p in curve if p["rule"] == rule and p["units"] == size]
            loads, found = [p["load"] for p in points], [p["error"] for p in points]
            handles += ax.plot(
                loads, found, color=PALETTE[i], linestyle=style, marker="o", markersize=3, label=f"{rule}, {size} units"
            )
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    page.label(ax, "Where recall from a stored pattern ends", "patterns a unit", "share of units that are wrong")
    page.legend(ax, handles, below=True, ncols=2)
    return page.save(path)
