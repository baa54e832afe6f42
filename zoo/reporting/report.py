"""A comparison as text for a terminal, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from zoo.reporting import curves, gradients
from zoo.reporting.fit_pictures import model_pictures
from zoo.reporting.html_page import Picture, bullets, escaped, html_page, html_table, in_figures
from zoo.reporting.page_tables import data_table, restarts_table, settings, version_table
from zoo.reporting.subjects import Compared
from zoo.reporting.tables import Table
from zoo.reporting.text import gradients_table, nats, notes_of, seconds_text, seeds_text, size_text, small, summary

__all__ = ["write_report"]


def write_report(comparison: Compared, folder: str | Path) -> list[Path]:
    """Write the pictures and ``report.html`` into a folder that exists.

    The page needs nothing beside it: pictures are inside, in a light and a dark version, and no script is used.

    Returns:
        The files, ``report.html`` first.
    """
    folder = Path(folder)
    figures, files, missing = in_figures(_pictures(comparison), folder)
    page = folder / "report.html"
    page.write_text(_page(comparison, figures, missing), encoding="utf-8")
    return [page, *files]


def _pictures(comparison: Compared) -> Iterator[Picture]:
    yield Picture(
        "Likelihood against time", "Solid: exact log-likelihood. Dashed: the bound each run climbs.",
        lambda folder, dark: [curves.plot_comparison(comparison, folder / "comparison.png", dark=dark)],
    )  # fmt: skip
    if comparison.gradients:
        yield Picture(
            "Gradient quality", "Bias and spread of one gradient draw, against the exact gradient.",
            lambda folder, dark: [gradients.plot_gradients(comparison, folder / "gradients.png", dark=dark)],
        )  # fmt: skip
    if comparison.x is not None:
        yield from model_pictures(comparison.best, comparison.x, "The best fit")


def _page(comparison: Compared, figures: list[str], missing: list[str]) -> str:
    best = comparison.best
    score, kind = comparison.score(best), comparison.score_kind
    size = size_text(comparison.num_data, best.num_units)
    lead = f"{size}, {len(comparison.estimators)} estimators, {seeds_text(all_seeds(comparison))}."
    if score is not None:
        lead += f" Best {kind}: {nats(score)} nats, by {best.label} (seed {best.seed})."
    parts = [
        f"<h1>{escaped(comparison.model)} on {escaped(comparison.data)}</h1>",
        f'<p class="lead">{escaped(lead)}</p>',
        html_table(summary(comparison), best=comparison.estimators.index(best.label)),
    ]
    parts += bullets("Notes", [*notes_of(comparison), *missing])
    parts += figures
    table = gradients_table(comparison)
    if table is not None:
        parts.append(html_table(table))
    parts.append(html_table(_every_fit(comparison), best=comparison.fits.index(best)))
    restarts = restarts_table(comparison.fits)
    if restarts is not None:
        parts.append(html_table(restarts))
    parts += [
        html_table(data_table(comparison.x, comparison.data, best.model.entries("feature"))),
        html_table(_options(comparison)),
        html_table(version_table()),
    ]
    return html_page(f"{comparison.model} on {comparison.data}", parts)


def _every_fit(comparison: Compared) -> Table:
    columns = [("estimator", False), ("seed", True), ("status", False), ("log-likelihood", True), ("bound", True)]
    columns += [
        ("± se", True),
        ("gap", True),
        ("BIC", True),
        ("iterations", True),
        ("seconds", True),
        ("peak MB", True),
    ]
    rows = [
        [
            fit.label,
            str(fit.seed),
            fit.status,
            nats(fit.log_likelihood),
            nats(fit.elbo),
            small(fit.elbo_se),
            nats(fit.evidence_gap),
            nats(fit.bic),
            str(fit.iterations),
            seconds_text(fit.seconds),
            "-" if fit.peak_memory_mb is None else f"{fit.peak_memory_mb:.1f}",
        ]
        for fit in comparison.fits
    ]
    return Table("Every fit", columns, rows)


def _options(comparison: Compared) -> Table:
    rows: list[list[str]] = []
    first = comparison.fits[0].model
    config = dict(first.config)
    rows.append(["model", comparison.model, settings(config)])
    for name in comparison.estimators:
        fit = next(fit for fit in comparison.fits if fit.label == name)
        rows.append(["estimator", name, settings(fit.options)])
    rows.append(["seeds", ", ".join(map(str, all_seeds(comparison))), "for each, all estimators start alike"])
    return Table("Options", [("what", False), ("name", False), ("settings", False)], rows)


def all_seeds(comparison: Compared) -> list[int]:
    return list(dict.fromkeys(fit.seed for fit in comparison.fits))
