"""What a notebook shows of a fit, a comparison, a score: short pages of HTML, without style of their own."""

from __future__ import annotations

from typing import Any

from zoo.reporting.html_page import bullets, escaped, html_table
from zoo.reporting.parameter_tables import parameter_tables
from zoo.reporting.parameters import networks_of, parameters_of
from zoo.reporting.selection import selection_notes, selection_table
from zoo.reporting.subjects import Compared, Fitted, Selecting
from zoo.reporting.text import gradients_table, notes_of, summary

__all__ = ["comparison_html", "fit_html", "selection_html", "text_html"]


def fit_html(fit: Fitted) -> str:
    """The first lines of a fit, its parameters as tables, its notes."""
    told = parameters_of(fit)
    lines = "<br>".join(escaped(line).replace("   ", "&emsp;") for line in str(fit).split("\n")[:2])
    tables = [html_table(table, heading="h4") for table in parameter_tables(told)]
    networks = bullets("Networks", [str(network) for network in networks_of(fit)], "h4")
    return "\n".join([f"<p>{lines}</p>", *tables, *networks, *bullets("Notes", list(fit.notes), "h4")])


def comparison_html(comparison: Compared) -> str:
    """The table of a comparison, of its gradients, and what a reader should know."""
    gradients = gradients_table(comparison)
    parts = [
        html_table(summary(comparison), best=comparison.estimators.index(comparison.best.label), heading="h4"),
        *([] if gradients is None else [html_table(gradients, heading="h4")]),
        *bullets("Notes", notes_of(comparison), "h4"),
    ]
    return "\n".join(parts)


def selection_html(selection: Selecting) -> str:
    """The table of a selection, a row a point of the grid, and what a reader should know."""
    table = html_table(selection_table(selection), heading="h4")
    return "\n".join([table, *bullets("Notes", selection_notes(selection), "h4")])


def text_html(shown: Any) -> str:
    """What is printed, in the letters of a terminal."""
    return f"<pre>{escaped(str(shown))}</pre>"
