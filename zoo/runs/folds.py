"""Cross-validation: what a model that was fitted to some of the data says of the others."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.data import Data, num_data, plain, take
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.problem import Problem
from zoo.errors import LikelihoodDecreased, ZooError, one_line
from zoo.reporting.subjects import DRAWS
from zoo.runs.fit import fit
from zoo.runs.prepare import possible_rows
from zoo.scores.evidence import row_log_likelihoods
from zoo.scores.importance import importance_nll

__all__ = ["HeldOutScore", "check_folds", "cross_validated"]


@dataclass(frozen=True)
class HeldOutScore:
    """What was held out, scored; nats a datum, each datum once, by the fit that did not see it.

    Attributes:
        mean: mean of ln p(x_n); -inf where a datum is impossible under its fold's fit. None where there is none.
        se: its standard error over the data; None where the mean is not finite.
        num_impossible: how many data have probability zero.
        exact: whether it is ln p(x), and not the importance-weighted bound.
        reason: why there is no score.
    """

    mean: float | None = None
    se: float | None = None
    num_impossible: int = 0
    exact: bool = True
    reason: str = ""


def check_folds(folds: int | None) -> int | None:
    """The number of folds, checked.

    Raises:
        ZooError: no whole number of at least 2.
    """
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
        raise ZooError(f"select: folds expected a whole number of at least 2, got {folds!r}. Take 5.")
    return folds


def cross_validated(
    model: Any, x: Any, folds: int, seed: int, *, guide: Any, shown: Callable[[], None], **options: Any
) -> HeldOutScore:
    """Fit without each fold in turn, and score it.

    Folds are those of scikit-learn's ``KFold(folds, shuffle=True, random_state=seed)`` over rows or sequences, the same
    for every model. ln p(x) is exact where it can be had; else the importance-weighted bound of a trained guide.

    Args:
        model: as for ``fit``. x: data as the model takes them.
        shown: called after each fold.
        options: of the fits.

    Raises:
        ZooError: fewer data than folds.
    """
    from sklearn.model_selection import KFold

    base = copy.deepcopy(as_model(model, guide))
    rows = plain(possible_rows(base, prepared(base, x, new=True))[0])
    count = num_data(rows)
    if count < folds:
        raise ZooError(
            f"select: folds={folds} expected at least as many rows or sequences, got {count}. Leave it out, or cut the "
            "data into sequences."
        )
    scores, exact = torch.full((count,), math.nan, dtype=torch.float64), True
    order = KFold(folds, shuffle=True, random_state=seed % 2**32).split(range(count))
    for i, (kept, apart) in enumerate(order):
        try:
            this = fit(model, take(rows, torch.as_tensor(kept)), guide=guide, seed=seed, **options)
            if this.status == "diverged":
                return HeldOutScore(reason=f"fold {i + 1} of {folds} diverged")
            if this.status == "interrupted":
                raise KeyboardInterrupt
            each, known = _scored(this.model, take(rows, torch.as_tensor(apart)), this.guide_trained, seed)
        except LikelihoodDecreased:
            return HeldOutScore(reason=f"fold {i + 1} of {folds} diverged")
        except Exception as error:  # whatever a program does on a part of its data: the fits to all of them are done
            return HeldOutScore(reason=f"fold {i + 1} of {folds}: {one_line(error)}")
        scores[torch.as_tensor(apart)], exact = each, exact and known
        shown()
    mean = float(scores.mean())
    se = float(scores.std()) / math.sqrt(count) if math.isfinite(mean) else None
    return HeldOutScore(mean, se, int((scores == -torch.inf).sum()), exact)


def _scored(model: LatentVariableModel, x: Data, trained: bool, seed: int) -> tuple[Tensor, bool]:
    """ln p(x) of each datum, (N,), nats; and whether it is exact."""
    with isolated(seed):
        rows = row_log_likelihoods(model, x)
    if rows is not None:
        return rows.reshape(-1).double().cpu(), True
    if not model.normalized or not trained or Problem(model, x).denoises:
        raise ZooError("held-out data expected a likelihood, or a bound by a trained guide, got neither.")
    return -importance_nll(model, x, DRAWS, seed=seed).per_datum.double().cpu(), False
