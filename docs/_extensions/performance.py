"""The page of speed: printed from the runs that ``zoo bench NAME --out`` recorded in results/."""

from __future__ import annotations

from typing import Any

from timings import TITLES, lines, record

HEAD = """# Performance

Times of the others over ours: above 1 we are faster. Medians of turns taken by each in one process, on an
otherwise idle machine. `zoo bench NAME --out results/bench_NAME.json` recorded them; `zoo bench` takes the same figures
on yours.
"""


def heading(title: str, whole: dict[str, Any]) -> str:
    machine = whole["machine"]
    return f"## {title}\n\n`{whole['command']}`, {machine['processor']}, {machine['cores']} cores.\n"


def stream() -> str:
    """More data than memory: how memory and time grow with the rows."""
    whole = record("stream")
    found = whole["results"]["stream"]
    mapped, times = found["fits"]["mapped"], found["times_in_memory"]
    grown = mapped[-1]["peak_mb"] - mapped[-1]["start_mb"]
    parts = [
        heading("More data than memory", whole),
        f"EM of five full Gaussians on {mapped[-1]['rows']:,} rows of 16, {found['largest_gb']:.0f} GB on disk, took "
        f"{grown:.0f} MB more than the process had at its start. An iteration takes {times['mapped']:.2f} times as "
        f"long as on the same rows in memory (from Parquet {times['parquet']:.2f} times), and time grows as the rows "
        f"to the power {found['slope']:.2f}. One thread, processor time.\n",
        "| where the data are | rows | GB | seconds an iteration | megabytes beyond the start |",
        "|---|---:|---:|---:|---:|",
    ]
    places = {"mapped": "`.npy`, mapped", "parquet": "Parquet", "memory": "in memory"}
    for kind, place in places.items():
        for fit in found["fits"][kind]:
            size, beyond = fit["rows"] * 16 * 8 / 1e9, fit["peak_mb"] - fit["start_mb"]
            parts.append(
                f"| {place} | {fit['rows']:,} | {size:.2f} | {fit['seconds_an_iteration']:.2f} | {beyond:,.0f} |"
            )
    return "\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    """By their places, the texts."""
    parts = [HEAD]
    for name, (title, _) in TITLES.items():
        parts += [heading(title, record(name)), "| what | beside | times |\n|---|---|---:|"]
        parts += [f"| {what} | {who} | {ratio:.2f} |" for what, who, ratio in lines(name)]
        parts.append("")
    return {"performance.md": "\n".join([*parts, stream()])}
