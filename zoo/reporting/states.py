"""What hidden Markov models are looked at for: a series coloured by decoded states, and how these follow each other.

As all pictures, without pyplot; by what a model offers (``viterbi`` or ``state_probs``, ``transition_probs``), not by
its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.core.contract import lacks, prepared
from zoo.core.data import Data, call
from zoo.errors import ZooError
from zoo.reporting.page import Array, Page, array, colour, heat, ticks
from zoo.reporting.seen import names_along
from zoo.reporting.subjects import Fitted
from zoo.reporting.transitions import GRAPH_STATES, draw_transitions

__all__ = ["has_states", "occupancy", "plot_states", "seen_sequences", "step_probabilities"]

#: Steps that a picture shows at most, and that shares are taken over.
SHOWN, SEEN = 1000, 200_000


def has_states(model: Any) -> bool:
    """Whether a model's latent is a chain of states."""
    decoded = lacks(model, "viterbi") is None or lacks(model, "state_probs") is None
    return decoded and model.quantity("transition_probs") is not None


def seen_sequences(fit: Fitted, x: Any) -> dict[str, Tensor]:
    """The first sequences of the data, as the model takes them, of at most :data:`SEEN` steps in all."""
    data: Any = prepared(fit.model, x)
    steps = data["x"].shape[1]
    few = data["x"][: max(1, SEEN // steps), :SEEN]
    return {"x": few, "lengths": data["lengths"][: len(few)].clamp_max(SEEN)}


def step_probabilities(fit: Fitted, data: Data) -> Array:
    """p(z_t = k | x) of every step that is there, sequence after sequence, (M, K); q where there are other latents."""
    own = lacks(fit.model, "state_probs") is None
    probs = array(call(fit.model.state_probs, data) if own else fit.posterior(data).probs)
    inside = np.arange(probs.shape[1]) < array(data["lengths"])[:, None]
    steps: Array = probs[inside]
    return steps


def occupancy(fit: Fitted, data: Data) -> Array:
    """The share of the steps that each state takes, by the posterior, (K,)."""
    share: Array = step_probabilities(fit, data).mean(0)
    return share


def plot_states(fit: Fitted, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """A sequence coloured by its most probable path, and the transitions: a graph of up to ten states, else a matrix.

    Shown is the stretch, of at most :data:`SHOWN` steps, of the first sequence in which most states occur, and of its
    features the two that the states set furthest apart.

    Raises:
        ZooError: the model's latent is no chain of states.
    """
    if not has_states(fit.model):
        raise ZooError(
            f"plot_states: expected a model of a chain of states, got {type(fit.model).__name__}. Use plot_components."
        )
    from matplotlib.ticker import MaxNLocator

    data = seen_sequences(fit, x)
    share = occupancy(fit, data)
    length = int(data["lengths"][0])
    whole = {"x": data["x"][:1], "lengths": data["lengths"][:1]}
    route = array(fit.predict(whole))[0, :length].astype(int)
    values = array(data["x"])[0, :length].reshape(length, -1)
    begin = _richest(route)
    stretch = slice(begin, begin + SHOWN)
    features = _telling(values, route)
    states = len(share)
    high, low = 1.9 * len(features) + 0.9, _height(states)
    page = Page(6.4, high + low, dark)
    above, below = page.halves(2, 1, height_ratios=(high, low))
    axes = list(above.subplots(len(features), 1, sharex=True, squeeze=False).flat)
    for ax, feature in zip(axes, features, strict=True):
        page.dress(ax)
        _series(page, ax, np.arange(begin, begin + len(route[stretch])), values[stretch, feature], route[stretch])
        page.label(ax, "", "", names_along(fit.model, "feature", values.shape[1])[feature])
    part = f", steps {begin} to {begin + SHOWN - 1} of {length}" if length > SHOWN else ""
    page.label(axes[0], f"The first sequence by its most probable path{part}", "", axes[0].get_ylabel())
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlabel("step", fontsize=10, color=page.theme.ink)
    names = names_along(fit.model, "state", states)
    _transitions(page, below.subplots(), array(fit.model.transition_probs), share, names, dark)
    return page.save(path)


def _height(states: int) -> float:
    """Inches that the transitions take."""
    if states > GRAPH_STATES:
        return min(9.0, 1.4 + 0.32 * states)
    return 2.2 if states <= 2 else 3.9


def _transitions(page: Page, ax: Any, chances: Array, share: Array, names: list[str], dark: bool) -> None:
    """A graph of few states, else the matrix."""
    page.dress(ax)
    if len(share) <= GRAPH_STATES:
        draw_transitions(page, ax, chances, share, names)
        page.label(ax, "Transition probabilities")
        return
    heat(page, ax, np.round(chances, 3), "viridis" if dark else "Blues", (0.0, 1.0), "probability")
    ticks(ax, 1, [f"{name}, {part:.0%} of steps" for name, part in zip(names, share, strict=True)])
    ticks(ax, 0, [str(i) for i in range(len(share))])
    for i, tick in enumerate(ax.get_yticklabels()):
        if len(share) <= 30:
            tick.set_color(colour(i))
    page.label(ax, "Transition probabilities", "to state", "from")


def _series(page: Page, ax: Any, steps: Any, values: Array, route: Any) -> None:
    ax.plot(steps, values, color=page.theme.grid, linewidth=1.0, zorder=1)
    size = 16 if len(steps) <= 300 else 7
    for state in np.unique(route):
        here = route == state
        ax.scatter(steps[here], values[here], s=size, color=colour(int(state)), linewidths=0, zorder=2)
    ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)


def _richest(route: Array) -> int:
    """Where the stretch of :data:`SHOWN` steps begins in which most states occur, the first of equals."""
    begins = range(0, max(1, len(route) - SHOWN + 1), SHOWN // 4)
    return max(begins, key=lambda b: (len(np.unique(route[b : b + SHOWN])), -b))


def _telling(values: Array, route: Array) -> list[int]:
    """The (at most two) features whose means differ most between states, in units of their spread."""
    filled = np.where(np.isnan(values), np.nanmean(values, 0, where=~np.isnan(values)), values)
    means = np.stack([filled[route == k].mean(0) for k in np.unique(route)])
    weight = np.stack([(route == k).mean() for k in np.unique(route)])
    between = (weight[:, None] * (means - weight @ means) ** 2).sum(0) / np.maximum(filled.var(0), 1e-300)
    return sorted(np.argsort(-between, kind="stable")[:2].tolist())
