"""Under a Gaussian likelihood the units of the data do not matter: every network sees them standardised."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import zoo
from zoo.models.shared.paired import PairedModel
from zoo.scores.importance import importance_nll

#: A model of data with 4 features (of y, where x comes with it), and who fits it.
MODELS: dict[str, tuple[Any, str]] = {
    "vae": (lambda: zoo.VAE(4, 2, (8,), likelihood="gaussian"), "svi"),
    "two layers": (lambda: zoo.VAE(4, 2, (8,), likelihood="gaussian", num_layers=2), "svi"),
    "flow": (lambda: zoo.VAE(4, 2, (8,), likelihood="gaussian", flow="planar"), "svi"),
    "categorical": (lambda: zoo.CategoricalVAE(4, 2, 3, (8,), likelihood="gaussian"), "gumbel"),
    "mixture": (lambda: zoo.GaussianMixtureVAE(2, 4, 2, (8,), likelihood="gaussian"), "svi"),
    "conditional": (lambda: zoo.ConditionalVAE(3, 4, 2, (8,), likelihood="gaussian"), "svi"),
    "binary": (
        lambda: zoo.StochasticBinaryNetwork(3, 4, (4, 3), likelihood="gaussian", recognition=True),
        "reinforce",
    ),
    "no recognition": (lambda: zoo.StochasticBinaryNetwork(3, 4, (4, 3), likelihood="gaussian"), "reinforce"),
}


def data(paired: bool) -> Any:
    """Points about a line in four dimensions, at scales that differ; where paired, three further columns tell of it."""
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(120, 1, generator=generator)
    y = along * torch.tensor([1.0, -0.5, 2.0, 0.1]) + 0.2 * torch.randn(120, 4, generator=generator)
    x = along * torch.tensor([0.5, 1.0, -3.0]) + torch.randn(120, 3, generator=generator)
    return (x, y) if paired else y


def moved(x: Any, scale: float) -> Any:
    if isinstance(x, tuple):
        return tuple(moved(part, scale) for part in x)
    return scale * x + 3 * scale


def bound(make: Any, x: Any, estimator: str, **options: Any) -> float:
    """The bound after a short fit, nats per datum."""
    torch.manual_seed(0)
    fit = zoo.fit(
        make(), x, estimator=estimator, **{"max_epochs": 6, "batch_size": 30, "learning_rate": 0.1, **options}
    )
    return -importance_nll(fit.model, x, 50).elbo


@pytest.mark.parametrize("scale", [1000.0, 1e-3])
@pytest.mark.parametrize("kind", list(MODELS))
def test_bound_moves_by_the_logarithm_of_the_unit_alone(kind: str, scale: float) -> None:
    """ln p(x) = ln p(s x + t) + D ln s, through a fit that draws the same numbers for both."""
    make, estimator = MODELS[kind]
    x = data(isinstance(make(), PairedModel))
    alone = bound(make, x, estimator)
    assert bound(make, moved(x, scale), estimator) + 4 * math.log(scale) == pytest.approx(alone, abs=0.02)
    assert alone > bound(make, x, estimator, learning_rate=1e-9) + 0.1, "a fit that stays at its start proves nothing"


@pytest.mark.parametrize("kind", ["conditional", "binary"])
def test_units_of_what_is_given_do_not_matter_to_pixels(kind: str) -> None:
    """x here is no image, as its numbers beyond 0 and 1 tell; y is, and keeps its unit."""
    makers = {
        "conditional": lambda: zoo.ConditionalVAE(3, 4, 2, (8,)),
        "binary": lambda: zoo.StochasticBinaryNetwork(3, 4, (4, 3), recognition=True),
    }
    make, estimator = makers[kind], MODELS[kind][1]
    x, y = data(True)
    y = (y > 0).float()
    alone = bound(make, (x, y), estimator)
    assert bound(make, (moved(x, 1000.0), y), estimator) == pytest.approx(alone, abs=0.02)
    assert alone > bound(make, (x, y), estimator, learning_rate=1e-9) + 0.1
