"""Pictures of fits and comparisons. What is drawn depends on what a model offers, never on which model it is.

Matplotlib is imported when a picture is asked for, and only its figure objects are used: no pyplot, so the caller's
backend, open figures and settings stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.batch import Data, num_data, take, tensors
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.comparison import Comparison
    from zoo.results import Fit

__all__ = [
    "component_kind",
    "image_shape",
    "plot_comparison",
    "plot_components",
    "plot_gradients",
    "plot_responsibilities",
    "plot_samples",
    "plot_sheet",
    "responsibilities",
]

#: Okabe & Ito's colours, which colour-blind readers tell apart, then darker ones of Paul Tol's for long lists.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7570B3", "#999933", "#44AA99")
MARKERS = "osD^vPX*<>"
MAX_POINTS = 5000
#: Images that a picture of draws shows at most.
MAX_IMAGES = 400
#: Features from which square vectors are shown as images.
IMAGE_FEATURES = 64

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Theme:
    ink: str
    quiet: str
    grid: str
    paper: str


_LIGHT = _Theme("#1d2430", "#6b7482", "#e3e6ea", "#ffffff")
_DARK = _Theme("#e6e9ee", "#98a2b0", "#343b46", "#171b21")


class _Page:
    """One figure: axes in the theme's colours, saved at the end."""

    def __init__(self, width: float, height: float, dark: bool) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.theme = _DARK if dark else _LIGHT
        self.figure = Figure(figsize=(width, height), facecolor=self.theme.paper, layout="constrained")
        FigureCanvasAgg(self.figure)

    def axes(self, rows: int = 1, columns: int = 1, **kwargs: Any) -> list[Any]:
        made = self.figure.subplots(rows, columns, squeeze=False, **kwargs)
        for ax in made.flat:
            self.dress(ax)
        return list(made.flat)

    def dress(self, ax: Any) -> None:
        theme = self.theme
        ax.set_facecolor(theme.paper)
        ax.tick_params(colors=theme.quiet, labelcolor=theme.quiet, labelsize=9, length=3)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.quiet)
            spine.set_linewidth(0.8)

    def label(self, ax: Any, title: str = "", x: str = "", y: str = "") -> None:
        # A data set's name is text, also where it has a dollar sign.
        if title:
            ax.set_title(title, loc="left", fontsize=11, color=self.theme.ink, pad=8, parse_math=False)
        ax.set_xlabel(x, fontsize=10, color=self.theme.ink, parse_math=False)
        ax.set_ylabel(y, fontsize=10, color=self.theme.ink, parse_math=False)

    def legend(self, ax: Any, handles: Sequence[Any], *, below: bool = False, **kwargs: Any) -> None:
        if below:
            kwargs |= {"loc": "outside lower center"}
        made = (self.figure if below else ax).legend(
            handles=list(handles), fontsize=9, frameon=False, labelcolor=self.theme.ink, **kwargs
        )
        for text in made.get_texts():
            text.set_parse_math(False)

    def save(self, path: str | Path) -> Path:
        path = Path(path)
        known = self.figure.canvas.get_supported_filetypes()
        if path.suffix.lstrip(".").lower() not in known:
            raise ZooError(f"picture expected a name ending in .png, .svg or .pdf, got {path.name!r}. Rename it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=150, facecolor=self.theme.paper)
        return path


def plot_comparison(comparison: Comparison, path: str | Path, *, dark: bool = False) -> Path:
    """Log-likelihood (solid) and bound (dashed) against time: one colour an estimator, one thin line a seed.

    The frame is made for the part where estimators differ; early parts of a climb may lie below it.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    page = _Page(8.6, 5.0, dark)
    (ax,) = page.axes()
    names = comparison.estimators
    curves: list[tuple[str, str, Array, Array]] = []
    ends: list[tuple[str, float, float]] = []
    for fit in comparison.fits:
        seconds = _floats(fit.history["seconds"])
        for column in ("log_likelihood", "elbo", "bound"):
            values = _floats(fit.history.get(column, [None] * len(seconds)))
            seen = np.isfinite(values) & np.isfinite(seconds)
            if seen.any():
                times, seen_values = np.maximum(seconds[seen], 1e-4), values[seen]
                if column != "log_likelihood":
                    times, seen_values = _averaged(times, seen_values)
                curves.append((fit.estimator, column, times, seen_values))
        score = comparison.score(fit)
        if score is not None and math.isfinite(score):
            ends.append((fit.estimator, max(fit.seconds, 1e-4), score))
    low, high, cut = _frame(comparison, curves, [score for _, _, score in ends])
    best = comparison.best
    top = comparison.score(best)
    if top is not None and math.isfinite(top):
        ax.axhline(top, color=page.theme.quiet, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        said = f"best {comparison.score_kind} {top:.2f} ({best.estimator})"
        ax.annotate(
            said, (0.01, top), xycoords=("axes fraction", "data"),
            xytext=(0, 4), textcoords="offset points", fontsize=8.5, color=page.theme.quiet, va="bottom",
        )  # fmt: skip
    for name, column, seconds, values in curves:
        exact = column == "log_likelihood"
        style: Any = "-" if exact else (0, (4, 2))
        ax.plot(
            seconds, values, color=_colour(names.index(name)), linestyle=style, linewidth=1.3,
            alpha=0.9 if exact else 0.65, zorder=3 if exact else 2,
        )  # fmt: skip
    for name, end, score in ends:
        i = names.index(name)
        inside = max(score, low)  # below the frame: on its lower edge
        ax.plot(
            end, inside, marker=MARKERS[i % len(MARKERS)], markersize=6.5, color=_colour(i), zorder=5,
            markeredgecolor=page.theme.paper, markeredgewidth=0.8, clip_on=False,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    if cut:
        ax.set_title("some curves begin below the frame", loc="right", fontsize=8.5, color=page.theme.quiet, pad=8)
    seeds = len({fit.seed for fit in comparison.fits})
    many = f", {seeds} seeds" if seeds > 1 else ""
    page.label(
        ax,
        f"{comparison.model} on {comparison.data}: {comparison.num_data} data{many}",
        "seconds (log scale)",
        "total, nats",
    )
    handles = [
        Line2D([], [], color=_colour(i), marker=MARKERS[i % len(MARKERS)], markersize=6, linewidth=1.6, label=name)
        for i, name in enumerate(names)
    ]
    kinds = {column for _, column, _, _ in curves}
    if "log_likelihood" in kinds:
        handles.append(Line2D([], [], color=page.theme.quiet, linewidth=1.4, label="exact log-likelihood"))
    if kinds & {"elbo", "bound"}:
        handles.append(
            Line2D([], [], color=page.theme.quiet, linewidth=1.4, linestyle=(0, (4, 2)), label="bound, averaged")
        )
    page.legend(ax, handles, below=True, ncols=min(len(handles), 7))
    return page.save(path)


def _averaged(seconds: Array, values: Array, spans: int = 120) -> tuple[Array, Array]:
    """A long curve as means over spans of equal length in log time: a bound of few draws is a cloud otherwise."""
    if len(values) <= spans:
        return seconds, values
    where = np.digitize(np.log(seconds), np.linspace(math.log(seconds[0]), math.log(seconds[-1]), spans + 1)[1:-1])
    _, where = np.unique(where, return_inverse=True)
    count = np.bincount(where)
    return np.bincount(where, seconds) / count, np.bincount(where, values) / count


def _frame(
    comparison: Comparison, curves: list[tuple[str, str, Array, Array]], ends: list[float]
) -> tuple[float, float, bool]:
    """The limits in nats, and whether they cut a curve off.

    Gradient runs may begin thousands of nats below where they end, so the lower limit is a quantile of what a
    reader would see along the logarithmic time axis, with every end of a run in the frame unless it is far off.
    """
    if not ends:
        ends = [0.0]
    top = max([*ends, *(float(np.percentile(v[len(v) // 2 :], 99)) for *_, v in curves)])
    visible: list[Array] = []
    for *_, seconds, values in curves:
        grid = np.geomspace(seconds[0], max(seconds[-1], seconds[0] * 1.001), 60)
        visible.append(np.interp(np.log(grid), np.log(seconds), values))
    low = float(np.percentile(np.concatenate(visible), 10)) if visible else min(ends)
    typical = float(np.median(ends))
    reach = max(top - typical, top - low, 1e-3 * max(1.0, abs(top)))
    low = min(low, min((end for end in ends if top - end < 5 * reach), default=low))
    height = max(top - low, 1e-6 * max(1.0, abs(top)))
    low, high = low - 0.06 * height, top + 0.09 * height
    return low, high, any(float(values.min()) < low for *_, values in curves)


def plot_history(fit: Fit, path: str | Path, *, dark: bool = False) -> Path:
    """A learning curve: what was climbed, a datum, against iterations or epochs; held-out data; parts of the bound.

    Raises:
        ZooError: a run of fewer than two iterations.
    """
    from matplotlib.ticker import MaxNLocator

    if fit.iterations < 2:
        raise ZooError(f"plot_history: expected at least two iterations to draw a line, got {fit.iterations}. Run on.")
    history = {name: _floats(values) for name, values in fit.history.items()}
    parts = [name for name in ("reconstruction", "kl") if np.isfinite(history.get(name, np.empty(0))).any()]
    page = _Page(6.4, 3.4 + 1.6 * bool(parts), dark)
    shape: dict[str, Any] = {"height_ratios": (2, 1)} if parts else {}
    axes = page.axes(2 if parts else 1, sharex=True, **shape)
    when = np.arange(1, fit.iterations + 1)
    curves = [(axes[0], "climbed", history["objective"] / fit.num_data)]
    curves += [(axes[0], "held out", history["validation"])] if "validation" in history else []
    signs = {"reconstruction": ("reconstruction, negative", -1), "kl": ("KL", 1)}
    curves += [(axes[1], signs[name][0], signs[name][1] * history[name]) for name in parts]
    for i, (ax, label, values) in enumerate(curves):
        ax.plot(when, values, color=_colour(i), linewidth=1.4, label=label)
    first = curves[0][2][np.isfinite(curves[0][2])]
    if len(first) > 20:  # the first epochs of a network lie far below all others
        low, high = float(np.percentile(first, 3)), float(first.max())
        axes[0].set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.08 * (high - low) + 1e-9)
    for ax in axes:
        ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(ax.lines) > 1:
            page.legend(ax, ax.lines)
    unit = "epoch" if "max_epochs" in fit.options else "iteration"
    page.label(axes[0], f"{fit.estimator}, {fit.num_data} data", "" if parts else unit, "nats a datum")
    if parts:
        page.label(axes[1], "", unit, "nats a datum")
    return page.save(path)


def plot_gradients(comparison: Comparison, path: str | Path, *, dark: bool = False) -> Path:
    """Bias and spread of each estimator's gradient at the start and at the optimum, on a log scale.

    The grey bar under a bias is its noise floor, two Monte-Carlo standard errors: a bias inside it may be none.

    Raises:
        ZooError: the comparison measured no gradients.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if not comparison.gradients:
        raise ZooError("plot_gradients: expected measured gradients, got none. Compare with gradients=True.")
    points = list(dict.fromkeys(row.point for row in comparison.gradients))
    names = list(dict.fromkeys(row.estimator for row in comparison.gradients))
    colours = {name: _colour(comparison.estimators.index(name)) for name in names}
    page = _Page(4.3 * len(points), 1.9 + 0.5 * len(names), dark)
    axes = page.axes(1, len(points), sharey=True)
    scale = max([row.exact_norm for row in comparison.gradients] + [row.sd for row in comparison.gradients] + [1e-300])
    nothing = 1e-10 * scale  # what rounding leaves of a bias of zero
    seen = [v for r in comparison.gradients for v in (r.bias, r.sd, 2 * r.bias_se, r.exact_norm) if v > nothing] or [
        scale
    ]
    edge, top = min(seen) / 12, max(seen) * 3
    for ax, point in zip(axes, points, strict=True):
        rows = {row.estimator: row for row in comparison.gradients if row.point == point}
        for name, row in rows.items():
            y = names.index(name)
            floor = 2 * row.bias_se
            if floor > nothing:
                ax.barh(y, floor - edge, left=edge, height=0.62, color=page.theme.grid, zorder=1)
            for value, marker, size, dy in ((row.bias, "o", 7.5, 0.13), (row.sd, "|", 13, -0.13)):
                zero = value <= nothing
                ax.plot(
                    edge * 1.35 if zero else value, y - dy, marker="o" if zero and marker == "o" else marker,
                    markersize=size, color=colours[name], markeredgewidth=2.4 if marker == "|" else 1.2,
                    markerfacecolor="none" if zero else colours[name], zorder=4,
                )  # fmt: skip
                if zero:
                    ax.annotate(
                        "0", (edge * 1.35, y - dy), xytext=(8, 0), textcoords="offset points", va="center",
                        fontsize=8.5, color=page.theme.quiet,
                    )  # fmt: skip
            if row.bias > nothing and row.bias_se > 0:
                left = max(row.bias - row.bias_se, edge)
                ax.plot([left, row.bias + row.bias_se], [y - 0.13] * 2, color=colours[name], linewidth=1.4, zorder=3)
        norm = next(iter(rows.values())).exact_norm
        if norm > edge:
            ax.axvline(norm, color=page.theme.ink, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2)
        ax.set_xscale("log")
        ax.set_xlim(edge, top)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", labelcolor=page.theme.ink, labelsize=10, length=0)
        ax.grid(True, axis="x", color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        title = {"start": "at the start", "optimum": "at the best optimum"}.get(point, point)
        page.label(ax, f"Gradient {title}", "per datum, in units of each parameter's scale")
    ink = page.theme.ink
    handles: list[Any] = [
        Line2D([], [], color=ink, marker="o", linestyle="", markersize=7, label="bias"),
        Line2D([], [], color=ink, marker="|", linestyle="", markersize=12, markeredgewidth=2.4, label="sd of a draw"),
        Patch(color=page.theme.grid, label="noise floor of the bias (2 se)"),
        Line2D([], [], color=ink, linestyle=(0, (4, 2)), linewidth=1.0, label="norm of the exact gradient"),
    ]
    page.legend(axes[0], handles, below=True, ncols=4 if len(points) > 1 else 2)
    return page.save(path)


def component_kind(model: Any) -> str | None:
    """What :func:`plot_components` would draw of a model: "gaussian", "counts", "probs", "loadings", or None."""
    means, covariances = _parameter(model, "means"), _parameter(model, "covariances")
    if means is not None and covariances is not None and means.ndim == 2 and covariances.ndim == 3:
        return "gaussian"
    for name, kind in (("rates", "counts"), ("probs", "probs"), ("emission_probs", "probs"), ("loadings", "loadings")):
        value = _parameter(model, name)
        if value is not None and value.ndim == 2:
            return kind
    return None


def plot_components(fit: Fit, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """A fitted model in the space of its data.

    Gaussian components of two or more features: data and 1- and 2-sigma ellipses in the two features that set the
    components furthest apart. One feature: histogram and densities. Otherwise a heat map of the parameters, for
    loadings with the posterior means of the factors.

    Raises:
        ZooError: the model offers none of ``means`` and ``covariances``, ``rates``, ``probs``, ``loadings``.
    """
    model, kind = fit.model, component_kind(fit.model)
    if kind is None:
        raise ZooError(
            "plot_components: expected a model with means and covariances, rates, probs or loadings, "
            f"got {type(model).__name__}. Draw its samples instead: fit.sample(n)."
        )
    from zoo import state_plots

    resp: Array | None
    if state_plots.has_states(model):
        part = state_plots.seen_sequences(fit, x)
        rows, probs = _steps(part), state_plots.step_probabilities(fit, part)
        weights, chosen = probs.mean(0), _few(len(rows))
        rows, resp, word = rows[chosen], probs[chosen], "state"
    else:
        part, rows = _visible(x)
        if kind == "loadings":
            return _loadings(fit, part, path, dark)
        resp, word = responsibilities(fit, part), "component"
        if resp is not None and len(resp) != len(rows):
            resp = None
        weights = _mixing(model, resp)
    if kind == "gaussian":
        means, covariances = _array(model.means), _array(model.covariances)
        covariances = np.broadcast_to(covariances, (len(means), *covariances.shape[1:]))
        inner = _parameter(model, "mixture_weights")
        shares = weights if inner is None else (weights[:, None] * inner).ravel()
        owner = np.arange(len(means)) // (len(means) // len(weights))  # a state may have several components
        if means.shape[1] == 1:
            scales = np.sqrt(covariances[:, 0, 0])
            return _histogram(rows[:, 0], shares, means[:, 0], scales, path, dark, word, owner)
        return _ellipses(rows, resp, weights, shares, owner, means, covariances, path, dark, word)
    if kind == "counts" and _array(model.rates).shape[1] == 1:
        rates = _array(model.rates)[:, 0]
        return _histogram(rows[:, 0], weights, rates, None, path, dark, word, np.arange(len(rates)))
    name = "rates" if kind == "counts" else "probs" if _parameter(model, "probs") is not None else "emission_probs"
    return _parameters(_array(getattr(model, name)), weights, name, path, dark, word)


def _ellipses(
    rows: Array, resp: Array | None, weights: Array, shares: Array, owner: Any, means: Array, covariances: Array,
    path: str | Path, dark: bool, word: str,
) -> Path:  # fmt: skip
    """Ellipses of components, of which ``owner`` says whose they are: of a component itself, or of a state."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    page = _Page(7.4, 5.6, dark)
    (ax,) = page.axes()
    whole = ~np.isnan(rows).any(1)
    rows, resp = rows[whole], None if resp is None else resp[whole]
    spread = (shares @ (means - shares @ means) ** 2) / np.maximum(rows.var(0), 1e-300)
    first, second = sorted(np.argsort(-spread, kind="stable")[:2].tolist())
    axes = [first, second]
    colours = _rgb(len(weights))
    if resp is None:
        point_colours: Any = page.theme.quiet
    else:
        point_colours = np.clip(resp @ colours, 0, 1)
    size = 22 if len(rows) <= 300 else 10 if len(rows) <= 1500 else 4
    ax.scatter(
        rows[:, first], rows[:, second], s=size, c=point_colours, alpha=0.75 if len(rows) <= 1500 else 0.45,
        linewidths=0, zorder=2,
    )  # fmt: skip
    for k in range(len(means)):
        # The marginal of a Gaussian over two features has the corresponding block as its covariance.
        values, vectors = np.linalg.eigh(covariances[k][np.ix_(axes, axes)])
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        width, height = (float(2 * math.sqrt(max(v, 0.0))) for v in (values[1], values[0]))
        for sigmas in (1, 2):
            ax.add_patch(
                Ellipse(
                    tuple(means[k, axes]),
                    sigmas * width,
                    sigmas * height,
                    angle=angle,
                    facecolor="none",
                    edgecolor=colours[owner[k]],
                    linewidth=2.0 if sigmas == 1 else 1.3,
                    linestyle="-" if sigmas == 1 else (0, (4, 2)),
                    zorder=3,
                )
            )
        ax.plot(*means[k, axes], marker="+", markersize=9, markeredgewidth=2, color=colours[owner[k]], zorder=4)
    _limits(ax, rows[:, axes])
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    where = "" if means.shape[1] == 2 else f", features {first} and {second} of {means.shape[1]}"
    page.label(ax, f"Data and fitted {word}s: 1 and 2 sigma{where}", f"feature {first}", f"feature {second}")
    handles = [
        Line2D([], [], color=c, linewidth=2, label=f"{word} {k}: {w:.0%}")
        for k, (c, w) in enumerate(zip(colours, weights, strict=True))
    ]
    if len(handles) <= 12:
        page.legend(ax, handles, below=True, ncols=min(4, len(handles)))
    return page.save(path)


def _histogram(
    values: Array, weights: Array, centres: Array, scales: Array | None, path: str | Path, dark: bool,
    word: str, owner: Any,
) -> Path:  # fmt: skip
    """Data and fitted mixture in one dimension: Gaussian with ``scales``, Poisson without."""
    from scipy import stats

    page = _Page(7.4, 4.6, dark)
    (ax,) = page.axes()
    colours = _rgb(int(owner.max()) + 1)[owner]
    values = values[~np.isnan(values)]
    if scales is None:
        top = int(max(values.max(), stats.poisson.ppf(0.999, centres.max())))
        bottom = int(min(values.min(), stats.poisson.ppf(0.001, centres.min())))
        step = max(1, math.ceil((top - bottom + 1) / 80))
        edges = np.arange(bottom, top + step + 1, step) - 0.5
        middle = (edges[:-1] + edges[1:]) / 2
        height, _ = np.histogram(values, edges)
        share = height / len(values)
        cdf = stats.poisson.cdf(np.floor(edges)[:, None], centres)
        parts = weights * np.diff(cdf, axis=0)
        name, x = "share of data", "count" if step == 1 else f"count, in bins of {step}"
        width, drawn = step * 0.86, "o-" if len(middle) <= 60 else "-"
    else:
        # Freedman and Diaconis' width is made for one mode: between several it is far too wide.
        bins = min(max(len(np.histogram_bin_edges(values, "fd")), math.ceil(2 * math.sqrt(len(values)))), 120)
        edges = np.histogram_bin_edges(values, bins)
        share, _ = np.histogram(values, edges, density=True)
        low = min(values.min(), (centres - 2.5 * scales).min())
        high = max(values.max(), (centres + 2.5 * scales).max())
        reach = 0.5 * max(float(np.ptp(values)), 1e-12)
        middle = np.linspace(max(low, values.min() - reach), min(high, values.max() + reach), 800)
        parts = weights * stats.norm.pdf(middle[:, None], centres, np.maximum(scales, 1e-300))
        name, x, width, drawn = "density", "feature 0", float(edges[1] - edges[0]) * 0.94, "-"
    bars = (edges[:-1] + edges[1:]) / 2
    ax.bar(bars, share, width=width, color=page.theme.grid, label="data", zorder=1)
    for k, colour in enumerate(colours):
        at = f"mean {centres[k]:.3g}" if scales is not None else f"rate {centres[k]:.3g}"
        ax.plot(
            middle, parts[:, k], drawn, markersize=3, color=colour, linewidth=1.5, zorder=3,
            label=f"{word} {owner[k]}: {weights[k]:.0%}, {at}",
        )  # fmt: skip
    ax.plot(middle, parts.sum(1), color=page.theme.quiet, linewidth=4.0, alpha=0.6, zorder=2, label="mixture")
    tallest = max(float(share.max()), float(np.percentile(parts.sum(1), 99)))
    ax.set_ylim(0, 1.12 * max(tallest, 1e-12))
    made = "fitted mixture" if word == "component" else f"{word}s' mixture, by their shares of the steps"
    page.label(ax, f"{len(values)} data and the {made}", x, name)
    handles, _ = ax.get_legend_handles_labels()
    page.legend(ax, handles, below=True, ncols=min(3, len(handles)))
    return page.save(path)


def _parameters(values: Array, weights: Array, name: str, path: str | Path, dark: bool, word: str) -> Path:
    """Component parameters (K, D): as images where D is a square number of pixels, else a heat map."""
    k, d = values.shape
    shape = image_shape(d)
    if shape is not None:
        lines = math.ceil(k / 8)
        columns = math.ceil(k / lines)
        page = _Page(max(4.6, 1.7 * columns + 0.4), 1.85 * lines + 0.6, dark)
        axes = page.axes(lines, columns)
        top = 1.0 if "probs" in name else float(values.max())
        for i, ax in enumerate(axes):
            ax.set_axis_off()
            if i < k:
                ax.imshow(values[i].reshape(shape), cmap="gray_r", vmin=0, vmax=top)
                ax.set_title(f"{weights[i]:.0%}", fontsize=9, color=page.theme.quiet, pad=3)
        page.figure.suptitle(f"{name} of the {k} {word}s, as images, with weights", fontsize=11, color=page.theme.ink)
        return page.save(path)
    page = _Page(min(12.0, max(5.6, 2.6 + 0.55 * d)), min(12.0, 2.0 + 0.45 * k), dark)
    (ax,) = page.axes()
    limits = (0.0, 1.0) if "probs" in name else (None, None)
    _heat(page, ax, values, "viridis", limits, "p(x = 1)" if name == "probs" else name.replace("_", " "))
    _ticks(ax, 1, [f"{word} {i} ({w:.0%})" for i, w in enumerate(weights)])
    _ticks(ax, 0, [str(i) for i in range(d)])
    page.label(ax, f"Fitted {name.replace('_', ' ')}", "symbol" if name == "emission_probs" else "feature")
    return page.save(path)


def _loadings(fit: Fit, part: Data, path: str | Path, dark: bool) -> Path:
    loadings = _array(getattr(fit.model, "loadings"))  # noqa: B009 (offered, not declared)
    d, q = loadings.shape
    shape = image_shape(d)
    scores = _posterior_means(fit, part)
    page = _Page(10.0, 5.0 if shape is not None else min(10.0, max(4.2, 1.5 + 0.24 * d)), dark)
    shown = min(q, 9) if shape is not None else 1
    if shape is None:
        left, right = page.axes(1, 2, width_ratios=(1.0, 1.5))
        reach = float(np.abs(loadings).max()) or 1.0
        _heat(page, left, loadings, "RdBu_r", (-reach, reach), "loading", vertical=True)
        _ticks(left, 1, [str(i) for i in range(d)])
        _ticks(left, 0, [str(i) for i in range(q)])
        page.label(left, "Loadings", "factor", "feature")
    else:
        halves: Any = page.figure.subfigures(1, 2, width_ratios=(1.0, 1.1))
        for half in halves:
            half.set_facecolor(page.theme.paper)
        columns = math.ceil(math.sqrt(shown))
        made = halves[0].subplots(math.ceil(shown / columns), columns, squeeze=False)
        for i, ax in enumerate(made.flat):
            ax.set_axis_off()
            if i < shown:
                reach = float(np.abs(loadings[:, i]).max()) or 1.0
                ax.imshow(loadings[:, i].reshape(shape), cmap="RdBu_r", vmin=-reach, vmax=reach)
                ax.set_title(f"factor {i}", fontsize=9, color=page.theme.quiet, pad=3)
        halves[0].suptitle(f"Loadings as images ({shown} of {q})", fontsize=11, color=page.theme.ink)
        right = halves[1].subplots()
        page.dress(right)
    if scores is None:
        right.set_axis_off()
        right.text(0.5, 0.5, "no posterior to draw", ha="center", color=page.theme.quiet)
    elif scores.shape[1] == 1:
        right.hist(scores[:, 0], bins=min(60, max(10, len(scores) // 10)), color=PALETTE[0])
        page.label(right, f"Posterior means of {len(scores)} data", "factor 0", "data")
    else:
        size = 22 if len(scores) <= 300 else 10 if len(scores) <= 1500 else 4
        right.axhline(0, color=page.theme.grid, linewidth=0.9, zorder=1)
        right.axvline(0, color=page.theme.grid, linewidth=0.9, zorder=1)
        right.scatter(scores[:, 0], scores[:, 1], s=size, color=PALETTE[0], alpha=0.65, linewidths=0, zorder=2)
        _limits(right, scores[:, :2])
        page.label(right, f"Posterior means of {len(scores)} data", "factor 0", "factor 1")
    return page.save(path)


def plot_responsibilities(fit: Fit, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """p(z = k | x_n) as a heat map, data sorted by their most probable component and how sure it is.

    Raises:
        ZooError: the posterior is not one discrete variable a datum.
    """
    part, _ = _visible(x)
    resp = responsibilities(fit, part)
    if resp is None:
        raise ZooError(
            "plot_responsibilities: expected one discrete latent a datum, got another posterior. Use plot_components."
        )
    n, k = resp.shape
    label = resp.argmax(1)
    order = np.lexsort((-resp.max(1), label))
    page = _Page(8.6, min(9.0, 1.9 + 0.42 * k), dark)
    (ax,) = page.axes()
    _heat(page, ax, resp[order].T, "viridis" if dark else "Blues", (0.0, 1.0), "probability", annotate=False)
    _ticks(ax, 1, [f"component {i}" for i in range(k)])
    for edge in np.cumsum(np.bincount(label, minlength=k))[:-1]:
        if 0 < edge < n:
            ax.axvline(edge - 0.5, color=page.theme.quiet, linewidth=0.7, linestyle=(0, (2, 2)))
    unsure = float((resp.max(1) < 0.9).mean())
    page.label(
        ax, f"Responsibilities: {unsure:.0%} of {n} data have no component above 90%", "data, sorted by component"
    )
    return page.save(path)


def plot_samples(x: Data, path: str | Path, *, dark: bool = False) -> Path:
    """Draws from a model: images where a datum is a square of pixels, else a histogram, or two features as points."""
    _, rows = _visible(x)
    n, d = rows.shape
    shape = image_shape(d)
    if shape is not None:
        rows = rows[:MAX_IMAGES]
        low, high = rows.min(), rows.max()
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-12))
        images = ((rows - low) / (high - low)).reshape(-1, *shape)
        across = math.ceil(math.sqrt(len(images)))
        return plot_sheet([images[i : i + across] for i in range(0, len(images), across)], path, dark=dark)
    page = _Page(6.4, 4.8, dark)
    (ax,) = page.axes()
    if d == 1:
        values = rows[:, 0]
        whole = bool((values == np.round(values)).all()) and np.ptp(values) <= 200
        bins: Any = np.arange(values.min(), values.max() + 2) - 0.5 if whole else min(60, max(10, n // 8))
        ax.hist(values, bins=bins, color=PALETTE[0], rwidth=0.9)
        page.label(ax, f"{n} draws", "feature 0", "draws")
    else:
        first, second = sorted(np.argsort(-rows.var(0), kind="stable")[:2].tolist())
        size = 22 if n <= 300 else 10 if n <= 1500 else 4
        ax.scatter(rows[:, first], rows[:, second], s=size, color=PALETTE[0], alpha=0.65, linewidths=0)
        ax.grid(True, color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        where = "" if d == 2 else f": the 2 of {d} features that vary most"
        page.label(ax, f"{n} draws{where}", f"feature {first}", f"feature {second}")
    return page.save(path)


def plot_sheet(
    rows: Sequence[Array],
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    tops: Sequence[str] = (),
    title: str = "",
    bands: int = 0,
    gap: int | None = None,
    dark: bool = False,
) -> Path:
    """Images in rows, white on black.

    Args:
        rows: of images, each (M, height, width), from 0 (black) to 1 (white); NaN is what is not known.
        labels: one a row, on its left. tops: over the first columns.
        bands: rows that belong together are so many, and stand apart from others; 0 for none.
        gap: pixels between images; None takes what suits their size.
    """
    from matplotlib.transforms import blended_transform_factory

    height, width = rows[0].shape[1:]
    gap = max(1, round(height / 14)) if gap is None else gap
    across, extra = max(len(row) for row in rows), (gap + height // 5) if bands else 0
    apart = [i // bands * extra if bands else 0 for i in range(len(rows))]
    size = (len(rows) * (height + gap) - gap + apart[-1], across * (width + gap) - gap)
    sheet = np.full(size, -1.0)
    tall, wide = height + gap, width + gap
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * tall + apart[i], j * wide
            sheet[top : top + height, left : left + width] = image
    theme = _DARK if dark else _LIGHT
    grey = np.nan_to_num(sheet, nan=0.0).clip(0, 1)
    colours = np.repeat(grey[..., None], 3, -1)
    colours[np.isnan(sheet)] = _colours_of(theme.grid)
    colours[sheet == -1.0] = _colours_of(theme.paper)
    edge, inches = 0.06, min(9.0, max(3.6, 0.62 * across))
    room, head = (0.12 + 0.078 * max(map(len, labels)) if labels else 0.0), 0.26 * (bool(tops) or bool(title))
    whole, tall_inches = inches + room + 2 * edge, inches * size[0] / size[1]
    high = tall_inches + head + 2 * edge
    page = _Page(whole, high, dark)
    page.figure.set_layout_engine("none")  # what is written beside an axis that is off would find no room
    ax = page.figure.add_axes(((room + edge) / whole, edge / high, inches / whole, tall_inches / high))
    ax.set_axis_off()
    # Pixels as they are: with fewer dots than pixels a picture of many images would lose some of them.
    ax.imshow(colours, interpolation="nearest" if size[0] < 600 else "antialiased")
    left = blended_transform_factory(ax.transAxes, ax.transData)
    for i, text in enumerate(labels):
        middle = i * tall + apart[i] + height / 2 - 0.5
        ax.text(-0.012, middle, text, transform=left, ha="right", va="center", fontsize=9, color=theme.ink)
    above = blended_transform_factory(ax.transData, ax.transAxes)
    for j, text in enumerate(tops):
        ax.text(j * wide - 0.5, 1.01, text, transform=above, ha="left", va="bottom", fontsize=9, color=theme.ink)
    if title:
        ax.set_title(title, loc="left", fontsize=9, color=theme.quiet, pad=5, parse_math=False)
    return page.save(path)


def responsibilities(fit: Fit, x: Data) -> Array | None:
    """p(z = k | x_n), (N, K), where the posterior is one discrete variable a datum; else None."""
    try:
        posterior = fit.posterior(x)
    except (ZooError, NotImplementedError):
        return None
    probs = getattr(posterior, "probs", None)
    if not getattr(posterior, "has_enumerate_support", False) or not isinstance(probs, Tensor) or probs.dim() != 2:
        return None
    return _array(probs)


def _posterior_means(fit: Fit, x: Data) -> Array | None:
    try:
        mean = getattr(fit.posterior(x), "mean", None)
    except (ZooError, NotImplementedError):
        return None
    return _array(mean) if isinstance(mean, Tensor) and mean.dim() == 2 else None


def _mixing(model: Any, resp: Array | None) -> Array:
    """Weights of the components: the model's, else the share of the data each has taken, else equal."""
    weights = _parameter(model, "weights")
    if weights is not None and weights.ndim == 1:
        return weights
    if resp is not None:
        return resp.mean(0)
    for name in ("means", "rates", "probs", "emission_probs"):
        value = _parameter(model, name)
        if value is not None:
            return np.full(len(value), 1 / len(value))
    raise AssertionError("a model without components")


def _visible(x: Any) -> tuple[Data, Array]:
    """At most 5000 data, a seeded choice, as the model takes them; and their feature vectors (M, D)."""
    from zoo.batch import as_data

    x = as_data(x, symbols=True)
    total = num_data(x)
    if total > MAX_POINTS:
        x = take(x, torch.as_tensor(np.sort(np.random.default_rng(0).choice(total, MAX_POINTS, replace=False))))
    values = _steps(x)
    return x, values[_few(len(values))]


def _steps(x: Data) -> Array:
    """Feature vectors (M, D) of data: their rows, or of sequences the steps that are there."""
    values = _array(tensors(x)[0])
    lengths = x.get("lengths") if isinstance(x, dict) else None
    if isinstance(lengths, Tensor):
        values = values[np.arange(values.shape[1]) < _array(lengths)[:, None]]
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)


def _few(rows: int) -> Any:
    """Which of so many rows a picture shows."""
    if rows <= MAX_POINTS:
        return slice(None)
    return np.sort(np.random.default_rng(0).choice(rows, MAX_POINTS, replace=False))


def _parameter(model: Any, name: str) -> Array | None:
    value = getattr(model, name, None)
    return _array(value) if isinstance(value, Tensor) else None


def _array(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().double().numpy())


def _floats(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _rgb(count: int) -> Array:
    return np.array([_colours_of(_colour(k)) for k in range(count)])


def image_shape(num_features: int) -> tuple[int, int] | None:
    """(height, width) of the image that a datum of so many numbers is taken for; None where it is taken for none."""
    side = math.isqrt(num_features)
    if side * side == num_features and num_features >= IMAGE_FEATURES:
        return side, side
    return (28, 20) if num_features == 560 else None  # Frey's faces


def _colours_of(name: str) -> Array:
    return np.array([int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _limits(ax: Any, points: Array) -> None:
    """Show the data with a margin; an ellipse may leave the frame, data do not."""
    low, high = points.min(0), points.max(0)
    margin = 0.12 * np.maximum(high - low, 1e-9 * np.maximum(1.0, np.abs(high)))
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def _heat(
    page: _Page, ax: Any, values: Array, cmap: str, limits: tuple[float | None, float | None], name: str, *,
    annotate: bool = True, vertical: bool = False,
) -> None:  # fmt: skip
    image = ax.imshow(values, aspect="auto", cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = page.figure.colorbar(image, ax=ax, pad=0.02, shrink=0.9, aspect=30 if vertical else 16)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=page.theme.quiet, length=2)
    bar.set_label(name, fontsize=9, color=page.theme.quiet)
    if not annotate or values.shape[0] > 16 or values.shape[1] > 12:
        return
    for i, j in np.ndindex(*values.shape):
        r, g, b, _ = image.cmap(image.norm(values[i, j]))
        ink = "#111111" if 0.299 * r + 0.587 * g + 0.114 * b > 0.55 else "#f5f5f5"
        ax.text(j, i, f"{values[i, j]:.3g}", ha="center", va="center", fontsize=8, color=ink)


def _ticks(ax: Any, axis: int, names: list[str]) -> None:
    every = max(1, math.ceil(len(names) / 30))
    at = list(range(0, len(names), every))
    (ax.set_yticks if axis else ax.set_xticks)(at, [names[i] for i in at])
