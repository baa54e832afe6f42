"""How to choose an estimator: words by hand (``docs/_choosing.md``), tables from the recorded run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent
RECORD = DOCS.parent / "results" / "bench_choosing.json"
MARK = "<!-- The measurements. -->\n"


def table(group: dict[str, Any], close: float) -> str:
    """A group's rows: who is as good as the best stands in bold, the fastest of these first."""
    rows = sorted(group["rows"], key=lambda r: (r["below_best"] is None or r["below_best"] > close, r["seconds"]))
    lines = [
        f"### {group['title']}\n",
        "| estimator | below the best, nats a datum | time, of the fastest's | status |",
    ]
    lines.append("|---|---:|---:|---|")
    for row in rows:
        below = row["below_best"]
        name = f"**`{row['estimator']}`**" if below is not None and below <= close else f"`{row['estimator']}`"
        shown = "" if below is None else f"{max(below, 0.0):.4f}"
        lines.append(f"| {name} | {shown} | {row['times_fastest']:,.1f} | {row['status']} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """By their places, the texts."""
    text = (DOCS / "_choosing.md").read_text(encoding="utf-8")
    whole = json.loads(RECORD.read_text(encoding="utf-8"))
    found, machine = whole["results"]["choosing"], whole["machine"]
    head = f"`{whole['command']}`, {machine['processor']}, one thread.\n"
    tables = "\n".join(table(group, found["close"]) for group in found["groups"])
    return {"choosing.md": text.replace(MARK, f"{head}\n{tables}")}
