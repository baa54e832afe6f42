"""Denoising autoencoder: the criterion by enumeration of what is masked, and its special cases."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import zoo
from zoo.core.contract import prepared
from zoo.core.problem import Problem
from zoo.core.program import look
from zoo.core.schedule import Schedule
from zoo.models.denoising_autoencoder import DenoisingAutoencoder, tiny
from zoo.reporting.filters import plot_filters, plot_mended
from zoo.reporting.latent_tables import latent_table
from zoo.runs.prepare import serving


def sigmoid(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


def by_hand(model: DenoisingAutoencoder, x: Tensor, spoilt: Tensor) -> Any:
    """ln p(x | spoilt x) of one layer of sigmoids and Bernoulli features, (N,), in numpy."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    code = sigmoid(spoilt.double().numpy() @ state["encoder.0.weight"].T + state["encoder.0.bias"])
    back = state["encoder.0.weight"].T if model.tied else state["decoder.0.weight"]
    probs, grey = sigmoid(code @ back.T + state["decoder.0.bias"]), x.double().numpy()
    return (grey * np.log(probs) + (1 - grey) * np.log(1 - probs)).sum(-1)


@pytest.mark.parametrize("tied", [False, True])
def test_the_criterion_is_the_mean_over_what_may_be_masked(tied: bool) -> None:
    model = DenoisingAutoencoder(5, (3,), noise=0.4, tied=tied).double()
    x = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = np.zeros(4)
    for masked in itertools.combinations(range(5), 2):
        spoilt = x.clone()
        spoilt[:, list(masked)] = 0
        means += by_hand(model, x, spoilt) / math.comb(5, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([model.denoising(x, 100) for _ in range(40)])
    error = (draws.std(0) / math.sqrt(len(draws))).numpy()
    assert (np.abs(draws.mean(0).numpy() - means) < 4 * error).all()
    assert (error < 0.02).all()


@pytest.mark.parametrize("corruption", ["masking", "salt_and_pepper", "gaussian"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "continuous_bernoulli"])
@pytest.mark.parametrize("corrupts", ["data", "code"])
def test_the_programs_climb_the_same_under_both_elbos(corruption: str, likelihood: str, corrupts: str) -> None:
    model = DenoisingAutoencoder(6, (4,), corruption, 0.5, corrupts, likelihood=likelihood).double()
    x = prepared(model, torch.rand(5, 6, generator=torch.Generator().manual_seed(1)))
    model.initialize(x, "random")
    values = []
    for kind in (Trace_ELBO, TraceMeanField_ELBO):
        torch.manual_seed(3)
        values.append(-kind().loss(model.model, model.guide, x))
    torch.manual_seed(3)
    with torch.no_grad():
        assert values == [pytest.approx(float(model.denoising(x).sum()), rel=1e-12)] * 2


def test_noise_counts_nowhere_and_is_no_latent() -> None:
    model, x = tiny()
    problem = Problem(model, prepared(model, x))
    seen = look(model, problem.data)
    assert seen.noise == {"noise"}
    assert not seen.latents
    assert serving(problem) == ["svi"]
    fit = zoo.fit(model, x, max_epochs=30)
    assert (fit.estimator, fit.log_likelihood, fit.elbo) == ("svi", None, None)
    assert fit.history["denoising"] == fit.history["objective"]
    assert {"reconstruction", "kl", "bound"}.isdisjoint(fit.history)
    assert set(fit.history["elbo"]) == {None}
    assert any("no density of x" in note for note in fit.notes)
    found = zoo.evaluate(fit, x, num_samples=10)
    assert (found.log_likelihood, found.elbo, found.importance_bound) == (None, None, None)
    with torch.no_grad():
        again = float(fit.model.denoising(problem.data, 2000).sum())
    assert found.denoising == pytest.approx(again, abs=5 * found.denoising_se)
    with pytest.raises(zoo.ZooError, match="sample: expected a density of the data"):
        fit.sample(3)
    with pytest.raises(zoo.ZooError, match="iwae cannot fit this model: all that its guide draws is noise"):
        zoo.fit(model, x, estimator="iwae")


@pytest.mark.parametrize("tied", [False, True])
def test_without_noise_it_is_a_plain_autoencoder_to_the_bit(tied: bool) -> None:
    x = torch.rand(70, 8, generator=torch.Generator().manual_seed(0))
    model = DenoisingAutoencoder(8, (12,), noise=0.0, tied=tied)
    fit = zoo.fit(model, x, estimator="svi", seed=5, max_epochs=4, batch_size=32, init="current")

    first, second = nn.Linear(8, 12), nn.Linear(12, 8)
    state = model.state_dict()
    first.load_state_dict({"weight": state["encoder.0.weight"], "bias": state["encoder.0.bias"]})
    if not tied:
        second.load_state_dict({"weight": state["decoder.0.weight"], "bias": state["decoder.0.bias"]})
    moved = [*first.parameters(), *([] if tied else [second.weight]), second.bias]
    if tied:
        second.bias.data.zero_()
    optimizer = torch.optim.Adam(moved, lr=1e-3, fused=True)
    torch.manual_seed(5)
    step, schedule = 0, Schedule(learning_rate=0.02)
    for _ in range(4):
        for index in torch.randperm(70).split(32):
            optimizer.param_groups[0]["lr"] = schedule.rate(step / 12) * float(torch.tensor(0.05))
            optimizer.zero_grad()
            rows, step = x[index], step + 1
            code = torch.sigmoid(first(rows))
            logits = nn.functional.linear(code, first.weight.mT, second.bias) if tied else second(code)
            loss = torch.linalg.vecdot(logits, rows) - nn.functional.softplus(logits).sum(-1)
            (-loss.sum() / len(rows)).backward()
            optimizer.step()
    ours: Any = fit.model
    assert torch.equal(ours.encoder[0].weight, first.weight)
    assert torch.equal(ours.encoder[0].bias, first.bias)
    assert torch.equal(ours.decoder[0].bias, second.bias)
    assert tied or torch.equal(ours.decoder[0].weight, second.weight)


def test_squared_error_is_in_units_of_each_feature() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 5
    model = DenoisingAutoencoder(3, (4,), noise=0.0, likelihood="gaussian").double()
    model.initialize(prepared(model, x), "random")
    with torch.no_grad():
        value = model.denoising(x)
        scale = x.std(0, correction=0)
        squared = ((x - model.reconstruct(x)) / scale).square().sum(-1)
    constant = scale.log().sum() + 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(value, -0.5 * squared - constant, rtol=1e-10, atol=1e-10)
    code = model.encode(x)
    unit = (x - x.mean(0)) / scale
    torch.testing.assert_close(code, (unit @ model.encoder[0].weight.T + model.encoder[0].bias).sigmoid().detach())


def test_masked_features_are_black_or_at_their_mean() -> None:
    x = torch.arange(24.0).reshape(4, 6)
    pixels = DenoisingAutoencoder(6, (2,), noise=0.5, white=23.0)
    spoilt = pixels.corrupt(x)
    assert ((spoilt == 0).sum(1) >= 3).all()
    torch.testing.assert_close(spoilt[spoilt != 0], x[spoilt != 0])
    measured = DenoisingAutoencoder(6, (2,), noise=0.5, likelihood="gaussian")
    measured.initialize(x, "random")
    spoilt = measured.corrupt(x)
    changed = (spoilt - x).abs() > 1e-4
    assert (changed.sum(1) == 3).all()
    torch.testing.assert_close(spoilt[changed], x.mean(0).expand_as(x)[changed])
    salted = DenoisingAutoencoder(6, (2,), "salt_and_pepper", 0.5, likelihood="gaussian")
    salted.initialize(x, "random")
    spoilt = salted.corrupt(x)
    changed = (spoilt - x).abs() > 1e-4
    ends = torch.stack([x.min(0).values, x.max(0).values])
    assert ((spoilt[:, None] - ends).abs().min(1).values[changed] < 1e-4).all()


def test_noise_on_the_code_leaves_the_data() -> None:
    model = DenoisingAutoencoder(4, (6,), "masking", 0.5, corrupts="code").double()
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    code = (x @ model.encoder[0].weight.T + model.encoder[0].bias).sigmoid()
    kept = code.where(noise.argsort(1).argsort(1) >= 3, 0.0)
    expected = kept @ model.decoder[0].weight.T + model.decoder[0].bias
    torch.testing.assert_close(model.outputs(x, noise), expected)
    with pytest.raises(zoo.ZooError, match="corrupt expected noise on the data"):
        model.corrupt(x)


def test_layers_go_down_as_they_came_up() -> None:
    model = DenoisingAutoencoder(4, (6, 3), noise=0.0, tied=True).double()
    x = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lower, upper = (layer.weight for layer in model.encoder)
    code = ((x @ lower.T).sigmoid() @ upper.T).sigmoid()
    torch.testing.assert_close(model.encode(x), code.detach())
    torch.testing.assert_close(model.reconstruct(x), ((code @ upper).sigmoid() @ lower).sigmoid().detach())
    assert {name for name, _ in model.named_parameters()} == {
        f"{part}.{layer}.{what}" for part, whats in (("encoder", ("weight", "bias")), ("decoder", ("bias",)))
        for layer in (0, 1) for what in whats
    }  # fmt: skip
    assert model.filters().shape == (6, 4)


def test_a_reconstruction_after_small_noise_says_where_the_density_rises() -> None:
    """Vincent (2011): (reconstruction - x) / σ² beside ∇ ln p(x), of a mixture of Gaussians, taken by autograd."""
    spec = importlib.util.spec_from_file_location(
        "example", Path(__file__).parents[1] / "examples" / "denoising_autoencoder.py"
    )
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    mixture = example.density()
    fit = example.fitted(mixture, epochs=40)
    at = example.draws(mixture, 400, seed=9)
    found, true = fit.model.score_function(at), example.true_score(mixture, at)
    away = (found - true).square().sum(1).mean().sqrt() / true.square().sum(1).mean().sqrt()
    assert away < 0.5
    assert torch.nn.functional.cosine_similarity(found.double(), true.double()).median() > 0.95


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"hidden_dims": ()}, "hidden_dims expected at least one width"),
        ({"hidden_dims": 3}, "hidden_dims expected a list"),
        ({"corruption": "blur"}, "DenoisingAutoencoder: corruption"),
        ({"corrupts": "labels"}, "DenoisingAutoencoder: corrupts"),
        ({"likelihood": "categorical"}, "DenoisingAutoencoder: likelihood"),
        ({"noise": 1.0}, "DenoisingAutoencoder: noise expected a share"),
        ({"noise": 0.1}, "noise=0.1 of 4 features comes to none"),
        ({"white": 0.0}, "white expected a positive number"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        DenoisingAutoencoder(4, **arguments)


def test_bad_data_are_refused() -> None:
    model = DenoisingAutoencoder(4, (3,))
    for x, match in (
        (torch.full((2, 4), 2.0), "pixels expected from 0 to white = 1"),
        (torch.full((2, 4), -1.0), "likelihood='gaussian'"),
        (torch.zeros(2, 3), r"expected"),
        (torch.full((2, 4), torch.nan), "expected no missing values"),
    ):
        with pytest.raises(zoo.ZooError, match=match):
            zoo.fit(model, x, max_epochs=1)
    with pytest.raises(zoo.ZooError, match=r"score_function expected Gaussian noise on the data, got masking of 0\.25"):
        model.score_function(torch.zeros(2, 4))
    read = DenoisingAutoencoder.from_data(torch.tensor([[0.0, 16.0, 7.0], [3.0, 1.0, 0.0]]), noise=0.5)
    assert read.config["white"] == 16.0


def test_filters_and_mended_images_are_drawn(tmp_path: Path) -> None:
    x = torch.rand(12, 64, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(DenoisingAutoencoder(64, (7,), "gaussian", 0.5), x, max_epochs=1)
    drawn = [*plot_filters(fit, tmp_path / "filters.png"), *plot_mended(fit, x, tmp_path / "mended.png")]
    assert [path.name for path in drawn] == ["filters.png", "mended.png"]
    assert all(path.stat().st_size > 1000 for path in drawn)
    no_images = zoo.fit(DenoisingAutoencoder(7, (3,)), torch.zeros(4, 7), max_epochs=1)
    assert plot_filters(no_images, tmp_path / "none.png") == []
    assert plot_mended(no_images, torch.zeros(4, 7), tmp_path / "none.png") == []
    assert not (tmp_path / "none.png").exists()


def test_codes_are_what_a_fit_transforms_to() -> None:
    model, x = tiny()
    fit = zoo.fit(model, x, max_epochs=2)
    assert torch.equal(fit.transform(x), fit.model.encode(x))
    table = latent_table(fit, x)
    assert list(table) == [f"code_{i}" for i in range(fit.model.encode(x).shape[1])]
    np.testing.assert_allclose(table["code_0"], fit.model.encode(x)[:, 0])
