"""Where a grammar's EM begins: the best of several draws, each climbed by short runs on a part of the sentences.

Rules are drawn about even ones; what tells symbols apart at first are the preterminals' words, a few to each, by
Dirichlet draws of concentration 0.3. EM needs some forty iterations before a draw shows what it is worth
(``zoo/components/starts.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.components import starts
from zoo.components.questions import alone
from zoo.core.data import take

__all__ = ["drawn", "start"]

#: Draws of a first start, iterations of each, how many go on, iterations more; a later one is a draw as it is.
FIRST = (6, 40, 0, 0)
#: Words of the sentences that short runs see, about.
WORDS = 3000
CONCENTRATION = 0.3
#: How much of even rules and words a start takes in: what its part of the sentences does without must stay possible.
EVEN = 0.02


@torch.no_grad()
def start(model: Any, x: dict[str, Tensor], restart: int = 0) -> None:
    """Leave a grammar of free probabilities at a start; draws come from torch's generator.

    Args:
        model: with ``e_step``, ``m_step`` and the parameters of a PCFG. x: the sentences.
    """
    if restart > 0:
        return drawn(model)
    order = torch.randperm(len(x["x"])).to(x["x"].device)
    count = max(1, int((x["lengths"][order].cumsum(0) <= WORDS).sum()))
    part: Any = take({name: x[name] for name in ("x", "lengths")}, order[:count])
    alone(starts.keep_best(model, part, part["x"], part["x"], restart, lambda _: drawn(model), FIRST))
    for name in model.keeps:
        if not model.stays(name):
            table = getattr(model, name)
            setattr(model, name, (1 - EVEN) * table + EVEN / table.shape[-1])


def drawn(model: Any) -> None:
    """Root and rules about even ones, the words of a preterminal by a Dirichlet draw."""
    for name in model.keeps:
        if model.stays(name):
            continue
        like = getattr(model, f"{name}_unconstrained")
        if name == "emission_probs":
            draw = torch.distributions.Gamma(torch.full(like.shape, CONCENTRATION, dtype=model.dtype), 1.0).sample()
        else:
            draw = torch.rand(like.shape, dtype=model.dtype)
        draw = draw.to(like) + 1e-3
        setattr(model, name, draw / draw.sum(-1, keepdim=True))
