"""Data whose rows count more or less than once, or come with latents that are known.

:class:`Rows` are data like any other: they are taken by index, split and counted. Whoever calls a program with them, by
:func:`zoo.core.data.call`, has it run under what they say; a method that declares ``weights`` or ``known`` is told.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Known", "Rows", "declares", "known_at", "present", "present_rows", "restricted"]

#: By latent site, what is known of it: one entry a row. Of a discrete latent -1 stands for what is not, of others NaN.
Known: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """Data, and beside each row its weight and what is known of its latents.

    Attributes:
        data: as the model takes them.
        weights: (N,), positive: how often each row counts; None where each counts once.
        known: by latent site, (N, ...).
        mean_weight: of all the rows that these are taken from: minibatches are measured by it, so that their gradients
            are unbiased.
    """

    data: Any
    weights: Tensor | None = None
    known: dict[str, Tensor] = field(default_factory=dict)
    mean_weight: float = 1.0

    def told(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What a function of the data is told: the arguments of these names that it declares."""
        beside: dict[str, Any] = {"weights": self.weights, "known": self.known or None}
        return {name: value for name, value in beside.items() if value is not None and declares(function, name)}


_PRESENT: ContextVar[Rows | None] = ContextVar("present_rows", default=None)


@contextmanager
def present(rows: Rows | None) -> Iterator[None]:
    """Inside, programs run under the weights of these rows and with what is known of them; None: under none."""
    token = _PRESENT.set(rows)
    try:
        yield
    finally:
        _PRESENT.reset(token)


def declares(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name."""
    try:
        return name in inspect.signature(function).parameters
    except ValueError:  # a program under Pyro's handlers
        return False


def present_rows() -> Rows | None:
    """The rows that a program now runs on, where they have weights or known latents."""
    return _PRESENT.get()


def known_at(known: Known, site: str) -> Tensor | None:
    """What is known of a site, (N, ...): by its name, or of ``z_3`` by the column 3 of ``z``; None where nothing is."""
    if site in known:
        return known[site]
    step = re.fullmatch(r"(.+)_(\d+)", site)
    if step is None or step[1] not in known or known[step[1]].dim() < 2:
        return None
    column = int(step[2])
    return known[step[1]][:, column] if column < known[step[1]].shape[1] else None


def restricted(log_joint: Tensor, known: Known | None, site: str = "z") -> Tensor:
    """Log-probabilities (..., K), -inf at every value but the one that is known, (...)."""
    if known is None or site not in known:
        return log_joint
    labels = known[site].unsqueeze(-1)
    values = torch.arange(log_joint.shape[-1], device=log_joint.device)
    return log_joint.masked_fill((labels >= 0) & (labels != values), -torch.inf)
