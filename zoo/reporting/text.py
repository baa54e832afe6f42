"""A comparison as a table of text."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence

from zoo.reporting.subjects import DRAWS, Compared, Fitted
from zoo.reporting.tables import Table, ruled

__all__ = [
    "gradients_table",
    "nats",
    "notes_of",
    "seconds_text",
    "seeds_text",
    "shortfalls",
    "size_text",
    "small",
    "status_of",
    "summary",
    "text_table",
]


WIDTH = 118


#: Nats below the best from which a row is explained.
SHORTFALL = 1.0


def text_table(comparison: Compared) -> str:
    """The comparison as plain text: a row an estimator, the gradients, and what a reader should know."""
    tables = (summary(comparison), gradients_table(comparison))
    parts = [ruled(table, WIDTH) for table in tables if table is not None]
    notes = [textwrap.fill(note, WIDTH, initial_indent="- ", subsequent_indent="  ") for note in notes_of(comparison)]
    return "\n".join([*parts, *notes]).rstrip()


def summary(comparison: Compared) -> Table:

    several = len({fit.seed for fit in comparison.fits}) > 1
    columns = [("estimator", False)]
    if several:
        columns += [("seeds", True)]
    columns += [("status", False), ("log-likelihood", True)]
    if several:
        columns += [("median", True)]
    weighted = comparison.weighted_bounds
    annealed = comparison.annealed
    columns += [("bound", True), (f"{DRAWS} draws", True)] if weighted else [("bound", True)]
    columns += [("annealed", True), ("± se", True)] if annealed else []
    columns += [("gap", True), ("iterations", True), ("seconds", True), ("peak MB", True)]
    rows = []
    for name in comparison.estimators:
        fits = [fit for fit in comparison.fits if fit.label == name]
        best = comparison.best_of(fits)
        known = [fit.log_likelihood for fit in fits if fit.log_likelihood is not None]
        memory = [fit.peak_memory_mb for fit in fits if fit.peak_memory_mb is not None]
        row = [name]
        if several:
            row += [str(len(fits))]
        row += [status_of(fits), nats(best.log_likelihood)]
        if several:
            row += [nats(statistics.median(known) if known else None)]
        row += [nats(best.elbo), nats(weighted.get(id(best)))] if weighted else [nats(best.elbo)]
        if annealed:
            value, error = annealed[id(best)]
            row += [nats(value), small(error)]
        row += [
            nats(best.evidence_gap),
            f"{statistics.median(fit.iterations for fit in fits):.0f}",
            seconds_text(statistics.median(fit.seconds for fit in fits)),
            f"{max(memory):.1f}" if memory else "-",
        ]
        rows.append(row)
    title = f"{comparison.model} on {comparison.data}: {_size(comparison)}, totals in nats"
    if weighted:
        title += f"; {DRAWS} draws: the bound they give, importance-weighted"
    if annealed:
        title += "; annealed: log-likelihood with ln Z by annealing, from above"
    if several:
        title += " (bound and gap of the best seed; iterations and seconds: medians)"
    return Table(title, columns, rows)


def _size(comparison: Compared) -> str:
    return size_text(comparison.num_data, comparison.best.num_units)


def gradients_table(comparison: Compared) -> Table | None:
    if not comparison.gradients:
        return None
    points = list(dict.fromkeys(row.point for row in comparison.gradients))
    columns = [("estimator", False)]
    for point in points:
        columns += [(f"exact norm, {point}", True), ("bias ± se", True), ("sd", True)]
    rows = []
    for name in dict.fromkeys(row.estimator for row in comparison.gradients):
        row = [name]
        for point in points:
            here = [g for g in comparison.gradients if g.estimator == name and g.point == point]
            row += (
                [f"{here[0].exact_norm:.2e}", f"{small(here[0].bias)} ± {small(here[0].bias_se)}", small(here[0].sd)]
                if here
                else ["-"] * 3
            )
        rows.append(row)
    draws = max(row.num_draws for row in comparison.gradients)
    return Table(f"Gradients per datum, in units of each parameter's scale, {draws} draws", columns, rows)


def notes_of(comparison: Compared) -> list[str]:
    """Each fit's notes, one line for all seeds that share it; then why rows end below the best."""

    by_note: dict[tuple[str, str], list[int]] = {}
    for fit in comparison.fits:
        for note in dict.fromkeys(fit.notes):
            by_note.setdefault((fit.label, note), []).append(fit.seed)
    lines = [f"{name}, {seeds_text(seeds)}: {note}" for (name, note), seeds in by_note.items()] + comparison.notes
    return [" ".join(line.split()) for line in [*lines, *shortfalls(comparison)]]


