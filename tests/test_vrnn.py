"""The variational recurrent network, beside arithmetic of its own on grids of z, and as data of several kinds ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

import zoo
from zoo.core import weighing
from zoo.core.particles import follow, particle_bound
from zoo.core.program import look
from zoo.models.vrnn import VRNN, tiny

KINDS: dict[str, dict[str, Any]] = {
    "bernoulli": {},
    "gaussian": {"likelihood": "gaussian"},
    "gaussian_mixture": {"likelihood": "gaussian_mixture", "num_components": 2},
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def made(kind: str = "bernoulli", latent_dim: int = 2, strength: float = 0.4) -> tuple[VRNN, dict[str, Tensor]]:
    """A model in float64 with weights large enough to matter, and ragged sequences."""
    model = VRNN(3, latent_dim=latent_dim, hidden_dim=4, **KINDS[kind]).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 5, 3, generator=generator, dtype=torch.float64)
    x = x.round() if kind == "bernoulli" else 4 * x - 1
    data: Any = model.validate({"x": x, "lengths": torch.tensor([3, 5, 1, 5])})
    model.initialize(data, "random")
    with torch.no_grad():
        for p in model.parameters():
            p += strength * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model, data


class Grid:
    """The same model over z of one dimension, in numpy: every path on a grid, weighed.

    ``value`` (G^T,) are ln p(x_1..x_t, z_1..z_t), ``z`` the paths' z_t, ``state`` their h_t.
    """

    def __init__(self, model: VRNN, size: int = 81) -> None:
        self.model, self.h = model, model.hidden_dim
        self.w = {name: p.detach().numpy() for name, p in model.named_parameters()}
        self.points = np.linspace(-7, 7, size)
        self.state, self.value = np.zeros((1, self.h)), np.zeros(1)

    def layer(self, name: str, x: Any) -> Any:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def step(self, x: Any) -> None:
        h, relu = self.h, lambda v: np.maximum(v, 0)
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        of_state = self.layer("from_state", self.state)
        heads = self.layer("prior_heads", relu(of_state[:, :h]))
        loc, scale = heads[:, :1], np.log1p(np.exp(heads[:, 1:])) + 1e-5
        z = np.broadcast_to(self.points, (len(self.state), len(self.points)))
        value = self.value[:, None] + norm.logpdf(z, loc, scale) + np.log(self.points[1] - self.points[0])
        latent = self.layer("from_latent", relu(self.layer("of_latent", z[..., None])))
        logits = self.layer("decoder", relu(of_state[:, None, h : 2 * h] + latent[..., :h]))
        value = value + (x * logits - np.logaddexp(0, logits)).sum(-1)
        inputs = self.layer("from_features", relu(self.layer("features", x))) + latent[..., h:]
        own = of_state[:, None, 2 * h :]
        reset, update = (sigmoid(own[..., i * h : (i + 1) * h] + inputs[..., i * h : (i + 1) * h]) for i in (0, 1))
        new = np.tanh(inputs[..., 2 * h :] + reset * own[..., 2 * h :])
        self.state = ((1 - update) * new + update * self.state[:, None]).reshape(-1, h)
        self.value, self.z, self.logits = value.reshape(-1), z.reshape(-1), logits.reshape(-1, logits.shape[-1])

    @property
    def evidence(self) -> float:
        return float(logsumexp(self.value))

    def mean(self, values: Any) -> Any:
        return np.exp(self.value - self.evidence) @ values


def test_evidence_by_particles_and_weights_is_the_sum_over_a_grid() -> None:
    model, data = made(latent_dim=1)
    x = data["x"][1, :2]
    grid = Grid(model)
    for frame in x.numpy():
        grid.step(frame)
    repeated = {"x": x.expand(20_000, -1, -1), "lengths": torch.full((20_000,), 2)}
    torch.manual_seed(0)
    with torch.no_grad():
        found = {
            "weights": model.log_weights(**repeated, num_particles=1)[0],
            "filter": particle_bound(model, repeated, 4, threshold=1.0).bound,
            "bootstrap": particle_bound(model, repeated, 4, threshold=1.0, proposal="prior").bound,
        }
    for name, bound in found.items():
        ratio = (bound - grid.evidence).exp()
        error = float(ratio.std()) / len(ratio) ** 0.5
        assert error < 0.02, name
        assert abs(float(ratio.mean()) - 1) < 4 * error, name


def test_the_filter_and_the_forecast_are_those_of_a_grid() -> None:
    model, data = made(latent_dim=1, strength=1.0)
    with torch.no_grad():  # chances that are not all but certain, and a guide that is wide
        model.decoder.bias.zero_()
        model.encoder_heads.weight.zero_()
        model.encoder_heads.bias.copy_(torch.tensor([0.0, 2.0]))
    x = data["x"][1:2, :2]
    grid, means = Grid(model), []
    for frame in x[0].numpy():
        grid.step(frame)
        means.append(grid.mean(grid.z))
    torch.manual_seed(0)
    np.testing.assert_allclose(model.filter(x, num_particles=20_000)[0, :, 0], means, atol=0.05)
    # The next frame's probabilities, whatever it is: the mean over paths of what is emitted.
    coarse = Grid(model, 31)
    for frame in x[0].numpy():
        coarse.step(frame)
    before = coarse.value.copy()
    chances = [logsumexp(ahead(coarse, frame) - logsumexp(before)) for frame in patterns()]
    assert np.exp(chances).sum() == pytest.approx(1, abs=1e-3)
    wanted = np.exp(chances) @ patterns()
    draws = model.forecast(x, 1, num_samples=20_000)[:, 0, 0]
    np.testing.assert_allclose(draws.mean(0), wanted, atol=0.012)
    assert np.abs(wanted - model.sample(20_000, 3)[:, 2].mean(0).numpy()).max() > 0.03  # the past tells


def patterns() -> Any:
    return np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], dtype=float)


def ahead(grid: Grid, frame: Any) -> Any:
    """ln p(x, z) of the paths one step on, with this frame."""
    state, value = grid.state, grid.value
    grid.step(frame)
    found = grid.value
    grid.state, grid.value = state, value
    return found


@every_kind
def test_fast_functions_are_the_programs_under_the_same_random_numbers(kind: str) -> None:
    model, data = made(kind)
    nesting = look(model, data).nesting
    for size in (1, 3):
        torch.manual_seed(1)
        slow = weighing.drawn(model, data, size, nesting).log_weights
        torch.manual_seed(1)
        fast = model.log_weights(**data, num_particles=size)
        assert torch.allclose(slow, fast, atol=1e-10, rtol=0)
    torch.manual_seed(2)
    bound, parts = model.elbo_parts(**data)
    torch.manual_seed(2)
    slow_loss = TraceMeanField_ELBO().loss(model.model, model.guide, **data)
    assert float(bound.sum().detach()) == pytest.approx(-slow_loss, abs=1e-9)
    assert torch.allclose(bound, parts["reconstruction"] - parts["kl"])


@every_kind
def test_one_particle_gives_the_elbo_of_the_same_draws(kind: str) -> None:
    model, data = made(kind)
    order = data["lengths"].argsort(descending=True, stable=True)
    data = {name: value[order] for name, value in data.items()}
    torch.manual_seed(3)
    filtered = particle_bound(model, data, 1, threshold=1.0).bound
    torch.manual_seed(3)
    assert torch.allclose(filtered, model.log_weights(**data, num_particles=1)[0], atol=1e-12, rtol=0)


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw as if its noise were 0.3."""
    monkeypatch.setattr(torch, "randn", lambda shape, **like: torch.full(shape, 0.3, **like))


