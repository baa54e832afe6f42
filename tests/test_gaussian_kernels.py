"""The exact Gaussian E step against the formula in extended precision."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.core.statistics import Moments
from zoo.densities import gaussian, gaussian_sums
from zoo.errors import ZooError

TYPES = gaussian.COVARIANCE_TYPES
Parameters = tuple[Tensor, Tensor, Tensor, Tensor]

# x87 long doubles where there are any: 64 bits of mantissa.
LONG = np.longdouble


def problem(
    covariance_type: str, rows: int, features: int, components: int, seed: int = 0, spread: float = 2.0
) -> Parameters:
    """Data drawn from a random mixture, and that mixture: x, log_weights, means, scale_tril."""
    rng = np.random.default_rng(seed)
    means = spread * rng.normal(size=(components, features))
    shape = {
        "full": (components, features, features),
        "tied": (features, features),
        "diag": (components, features),
        "spherical": (components,),
    }[covariance_type]
    scale = rng.uniform(0.5, 1.5, size=shape)
    if covariance_type in ("full", "tied"):
        scale = np.tril(rng.normal(size=shape) / features**0.5, -1) + scale * np.eye(features)
    factors = full_factors(scale, covariance_type, components, features)
    labels = rng.integers(components, size=rows)
    x = means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(rows, features)))
    weights = rng.dirichlet(np.full(components, 3.0))
    return torch.tensor(x), torch.tensor(weights).log(), torch.tensor(means), torch.tensor(scale)


def split(parameters: Parameters) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The data, and the mixture."""
    return parameters[0], parameters[1:]


def full_factors(scale: Any, covariance_type: str, components: int, features: int) -> Any:
    """Any scale as (K, D, D) lower Cholesky factors."""
    if covariance_type == "full":
        return scale
    if covariance_type == "tied":
        return np.broadcast_to(scale, (components, features, features))
    scale = scale if covariance_type == "diag" else np.repeat(scale[:, None], features, 1)
    return scale[:, :, None] * np.eye(features)


def exact(parameters: Parameters, covariance_type: str, hard: bool = False) -> tuple[Any, Any, Any, Any, Any]:
    """Log-likelihood, objective, count, mean, scatter in long doubles, from the definitions."""
    x, log_weights, means, scale = (tensor.double().numpy().astype(LONG) for tensor in parameters)
    components, features = means.shape
    factors = full_factors(scale, covariance_type, components, features)
    joint = np.empty((len(x), components), LONG)
    for k in range(components):
        white = (x - means[k]).T.copy()
        for i in range(features):
            white[i] = (white[i] - factors[k, i, :i] @ white[:i]) / factors[k, i, i]
        height = log_weights[k] - np.log(np.diagonal(factors[k])).sum() - LONG(features) / 2 * np.log(2 * LONG(np.pi))
        joint[:, k] = height - (white**2).sum(0) / 2
    peak = joint.max(1, keepdims=True)
    density = np.exp(joint - peak)
    rows = peak[:, 0] + np.log(density.sum(1))
    weights = np.eye(components, dtype=LONG)[joint.argmax(1)] if hard else density / density.sum(1, keepdims=True)
    count = weights.sum(0)
    mean = (weights.T @ x) / np.where(count > 0, count, 1)[:, None]
    centred = x[:, None] - mean  # (N, K, D)
    scatter = np.einsum("nk,nki,nkj->kij", weights, centred, centred)
    if covariance_type in ("diag", "spherical"):
        scatter = np.diagonal(scatter, axis1=1, axis2=2)
    return rows.sum(), (peak.sum() if hard else rows.sum()), count, mean, scatter


