"""Starting points of several kinds, of which short climbs pick one.

k-means on rows cannot start more states than the rows have distinct values, and cannot tell apart states that differ
in what follows. Here starts are drawn in kinds (random responsibilities; windows of neighbouring time steps), each is
climbed for a few iterations of EM, and the best goes on: Biernacki, Celeux & Govaert (2003), "Choosing starting values
for the EM algorithm for getting the highest likelihood in multivariate Gaussian mixture models", section 3 (em-EM).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.components.base import Components, num_distinct, partition
from zoo.core.contract import lacks
from zoo.core.copies import Copies, with_parameters
from zoo.core.data import Data, call, tensors
from zoo.core.memory import SMALL

__all__ = ["SHORT", "keep_best", "random_weights", "sticky_steps", "window_labels"]

#: Rows that short climbs see, at most.
SHORT = 8192
#: Starts drawn; iterations of each; how many go on, and for how many iterations more: for a first start, a later one.
FIRST, LATER = (12, 5, 3, 20), (4, 8, 0, 0)
#: Rows of up to so many distinct values are told apart by value, others by cluster.
VALUES = 64
#: A model's parameters; and what came of a climb: whether no constraint acts and the objective, and the parameters.
State: TypeAlias = dict[str, Tensor]
Reached: TypeAlias = tuple[tuple[bool, float], State]
#: Longest reach of a window of neighbours, steps either way.
REACH = 16


@torch.no_grad()
def keep_best(
    model: Components,
    x: Data,
    features: Tensor,
    restart: int,
    draw: Callable[[int], None],
    schedule: tuple[int, int, int, int] | None = None,
) -> None:
    """Leave the model at the best of several starts, each climbed by a little EM.

    Starts on which a constraint acts (a covariance floor) come after all others.

    Args:
        x: the data, at most ``SHORT`` rows.
        features: their complete rows, (M, F).
        restart: 0 for the first start, which takes more pains than a later one, of which there are several.
        draw: sets the parameters of the i-th start.
        schedule: starts drawn, iterations of each, how many go on, for how many more; None takes those of chains.
    """
    constant = bool((features == features[:1]).all())  # one start is as good as another
    if constant or lacks(model, "e_step", "m_step") is not None:  # or a subclass with a program of its own
        draw(0)
        return
    draws, iterations, kept, more = schedule or (FIRST if restart == 0 else LATER)
    drawn = []
    for i in range(draws):
        draw(i + restart // 2)
        drawn.append(_state(model))
    climbed = _climbed(model, x, drawn, iterations)
    best = [state for _, state in sorted(climbed, key=lambda entry: entry[0], reverse=True)[:kept]]
    climbed += _climbed(model, x, best, more)
    _set(model, max(climbed, key=lambda entry: entry[0])[1])


def _climbed(model: Components, x: Data, states: list[State], iterations: int) -> list[Reached]:
    """How far some EM from each of these states comes: at once, where the data are few and the model knows how."""
    if len(states) > 1 and lacks(model, "copies") is None:  # a grammar has neither copies nor rows
        few = sum(t.numel() for t in tensors(x)) * len(states) * model.row_size() < SMALL
        together = _climbed_together(model, x, states, iterations) if few else None
        if together is not None:
            return together
    reached = []
    for state in states:
        _set(model, state)
        reached.append(_climb(model, x, iterations))
    return reached


def _climbed_together(model: Components, x: Data, states: list[State], iterations: int) -> list[Reached] | None:
    """The same; None where something is out of the ordinary: a constraint acts at the end, numbers are none."""
    models = [with_parameters(model, state) for state in states]
    copies: Copies | None = call(functools.partial(model.copies, models=models), x)
    if copies is None:
        return None
    notes: Sequence[str] = ()
    try:
        for _ in range(iterations):
            notes = copies.m_step(copies.e_step()[1])
        values = copies.e_step()[0].tolist()
    except (RuntimeError, ValueError):
        return None
    if notes or not all(map(math.isfinite, values)):
        return None
    end = copies.state()
    return [
        ((True, value), {**state, **copies.state_of(end, index)})
        for index, (value, state) in enumerate(zip(values, states, strict=True))
    ]


def _climb(model: Components, x: Data, iterations: int) -> Reached:
    notes: list[str] = []
    for _ in range(iterations):
        notes = model.m_step(call(model.e_step, x))
    reached = float(call(model.e_step, x)["objective"] + model.log_prior())
    return (not notes, reached if reached == reached else -math.inf), _state(model)


def _state(model: Components) -> State:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _set(model: Components, state: State) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(state[name])


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
