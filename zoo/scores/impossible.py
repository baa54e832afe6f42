"""Data of probability zero are said, not only scored: a warning that names them, why, and what would help."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, num_data
from zoo.core.pieces import gathered, pieces
from zoo.core.places import data_names

__all__ = ["impossible_note", "warn_of_impossible"]


def impossible_note(model: LatentVariableModel, x: Data, log_marginal: Tensor | None = None) -> str | None:
    """One line on the data that have probability zero under a model; None where there are none.

    Args:
        x: data as the model takes them.
        log_marginal: ln p(x) of each datum, (N,), where it is known; else it is computed where the model can rule
            anything out.
    """
    if log_marginal is None:
        if lacks(model, "rules_out", "log_marginal") is not None or not model.rules_out():
            return None
        with torch.no_grad():
            parts = pieces(model, x, method="log_marginal")
            log_marginal = gathered((call(model.log_marginal, piece) for piece in parts), num_data(x))
    impossible = (log_marginal == -torch.inf).reshape(-1)
    if not impossible.any():
        return None
    which = impossible.nonzero().flatten()
    if len(impossible) == 1:
        subject = "the data have"
    else:
        named = data_names(which.tolist())
        subject = f"{len(which)} of {len(impossible)} data ({named}) {'have' if len(which) > 1 else 'has'}"
    reason = f": {model.why_impossible(x, which)}" if lacks(model, "why_impossible") is None else ""
    return f"{subject} probability zero under the model{reason}"


def warn_of_impossible(what: str, model: LatentVariableModel, x: Data, log_marginal: Tensor | None = None) -> None:
    """Warn of data of probability zero, if there are any; ``what`` is the method asked."""
    note = impossible_note(model, x, log_marginal)
    if note is not None:
        warnings.warn(f"{what}: {note}.", UserWarning, stacklevel=3)
