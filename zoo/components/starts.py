"""Starting points of several kinds, of which short climbs pick one.

k-means on rows cannot start more states than the rows have distinct values, and cannot tell apart states that differ
in what follows. Here starts are drawn in kinds (random responsibilities; windows of neighbouring time steps), each is
climbed for a few iterations of EM, and the best goes on: Biernacki, Celeux & Govaert (2003), "Choosing starting values
for the EM algorithm for getting the highest likelihood in multivariate Gaussian mixture models", section 3 (em-EM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.components.base import Components
from zoo.components.climbs import Asked, set_state, state_of
from zoo.components.clusters import num_distinct, partition
from zoo.components.first_steps import FirstStep, FirstSteps
from zoo.components.questions import Starting
from zoo.core.contract import lacks
from zoo.core.data import Data

__all__ = ["SHORT", "keep_best", "random_weights", "sticky_steps", "window_labels"]

#: Rows that short climbs see, at most.
SHORT = 8192
#: Starts drawn; iterations of each; how many go on, and for how many iterations more: for a first start, a later one.
FIRST, LATER = (12, 5, 3, 20), (4, 8, 0, 0)
#: Rows of up to so many distinct values are told apart by value, others by cluster.
VALUES = 64
#: Longest reach of a window of neighbours, steps either way.
REACH = 16


@torch.no_grad()
def keep_best(
    model: Components,
    x: Data,
    features: Tensor,
    rows: Tensor,
    restart: int,
    draw: Callable[[int], FirstStep | None],
    schedule: tuple[int, int, int, int] | None = None,
) -> Starting:
    """Leave the model at the best of several starts, each climbed by a little EM: for this, and the starts, it asks.

    Starts on which a constraint acts (a covariance floor) come after all others.

    Args:
        x: the data, at most ``SHORT`` rows.
        features: their complete rows, (M, F). rows: the same as the M step takes them, (M, D).
        restart: 0 for the first start, which takes more pains than a later one, of which there are several.
        draw: what the i-th start is the M step from; None where it has set the parameters itself.
        schedule: starts drawn, iterations of each, how many go on, for how many more; None takes those of chains.
    """
    constant = bool((features == features[:1]).all())  # one start is as good as another
    if constant or lacks(model, "e_step", "m_step") is not None:  # or a subclass with a program of its own
        first = draw(0)
        if first is not None:
            set_state(model, (yield FirstSteps(model, x, rows, [first]))[0])
        return
    draws, iterations, kept, more = schedule or (FIRST if restart == 0 else LATER)
    drawn, steps = [], []
    for i in range(draws):
        step = draw(i + restart // 2)
        if step is None:
            drawn.append(state_of(model))
        else:
            steps.append(step)
    if steps:
        here = state_of(model)
        drawn += [{**here, **state} for state in (yield FirstSteps(model, x, rows, steps))]
    reached = yield Asked(model, x, drawn, iterations)
    if kept:
        best = [state for _, state in sorted(reached, key=lambda entry: entry[0], reverse=True)[:kept]]
        reached = reached + (yield Asked(model, x, best, more))
    set_state(model, max(reached, key=lambda entry: entry[0])[1])


def random_weights(features: Tensor, k: int) -> Tensor:
    """Random responsibilities (M, K) that equal rows of ``features`` (M, F) share.

    Rows drawn one by one would average out: every component would start like the data as a whole, on a saddle.
    """
    kinds, cell = torch.unique(features, dim=0, return_inverse=True)
    if len(kinds) > VALUES:
        cell = partition(features, min(VALUES, 4 * k), "kmeans++", lloyd=False)
    share = torch.empty(VALUES, k, dtype=features.dtype).exponential_()
    return (share / share.sum(-1, keepdim=True)).to(features.device)[cell]


def sticky_steps(k: int, dtype: torch.dtype) -> Tensor:
    """A random transition matrix, (K, K), whose states stay for anything between one step and many."""
    leave = torch.empty(k, k, dtype=dtype).exponential_()
    stay = torch.rand(k, 1, dtype=dtype)
    return stay * torch.eye(k, dtype=dtype) + (1 - stay) * leave / leave.sum(-1, keepdim=True)


def window_labels(features: Tensor, inside: Tensor, k: int, average: bool) -> Tensor | None:
    """Cluster time steps by what stands around them: labels (M,) of the steps inside, or None where all look alike.

    Args:
        features: (N, T, F), zero beyond a sequence's length.
        inside: (N, T), true within a length.
        average: by the mean over a window (finds regimes), else by the neighbours one by one (finds order).
    """
    n, t, _ = features.shape
    reach = int(REACH ** float(torch.rand(())) + 0.5) if average else 1 + int(torch.randint(2, ()))
    count = inside.unsqueeze(-1).to(features.dtype)
    if average:
        low, high = (torch.arange(t) - reach).clamp_min(0), (torch.arange(t) + reach + 1).clamp_max(t)
        empty = features.new_zeros(n, 1, 1)
        total, size = (
            torch.cat([empty.expand(n, 1, v.shape[-1]), v.cumsum(1)], 1)[:, high]
            - torch.cat([empty.expand(n, 1, v.shape[-1]), v.cumsum(1)], 1)[:, low]
            for v in (features, count)
        )
        windows = total / size.clamp_min(1.0)
    else:
        wide = torch.nn.functional.pad(torch.cat([features, count], -1), (0, 0, reach, reach))
        windows = torch.cat([wide[:, shift : shift + t] for shift in range(2 * reach + 1)], -1)
    chosen = windows[inside]
    return None if num_distinct(chosen, k) < k else partition(chosen, k, "kmeans++", lloyd=False)