def check(
    got: tuple[Tensor, Tensor, Moments], parameters: Parameters, covariance_type: str, hard: bool, tolerance: float
) -> None:
    """Likelihoods to ``tolerance`` nats a datum; each moment to ``tolerance`` standard deviations (or variances)."""
    log_likelihood, objective, count, mean, scatter = exact(parameters, covariance_type, hard)
    rows = parameters[0].shape[0]
    scale = 1 + abs(float(log_likelihood)) / rows
    assert abs(float(got[0]) - log_likelihood) <= tolerance * rows * scale
    assert abs(float(got[1]) - objective) <= tolerance * rows * scale
    moments = got[2]
    np.testing.assert_allclose(moments.count.numpy(), count, rtol=tolerance, atol=tolerance * rows)
    assert moments.mean.isfinite().all()
    assert moments.scatter.shape == scatter.shape
    variance = np.diagonal(scatter, axis1=1, axis2=2) if scatter.ndim == 3 else scatter  # (K, D)
    for k in np.flatnonzero(count > 1e-3):
        # A single datum's scatter is zero; the rounding of x itself is all that can be asked there.
        deviation = np.sqrt(variance[k] / count[k]) + 1e-3
        assert (abs(moments.mean[k].numpy() - mean[k]) <= tolerance * deviation + 4e-16 * abs(mean[k])).all()
        unit = np.outer(deviation, deviation) if scatter.ndim == 3 else deviation**2
        assert (abs(moments.scatter[k].numpy() - scatter[k]) <= tolerance * unit * (count[k] + 1)).all()
    assert moments.mean.shape == mean.shape


PATHS = ("tiles", "features", "differences")


