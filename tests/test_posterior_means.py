"""Means of the posterior, and completions, against many draws of the traced programs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor

import zoo
from zoo.core import traces
from zoo.core.as_module import AsModule
from zoo.core.contract import LatentVariableModel
from zoo.core.data import num_data

DRAWS = 4000


def restless(model: Any) -> Any:
    """The model in float64, with weights large enough to matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model.double()


def binary(rows: int, size: int, seed: int = 2) -> Tensor:
    return torch.rand(rows, size, generator=torch.Generator().manual_seed(seed)).round().double()


def traced(model: LatentVariableModel, x: Any, site: str) -> tuple[Tensor, Tensor]:
    """Mean of the guide's draws at a site, and its standard error, both (N, L)."""
    with torch.no_grad():
        value: Any = traces.draw(model, x, DRAWS, 1)[0].nodes[site]["value"]
    draws = value.reshape(DRAWS, num_data(x), -1)
    return draws.mean(0), draws.std(0) / math.sqrt(DRAWS)


def assert_near(found: Tensor, expected: Tensor, error: Tensor) -> None:
    """Within 4.5 of a standard error, and not for lack of anything to tell apart."""
    assert found.shape == expected.shape
    assert ((found - expected).abs() < 4.5 * error + 1e-9).all()
    assert float(expected.std(0).mean()) > 5 * float(error.mean())


@pytest.mark.parametrize("flow", ["planar", "iaf"])
def test_a_flows_mean_is_that_of_its_draws(flow: str) -> None:
    model, x = restless(zoo.VAE(6, 2, (5,), flow=flow, num_flows=3)), binary(8, 6)
    expected, error = traced(model, x, "z")
    torch.manual_seed(1)
    assert_near(model.posterior_means(x, DRAWS), expected, math.sqrt(2) * error)
    single = torch.stack([model.posterior_means(x, 1) for _ in range(200)])
    torch.testing.assert_close(single.std(0), error * math.sqrt(DRAWS), rtol=0.4, atol=0)


def test_a_gaussians_mean_needs_no_draws() -> None:
    model, x = restless(zoo.VAE(6, 2, (5,))), binary(8, 6)
    assert_near(model.posterior_means(x), *traced(model, x, "z"))


def test_means_of_both_layers() -> None:
    """The upper one's is a mean over draws of the lower: not what its network says at the lower's mean."""
    model, x = restless(zoo.VAE(6, 2, (5,), num_layers=2)), binary(8, 6)
    with torch.no_grad():
        model.encoder.raw_scale.bias += 1.0
        model.encoder.loc.weight.mul_(4)
        model.upper_encoder.raw_scale.bias -= 3.0
    lower, upper = traced(model, x, "z1"), traced(model, x, "z2")
    torch.manual_seed(1)
    found = model.posterior_means(x, DRAWS)
    assert found.shape == (8, 6)
    assert_near(found[:, :4], *lower)
    assert_near(found[:, 4:], upper[0], math.sqrt(2) * upper[1])
    shortcut = model.upper_encoder.moments(lower[0])[0].detach()
    assert float(((shortcut - upper[0]).abs() / upper[1]).max()) > 10, "a mean that is no average would pass"


def test_a_mixtures_mean_weighs_each_label_by_its_probability() -> None:
    model, x = restless(zoo.GaussianMixtureVAE(3, 6, 2, (5,))), binary(8, 6)
    with torch.no_grad():
        model.classifier[-1].weight.mul_(4)
    assert_near(model.posterior_means(x), *traced(model, x, "z"))
    assert float(model.label_probs(x).detach().amax(-1).mean()) > 0.6


def test_a_conditional_mean_sees_both_x_and_y() -> None:
    model, data = restless(zoo.ConditionalVAE(3, 6, 2, (5,))), (binary(8, 3), binary(8, 6, 3))
    assert_near(model.posterior_means(*data), *traced(model, data, "z"))
    assert model.posterior_means(data[0], 1 - data[1]).sub(model.posterior_means(*data)).abs().min() > 0


def test_completions_are_the_programs_means_at_draws_of_its_prior() -> None:
    model, x = restless(zoo.ConditionalVAE(3, 6, 2, (5,))), binary(8, 3)
    repeated = traces.repeated(AsModule(model, "model"), DRAWS, 1)
    with torch.no_grad():
        trace = poutine.trace(lambda: repeated(x, torch.zeros(8, 6).double())).get_trace()
        likelihood: Any = trace.nodes["y"]["fn"]
    expected = likelihood.mean
    torch.manual_seed(1)
    found = model.complete(x, DRAWS)
    assert found.shape == expected.shape == (DRAWS, 8, 6)
    error = math.sqrt(2 / DRAWS) * expected.std(0)
    assert_near(found.mean(0), expected.mean(0), error)
    # A spread of 4000 is known to 1 or 2%, and there are two of them.
    torch.testing.assert_close(found.std(0), expected.std(0), rtol=0.1, atol=0)
    assert float(expected.std(0).mean()) > 0.02
