"""Published tables, ours beside theirs: ``zoo reproduce TABLE --budget quick|full``.

One table a file, found by being in this folder. A table's module has

    ABOUT      one line: what is reproduced, on which data, by which measure
    PUBLISHED  the published rows: name, value, and where it was read
    run(budget, seed, say) -> {"rows": [...], "curve": [...]}

where ``say`` prints a line of progress. A row of ours bears the published row's name, its value, and what it took. What
``run`` returns may also hold a "figure", a function that draws one to a path: ``save`` puts it beside the record.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.errors import ZooError, unknown_name
from zoo.storage.json import to_json

__all__ = ["BUDGETS", "Reproduction", "find_table", "reproduce", "tables"]

BUDGETS = ("quick", "full")


@dataclass
class Reproduction:
    """A table that was run.

    Attributes:
        table, budget, seed: what was asked for.
        record: what is written: command, machine, seconds, published and own rows, curve.
        figure: draws the table's picture to a path, if it has one.
    """

    table: str
    budget: str
    seed: int
    record: dict[str, Any]
    figure: Callable[[Path], Any] | None = None

    def __str__(self) -> str:
        published = {row["name"]: row for row in self.record["published"]}
        lines = [f"{self.record['about']} ({self.budget} budget, {self.record['seconds']:.0f} s)", ""]
        lines.append(f"{'row':<44}{'ours':>10}{'published':>12}  note")
        names = [row["name"] for row in self.record["rows"]]
        for row in self.record["rows"]:
            theirs = published.get(row["name"], {}).get("value")
            shown = "" if theirs is None else f"{theirs:.2f}"
            lines.append(f"{row['name']:<44}{row['value']:>10.3f}{shown:>12}  {row.get('note', '')}".rstrip())
        lines += [
            f"{name:<44}{'':>10}{row['value']:>12.2f}  {row.get('source', '')}".rstrip()
            for name, row in published.items()
            if name not in names
        ]
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, and the figure beside it, its suffix .png."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(self.record) + "\n")
        if self.figure is not None:
            self.figure(path.with_suffix(".png"))
        return path


def tables() -> dict[str, ModuleType]:
    """The tables by name, imported."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def find_table(name: str) -> ModuleType:
    """A table's module.

    Raises:
        ZooError: there is none of that name; the nearest is offered.
    """
    known = tables()
    if name not in known:
        raise unknown_name("table", name, known)
    return known[name]


def reproduce(table: str, budget: str = "quick", seed: int = 0, say: Callable[[str], None] = print) -> Reproduction:
    """Run a table.

    Args:
        table: its name, see :func:`tables`.
        budget: "quick" (minutes on two cores) or "full" (the paper's schedule).
        seed: where every random number comes from.
        say: takes lines of progress.

    Raises:
        ZooError: an unknown table or budget, or data that are not there.
    """
    module = find_table(table)
    if budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS)
    if seed < 0:
        raise ZooError(f"reproduce: seed expected a whole number of at least 0, got {seed}.")
    began, cpu = time.perf_counter(), time.process_time()
    found = module.run(budget, seed, say)
    figure = found.pop("figure", None)
    record = {
        "command": f"zoo reproduce {table} --budget {budget}" + (f" --seed {seed}" if seed else ""),
        "about": module.ABOUT,
        "budget": budget,
        "seed": seed,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "published": module.PUBLISHED,
        **found,
    }
    return Reproduction(table, budget, seed, record, figure)
