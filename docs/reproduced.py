"""``docs/reproduced.md``: every recorded run of ``zoo reproduce``; ``python docs/reproduced.py`` prints it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from zoo.reproduce import BUDGETS, tables

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "reproduced.md"
TOP = """<!-- Printed by docs/reproduced.py from results/. -->
# Published tables, ours beside theirs

`zoo reproduce TABLE --budget quick` takes minutes on two cores, `--budget full` the papers' own schedule, or a longer
run where a paper gives none. These are the runs recorded in `results/`, to three decimals; what is published stands
beside the row that it is to be compared with, or below as it was read. Quick runs are far shorter than the papers'; of
these only the order of rows is to be compared. Seconds are those of the machine at hand, busy or not; a run's processor
time is said at its head.
"""


def page() -> str:
    """The text of the page, of today's records."""
    parts = [TOP]
    for name, module in tables().items():
        records = {budget: _record(name, budget) for budget in BUDGETS}
        if on_a_gpu := _record(name, "full_cuda"):
            records["full, on a GPU"] = on_a_gpu
        parts.append(f"\n## {name}\n\n{module.ABOUT}.\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
        for budget, record in records.items():
            parts.append(_table(budget, record) if record else f"\n### {budget}\n\nNot recorded.\n")
    return "".join(parts)


def _record(name: str, budget: str) -> dict[str, Any] | None:
    path = ROOT / "results" / f"reproduce_{name}_{budget}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _table(budget: str, record: dict[str, Any]) -> str:
    published = {row["name"]: row for row in record["published"]}
    spent = f", {record['cpu_seconds'] / 60:.1f} minutes of processor" if "cpu_seconds" in record else ""
    device = record.get("machine", {}).get("device", "cpu")
    where = "" if device == "cpu" else f", on {device}"
    head = f"\n### {budget}\n\n`{record['command']}`{spent}{where}\n"
    lines = [head, "| row | ours | published | |", "|---|---|---|---|"]
    for row in record["rows"]:
        theirs = published.pop(row["name"], {})
        lines.append(_row(row["name"], f"{row['value']:.3f}", _value(theirs), row.get("note", ""), _source(theirs)))
    lines += [_row(name, "", _value(theirs), "", _source(theirs)) for name, theirs in published.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, ours: str, theirs: str, note: str, source: str) -> str:
    about = "; ".join(part for part in (note, source and f"published: {source}") if part)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (name, ours, theirs, about)) + " |"


def _value(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f}" if "value" in row else ""


def _source(row: dict[str, Any]) -> str:
    return " ".join(str(row.get("source", "")).split())


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
