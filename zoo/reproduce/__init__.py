"""Published tables, ours beside theirs: ``zoo reproduce TABLE --budget quick|full``.

One table a file, found by being in this folder. A table's module has

    ABOUT      one line: what is reproduced, on which data, by which measure
    PUBLISHED  the published rows: name, value, and where it was read
    run(budget, seed, say) -> {"rows": [...], "curve": [...]}

where ``say`` prints a line of progress. Rows, or seeds, that do not know of each other go through
``_rows.each_by_itself``, which can spread them over processes, and fits through ``_rows.fit``: both keep what is done.
A table that can do its work on another device says ``ON_DEVICE = True``. A row of ours bears the published row's name,
its value, and what it took. What ``run`` returns may also hold a "figure", a function that draws one to a path:
``save`` puts it beside the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from zoo.core.found import modules_in, named
from zoo.core.machine import machine
from zoo.core.spread import check_jobs
from zoo.errors import ZooError, unknown_name
from zoo.reporting.tables import Table, columns
from zoo.reproduce._rows import Running, running
from zoo.runs.fit import as_device
from zoo.storage.folders import written
from zoo.storage.json import to_json

__all__ = ["BUDGETS", "Reproduction", "command", "find_table", "reproduce", "tables"]

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
        ours = {row["name"]: row for row in self.record["rows"]}
        lines = []
        for name in [*ours, *(name for name in published if name not in ours)]:
            mine, theirs = ours.get(name, {}), published.get(name, {})
            value, other = (f"{row['value']:.{n}f}" if "value" in row else "" for row, n in ((mine, 3), (theirs, 2)))
            lines.append((name, value, other, mine.get("note", "") if mine else theirs.get("source", "")))
        headings = [("row", False), ("ours", True), ("published", True), ("note", False)]
        title = f"{self.record['about']} ({self.budget} budget, {self.record['seconds']:.0f} s)"
        return f"{title}\n\n{columns(Table('', headings, lines), rule=False)}"

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, and the figure beside it, its suffix .png."""
        path = Path(path)
        with written(path) as file:
            file.write_text(to_json(self.record) + "\n")
        if self.figure is not None:
            self.figure(path.with_suffix(".png"))
        return path


def tables() -> dict[str, ModuleType]:
    """The tables by name, imported."""
    return modules_in(__name__)


def find_table(name: str) -> ModuleType:
    """A table's module.

    Raises:
        ZooError: there is none of that name; the nearest is offered.
    """
    return named("table", name, tables())


def reproduce(
    table: str,
    budget: str = "quick",
    seed: int = 0,
    say: Callable[[str], None] = print,
    jobs: int = 1,
    device: str | None = None,
    checkpoints: str | Path | None = None,
) -> Reproduction:
    """Run a table.

    Args:
        table: its name, see :func:`tables`.
        budget: "quick" (minutes on two cores) or "full" (the paper's schedule).
        seed: where every random number comes from.
        say: takes lines of progress.
        jobs: processes among which rows, or seeds, that do not know of each other are divided, as for ``zoo.fit``; the
            values are the same. Lines of progress then come when a row is done.
        device: where fits compute, "cuda" for one; None is the processor. Random numbers of another device are others.
        checkpoints: a folder for what rows and fits have reached; the same call with it goes on from there, to the same
            values. A record that was made so says "resumed": its time as a whole is the last call's.

    Raises:
        ZooError: an unknown table, budget or device, a device for a table that takes none, or data that are not there.
    """
    check_jobs("reproduce", jobs)
    module = find_table(table)
    if budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS)
    if seed < 0:
        raise ZooError(f"reproduce: seed expected a whole number of at least 0, got {seed}.")
    if device is not None:
        as_device(device)
        if not getattr(module, "ON_DEVICE", False):
            able = ", ".join(name for name, each in tables().items() if getattr(each, "ON_DEVICE", False))
            raise ZooError(f"reproduce: device expected one of the tables {able}, got {table}. Leave it out.")
    kept = None
    if checkpoints is not None:  # what is kept there of another budget or seed is another's
        kept = Path(checkpoints) / "-".join(map(str, (table, budget, seed, *([device] if device else []))))
    resumed = kept is not None and kept.is_dir() and any(kept.iterdir())
    began, cpu = time.perf_counter(), time.process_time()
    with running(Running(jobs, device, kept)) as now:
        found = module.run(budget, seed, say)
    figure = found.pop("figure", None)
    record = {
        "command": command(table, budget, seed, device),
        "about": module.ABOUT,
        "budget": budget,
        "seed": seed,
        "machine": machine() | ({"device": _named(device)} if device else {}),
        **({"resumed": True} if resumed else {}),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu + now.cpu_seconds,
        "published": module.PUBLISHED,
        **found,
    }
    return Reproduction(table, budget, seed, record, figure)


def command(table: str, budget: str, seed: int, device: str | None) -> str:
    """The command that runs a table, without what leaves its values as they are."""
    more = (f" --seed {seed}" if seed else "") + (f" --device {device}" if device else "")
    return f"zoo reproduce {table} --budget {budget}{more}"


def _named(device: str) -> str:
    """A device as a record has it: a GPU by its maker's name."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
