"""What tables of neural models share: training that says how far it is, scores of test images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.estimators.base import Callback
from zoo.reproduce._curves import learning_curve
from zoo.reproduce._rows import fit
from zoo.runs.result import Fit
from zoo.scores.importance import importance_nll

__all__ = ["CACHED", "likelihood", "teller", "trained"]

#: Pieces of an evaluation that stay in a processor's cache.
CACHED = 1_000_000


def likelihood(
    model: LatentVariableModel, test: Tensor, num_samples: int, num_scored: int, few: int = 100, seed: int = 0
) -> dict[str, Any]:
    """-ln p(x) of the test images by ``num_samples`` draws each, taken for ``num_scored`` images picked at random.

    The others have ``few`` draws, and the mean difference on the images that have both is added to the mean over all:
    an unbiased estimate of what ``num_samples`` draws of every image would give (a control variate).

    Returns:
        nll: nats an image. se: its standard error for these test images: of the draws and of the pick.
        data_se: what another test set of this size would change.
        bound: minus the mean evidence lower bound, nats an image.
        scored_nll, scored_data_se: the plain mean over the ``num_scored`` images, and its error over the data.
    """
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    chosen = order[:num_scored]
    fine = importance_nll(model, test[chosen], num_samples, seed=seed, max_elements=CACHED)
    found = {
        "nll": fine.nll,
        "se": fine.se,
        "data_se": fine.data_se,
        "bound": fine.elbo,
        "num_test": len(test),
        "num_samples": num_samples,
        "num_scored": len(chosen),
        "scored_nll": fine.nll,
        "scored_data_se": fine.data_se,
    }
    if len(chosen) == len(test):
        return found
    rough = importance_nll(model, test, few, seed=seed + 1, max_elements=CACHED)
    gain = fine.per_datum - rough.per_datum[chosen]
    # The spread of the gains holds both kinds of noise: of the pick, and of the draws of either estimate.
    of_gain = float(gain.std()) / math.sqrt(len(gain))
    return found | {
        "nll": rough.nll + float(gain.mean()),
        "se": math.hypot(of_gain, rough.se),
        "data_se": rough.data_se,
        "bound": rough.elbo,
        "few_samples": few,
    }


def teller(name: str, epochs: int, num_data: int, say: Callable[[str], None], times: int = 10) -> Callback:
    """A callback for ``fit`` that says so many times how far it is."""
    every, seen = max(1, epochs // times), 0

    def tell(row: dict[str, Any], fraction: float | None) -> None:
        nonlocal seen
        seen += 1
        if seen % every == 0:
            say(f"{name}: epoch {seen} of {epochs}, training bound {row['objective'] / num_data:.2f}")

    return tell


def trained(
    name: str,
    model: LatentVariableModel,
    data: Data,
    num_data: int,
    say: Callable[[str], None],
    *,
    max_epochs: int,
    times: int = 10,
    **options: Any,
) -> tuple[Fit, list[dict[str, Any]]]:
    """A fit that says ``times`` times how far it is, and its learning curve, by ``name``.

    Args:
        num_data: what a bound is told per: rows, or frames. options: of :func:`~zoo.runs.fit.fit`.
    """
    tell = teller(name, max_epochs, num_data, say, times)
    found = fit(model, data, max_epochs=max_epochs, progress=tell, **options)
    return found, learning_curve(name, found, num_data)
