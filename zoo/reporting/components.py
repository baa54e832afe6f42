"""Components of a fit, over the data: ellipses, histograms, tables of parameters, loadings.

What is drawn depends on what a model offers, never on which model it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.reporting.loadings import plot_loadings
from zoo.reporting.page import (
    MARKERS,
    PALETTE,
    Array,
    Page,
    array,
    colour,
    heat,
    image_shape,
    limits,
    rgb,
    ticks,
)
from zoo.reporting.seen import few, names_along, parameter_of, responsibilities, steps_of, visible
from zoo.reporting.subjects import Fitted

__all__ = ["component_kind", "owner_word", "plot_components"]

#: Features of which profiles are drawn; of more, a heat map.
PROFILED = 16


def component_kind(model: Any) -> str | None:
    """What :func:`plot_components` would draw of a model: "gaussian", "counts", "probs", "loadings", or None."""
    means, covariances = parameter_of(model, "means"), parameter_of(model, "covariances")
    if means is not None and covariances is not None and means.ndim == 2 and covariances.ndim == 3:
        return "gaussian"
    for name, kind in (("rates", "counts"), ("probs", "probs"), ("emission_probs", "probs"), ("loadings", "loadings")):
        value = parameter_of(model, name)
        if value is not None and value.ndim == 2:
            return kind
    return None


def plot_components(fit: Fitted, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """A fitted model in the space of its data.

    Gaussian components of two or more features: data and 1- and 2-sigma ellipses in the two features that set the
    components furthest apart. One feature: histogram and densities. Probabilities and rates of few features: a line a
    component over the features; of pixels: images; of others a heat map. Loadings: see :func:`plot_loadings`.

    Raises:
        ZooError: the model offers none of ``means`` and ``covariances``, ``rates``, ``probs``, ``loadings``.
    """
    model, kind = fit.model, component_kind(fit.model)
    if kind is None:
        raise ZooError(
            "plot_components: expected a model with means and covariances, rates, probs or loadings, "
            f"got {type(model).__name__}. Draw its samples instead: fit.sample(n)."
        )
    from zoo.reporting import states as state_plots

    resp: Array | None
    if state_plots.has_states(model):
        part = state_plots.seen_sequences(fit, x)
        rows, probs = steps_of(part), state_plots.step_probabilities(fit, part)
        weights, chosen = probs.mean(0), few(len(rows))
        rows, resp, word = rows[chosen], probs[chosen], "state"
    else:
        part, rows = visible(x)
        if kind == "loadings":
            return plot_loadings(fit, part, rows, path, dark=dark)
        resp, word = responsibilities(fit, part), "component"
        if resp is not None and len(resp) != len(rows):
            resp = None
        weights = mixing(model, resp)
    if kind == "gaussian":
        means, covariances = array(model.means), array(model.covariances)
        covariances = np.broadcast_to(covariances, (len(means), *covariances.shape[1:]))
        inner = parameter_of(model, "mixture_weights")
        shares = weights if inner is None else (weights[:, None] * inner).ravel()
        owner = np.arange(len(means)) // (len(means) // len(weights))  # a state may have several components
        if means.shape[1] == 1:
            scales = np.sqrt(covariances[:, 0, 0])
            name = names_along(model, "feature", 1)[0]
            return _histogram(rows[:, 0], shares, means[:, 0], scales, path, dark, word, owner, name)
        names = names_along(model, "feature", means.shape[1])
        return _ellipses(rows, resp, weights, shares, owner, means, covariances, path, dark, word, names)
    if kind == "counts" and array(model.rates).shape[1] == 1:
        rates = array(model.rates)[:, 0]
        name = names_along(model, "feature", 1)[0]
        return _histogram(rows[:, 0], weights, rates, None, path, dark, word, np.arange(len(rates)), name)
    name = "rates" if kind == "counts" else "probs" if parameter_of(model, "probs") is not None else "emission_probs"
    values = array(model.quantity(name))
    names = names_along(model, "symbol" if name == "emission_probs" else "feature", values.shape[1], bare=True)
    known = name != "emission_probs" or resp is not None or parameter_of(model, "weights") is not None
    return _parameters(values, weights if known else None, name, path, dark, owner_word(model), names)


def _ellipses(
    rows: Array, resp: Array | None, weights: Array, shares: Array, owner: Any, means: Array, covariances: Array,
    path: str | Path, dark: bool, word: str, names: list[str],
) -> Path:  # fmt: skip
    """Ellipses of components, of which ``owner`` says whose they are: of a component itself, or of a state."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    page = Page(7.4, 5.6, dark)
    (ax,) = page.axes()
    whole = ~np.isnan(rows).any(1)
    rows, resp = rows[whole], None if resp is None else resp[whole]
    spread = (shares @ (means - shares @ means) ** 2) / np.maximum(rows.var(0), 1e-300)
    first, second = sorted(np.argsort(-spread, kind="stable")[:2].tolist())
    axes = [first, second]
    colours = rgb(len(weights))
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
    limits(ax, rows[:, axes])
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    where = "" if means.shape[1] == 2 else f", 2 of {means.shape[1]} features"
    page.label(ax, f"Data and fitted {word}s: 1 and 2 sigma{where}", names[first], names[second])
    handles = [
        Line2D([], [], color=c, linewidth=2, label=f"{word} {k}: {w:.0%}")
        for k, (c, w) in enumerate(zip(colours, weights, strict=True))
    ]
    if len(handles) <= 12:
        page.legend(ax, handles, below=True, ncols=min(4, len(handles)))
    return page.save(path)


