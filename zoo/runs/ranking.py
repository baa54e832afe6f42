"""Which of several fits is best, and which are equally good: a difference below rounding is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["finest", "leaders"]

#: Nats: tables print four decimals, and what they print alike is equally good.
PRINTED = 5e-5
#: Standard errors by which two scores with Monte-Carlo noise must differ.
SIGMAS = 2.0


def leaders(fits: Sequence[Fit], scores: Sequence[float | None], errors: Sequence[float] | None = None) -> list[int]:
    """The places of the best fits: of the highest score, and of those within what the two are known to.

    Diverged fits come last, those at which a constraint acts before them, whatever their score.

    Args:
        scores: total, nats, higher is better; None (or NaN) where there is none.
        errors: Monte-Carlo standard errors of the scores; none where they are exact.
    """
    known = [-math.inf if score is None or math.isnan(score) else float(score) for score in scores]
    errors = [0.0] * len(fits) if errors is None else errors
    classes = [(fit.status != "diverged", not fit.degenerate) for fit in fits]
    among = [i for i, kind in enumerate(classes) if kind == max(classes)]
    first = max(among, key=lambda i: known[i])

    def tied(i: int) -> bool:
        noise = SIGMAS * math.hypot(errors[i], errors[first])
        slack = max(finest(fits[i], known[i]), finest(fits[first], known[first]), noise)
        return known[i] == known[first] or known[first] - known[i] <= slack

    return [i for i in among if tied(i)]


def finest(fit: Fit, score: float) -> float:
    """Nats within which a total is one and the same number: what tables print, what ``tol`` resolves, rounding."""
    if not math.isfinite(score):
        return 0.0
    tol = fit.options.get("tol") if fit.estimator in ("em", "auto_em", "hard_em") else None
    resolved = float(tol) * fit.num_units if isinstance(tol, (int, float)) else 0.0
    return max(PRINTED, resolved, 16 * torch.finfo(_dtype(fit)).eps * abs(score))


def _dtype(fit: Fit) -> torch.dtype:
    return next((p.dtype for p in fit.model.parameters() if p.is_floating_point()), torch.float64)
