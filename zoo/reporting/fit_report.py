"""A fit as one HTML page: scores, parameters, pictures, what became of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.reporting.fit_pictures import course_pictures, model_pictures, network_pictures
from zoo.reporting.html_page import bullets, escaped, html_page, html_table, in_figures
from zoo.reporting.latent_tables import Columns
from zoo.reporting.page_tables import data_table, restarts_table, settings, version_table
from zoo.reporting.parameter_tables import DIGITS, parameter_tables
from zoo.reporting.parameters import networks_of, parameters_of
from zoo.reporting.subjects import Fitted
from zoo.reporting.tables import Table
from zoo.reporting.text import nats, seconds_text, size_text, small

__all__ = ["write_fit_report"]

#: Characters of a table of parameters; the page scrolls.
WIDTH = 220


def write_fit_report(
    fit: Fitted, x: Any, folder: Path, *, name: str, shown: Any = None, latents: Columns | None = None,
    notes: Sequence[str] = (),
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Write the pictures and ``report.html`` into a folder that exists.

    Args:
        x: the data of the fit. name: what they are called.
        shown: data for pictures of networks where others than those of the fit are to be shown.
        latents: what the fit says of every datum, where that is known.
        notes: what else a reader should know.

    Returns:
        The files, ``report.html`` first; a line on each picture that could not be drawn.
    """
    pictures = [*model_pictures(fit, x), *network_pictures(fit, x if shown is None else shown, name)]
    figures, files, missing = in_figures(pictures, folder)
    course, more, lost = in_figures(course_pictures(fit), folder)
    files, missing = [*files, *more], [*missing, *lost]
    lead = f"{size_text(fit.num_data, fit.num_units)}; by {fit.label}: {fit.status} after {fit.iterations} iterations, "
    title = f"{fit.model.label} on {name}"
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f'<p class="lead">{escaped(lead + seconds_text(fit.seconds) + " s.")}</p>',
        html_table(_scores(fit)),
        *bullets("Notes", [*fit.notes, *notes, *missing]),
        *figures,
        *_parameters(fit),
    ]
    tables = [_shares(latents)]
    parts += [html_table(table) for table in tables if table is not None]
    parts += course
    tables = [restarts_table([fit]), data_table(x, name, fit.model.entries("feature")), _options(fit)]
    parts += [html_table(table) for table in [*tables, version_table()] if table is not None]
    page = folder / "report.html"
    page.write_text(html_page(title, parts), encoding="utf-8")
    return [page, *files], missing


def _scores(fit: Fitted) -> Table:
    rows = [
        ["log-likelihood, nats", nats(fit.log_likelihood)],
        ["bound, nats", f"{nats(fit.elbo)} ± {small(fit.elbo_se)}" if fit.elbo_se else nats(fit.elbo)],
        ["gap of the bound", nats(fit.evidence_gap)],
        ["free parameters", str(fit.num_parameters)],
        ["AIC", nats(fit.aic)],
        ["BIC", nats(fit.bic)],
    ]
    return Table("Scores", [("", False), ("", True)], [row for row in rows if row[1] != "-"])


def _parameters(fit: Fitted) -> list[str]:
    told = parameters_of(fit)
    tables = [html_table(table, heading="h3") for table in parameter_tables(told, WIDTH)]
    lines = bullets("Networks", [str(network) for network in networks_of(fit)])
    head = f'<h2>Parameters</h2><p class="small">To {DIGITS} digits; parameters.csv has them in full.</p>'
    return [*([head, *tables] if tables else []), *lines]


def _shares(latents: Columns | None) -> Table | None:
    """How many data, or steps, each component or state has as its most probable one, and how sure that is."""
    if latents is None:
        return None
    name = next((n for n, v in latents.items() if v.dtype == np.int64 and n not in ("sequence", "step")), None)
    if name is None or "p_0" not in latents:
        return None
    sure = np.max([v for n, v in latents.items() if n.startswith("p_")], axis=0)
    labels, unit = latents[name], "steps" if "step" in latents else "data"
    rows = [
        [str(k), str(int(here.sum())), f"{here.mean():.1%}", f"{sure[here].mean():.3f}" if here.any() else "-"]
        for k in range(sum(n.startswith("p_") for n in latents))
        for here in [labels == k]
    ]
    columns = [(name, True), (unit, True), ("share", True), ("mean probability", True)]
    return Table(f"{unit.capitalize()} by {name}", columns, rows)


def _options(fit: Fitted) -> Table:
    rows = [
        ["model", fit.model.label, settings(dict(fit.model.config))],
        ["estimator", fit.label, settings(fit.options)],
        ["seed", str(fit.seed), ""],
    ]
    return Table("Options", [("what", False), ("name", False), ("settings", False)], rows)