def _histogram(
    values: Array, weights: Array, centres: Array, scales: Array | None, path: str | Path, dark: bool,
    word: str, owner: Any, feature: str,
) -> Path:  # fmt: skip
    """Data and fitted mixture in one dimension: Gaussian with ``scales``, Poisson without."""
    from scipy import stats

    page = Page(7.4, 4.6, dark)
    (ax,) = page.axes()
    colours = rgb(int(owner.max()) + 1)[owner]
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
        name, x = "share of data", feature if step == 1 else f"{feature}, in bins of {step}"
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
        name, x, width, drawn = "density", feature, float(edges[1] - edges[0]) * 0.94, "-"
    bars = (edges[:-1] + edges[1:]) / 2
    ax.bar(bars, share, width=width, color=page.theme.grid, label="data", zorder=1)
    for k, tint in enumerate(colours):
        at = f"mean {centres[k]:.3g}" if scales is not None else f"rate {centres[k]:.3g}"
        ax.plot(
            middle, parts[:, k], drawn, markersize=3, color=tint, linewidth=1.5, zorder=3,
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


def owner_word(model: Any) -> str:
    """What the model calls that which has parameters of its own: component, state, preterminal."""
    axes = model.named_axes()
    named = next((axes[name] for name in ("means", "rates", "probs", "emission_probs") if axes.get(name)), None)
    return str(named[0]).split()[0] if named else "component"


def _parameters(
    values: Array, weights: Array | None, name: str, path: str | Path, dark: bool, word: str, names: list[str]
) -> Path:
    """Component parameters (K, D): as images where D is a square number of pixels, else a heat map."""
    k, d = values.shape
    shape = image_shape(d)
    if shape is not None:
        lines = math.ceil(k / 8)
        columns = math.ceil(k / lines)
        page = Page(max(4.6, 1.7 * columns + 0.4), 1.85 * lines + 0.6, dark)
        axes = page.axes(lines, columns)
        top = 1.0 if "probs" in name else float(values.max())
        for i, ax in enumerate(axes):
            ax.set_axis_off()
            if i < k:
                ax.imshow(values[i].reshape(shape), cmap="gray_r", vmin=0, vmax=top)
                if weights is not None:
                    ax.set_title(f"{weights[i]:.0%}", fontsize=9, color=page.theme.quiet, pad=3)
        more = "" if weights is None else ", with weights"
        page.figure.suptitle(f"{name} of the {k} {word}s, as images{more}", fontsize=11, color=page.theme.ink)
        return page.save(path)
    if weights is not None and name in ("probs", "rates") and k <= len(PALETTE) and 2 <= d <= PROFILED:
        return _profiles(values, weights, name, path, dark, word, names)
    page = Page(min(12.0, max(5.6, 2.6 + 0.55 * d)), min(12.0, 2.0 + 0.45 * k), dark)
    (ax,) = page.axes()
    limits = (0.0, 1.0) if "probs" in name else (None, None)
    heat(page, ax, values, "viridis", limits, "p(x = 1)" if name == "probs" else name.replace("_", " "))
    ticks(ax, 1, [f"{word} {i}" + ("" if weights is None else f" ({weights[i]:.0%})") for i in range(k)])
    ticks(ax, 0, names)
    page.label(ax, f"Fitted {name.replace('_', ' ')}", "symbol" if name == "emission_probs" else "feature")
    return page.save(path)


def _profiles(
    values: Array, weights: Array, name: str, path: str | Path, dark: bool, word: str, names: list[str]
) -> Path:
    """Component parameters (K, D) as one line a component over the features, with their mean by weight."""
    k, d = values.shape
    page = Page(6.4, 4.4 + 0.2 * math.ceil((k + 1) / 3), dark)
    (ax,) = page.axes()
    places = np.arange(d)
    what = "p(x = 1)" if name == "probs" else "rate"
    handles = ax.plot(places, weights @ values, "--", color=page.theme.quiet, linewidth=1.3, label="mean", zorder=2)
    for i in range(k):
        handles += ax.plot(
            places, values[i], color=colour(i), marker=MARKERS[i], markersize=5.5, linewidth=1.6, zorder=3,
            label=f"{word} {i}: {weights[i]:.0%}",
        )  # fmt: skip
    ax.set_xlim(-0.4, d - 0.6)
    ax.set_ylim(*((-0.03, 1.03) if name == "probs" else (0.0, 1.06 * float(values.max()))))
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    ticks(ax, 0, names)
    page.label(ax, f"Profiles of the {k} {word}s", "feature", what)
    page.legend(ax, [*handles[1:], handles[0]], below=True, ncols=min(3, k + 1))
    return page.save(path)


def mixing(model: Any, resp: Array | None) -> Array:
    """Weights of the components: the model's, else the share of the data each has taken, else equal."""
    weights = parameter_of(model, "weights")
    if weights is not None and weights.ndim == 1:
        return weights
    if resp is not None:
        return resp.mean(0)
    for name in ("means", "rates", "probs", "emission_probs"):
        value = parameter_of(model, name)
        if value is not None:
            return np.full(len(value), 1 / len(value))
    raise AssertionError("a model without components")