@every_kind
def test_a_ragged_batch_is_one_by_one_and_padding_inert(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = made(kind)
    quiet(monkeypatch)
    beyond = torch.arange(5) >= data["lengths"].unsqueeze(-1)
    dirty = {"x": data["x"].masked_fill(beyond.unsqueeze(-1), torch.nan), "lengths": data["lengths"]}
    batch = model.elbo_parts(**data)[0]
    assert torch.equal(batch, model.elbo_parts(**dirty)[0])
    filtered = particle_bound(model, dirty, 3).bound
    order = data["lengths"].argsort(descending=True, stable=True)
    walk = model.particles(data["x"][order], data["lengths"][order], 2)
    follow(walk, 0.5)
    ends = walk.states[:, order.argsort()]
    for n, length in enumerate(data["lengths"].tolist()):
        alone = {"x": data["x"][n : n + 1, :length], "lengths": data["lengths"][n : n + 1]}
        assert torch.allclose(model.elbo_parts(**alone)[0], batch[n], atol=1e-12, rtol=0)
        assert torch.allclose(model.log_weights(**alone, num_particles=2), model.log_weights(**data)[:, n], atol=1e-12)
        assert torch.allclose(particle_bound(model, alone, 3).bound, filtered[n], atol=1e-12, rtol=0)
        walk = model.particles(**alone, num_particles=2)
        follow(walk, 0.5)
        assert torch.allclose(walk.states[:, 0], ends[:, n], atol=1e-12, rtol=0)
        shown = model.reconstruct(data)
        assert torch.allclose(model.reconstruct(alone)[0], shown[n, :length], atol=1e-12)
        assert not shown[n, length:].any()


def test_the_encoder_learns_from_the_reconstruction() -> None:
    """Its gradient, by a difference quotient at the same noise: draws that are not reparametrised have none."""
    model, data = made()

    def reconstruction() -> Tensor:
        torch.manual_seed(4)
        return model.elbo_parts(**data, num_particles=2)[1]["reconstruction"].sum()

    for name in ("encoder_heads.bias", "encoder_state.weight", "encoder_features.weight"):
        weight = model.get_parameter(name)
        slope = torch.autograd.grad(reconstruction(), weight)[0]
        which, step = int(slope.abs().argmax()), 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[which] += sign * step
                values.append(float(reconstruction()))
                weight.view(-1)[which] -= sign * step
        quotient = (values[0] - values[1]) / (2 * step)
        assert abs(quotient) > 1e-3
        assert float(slope.flatten()[which]) == pytest.approx(quotient, rel=1e-4)


def rows_of_digits(count: int) -> Tensor:
    """Images of 8 x 8 as sequences of eight rows, black or white."""
    return (zoo.load_data("digits")[:count].reshape(-1, 8, 8) > 7).float()


@pytest.mark.parametrize("estimator", ["svi", "iwae", "fivo", "rws"])
def test_every_estimator_learns_rows_of_images(estimator: str) -> None:
    x = rows_of_digits(100)
    model = VRNN(8, latent_dim=4, hidden_dim=16)
    options = {"num_particles": 4} if estimator != "svi" else {}
    fit = zoo.fit(model, x, estimator=estimator, max_epochs=10, learning_rate=0.13, **options)
    frequency = x.flatten(0, 1).mean(0).clamp(1e-6, 1 - 1e-6)
    alone = float(x.shape[1] * (frequency * frequency.log() + (1 - frequency) * (1 - frequency).log()).sum())
    assert fit.history["objective"][-1] / len(x) > alone + 2  # of independent pixels
    drawn = fit.sample(5, seed=1)
    assert drawn.shape == (5, 8, 8)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(drawn, fit.sample(5, seed=1))
    assert fit.forecast(x[:3, :4], 4, num_samples=2).shape == (2, 3, 4, 8)
    assert fit.filter(x[:3]).shape == (3, 8, 4)


@pytest.mark.parametrize("kind", ["gaussian", "gaussian_mixture"])
def test_real_numbers_are_learned_in_the_datas_units(kind: str) -> None:
    """A noisy sine far from zero: the same bound, but for the units, however it is measured; draws look like it."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.3 * torch.rand(60, 1, 1, generator=generator)
    x = (0.6 * torch.arange(12.0).reshape(1, -1, 1) + phase).sin() + 0.1 * torch.randn(60, 12, 1, generator=generator)
    bounds = {}
    for scale in (1.0, 1000.0):
        model = VRNN(1, latent_dim=2, hidden_dim=12, **KINDS[kind])
        fit = zoo.fit(model, 5 * scale + scale * x, estimator="svi", max_epochs=20, learning_rate=0.13)
        bounds[scale] = fit.history["objective"][-1] / 720 + np.log(scale)
        assert float(fit.sample(200, seed=0).mean()) == pytest.approx(5 * scale, abs=0.5 * scale)
    assert bounds[1.0] == pytest.approx(bounds[1000.0], abs=0.05)
    assert bounds[1.0] > float(norm.logpdf(x.numpy(), x.mean(), x.std()).mean()) + 0.2


def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(tmp_path: Any) -> None:
    x = rows_of_digits(40)
    model = VRNN(8, latent_dim=2, hidden_dim=6)
    for estimator in ("svi", "fivo"):
        options: dict[str, Any] = {"estimator": estimator, "max_epochs": 4, "batch_size": 16, "num_particles": 2}
        whole = zoo.fit(model, x, **options)
        rows = iter(range(100))

        def stop(*_: Any, rows: Any = rows) -> None:
            if next(rows) == 2:
                raise KeyboardInterrupt

        out = {"out": tmp_path / estimator, "checkpoint_every": 1}
        assert zoo.fit(model, x, **options, **out, progress=stop).status == "interrupted"
        resumed = zoo.fit(model, x, **options, **out, resume=True)
        assert resumed.history["objective"] == whole.history["objective"]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"x": torch.zeros(2, 3, 3), "lengths": torch.tensor([3, 0])}, "lengths expected from 1 to 3, got 0"),
        ({"x": torch.zeros(2, 3, 3), "lengths": torch.tensor([3, 4])}, "lengths expected from 1 to 3, got 4"),
        (
            {"x": torch.zeros(7, 3), "lengths": torch.tensor([3, 3])},
            "add up to the 7 rows of x, got 6",
        ),
        (torch.zeros(2, 3, 5), r"x expected shape \(N, T, 3\)"),
        (torch.full((2, 3, 3), 0.5), "x expected 0 or 1 under a Bernoulli, got 0.5"),
        (torch.full((2, 3, 3), torch.nan), "NaN"),
        (torch.zeros(0, 3, 3), "at least one sequence"),
    ],
)
def test_bad_data_are_refused_in_one_line(data: Any, match: str) -> None:
    model, _ = tiny()
    for call in (model.prepare, lambda x: zoo.fit(model, x, estimator="svi", max_epochs=1)):
        with pytest.raises(zoo.ZooError, match=match) as error:
            call(data)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"likelihood": "poisson"}, "likelihood"),
        ({"num_components": 2}, "num_components expected likelihood='gaussian_mixture'"),
        ({"latent_dim": 0}, "latent_dim"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        VRNN(3, **arguments)


def test_the_mixtures_density_is_torchs() -> None:
    model, data = made("gaussian_mixture")
    outputs = torch.randn(6, model.likelihood.num_outputs, dtype=torch.float64)
    x = data["x"][1:2, :1, :].expand(1, 6, 3)[0]
    assert torch.allclose(model.likelihood.log_prob(outputs, x), model.likelihood(outputs).log_prob(x), atol=1e-12)
    assert torch.allclose(model.likelihood.mean(outputs), model.likelihood(outputs).mean, atol=1e-12)


def test_its_parameters_are_its_own_and_trained() -> None:
    """No network is left out by any estimator: each has a gradient of the bound."""
    model, data = made()
    model.elbo_parts(**data)[0].sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not list(pyro.get_param_store().keys())