def take(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One way through the E step, whatever the size of the data."""
    monkeypatch.setattr(gaussian_sums, "SMALL", 10**18 if path == "differences" else 0)
    monkeypatch.setattr(gaussian_sums, "has_numba", lambda: path == "tiles")


@pytest.fixture(params=["default", *PATHS])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way through the E step, and the one that is taken by itself."""
    if request.param != "default":
        take(request.param, monkeypatch)
    return str(request.param)


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """The rows of each call of a method of the mixture."""
    original = getattr(gaussian_sums.GaussianSums, name)
    calls: list[int] = []

    def spy(self: Any, x: Tensor, *rest: Any) -> Any:
        calls.append(x.shape[0])
        return original(self, x, *rest)

    monkeypatch.setattr(gaussian_sums.GaussianSums, name, spy)
    return calls


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_densities_are_scipys(covariance_type: str) -> None:
    x, _, means, scale = problem(covariance_type, 20, 3, 4)
    got = gaussian.log_densities(x, means, scale, covariance_type)
    assert got.shape == (20, 4)
    factors = full_factors(scale.numpy(), covariance_type, 4, 3)
    for k in range(4):
        oracle = scipy.stats.multivariate_normal(means[k].numpy(), factors[k] @ factors[k].T)
        np.testing.assert_allclose(got[:, k].numpy(), oracle.logpdf(x.numpy()), rtol=1e-11)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_log_densities_have_the_right_gradient(covariance_type: str) -> None:
    x, _, means, scale = problem(covariance_type, 4, 3, 2)
    inputs = tuple(tensor.clone().requires_grad_() for tensor in (x, means, scale))

    def densities(x: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        scale = scale.tril() if covariance_type in ("full", "tied") else scale
        return gaussian.log_densities(x, means, scale, covariance_type)

    assert torch.autograd.gradcheck(densities, inputs)


def test_e_step_keeps_no_graph() -> None:
    x, log_weights, means, scale = problem("full", 10, 2, 2)
    assert not gaussian.e_step(x, log_weights, means.requires_grad_(), scale, "full")[0].requires_grad


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_e_step_is_the_formula(covariance_type: str, hard: bool, data: st.DataObject) -> None:
    rows, features, components = (data.draw(st.integers(1, high)) for high in (40, 6, 5))
    chunk = data.draw(st.one_of(st.none(), st.integers(1, rows + 1)))
    parameters = problem(covariance_type, rows, features, components, data.draw(st.integers(0, 2**31)))
    with pytest.MonkeyPatch.context() as patch:
        take(data.draw(st.sampled_from(PATHS)), patch)
        got = gaussian.e_step(*parameters, covariance_type, hard=hard, chunk_size=chunk)
    check(got, parameters, covariance_type, hard, 1e-9)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_both_ways_are_taken_and_agree(covariance_type: str, hard: bool, path: str, monkeypatch: Any) -> None:
    parameters = problem(covariance_type, 3000, 8, 5)
    calls = count_calls(monkeypatch, "_differences")
    got = gaussian.e_step(*parameters, covariance_type, hard=hard)
    assert bool(calls) == (path == "differences" or (path == "default" and covariance_type in ("diag", "spherical")))
    check(got, parameters, covariance_type, hard, 1e-12 if path == "differences" else 1e-11)


def narrow(case: str, covariance_type: str, start_far: bool) -> Parameters:
    """Data whose squares about any common centre hold none of the digits that matter."""
    rng = np.random.default_rng(3)
    rows, features = 2000, 3
    noise = 1e-2 * rng.normal(size=(rows, features))
    centres = np.full((2, features), 1e6) if case == "far" else np.array([[1e3], [-1e3]]) * np.ones(features)
    x = centres[rng.integers(2, size=rows)] + noise
    means, scale = centres + 3e-3 * rng.normal(size=centres.shape), 1e-2
    if start_far:  # a wide start: only the new moments are narrow
        means, scale = 0.3 * centres + np.array([[1.0], [-1.0]]), 5e2 if case == "two" else 1e6
    shapes = {"full": (2, 3, 3), "tied": (3, 3), "diag": (2, 3), "spherical": (2,)}
    factor = np.full(shapes[covariance_type], scale)
    if covariance_type in ("full", "tied"):
        factor = factor * (np.eye(features) + np.tril(np.full((features, features), 0.3), -1))
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    return torch.tensor(x), weights, torch.tensor(means), torch.tensor(factor)


@pytest.mark.parametrize("start_far", [False, True])
@pytest.mark.parametrize("case", ["far", "two"])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("hard", [False, True])
def test_narrow_clusters_far_from_the_centre(
    covariance_type: str, case: str, start_far: bool, hard: bool, path: str
) -> None:
    parameters = narrow(case, covariance_type, start_far)
    got = gaussian.e_step(*parameters, covariance_type, hard=hard, chunk_size=300)
    log_likelihood, objective, count, mean, scatter = exact(parameters, covariance_type, hard)
    rows = len(parameters[0])
    assert abs(float(got[0]) - log_likelihood) <= 1e-10 * rows
    assert abs(float(got[1]) - objective) <= 1e-10 * rows
    np.testing.assert_allclose(got[2].count.numpy(), count, rtol=1e-9)
    some = count > 0
    np.testing.assert_allclose(got[2].mean.numpy()[some], mean[some], rtol=4e-16)
    tolerance = 1e-9 * scatter.max()
    np.testing.assert_allclose(got[2].scatter.numpy(), scatter, rtol=0, atol=float(tolerance))


def test_far_data_with_near_parameters_still_take_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    take("features", monkeypatch)
    calls = count_calls(monkeypatch, "_differences")
    gaussian.e_step(*narrow("far", "full", False), "full")
    assert not calls
    gaussian.e_step(*narrow("two", "full", False), "full")
    assert calls


def test_one_wild_piece_does_not_slow_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = problem("full", 2000, 3, 3)
    parameters[0][150] = 1e9
    take("features", monkeypatch)
    calls = count_calls(monkeypatch, "_differences")
    got = gaussian.e_step(*parameters, "full", chunk_size=100)
    assert calls == [100] or sum(calls) == 2100  # all of it again if that datum swamps a component
    log_likelihood = exact(parameters, "full")[0]
    assert float(got[0]) == pytest.approx(float(log_likelihood), rel=1e-13)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("chunk", [1, 7, 99, 100, 101, 10**6])
def test_pieces_change_nothing(covariance_type: str, chunk: int, path: str) -> None:
    x, parameters = split(problem(covariance_type, 100, 4, 3))
    whole = gaussian.e_step(x, *parameters, covariance_type)
    pieces = gaussian.e_step(x, *parameters, covariance_type, chunk_size=chunk)
    first, second = (gaussian.e_step(part, *parameters, covariance_type) for part in (x[:37], x[37:]))
    for other in (pieces, (first[0] + second[0], first[1] + second[1], first[2] + second[2])):
        torch.testing.assert_close(other[0], whole[0], rtol=1e-12, atol=0)
        torch.testing.assert_close(other[1], whole[1], rtol=1e-12, atol=0)
        for name in ("count", "mean", "scatter"):
            torch.testing.assert_close(getattr(other[2], name), getattr(whole[2], name), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_weight_of_zero(covariance_type: str, hard: bool, path: str) -> None:
    x, log_weights, means, scale = problem(covariance_type, 200, 3, 4)
    log_weights[1] = -torch.inf
    parameters = (x, log_weights, means, scale)
    got = gaussian.e_step(*parameters, covariance_type, hard=hard)
    check(got, parameters, covariance_type, hard, 1e-10)
    assert float(got[2].count[1]) == 0
    torch.testing.assert_close(got[2].mean[1], means[1], rtol=0, atol=0)
    assert not got[2].scatter[1].any()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("hard", [False, True])
def test_no_density_anywhere_is_minus_infinity_not_nan(covariance_type: str, hard: bool, path: str) -> None:
    x, log_weights, means, scale = problem(covariance_type, 50, 3, 2)
    alone = gaussian.e_step(x, log_weights, means, scale, covariance_type, hard=hard)[2]
    for wild in ([1e200, -1e200, 1e200], [1.7e308, 1.7e308, -1.7e308]):
        more = torch.cat([x, torch.tensor([wild], dtype=x.dtype)])
        log_likelihood, objective, moments = gaussian.e_step(
            more, log_weights, means, scale * 1e-3, covariance_type, hard=hard
        )
        assert float(log_likelihood) == float(objective) == -np.inf
        assert float(moments.count.sum()) == pytest.approx(50)
        assert moments.mean.isfinite().all()
        assert moments.scatter.isfinite().all()
    nothing = gaussian.e_step(x, torch.full_like(log_weights, -torch.inf), means, scale, covariance_type, hard=hard)
    assert float(nothing[0]) == -np.inf
    assert not nothing[2].count.any()
    assert alone.count.sum() == pytest.approx(50)


def test_a_datum_that_is_nan_shows() -> None:
    x, parameters = split(problem("full", 50, 3, 2))
    x[3, 1] = torch.nan
    assert gaussian.e_step(x, *parameters, "full")[0].isnan()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_equals_go_to_the_first(covariance_type: str, path: str) -> None:
    x, log_weights, means, scale = problem(covariance_type, 100, 3, 5, spread=0.0)
    log_weights = torch.full_like(log_weights, -np.log(5))
    scale = scale if covariance_type == "tied" else scale[:1].expand_as(scale).contiguous()
    count = gaussian.e_step(x, log_weights, means, scale, covariance_type, hard=True)[2].count
    assert count.tolist() == [100, 0, 0, 0, 0]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 1), (1, 1, 3), (5, 1, 1), (5, 3, 1), (5, 1, 3), (1, 3, 4)])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_smallest_sizes(covariance_type: str, sizes: tuple[int, int, int], hard: bool, path: str) -> None:
    parameters = problem(covariance_type, *sizes)
    got = gaussian.e_step(*parameters, covariance_type, hard=hard)
    check(got, parameters, covariance_type, hard, 1e-10)