def shortfalls(comparison: Compared) -> list[str]:
    """For every estimator with fits that end more than a nat below the best: by how much, and why they may."""
    best = comparison.best

    top = comparison.score(best)
    if top is None:
        return []
    kind = comparison.score_kind
    groups: dict[tuple[str, str], list[Fitted]] = {}
    for fit in comparison.fits:
        score = comparison.score(fit)
        if score is None or not top - score <= SHORTFALL:  # a NaN is no score either
            groups.setdefault((fit.label, _reason(fit, best)), []).append(fit)
    lines = []
    for (name, reason), fits in groups.items():
        below = sorted(top - score for score in map(comparison.score, fits) if score is not None and score == score)
        if not below:
            size = f"has no {kind}"
        elif below[-1] - below[0] < 0.05:
            size = f"ends {below[-1]:.2f} nats below the best {kind} ({best.label}, seed {best.seed})"
        else:
            size = f"ends {below[0]:.2f} to {below[-1]:.2f} nats below the best {kind} ({best.label}, seed {best.seed})"
        lines.append(f"{name}, {seeds_text([fit.seed for fit in fits])}: {size}; {reason}")
    return lines


def _reason(fit: Fitted, best: Fitted) -> str:
    if fit.draws is not None and fit.status == "converged":
        return "it holds posterior means under a prior, not a maximum"
    causes = []
    if fit.status == "diverged":
        causes.append("it diverged, and the last good parameters were kept; try a smaller learning_rate")
    elif fit.status == "interrupted":
        causes.append("it was interrupted")
    elif fit.status == "max_iter":
        option = next((name for name in ("max_epochs", "max_iter", "num_samples") if name in fit.options), "iterations")
        causes.append(f"it was still moving when its budget ran out; give it more {option}")
    elif fit.status == "stalled" and fit.history.get("validation"):
        causes.append("held-out data were served best before it converged")
    elif fit.status == "stalled":
        causes.append("its gains fell below rounding before it met tol")
    gap = fit.evidence_gap
    if gap is not None and gap > 0.1:
        causes.append("it climbs a bound, which its q leaves below the likelihood (see gap)")
    if fit.degenerate and not best.degenerate:
        causes.append("a constraint acts at its solution")
    if best.degenerate and not fit.degenerate:
        causes.append("a constraint acts at the best one's solution, which may be a degenerate one")
    if not causes:
        causes.append("it ended at another optimum; more seeds or restarts may find the best one")
    return "; ".join(causes)


def seeds_text(seeds: Sequence[int]) -> str:
    if len(seeds) > 8:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def status_of(fits: Iterable[Fitted]) -> str:
    count: dict[str, int] = {}
    for fit in fits:
        count[fit.status] = count.get(fit.status, 0) + 1
    return next(iter(count)) if len(count) == 1 else ", ".join(f"{n} {status}" for status, n in count.items())


def size_text(num_data: float, num_units: float = 0) -> str:
    """How many data there are, and of sequences how many steps: what BIC counts."""
    if num_units in (0, num_data):
        return f"{num_data:.10g} data"
    several = "s" if num_data != 1 else ""
    return f"{num_data:.10g} sequence{several} of {num_units:.10g} time steps{' in all' if several else ''}"


def nats(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value + 0.0:.4f}" if abs(value) < 1e7 else f"{value:.6e}"


def seconds_text(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def small(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if abs(value) < 1e-12 else f"{value:.2g}"
