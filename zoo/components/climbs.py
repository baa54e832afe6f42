"""Short climbs that starts ask for on their way, so that those of many starts are one batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zoo.core.contract import lacks
from zoo.core.copies import Copies, with_parameters
from zoo.core.data import Data, call, tensors
from zoo.core.memory import SMALL

__all__ = ["Asked", "Reached", "State", "all_climbed", "set_state", "state_of"]

#: A model's parameters; and what came of a climb: whether no constraint acts and the objective, and the parameters.
State: TypeAlias = dict[str, Tensor]
Reached: TypeAlias = tuple[tuple[bool, float], State]


@dataclass(frozen=True)
class Asked:
    """What a start waits for: some EM from each of several states of its model of components, on data ``x``."""

    model: Any
    x: Data
    states: Sequence[State]
    iterations: int


@torch.no_grad()
def _climbed(asked: Asked) -> list[Reached]:
    """How far some EM from each state comes: at once, where the data are few and the model knows how."""
    model, x, states, iterations = asked.model, asked.x, asked.states, asked.iterations
    together = _climbed_together(model, x, states, iterations) if len(states) > 1 and _at_once(asked) else None
    if together is not None:
        return together
    reached = []
    for state in states:
        set_state(model, state)
        reached.append(_climb(model, x, iterations))
    return reached


def _at_once(*several: Asked) -> bool:
    """Whether all these climbs, of copies of a model on data of a size, are few enough to be one batch."""
    model, x = several[0].model, several[0].x
    if lacks(model, "copies") is not None:  # a grammar has neither copies nor rows
        return False
    states = sum(len(asked.states) for asked in several)
    return sum(t.numel() for t in tensors(x)) * states * model.row_size() < SMALL


def all_climbed(several: Sequence[Asked]) -> list[list[Reached]]:
    """What comes of each, those on the same data in one batch; as if one came after the other, but for rounding."""
    batches: list[list[int]] = []
    for index, asked in enumerate(several):
        like = (b for b in batches if _alike(several[b[0]], asked) and _at_once(*(several[i] for i in (*b, index))))
        batch = next(like, None)
        if batch is None:
            batches.append([index])
        else:
            batch.append(index)
    found: dict[int, list[Reached]] = {}
    for batch in batches:
        first, sizes = several[batch[0]], [len(several[index].states) for index in batch]
        states = [state for index in batch for state in several[index].states]
        with torch.no_grad():
            together = _climbed_together(first.model, first.x, states, first.iterations) if len(batch) > 1 else None
        for index, size in zip(batch, sizes, strict=True):
            if together is None:
                found[index] = _climbed(several[index])
            else:
                found[index], together = together[:size], together[size:]
    return [found[index] for index in range(len(several))]


def _alike(one: Asked, other: Asked) -> bool:
    mine, theirs = tensors(one.x), tensors(other.x)
    return one.iterations == other.iterations and len(mine) == len(theirs) and all(map(_equal, mine, theirs))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all()))


def _climbed_together(model: Any, x: Data, states: Sequence[State], iterations: int) -> list[Reached] | None:
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


def _climb(model: Any, x: Data, iterations: int) -> Reached:
    notes: list[str] = []
    for _ in range(iterations):
        notes = model.m_step(call(model.e_step, x))
    reached = float(call(model.e_step, x)["objective"] + model.log_prior())
    return (not notes, reached if reached == reached else -math.inf), state_of(model)


def state_of(model: Any) -> State:
    """A model's parameters, copied."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def set_state(model: Any, state: State) -> None:
    """Put them back, or some of them."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in state:
                value.copy_(state[name])
