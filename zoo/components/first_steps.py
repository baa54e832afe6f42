"""The M steps that starts begin with: from responsibilities, those of many starts at once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from zoo.components.climbs import State, state_of
from zoo.core.contract import lacks
from zoo.core.copies import Copies
from zoo.core.data import Data, call
from zoo.core.memory import PIECE_ROWS, SMALL
from zoo.core.statistics import Statistics

__all__ = ["FirstStep", "FirstSteps", "all_stepped"]


@dataclass(frozen=True)
class FirstStep:
    """What one M step is taken from.

    Attributes:
        weight: responsibilities of the components for the rows, (M, K), or K times as many as each has inside.
        beside: statistics of what chooses among the components, by name.
    """

    weight: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstSteps:
    """What a start waits for: the parameters after an M step from each of these, of a model of components.

    Attributes:
        data: as the model takes them. rows: (M, D), complete.
    """

    model: Any
    data: Data
    rows: Tensor
    steps: Sequence[FirstStep]


@runtime_checkable
class Weighing(Protocol):
    """Copies of a model of components, which take the statistics of responsibilities too."""

    def weighed(self, rows: Tensor, steps: Sequence[FirstStep]) -> Statistics:
        """The statistics of all, from responsibilities of each for complete rows (M, D)."""
        ...


def all_stepped(several: Sequence[FirstSteps]) -> list[list[State]]:
    """The parameters after each, those on the same rows in one batch; as if one came after the other, but for
    rounding."""
    batches: list[list[int]] = []
    for index, asked in enumerate(several):
        last = batches[-1] if batches else []
        if last and _alike(several[last[0]], asked) and _at_once([*(several[i] for i in last), asked]):
            last.append(index)
        else:
            batches.append([index])
    found: list[list[State]] = []
    for batch in batches:
        part = [several[index] for index in batch]
        together = _together(part) if sum(len(asked.steps) for asked in part) > 1 and _at_once(part) else None
        found += [_stepped(asked) for asked in part] if together is None else together
    return found


def _alike(one: FirstSteps, other: FirstSteps) -> bool:
    return one.rows is other.rows or (one.rows.shape == other.rows.shape and torch.equal(one.rows, other.rows))


def _at_once(several: Sequence[FirstSteps]) -> bool:
    """Whether all of them are few enough to be one batch, of a model that takes copies."""
    model, rows = several[0].model, several[0].rows
    steps = sum(len(asked.steps) for asked in several)
    return (
        lacks(model, "copies") is None and len(rows) <= PIECE_ROWS and rows.numel() * steps * model.row_size() < SMALL
    )


@torch.no_grad()
def _stepped(asked: FirstSteps) -> list[State]:
    model, zero, states = asked.model, torch.zeros((), dtype=asked.model.dtype), []
    for step in asked.steps:
        sums = model.component_statistics(asked.rows, step.weight)
        model.m_step(Statistics(len(asked.rows), zero, **step.beside, **sums))
        states.append(state_of(model))
    return states


@torch.no_grad()
def _together(several: Sequence[FirstSteps]) -> list[list[State]] | None:
    """The same of all; None where they cannot be taken at once."""
    first = several[0]
    models = [asked.model for asked in several for _ in asked.steps]
    copies: Copies | None = call(functools.partial(first.model.copies, models=models), first.data)
    if not isinstance(copies, Weighing):
        return None
    try:
        copies.m_step(copies.weighed(first.rows, [step for asked in several for step in asked.steps]))
    except (RuntimeError, ValueError):
        return None
    end = copies.state()
    states = iter(copies.state_of(end, index) for index in range(len(models)))
    return [[next(states) for _ in asked.steps] for asked in several]