def test_no_data() -> None:
    x, parameters = split(problem("full", 5, 2, 3))
    log_likelihood, _, moments = gaussian.e_step(x[:0], *parameters, "full")
    assert float(log_likelihood) == 0
    assert not moments.count.any()
    assert moments.scatter.shape == (3, 2, 2)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_single_precision(covariance_type: str, path: str) -> None:
    x, log_weights, means, scale = (tensor.float() for tensor in problem(covariance_type, 500, 4, 3))
    parameters = (x, log_weights, means, scale)
    got = gaussian.e_step(*parameters, covariance_type)
    assert {got[0].dtype, got[1].dtype, got[2].count.dtype, got[2].mean.dtype, got[2].scatter.dtype} == {torch.float64}
    check(got, parameters, covariance_type, False, 1e-6)
    assert gaussian.log_densities(x, means, scale, covariance_type).dtype == torch.float32


def test_data_in_any_layout(path: str) -> None:
    x, parameters = split(problem("full", 300, 4, 3))
    whole = gaussian.e_step(x, *parameters, "full")
    other = gaussian.e_step(x.T.contiguous().T, *parameters, "full")
    torch.testing.assert_close(other[0], whole[0])
    torch.testing.assert_close(other[2].scatter, whole[2].scatter)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(ZooError, match="Did you mean 'diag'"):
        gaussian.e_step(*problem("diag", 5, 2, 2), "diagonal")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("spread", [1.0, pytest.param(1e7, marks=pytest.mark.slow)])
