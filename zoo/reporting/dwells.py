"""How long a chain of states stays where it is: runs of the decoded path, beside the geometric law of the model."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.reporting.page import Array, Page, array, colour
from zoo.reporting.states import has_states, occupancy, seen_sequences
from zoo.reporting.subjects import Fitted

__all__ = ["dwell_times", "plot_dwells"]

#: States that are shown, the most frequent ones.
SHOWN = 6


def dwell_times(route: Array) -> list[tuple[int, int]]:
    """(state, steps) of each run of one decoded path (T,), without the first and the last: these go on beyond it."""
    edges = [0, *(np.flatnonzero(np.diff(route)) + 1).tolist(), len(route)]
    inside = list(itertools.pairwise(edges))[1:-1]
    return [(int(route[begin]), end - begin) for begin, end in inside]


def plot_dwells(fit: Fitted, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """For each of the most frequent states the share of its runs that last d steps or more, in the most probable paths
    (filled) and by the model (line): P(D >= d) = a^(d - 1), a the probability to stay.

    Raises:
        ZooError: the model's latent is no chain of states, or no path leaves a state that it has come to.
    """
    if not has_states(fit.model):
        raise ZooError(
            f"plot_dwells: expected a model of a chain of states, got {type(fit.model).__name__}. Use plot_components."
        )
    data = seen_sequences(fit, x)
    routes = array(fit.predict(data)).astype(int)
    ends = [int(n) for n in data["lengths"]]
    runs = [run for route, end in zip(routes, ends, strict=True) for run in dwell_times(route[:end])]
    if not runs:
        raise ZooError("plot_dwells: expected paths that come to a state and leave it, got none. Use plot_states.")
    share, stay = occupancy(fit, data), np.diag(array(fit.model.transition_probs))
    chosen = sorted(np.argsort(-share, kind="stable")[:SHOWN].tolist())
    columns = min(3, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    page = Page(max(3.6, 2.2 * columns), 2.5 * rows, dark)
    axes = page.axes(rows, columns)
    for ax, state in zip(axes, chosen, strict=False):
        steps = np.array([length for k, length in runs if k == state])
        _one_state(page, ax, state, steps, float(stay[state]), float(share[state]))
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    for i, ax in enumerate(axes[: len(chosen)]):
        page.label(
            ax, "", "steps" if i + columns >= len(chosen) else "", "share of runs as long" if i % columns == 0 else ""
        )
    return page.save(path)


def _one_state(page: Page, ax: Any, state: int, steps: Array, stay: float, share: float) -> None:
    expected = 1 / (1 - stay) if stay < 1 else math.inf
    longest = float(steps.max()) if len(steps) else 0.0
    # Nearly all of the geometric law, but no more than fits beside the runs.
    reach = max(4.0, longest, min(3.0 * expected, 2.0 * longest if longest else 100.0))
    at = np.arange(1, math.ceil(reach) + 2)
    if len(steps):
        lasting = (steps[:, None] >= at).mean(0)
        ax.fill_between(at, lasting, step="mid", color=page.theme.grid, linewidth=0, zorder=1)
    ax.plot(at, stay ** (at - 1.0), color=colour(state), linewidth=1.8, zorder=2)
    ax.set_ylim(0.0, 1.03)
    ax.set_xlim(0.5, at[-1])
    ax.locator_params(axis="x", integer=True, nbins=5)
    mean = f"{len(steps)} run{'s' * (len(steps) > 1)}, mean {steps.mean():.3g}" if len(steps) else "no run"
    told = "for good" if math.isinf(expected) else f"{expected:.3g}"
    ax.set_title(
        f"state {state}: {share:.0%} of steps\n{mean}\nby the model {told}", loc="left", fontsize=9,
        color=page.theme.ink, pad=6,
    )  # fmt: skip
