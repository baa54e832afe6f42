"""Cross-validation: what a model that was fitted to some of the data says of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.data import Data, num_data, plain, take
from zoo.core.duplicates import duplicate
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.problem import Problem
from zoo.errors import LikelihoodDecreased, ZooError, one_line
from zoo.reporting.subjects import DRAWS
from zoo.runs.fit import fit
from zoo.runs.prepare import possible_rows
from zoo.scores.evidence import row_log_likelihoods
from zoo.scores.importance import importance_nll

__all__ = ["FoldScore", "Folds", "HeldOutScore", "check_folds", "together"]


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


@dataclass(frozen=True)
class FoldScore:
    """One fold: which data were held out, (n,), their scores, (n,), nats, and whether these are exact; or a reason why
    there are none."""

    apart: Tensor | None = None
    scores: Tensor | None = None
    exact: bool = True
    reason: str = ""


class Folds:
    """Cross-validation of one model; :meth:`score` fits it without one of the folds, and scores that.

    Folds are those of scikit-learn's ``KFold(folds, shuffle=True, random_state=seed)`` over rows or sequences, the same
    for every model. ln p(x) is exact where it can be had; else the importance-weighted bound of a trained guide.

    Args:
        model: as for ``fit``, like ``guide``. x: data as the model takes them.
        options: of the fits.

    Raises:
        ZooError: fewer data than folds.
    """

    def __init__(self, model: Any, guide: Any, x: Any, folds: int, seed: int, options: Mapping[str, Any]) -> None:
        from sklearn.model_selection import KFold

        self.model, self.guide, self.seed, self.options = model, guide, seed, options
        base = duplicate(as_model(model, guide))
        self.rows = plain(possible_rows(base, prepared(base, x, new=True))[0])
        count = num_data(self.rows)
        if count < folds:
            raise ZooError(
                f"select: folds={folds} expected at least as many rows or sequences, got {count}. Leave it out, or cut "
                "the data into sequences."
            )
        self.parts = list(KFold(folds, shuffle=True, random_state=seed % 2**32).split(range(count)))

    def score(self, which: int, kept_in: Path | None = None) -> FoldScore:
        """The score of one fold, numbered from 0; ``kept_in``: a folder for its fit's checkpoints, or None.

        Raises:
            KeyboardInterrupt: its fit was interrupted.
        """
        kept, apart = (torch.as_tensor(part) for part in self.parts[which])
        named = f"fold {which + 1} of {len(self.parts)}"
        try:
            this = fit(
                self.model, take(self.rows, kept), guide=self.guide, seed=self.seed, out=kept_in,
                resume=kept_in is not None, **self.options,
            )  # fmt: skip
            if this.status == "diverged":
                return FoldScore(reason=f"{named} diverged")
            if this.status == "interrupted":
                raise KeyboardInterrupt
            each, known = _scored(this.model, take(self.rows, apart), this.guide_trained, self.seed)
        except LikelihoodDecreased:
            return FoldScore(reason=f"{named} diverged")
        except Exception as error:  # whatever a program does on a part of its data: the fits to all of them are done
            return FoldScore(reason=f"{named}: {one_line(error)}")
        return FoldScore(apart, each, known)


def together(folds: Sequence[FoldScore]) -> HeldOutScore:
    """What all folds of a model come to; the reason of the first that has no score, if there is one."""
    for each in folds:
        if each.reason:
            return HeldOutScore(reason=each.reason)
    scores = torch.full((sum(len(each.scores) for each in folds if each.scores is not None),), math.nan).double()
    for each in folds:
        assert each.scores is not None
        scores[each.apart] = each.scores
    mean = float(scores.mean())
    se = float(scores.std()) / math.sqrt(len(scores)) if math.isfinite(mean) else None
    return HeldOutScore(mean, se, int((scores == -torch.inf).sum()), all(each.exact for each in folds))


def _scored(model: LatentVariableModel, x: Data, trained: bool, seed: int) -> tuple[Tensor, bool]:
    """ln p(x) of each datum, (N,), nats; and whether it is exact."""
    with isolated(seed):
        rows = row_log_likelihoods(model, x)
    if rows is not None:
        return rows.reshape(-1).double().cpu(), True
    if not model.normalized or not trained or Problem(model, x).denoises:
        raise ZooError("held-out data expected a likelihood, or a bound by a trained guide, got neither.")
    return -importance_nll(model, x, DRAWS, seed=seed).per_datum.double().cpu(), False
