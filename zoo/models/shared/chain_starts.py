"""Where a hidden Markov model starts: clusters of rows, parts of left-right sequences, the best of several draws.

In every function ``model`` is a HiddenMarkov.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.components import starts
from zoo.components.climbs import set_state
from zoo.components.clusters import clusters_of, num_distinct
from zoo.components.first_steps import FirstStep, FirstSteps
from zoo.components.questions import Starting
from zoo.core.data import Data
from zoo.core.sequences import inside, lengths_of
from zoo.errors import ZooError
from zoo.models.shared.markov import path_counts

__all__ = ["start"]


def start(model: Any, x: Data, init: str, restart: int = 0) -> Starting:
    """Cluster rows (left-right: cut sequences into parts), then one M step from those labels.

    Where there are fewer distinct rows than states, and in some later restarts (in all, of symbols), the start is
    the best of several kinds (``zoo/components/starts.py``).
    """
    values, lengths = x["x"], lengths_of(x["x"], x.get("lengths"))
    there = inside(values, lengths)
    if model.topology == "left_right":
        _check_end_is_reached(model)
    complete = model.rows(x)
    model.encoder.set_from(complete)
    model.measure(x)
    if init == "current":
        model.enter_support(complete)
        return
    k = model.num_states
    if model.topology == "left_right":
        place = _places(model, values.shape[1], lengths, restart)
        labels = place.clamp_max(k - 1)[there]
    elif num_distinct(complete, k) < k or (init == model.inits[0] and _varies(model, restart)):
        yield from _start_from_best(model, x, restart)
        model.leave_boundary(complete, torch.full_like(model.log_transition[0], len(complete) / k), shake=False)
        return
    else:
        labels = yield clusters_of(complete, k, init, lloyd=restart == 0)
    path = torch.full(values.shape[:2], -1, device=values.device)
    path[there] = labels
    firsts, steps, _ = path_counts(path, k, model.dtype)
    weight = torch.nn.functional.one_hot(labels, k).to(model.dtype)
    counts = weight.sum(0)
    if model.topology == "full":  # every step stays possible, staying the likeliest
        stays = torch.eye(k, dtype=model.dtype, device=steps.device)
        steps = steps + steps.sum().clamp_min(1.0) * (0.02 / k + 0.02 * stays) / k
        firsts = firsts + 1.0
    else:
        steps = steps * (model.transition_probs > 0)  # a short sequence leaves out states
    first = _first_step(model, complete, weight, firsts, steps)
    set_state(model, (yield FirstSteps(model, x, complete, [first]))[0])
    model.leave_boundary(complete, counts)


def _varies(model: Any, restart: int) -> bool:
    """Whether a restart takes another kind of start than clusters of rows."""
    return restart > 0 and (not model.metric or restart % 3 == 1)


def _first_step(model: Any, complete: Tensor, weight: Tensor, firsts: Tensor, steps: Tensor) -> FirstStep:
    """From responsibilities (M, K) of rows (M, D), first states (K,) and steps (K, K)."""
    counts = {"starts": firsts, "steps": steps, "counts": weight.sum(0)}
    return FirstStep(model.start_weight(complete, weight), counts)


def _places(model: Any, num_steps: int, lengths: Tensor, restart: int) -> Tensor:
    """Which part of its sequence each time step is in, (N, T): equal parts, at a later restart random ones."""
    k, step = model.num_states, torch.arange(num_steps, device=lengths.device)
    if restart == 0:
        return step * k // lengths.unsqueeze(-1).clamp_min(1)
    share = 0.25 + torch.rand(k, dtype=model.dtype)
    ends = (share / share.sum()).cumsum(0)[:-1].contiguous().to(lengths.device)
    return torch.bucketize(step / lengths.unsqueeze(-1), ends, right=True)


def _start_from_best(model: Any, x: Data, restart: int) -> Starting:
    """The best of random responsibilities and windows of neighbouring steps, on a part of long data."""
    values, lengths = x["x"], lengths_of(x["x"], x.get("lengths"))
    t, k = min(values.shape[1], starts.SHORT), model.num_states
    which = torch.randperm(len(values))[: max(1, starts.SHORT // t)].sort().values
    part = {"x": values[which, :t], "lengths": lengths[which].clamp_max(t)}
    there = inside(part["x"], part["lengths"])
    rows = model.rows(part)
    features = model.start_features(rows)
    grid = features.new_zeros(*there.shape, features.shape[-1]).index_put((there,), features)

    def draw(i: int) -> FirstStep:
        labels = starts.window_labels(grid, there, k, average=i % 4 == 1) if i % 2 else None
        if labels is None:
            weight = starts.random_weights(features, k)
            steps = starts.sticky_steps(k, model.dtype).to(rows.device) * len(rows) / k
        else:
            weight = 0.9 * torch.nn.functional.one_hot(labels, k).to(model.dtype) + 0.1 / k
            soft = weight.new_zeros(*there.shape, k).index_put((there,), weight)
            steps = torch.einsum("nti,ntj->ij", soft[:, :-1], soft[:, 1:]) + 0.1
        firsts = torch.full_like(steps[0], len(which) / k) + 1.0
        return _first_step(model, rows, weight, firsts, steps)

    yield from starts.keep_best(model, part, features, rows, restart, draw)
    with torch.no_grad():  # the climbs may have ruled out steps, from where no gradient leads anywhere
        model.transition_probs = 0.98 * model.transition_probs + 0.02 / k
        if model.initial == "free":
            model.initial_probs = 0.9 * model.initial_probs + 0.1 / k


def _check_end_is_reached(model: Any) -> None:
    possible = model.transition_probs_unconstrained > -math.inf
    reach = possible | torch.eye(model.num_states, dtype=torch.bool, device=possible.device)
    for _ in range(model.num_states):
        reach = (reach.double() @ reach.double()) > 0
    stuck = (~reach[:, -1]).nonzero().flatten().tolist()
    if stuck:
        raise ZooError(
            f"{type(model).__name__}: transition_probs of a left_right chain expected to reach the last state from "
            f"every one, but state {stuck[-1]} cannot. Give its row some weight on the next state."
        )