def test_memory_stays_below_half_the_data(spread: float) -> None:
    """64 MB of data; at 1e7 every piece falls back to the differences."""
    program = f"""
        import torch
        from pathlib import Path
        from zoo.densities.gaussian import e_step
        means = {spread} * torch.randn(16, 16, dtype=torch.float64)
        parameters = torch.zeros(16).double(), means, torch.eye(16).double().expand(16, 16, 16), "full"
        e_step(torch.randn(2000, 16, dtype=torch.float64), *parameters)  # loads what is loaded once
        x = torch.randn(500_000, 16, dtype=torch.float64)
        def peak():
            return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
        before = peak()
        log_likelihood, _, moments = e_step(x, *parameters)
        assert abs(float(moments.count.sum()) - 500_000) < 1e-3
        print(peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32e6


@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_large_diagonal_problems_by_products_are_the_plain_formula(spread: float) -> None:
    """Two matrix products where no digits are lost by them, differences first where they would be."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9000, 4, dtype=torch.float64, generator=generator) * spread + 3
    x[::2] += 100
    means = x[:16].clone()
    scale = spread * (0.5 + torch.rand(16, 4, dtype=torch.float64, generator=generator))
    expected = torch.distributions.Normal(means, scale).log_prob(x.unsqueeze(1)).sum(-1)
    got = gaussian.log_densities(x, means, scale, "diag")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)
    assert (gaussian._diagonal_squares(x, means, scale) is None) == (spread < 1e-3)


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (1e6, 1e-2)])
def test_compiled_diagonal_kernels_are_the_plain_formula(offset: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    k, d = 5, 3
    x = torch.randn(40_000, d, dtype=torch.float64, generator=generator) * spread + offset
    means = x[:k].clone()
    scale = spread * (0.5 + torch.rand(k, d, dtype=torch.float64, generator=generator))
    weight = torch.rand(len(x), k, dtype=torch.float64, generator=generator)
    assert gaussian.diagonal.serves(x, means, scale)
    plain = torch.distributions.Normal(means, scale).log_prob(x.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(gaussian.diagonal.log_densities(x, means, scale), plain, rtol=1e-13, atol=1e-11)
    torch.testing.assert_close(gaussian.log_densities(x, means, scale, "diag"), plain, rtol=1e-12, atol=1e-9)
    got = gaussian.weighted_moments(x, weight, True, means)
    mean = weight.mT @ (x - offset) / weight.sum(0).unsqueeze(-1)
    delta = (x - offset).unsqueeze(1) - mean
    torch.testing.assert_close(got.mean - offset, mean, rtol=1e-9, atol=1e-12 * max(1.0, offset))
    torch.testing.assert_close(got.scatter, (weight.unsqueeze(-1) * delta.square()).sum(0), rtol=1e-9, atol=0)
    assert not gaussian.diagonal.serves(x, means.clone().requires_grad_())
