"""A comparison as text for a terminal, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

import base64
import html
import io
import platform
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, one_line
from zoo.turns import kept_random

if TYPE_CHECKING:
    from zoo.comparison import Comparison
    from zoo.results import Fit

__all__ = ["shortfalls", "text_table", "versions", "write_report"]

WIDTH = 118
#: Nats below the best from which a row is explained.
SHORTFALL = 1.0


@dataclass(frozen=True)
class _Table:
    """Columns that text and page share: a heading, and whether it is a number."""

    title: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]


def text_table(comparison: Comparison) -> str:
    """The comparison as plain text: a row an estimator, the gradients, and what a reader should know."""
    with kept_random():
        from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, force_terminal=False, highlight=False, markup=False)
    for table in (_summary(comparison), _gradients(comparison)):
        if table is not None:
            _print(console, table)
    for note in _notes(comparison):
        out.write(textwrap.fill(note, WIDTH, initial_indent="- ", subsequent_indent="  ") + "\n")
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def _print(console: Any, table: _Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(table.title), title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    made.padding = (0, 1, 0, 0)
    for i, (heading, number) in enumerate(table.columns):
        words = [word for row in table.rows for word in row[i].split()]
        made.add_column(
            Text(heading),
            justify="right" if number else "left",
            no_wrap=number,
            min_width=None if number else max(map(len, words), default=1),
        )
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    console.print(made)


def _summary(comparison: Comparison) -> _Table:
    from zoo.comparison import DRAWS

    several = len({fit.seed for fit in comparison.fits}) > 1
    columns = [("estimator", False)]
    if several:
        columns += [("seeds", True)]
    columns += [("status", False), ("log-likelihood", True)]
    if several:
        columns += [("median", True)]
    weighted = comparison.weighted_bounds
    columns += [("bound", True), (f"{DRAWS} draws", True)] if weighted else [("bound", True)]
    columns += [("gap", True), ("iterations", True), ("seconds", True), ("peak MB", True)]
    rows = []
    for name in comparison.estimators:
        fits = [fit for fit in comparison.fits if fit.estimator == name]
        best = comparison.best_of(fits)
        known = [fit.log_likelihood for fit in fits if fit.log_likelihood is not None]
        memory = [fit.peak_memory_mb for fit in fits if fit.peak_memory_mb is not None]
        row = [name]
        if several:
            row += [str(len(fits))]
        row += [_status(fits), _nats(best.log_likelihood)]
        if several:
            row += [_nats(statistics.median(known) if known else None)]
        row += [_nats(best.elbo), _nats(weighted.get(id(best)))] if weighted else [_nats(best.elbo)]
        row += [
            _nats(best.evidence_gap),
            f"{statistics.median(fit.iterations for fit in fits):.0f}",
            _seconds(statistics.median(fit.seconds for fit in fits)),
            f"{max(memory):.1f}" if memory else "-",
        ]
        rows.append(row)
    title = f"{comparison.model} on {comparison.data}: {comparison.num_data} data, totals in nats"
    if weighted:
        title += f"; {DRAWS} draws: the bound they give, importance-weighted"
    if several:
        title += " (bound and gap of the best seed; iterations and seconds: medians)"
    return _Table(title, columns, rows)


def _gradients(comparison: Comparison) -> _Table | None:
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
                [f"{here[0].exact_norm:.2e}", f"{_small(here[0].bias)} ± {_small(here[0].bias_se)}", _small(here[0].sd)]
                if here
                else ["-"] * 3
            )
        rows.append(row)
    draws = max(row.num_draws for row in comparison.gradients)
    return _Table(f"Gradients per datum, in units of each parameter's scale, {draws} draws", columns, rows)


def _notes(comparison: Comparison) -> list[str]:
    """Each fit's notes, one line for all seeds that share it; then why rows end below the best."""

    by_note: dict[tuple[str, str], list[int]] = {}
    for fit in comparison.fits:
        for note in dict.fromkeys(fit.notes):
            by_note.setdefault((fit.estimator, note), []).append(fit.seed)
    lines = [f"{name}, {_seeds(seeds)}: {note}" for (name, note), seeds in by_note.items()] + comparison.notes
    return [" ".join(line.split()) for line in [*lines, *shortfalls(comparison)]]


def shortfalls(comparison: Comparison) -> list[str]:
    """For every estimator with fits that end more than a nat below the best: by how much, and why they may."""
    best = comparison.best

    top = comparison.score(best)
    if top is None:
        return []
    kind = comparison.score_kind
    groups: dict[tuple[str, str], list[Fit]] = {}
    for fit in comparison.fits:
        score = comparison.score(fit)
        if score is None or not top - score <= SHORTFALL:  # a NaN is no score either
            groups.setdefault((fit.estimator, _reason(fit, best)), []).append(fit)
    lines = []
    for (name, reason), fits in groups.items():
        below = sorted(top - score for score in map(comparison.score, fits) if score is not None and score == score)
        if not below:
            size = f"has no {kind}"
        elif below[-1] - below[0] < 0.05:
            size = f"ends {below[-1]:.2f} nats below the best {kind} ({best.estimator}, seed {best.seed})"
        else:
            size = (
                f"ends {below[0]:.2f} to {below[-1]:.2f} nats below the best {kind} "
                f"({best.estimator}, seed {best.seed})"
            )
        lines.append(f"{name}, {_seeds([fit.seed for fit in fits])}: {size}; {reason}")
    return lines


