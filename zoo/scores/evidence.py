"""Exact ln p(x), where an exact sum is to be had."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.enumeration import evidence, why_not_exact
from zoo.core import program
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, at_hand, call, num_data, once, stream_of, total
from zoo.core.pieces import gathered, pieces, statistics_of
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.scores.impossible import impossible_note
from zoo.scores.scoring import Scorer, Scoring

__all__ = [
    "SCORER",
    "enumerated_evidence",
    "exact_log_likelihood",
    "log_density",
    "row_log_likelihoods",
    "summed",
    "total_log_likelihood",
]


def enumerated_evidence(model: LatentVariableModel, x: Data) -> Callable[[Data], Tensor]:
    """A function from data to -ln p(x), summed over data, by enumeration of every discrete latent."""
    nesting = program.plate_nesting(model, x, alone=True)
    return lambda batch: -evidence(model, batch, nesting)


def log_density(model: LatentVariableModel, x: Data) -> Tensor:
    """The logarithm of a program's sum over its latents, nats, of each datum, (N,), or summed, (): ln p(x) if the
    program is normalised, else that up to a constant ln Z that is not known. No gradient is kept.

    Of each datum it is what one of it has, summed it is of each as often as it counts: :func:`summed`.
    """
    with torch.no_grad():
        if Problem(model, x).lacks("log_marginal") is None:
            parts = pieces(model, x, method="log_marginal")
            return gathered((call(model.log_marginal, piece) for piece in parts), num_data(x))
        nesting, parts = program.plate_nesting(model, at_hand(x), alone=True), pieces(model, x)
        first = next(parts)
        if num_data(first) < num_data(x):
            with suppress(ZooError):  # what belongs to no single datum cannot be had by pieces
                rows = (evidence(model, once(p), nesting, rows=num_data(p)) for p in itertools.chain([first], parts))
                return gathered(rows, num_data(x))
        return evidence(model, x, nesting)


def exact_log_likelihood(model: LatentVariableModel, x: Data, checked: bool = False) -> Tensor | None:
    """ln p(x) of each datum, (N,), or summed (); None where no exact sum is to be had, or where what is summed is no
    density of the data. No gradient is kept.

    Args:
        checked: whether it is known already that the program can be summed.
    """
    summed = (
        Problem(model, x).lacks("log_marginal") is None
        or checked
        or why_not_exact(model, next(pieces(model, x))) is None
    )
    return log_density(model, x) if summed and model.normalized else None


def row_log_likelihoods(model: LatentVariableModel, x: Data) -> Tensor | None:
    """ln p(x) of each datum, (N,), nats; None where no exact sum is to be had.

    Raises:
        ZooError: the program's ln p(x) is no sum over its data.
    """
    if Problem(model, x).lacks("log_marginal") is None:
        return exact_log_likelihood(model, x)
    if not model.normalized or why_not_exact(model, next(pieces(model, x))) is not None:
        return None
    if stream_of(x) is not None:
        return gathered((row_log_likelihoods(model, piece) for piece in pieces(model, x)), num_data(x))
    with torch.no_grad():
        return evidence(model, x, program.plate_nesting(model, x, alone=True), rows=num_data(x))


def total_log_likelihood(model: LatentVariableModel, x: Data, checked: bool = False) -> float | None:
    """ln p(x) summed over the data, None as in :func:`exact_log_likelihood`; read off the E step where there is one,
    which is the fastest way to it."""
    if Problem(model, x).lacks("e_step") is None and model.normalized:
        return float(statistics_of(model, x)["log_likelihood"].detach())
    if stream_of(x) is not None:
        totals = [total_log_likelihood(model, piece, checked) for piece in pieces(model, x)]
        return None if None in totals else sum(t for t in totals if t is not None)
    exact = exact_log_likelihood(model, x, checked)
    return None if exact is None else summed(exact, x)


def summed(log_density: Tensor, x: Data) -> float:
    """The total of :func:`log_density`, whether it is of each datum or summed already."""
    return float(total(log_density, x) if log_density.dim() else log_density)


def score(task: Scoring) -> dict[str, Any] | str:
    """The exact log-likelihood, or log-density of what is no likelihood; the reason why no exact sum is to be had."""
    model, x = task.model, task.x
    offered = any(lacks(model, name) is None for name in ("log_marginal", "e_step"))
    if not offered and (reason := why_not_exact(model, next(pieces(model, x)))) is not None:
        return reason
    exact = total_log_likelihood(model, x, checked=True)
    note = impossible_note(model, x) if exact == -math.inf else None
    density = None if model.normalized else float(log_density(model, x).sum())
    return {"log_likelihood": exact, "notes": () if note is None else (note,), "log_density": density}


SCORER = Scorer(10, score)
