"""A selection as a table of text, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.reporting.fit_pictures import model_pictures
from zoo.reporting.html_page import Picture, bullets, escaped, html_page, html_table, in_figures
from zoo.reporting.page_tables import data_table, settings, version_table
from zoo.reporting.selection_picture import TITLES, plot_selection
from zoo.reporting.subjects import Selecting
from zoo.reporting.tables import Table, ruled
from zoo.reporting.text import WIDTH, nats, size_text

__all__ = ["selection_notes", "selection_table", "selection_text", "write_selection"]


def selection_text(selection: Selecting) -> str:
    """The selection as plain text: a row a point of the grid, and what a reader should know."""
    lines = [textwrap.fill(n, WIDTH, initial_indent="- ", subsequent_indent="  ") for n in selection_notes(selection)]
    return "\n".join([ruled(selection_table(selection), WIDTH), *lines]).rstrip()


def selection_table(selection: Selecting) -> Table:
    """A row a point of the grid: its settings, its scores, and which criteria it is the best by; how fits ended, where
    some did not converge."""
    best: dict[int, list[str]] = {}
    for name in selection.known:
        best.setdefault(id(selection.chosen_by(name)), []).append(TITLES[name])
    numbers = [
        all(isinstance(each.point[name], (int, float)) for each in selection.candidates) for name in selection.names
    ]
    columns = [*zip(selection.names, numbers, strict=True), ("log-likelihood", True), ("parameters", True)]
    columns += [(TITLES[name], True) for name in selection.known]
    columns += [("± se", True)] if "cv" in selection.known else []
    statuses = [_status(each.fit) for each in selection.candidates]
    columns += [("status", False)] if set(statuses) != {"converged"} else []
    columns += [("best by", False)]
    rows = []
    for each, status in zip(selection.candidates, statuses, strict=True):
        fit = each.fit
        row = [_word(value) for value in each.point.values()]
        row += ["-", "-"] if fit is None else [nats(fit.log_likelihood), str(fit.num_parameters)]
        row += [_score(name, each.value(name)) for name in selection.known]
        if "cv" in selection.known:
            row.append("-" if each.held_out.se is None else f"{each.held_out.se:.4f}")
        row += [status] if ("status", False) in columns else []
        row.append(", ".join(best.get(id(each), ())))
        rows.append(row)
    title = f"{selection.model} on {selection.data}: {_size(selection)}; lower is better"
    if "cv" in selection.known:
        title += f" but for CV: mean held-out nats a datum, {selection.folds} folds"
    return Table(title, columns, rows)


def selection_notes(selection: Selecting) -> list[str]:
    """Which point the criterion chose; why points have no fit, or no score; what else there is to say."""
    lines = []
    if selection.criterion in selection.known:
        best = selection.chosen_by(selection.criterion)
        lines.append(f"best by {TITLES[selection.criterion]}: {_point(best.point)}")
    groups: dict[str, list[str]] = {}
    for each in selection.candidates:
        for reason in dict.fromkeys([each.reason, each.held_out.reason and f"no CV: {each.held_out.reason}"]):
            if reason:
                groups.setdefault(reason, []).append(_point(each.point))
        if each.held_out.num_impossible:
            several = each.held_out.num_impossible
            what = f"{several} held-out data have" if several > 1 else "1 held-out datum has"
            groups.setdefault(f"{what} probability zero under the fit to the others", []).append(_point(each.point))
    lines += [f"{'; '.join(places)}: {reason}" for reason, places in groups.items()]
    if any(not each.held_out.exact for each in selection.candidates):
        lines.append("CV is of the importance-weighted bound: ln p(x) is not tractable")
    return [" ".join(line.split()) for line in [*lines, *selection.notes]]


def write_selection(selection: Selecting, folder: Path) -> list[Path]:
    """Write the pictures and ``report.html`` into a folder that exists; ``report.html`` is the first of the files."""
    figures, files, missing = in_figures(_pictures(selection), folder)
    known = selection.criterion in selection.known
    chosen = selection.chosen_by(selection.criterion) if known else None
    title = f"{selection.model} on {selection.data}"
    lead = f"{_size(selection)}, {len(selection.candidates)} settings."
    if chosen is not None:
        score = _score(selection.criterion, chosen.value(selection.criterion))
        lead += f" Best by {TITLES[selection.criterion]}: {_point(chosen.point)} ({score})."
    row = None if chosen is None else next(i for i, each in enumerate(selection.candidates) if each is chosen)
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="lead">{escaped(lead)}</p>',
        html_table(selection_table(selection), best=row),
        *bullets("Notes", [*selection_notes(selection), *missing]),
        *figures,
    ]
    if chosen is not None:
        columns = chosen.fit.model.entries("feature")
        parts += [html_table(data_table(selection.x, selection.data, columns)), html_table(_options(chosen.fit))]
    page = folder / "report.html"
    page.write_text(html_page(title, [*parts, html_table(version_table())]), encoding="utf-8")
    return [page, *files]


def _pictures(selection: Selecting) -> Iterator[Picture]:
    if not selection.known:
        return
    yield Picture(
        "The criteria", "Ringed: the best of each. Hollow: a constraint acts at the fit, or it diverged.",
        lambda folder, dark: [plot_selection(selection, folder / "selection.png", dark=dark)],
    )  # fmt: skip
    if selection.criterion in selection.known and selection.x is not None:
        yield from model_pictures(selection.best, selection.x, "The best fit")


def _options(fit: Any) -> Table:
    rows = [
        ["model", fit.model.label, settings(dict(fit.model.config))],
        ["estimator", fit.label, settings(fit.options)],
        ["seed", str(fit.seed), ""],
    ]
    return Table("Options of the best fit", [("what", False), ("name", False), ("settings", False)], rows)


def _status(fit: Any) -> str:
    return "failed" if fit is None else f"{fit.status}, degenerate" if fit.degenerate else fit.status


def _size(selection: Selecting) -> str:
    """How many data there are, and of sequences how many steps: what BIC counts."""
    units = next(each.fit.num_units for each in selection.candidates if each.fit is not None)
    return size_text(selection.num_data, units)


def _score(criterion: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if criterion == "cv" else f"{value:.2f}"


def _word(value: Any) -> str:
    return str(getattr(value, "__name__", value))


def _point(point: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_word(value)}" for name, value in point.items())
