"""Where people are: small data, many starts, busy machines, the first second.

    zoo bench small [--quick] [--out FILE]

Exact objectives by quasi-Newton steps beside Adam's, twenty starts beside scikit-learn and hmmlearn, a step beside
Pyro's own, large fits beside other busy processes, and the time from the start of a process to its answer.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import _busy, _climbs, _first_second, _restarts
from benchmarks._parts import kept

ROUNDS = 5


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints tables and returns their numbers.

    Args:
        quick: one round, two starts, small data.

    Returns:
        "climbs", "restarts", "steps", "busy", "first_second": see the functions that measure them.
    """
    rounds = 1 if quick else ROUNDS
    result = {
        "threads": torch.get_num_threads(),
        "climbs": kept("climbs", _climbs.climbs(min(rounds, 3), quick)),
        "restarts": kept("restarts", _restarts.measure(rounds, 2 if quick else _restarts.STARTS)),
        "steps": kept("steps", _climbs.steps(rounds)),
        "busy": kept("busy", _busy.measure(rounds, quick)),
        "first_second": _first_second.measure(rounds),
    }
    _print(result)
    return result


def _print(result: dict[str, Any]) -> None:
    console = Console()
    climbs = result["climbs"]
    console.print(_systems("Iris, three full components, one start", climbs["fits"]))
    for name, gain in climbs["times_faster_than_adam"].items():
        console.print(f"{name} is {gain:.1f} times as fast as by Adam")
    for name, systems in result["restarts"].items():
        console.print(_systems(f"{name}: restarts", systems))
    table = Table("", "ms", title="A step on 272 points, two components")
    for name, value in result["steps"]["ms_a_step"].items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    console.print(f"svi's step is {result['steps']['times_faster_than_pyro']:.1f} times as fast as Pyro's")
    busy = result["busy"]
    for load in ("alone", "busy"):
        where = "alone" if load == "alone" else f"beside {busy['processes']} busy processes"
        console.print(_systems(f"EM, {busy['rows']:,} x 16, 16 full, {where}", busy[load]["gaussian_mixture"]))
        for shape, systems in busy[load]["hmm"].items():
            console.print(_systems(f"HMM {shape}, {where}", systems))
    table = Table("", "s to the answer", "s to the end", title="From the start of a process")
    for name, row in result["first_second"]["seconds"].items():
        table.add_row(name, f"{row['answer']:.2f}", f"{row['end']:.2f}")
    console.print(table)
    console.print(f"a fit's answer takes {result['first_second']['fit_by_import']:.2f} times the import")


def _systems(title: str, systems: dict[str, dict[str, Any]]) -> Table:
    table = Table("", "seconds", "quartiles", "x", "log-likelihood", title=title)
    for name, row in systems.items():
        low, high = row["quartiles"]
        value = row.get("log_likelihood")
        table.add_row(
            name,
            f"{row['median']:.4f}",
            f"{low:.4f}-{high:.4f}",
            f"{row['ratio']:.2f}",
            "-" if value is None else f"{value:.3f}",
        )
    return table
