"""Where a chain of many states over symbols starts: few states are fitted, and split again and again.

EM from a random start parts many states slowly: each sees few symbols and is nearly as good as any other. A few states
part in a few passes; their parts begin as good as they were together, and only have to differ. Petrov, Barrett, Thibaux
& Klein (2006), "Learning accurate, compact, and interpretable tree annotation", section 2.1 (split, without merging);
the passes between are online EM's (Cappé & Moulines 2009).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.core.data import Data, call, num_data, take
from zoo.core.statistics import Statistics
from zoo.errors import ZooError

__all__ = ["start_by_splitting"]

#: States that are drawn, at most, and parts that each of fewer states is split into.
FEWEST, PARTS = 8, 4
#: Passes over the data between splits, M steps in all at least, and minibatches a pass at most.
PASSES, STEPS, BATCHES = 3, 30, 100


@torch.no_grad()
def start_by_splitting(model: Any, x: Data) -> None:
    """Set initial, transition and emission probabilities of a ``CategoricalHMM``, by torch's generator.

    Raises:
        ZooError: a left-right chain: parts of its states would stand beside one another.
    """
    if model.topology != "full":
        raise ZooError(
            f"{type(model).__name__}: init='split' expected topology='full', got {model.topology!r}. "
            f"Take init={model.inits[0]!r}."
        )
    sizes = [model.num_states]
    while sizes[-1] > FEWEST:
        sizes.append(-(-sizes[-1] // PARTS))
    few = _as_small(model, sizes.pop(), x)
    shares = few.pseudo_row(few.rows(x), few.row_weights(x))
    _set_shaken(few, torch.zeros(few.num_states, dtype=torch.int64), shares.unsqueeze(0), few.transition_probs)
    for size in sizes[::-1]:
        _passes(few, x)
        more = _as_small(model, size, x)
        parent = torch.arange(size) * few.num_states // size
        _set_shaken(more, parent, few.emission_probs, few.transition_probs)
        if model.initial == "free":
            more.initial_probs = _scaled(few.initial_probs[parent])
        few = more
    model.emission_probs, model.transition_probs = few.emission_probs, few.transition_probs
    if model.initial == "free":
        model.initial_probs = few.initial_probs


def _as_small(model: Any, num_states: int, x: Data) -> Any:
    """A model of its kind with so many states, that knows the data's scale, and to which no symbol is impossible: the
    first minibatches do not have them all."""
    config = {**model.config, "num_states": num_states, "prior_strength": max(model.prior_strength, 1.0)}
    made = type(model)(**config).to(model.emission_probs)
    made.measure(x)
    return made


def _set_shaken(model: Any, parent: Tensor, emissions: Tensor, steps: Tensor) -> None:
    """Each state as its parent (K,), every probability times a draw of Exp(1): parts then differ, and soon part."""
    steps = steps[parent][:, parent]
    model.emission_probs = _scaled(emissions[parent] * torch.empty_like(emissions[parent]).exponential_())
    model.transition_probs = _scaled(steps * torch.empty_like(steps).exponential_())


def _scaled(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True)


def _passes(model: Any, x: Data) -> None:
    """A few passes of online EM, in place."""
    rows = num_data(x)
    size = -(-rows // BATCHES)
    average: Statistics | None = None
    step, steps = 0, max(PASSES * -(-rows // size), STEPS)
    while step < steps:
        for index in torch.randperm(rows).split(size):
            found = call(model.e_step, take(x, index)) * (rows / len(index))
            weight = (step + 1) ** -0.6
            average = found if average is None else average * (1 - weight) + found * weight
            step += 1
            if step > 1 or rows == len(index):
                model.m_step(average)
