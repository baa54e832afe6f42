"""A comparison as text for a terminal, and as one self-contained HTML page with its pictures."""

from __future__ import annotations

import base64
import html
import platform
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, one_line
from zoo.reporting import curves, gradients, responsibilities
from zoo.reporting.subjects import Compared
from zoo.reporting.tables import Table
from zoo.reporting.text import gradients_table, nats, notes_of, seconds_text, seeds_text, small, summary

__all__ = ["versions", "write_report"]


def write_report(comparison: Compared, folder: str | Path) -> list[Path]:
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


def _offers(comparison: Compared, name: str) -> bool:
    from zoo.reporting.components import component_kind
    from zoo.reporting.states import has_states

    if name == "gradients":
        return bool(comparison.gradients)
    if name == "states":
        return comparison.x is not None and has_states(comparison.best.model)
    if name == "components":
        return comparison.x is not None and component_kind(comparison.best.model) is not None
    return comparison.x is not None if name == "responsibilities" else True


def _draw(comparison: Compared, name: str, path: Path, dark: bool) -> Path:
    from zoo.reporting import components as plots
    from zoo.reporting.states import plot_states

    if name == "states":
        return plot_states(comparison.best, comparison.x, path, dark=dark)
    if name == "comparison":
        return curves.plot_comparison(comparison, path, dark=dark)
    if name == "gradients":
        return gradients.plot_gradients(comparison, path, dark=dark)
    draw = plots.plot_components if name == "components" else responsibilities.plot_responsibilities
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


def _page(comparison: Compared, figures: list[str], missing: list[str]) -> str:
    best = comparison.best
    score, kind = comparison.score(best), comparison.score_kind
    lead = f"{comparison.num_data} data, {len(comparison.estimators)} estimators, {seeds_text(all_seeds(comparison))}."
    if score is not None:
        lead += f" Best {kind}: {nats(score)} nats, by {best.label} (seed {best.seed})."
    parts = [
        f"<h1>{_e(comparison.model)} on {_e(comparison.data)}</h1>",
        f'<p class="lead">{_e(lead)}</p>',
        _html(summary(comparison), best=comparison.estimators.index(best.label)),
    ]
    notes = [*notes_of(comparison), *missing]
    if notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{_e(note)}</li>" for note in notes) + "</ul>")
    parts += figures
    table = gradients_table(comparison)
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


def _html(table: Table, best: int | None = None) -> str:
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


def _restarts(comparison: Compared) -> Table | None:
    rows = [
        [
            f"{fit.label}, seed {fit.seed}",
            str(start.get("seed")),
            str(start.get("status")),
            nats(start.get("objective")),
            nats(start.get("log_likelihood")),
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
    return Table("Restarts", columns, rows)


def _data_table(comparison: Compared) -> Table:
    """Shape and, for up to 20 features, the range of every tensor of the data."""
    from zoo.core.data import tensors

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
    return Table(f"Data: {comparison.data}", columns, rows)


def _options(comparison: Compared) -> Table:
    rows: list[list[str]] = []
    first = comparison.fits[0].model
    config = dict(first.config)
    rows.append(["model", comparison.model, _settings(config)])
    for name in comparison.estimators:
        fit = next(fit for fit in comparison.fits if fit.label == name)
        rows.append(["estimator", name, _settings(fit.options)])
    rows.append(["seeds", ", ".join(map(str, all_seeds(comparison))), "for each, all estimators start alike"])
    return Table("Options", [("what", False), ("name", False), ("settings", False)], rows)


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


def _version_table() -> Table:
    return Table("Versions", [("what", False), ("version", False)], [list(pair) for pair in versions().items()])


def all_seeds(comparison: Compared) -> list[int]:
    return list(dict.fromkeys(fit.seed for fit in comparison.fits))


def _e(text: str) -> str:
    return html.escape(str(text), quote=True)


def _number(number: bool) -> str:
    return ' class="n"' if number else ""