def _reason(fit: Fit, best: Fit) -> str:
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


def write_report(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write the pictures and ``report.html`` into a folder that exists.

    The page needs nothing beside it: pictures are inside, in a light and a dark version, and no script is used.

    Returns:
        The files, ``report.html`` first.
    """
    folder = Path(folder)
    files: list[Path] = []
    figures: list[str] = []
    missing: list[str] = []
    for name, title, about in _PICTURES:
        day, dark = folder / f"{name}.png", folder / f".{name}-dark.png"
        try:
            if not _offers(comparison, name):
                continue
            light = _draw(comparison, name, day, dark=False)
            night = _draw(comparison, name, dark, dark=True)
            figures.append(_figure(light, night, title, about))
            files.append(light)
        except ZooError:
            day.unlink(missing_ok=True)  # a posterior that does not lend itself to the picture
        except Exception as error:  # whatever a program does where it is drawn: the fits are done
            day.unlink(missing_ok=True)
            missing.append(f"no picture {title!r}: {one_line(error)}")
        finally:
            dark.unlink(missing_ok=True)
    page = folder / "report.html"
    page.write_text(_page(comparison, figures, missing), encoding="utf-8")
    return [page, *files]


_PICTURES = (
    ("comparison", "Likelihood against time", "Solid: exact log-likelihood. Dashed: the bound each run climbs."),
    ("gradients", "Gradient quality", "Bias and spread of one gradient draw, against the exact gradient."),
    (
        "states",
        "States over time",
        "A sequence coloured by its most probable path; the transitions.",
    ),
    ("components", "The best fit", "What the fitted parameters say, beside the data."),
    ("responsibilities", "Responsibilities", "The posterior of the latent, datum by datum, in the best fit."),
)


def _offers(comparison: Comparison, name: str) -> bool:
    from zoo.plots import component_kind
    from zoo.state_plots import has_states

    if name == "gradients":
        return bool(comparison.gradients)
    if name == "states":
        return comparison.x is not None and has_states(comparison.best.model)
    if name == "components":
        return comparison.x is not None and component_kind(comparison.best.model) is not None
    return comparison.x is not None if name == "responsibilities" else True


def _draw(comparison: Comparison, name: str, path: Path, dark: bool) -> Path:
    from zoo import plots
    from zoo.state_plots import plot_states

    if name == "states":
        return plot_states(comparison.best, comparison.x, path, dark=dark)
    if name == "comparison":
        return plots.plot_comparison(comparison, path, dark=dark)
    if name == "gradients":
        return plots.plot_gradients(comparison, path, dark=dark)
    draw = plots.plot_components if name == "components" else plots.plot_responsibilities
    return draw(comparison.best, comparison.x, path, dark=dark)


def _figure(light: Path, night: Path, title: str, about: str) -> str:
    def inline(path: Path) -> str:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")

    return (
        f"<figure><h2>{_e(title)}</h2><picture>"
        f'<source media="(prefers-color-scheme: dark)" srcset="{inline(night)}">'
        f'<img alt="{_e(title)}" src="{inline(light)}"></picture><figcaption>{_e(about)}</figcaption></figure>'
    )


_CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --quiet: #5c6673; --line: #dfe3e8; --paper: #ffffff; --band: #f5f7f9;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --quiet: #98a2b0; --line: #343b46; --paper: #171b21;
  --band: #1f252d; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p.lead { color: var(--quiet); margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .4rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
tr.best td { background: var(--band); font-weight: 600; }
tr.best td:first-child { box-shadow: inset 3px 0 0 var(--mark); }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption, .small { color: var(--quiet); font-size: .85rem; }
li { margin: .25rem 0; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
"""


def _page(comparison: Comparison, figures: list[str], missing: list[str]) -> str:
    best = comparison.best
    score, kind = comparison.score(best), comparison.score_kind
    lead = f"{comparison.num_data} data, {len(comparison.estimators)} estimators, {_seeds(_all_seeds(comparison))}."
    if score is not None:
        lead += f" Best {kind}: {_nats(score)} nats, by {best.estimator} (seed {best.seed})."
    parts = [
        f"<h1>{_e(comparison.model)} on {_e(comparison.data)}</h1>",
        f'<p class="lead">{_e(lead)}</p>',
        _html(_summary(comparison), best=comparison.estimators.index(best.estimator)),
    ]
    notes = [*_notes(comparison), *missing]
    if notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{_e(note)}</li>" for note in notes) + "</ul>")
    parts += figures
    table = _gradients(comparison)
    if table is not None:
        parts.append(_html(table))
    parts.append(_html(_every_fit(comparison), best=comparison.fits.index(best)))
    restarts = _restarts(comparison)
    if restarts is not None:
        parts.append(_html(restarts))
    parts += [_html(_data_table(comparison)), _html(_options(comparison)), _html(_version_table())]
    title = f"{comparison.model} on {comparison.data}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(title)}</title><style>{_CSS}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _html(table: _Table, best: int | None = None) -> str:
    head = "".join(f"<th{_number(n)}>{_e(heading)}</th>" for heading, n in table.columns)
    body = "".join(
        ('<tr class="best">' if i == best else "<tr>")
        + "".join(f"<td{_number(n)}>{_e(cell)}</td>" for cell, (_, n) in zip(row, table.columns, strict=True))
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    return (
        f'<h2>{_e(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _every_fit(comparison: Comparison) -> _Table:
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
            fit.estimator,
            str(fit.seed),
            fit.status,
            _nats(fit.log_likelihood),
            _nats(fit.elbo),
            _small(fit.elbo_se),
            _nats(fit.evidence_gap),
            _nats(fit.bic),
            str(fit.iterations),
            _seconds(fit.seconds),
            "-" if fit.peak_memory_mb is None else f"{fit.peak_memory_mb:.1f}",
        ]
        for fit in comparison.fits
    ]
    return _Table("Every fit", columns, rows)


def _restarts(comparison: Comparison) -> _Table | None:
    rows = [
        [
            f"{fit.estimator}, seed {fit.seed}",
            str(start.get("seed")),
            str(start.get("status")),
            _nats(start.get("objective")),
            _nats(start.get("log_likelihood")),
            "yes" if start.get("degenerate") else "no",
            "yes" if start.get("chosen") else "",
            "; ".join(map(str, start.get("notes", []))),
        ]
        for fit in comparison.fits
        for start in fit.restarts
        if len(fit.restarts) > 1
    ]
    if not rows:
        return None
    columns = [("fit", False), ("start", True), ("status", False), ("objective", True), ("log-likelihood", True)]
    columns += [("degenerate", False), ("chosen", False), ("notes", False)]
    return _Table("Restarts", columns, rows)


def _data_table(comparison: Comparison) -> _Table:
    """Shape and, for up to 20 features, the range of every tensor of the data."""
    from zoo.batch import tensors

    x = comparison.x
    names = list(x) if isinstance(x, dict) else [f"x{i or ''}" for i in range(len(tensors(x)))]
    rows = []
    for name, value in zip(names, tensors(x), strict=False):
        shape = " x ".join(map(str, value.shape)) or "one number"
        numbers = value.detach().cpu().double().reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
        split = value.dim() > 1 and 1 < numbers.shape[1] <= 20
        for j, column in enumerate(numbers.T if split else [numbers.flatten()]):
            if column.numel():
                label = f"{name}, feature {j}" if split else name
                spread = column.std(correction=0)
                values = [f"{float(v):.5g}" for v in (column.min(), column.mean(), spread, column.max())]
                rows.append([label, shape, *values])
    columns = [("data", False), ("shape", False), ("min", True), ("mean", True), ("sd", True), ("max", True)]
    return _Table(f"Data: {comparison.data}", columns, rows)


def _options(comparison: Comparison) -> _Table:
    rows: list[list[str]] = []
    first = comparison.fits[0].model
    config = dict(getattr(first, "config", {}))
    rows.append(["model", comparison.model, _settings(config)])
    for name in comparison.estimators:
        fit = next(fit for fit in comparison.fits if fit.estimator == name)
        rows.append(["estimator", name, _settings(fit.options)])
    rows.append(["seeds", ", ".join(map(str, _all_seeds(comparison))), "for each, all estimators start alike"])
    return _Table("Options", [("what", False), ("name", False), ("settings", False)], rows)


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in values.items()) or "defaults"


def versions() -> dict[str, str]:
    """What computed: Python, the machine, and the packages numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("latent-zoo", "torch", "pyro-ppl", "numpy", "scipy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package == "latent-zoo":  # run from a checkout
                from zoo import __version__

                found[package] = __version__
    return found


def _version_table() -> _Table:
    return _Table("Versions", [("what", False), ("version", False)], [list(pair) for pair in versions().items()])


def _all_seeds(comparison: Comparison) -> list[int]:
    return list(dict.fromkeys(fit.seed for fit in comparison.fits))


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 8:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _status(fits: Iterable[Fit]) -> str:
    count: dict[str, int] = {}
    for fit in fits:
        count[fit.status] = count.get(fit.status, 0) + 1
    return next(iter(count)) if len(count) == 1 else ", ".join(f"{n} {status}" for status, n in count.items())


def _nats(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value + 0.0:.4f}" if abs(value) < 1e7 else f"{value:.6e}"


def _seconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _small(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if abs(value) < 1e-12 else f"{value:.2g}"


def _e(text: str) -> str:
    return html.escape(str(text), quote=True)


def _number(number: bool) -> str:
    return ' class="n"' if number else ""
