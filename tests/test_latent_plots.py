"""Pictures of codes: which a model gets, what is in them, and draws for `zoo sample`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from zoo.models.categorical_vae import CategoricalVAE
from zoo.models.conditional_vae import ConditionalVAE, quadrants
from zoo.models.gaussian_mixture_vae import GaussianMixtureVAE
from zoo.models.stochastic_binary_network import StochasticBinaryNetwork
from zoo.models.vae import VAE
from zoo.reporting import latents as latent_plots
from zoo.reporting import page, samples
from zoo.reporting.latents import draw, plot_latents

QUICK: dict[str, Any] = {"max_epochs": 1}
FOUR = ["manifold.png", "reconstructions.png", "samples.png", "traversals.png"]


def digits(rows: int = 24) -> Tensor:
    """Images of 8 x 8 bits."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(rows, 64, generator=generator) < torch.linspace(0.1, 0.9, 64)).float()


CASES: dict[str, tuple[Callable[[], Any], str, list[str]]] = {
    "two units": (lambda: VAE(64, 2, (8,)), "svi", FOUR),
    "more units": (lambda: VAE(64, 5, (8,)), "svi", FOUR),
    "one unit": (lambda: VAE(64, 1, (8,)), "svi", ["reconstructions.png", "samples.png", "traversals.png"]),
    "two layers": (lambda: VAE(64, 3, (8,), num_layers=2), "svi", FOUR),
    "flow": (lambda: VAE(64, 3, (8,), flow="planar"), "svi", FOUR),
    "gaussian": (lambda: VAE(64, 2, (8,), likelihood="gaussian"), "svi", FOUR),
    "categorical pixels": (lambda: VAE(64, 2, (8,), likelihood="categorical"), "svi", FOUR),
    "clusters": (lambda: GaussianMixtureVAE(3, 64, 2, (8,)), "svi", FOUR),
    "discrete code": (lambda: CategoricalVAE(64, 3, 4), "gumbel", ["reconstructions.png", "samples.png"]),
    "quadrants": (lambda: ConditionalVAE(16, 48, 2, (8,)), "svi", ["completions.png"]),
    "halves": (lambda: StochasticBinaryNetwork(32, 32, (4,)), "reinforce", ["completions.png"]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_model_gets_the_pictures_it_can(case: str, tmp_path: Path) -> None:
    make, estimator, names = CASES[case]
    x = digits()
    fit = zoo.fit(make(), x, estimator=estimator, **QUICK)
    state = torch.get_rng_state()
    made = plot_latents(fit, x, tmp_path)
    assert sorted(path.name for path in made) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert torch.equal(torch.get_rng_state(), state)
    for path in made:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
            assert min(pixels.shape) > 90
            assert pixels.std() > 10, path


def test_no_images_no_pictures(tmp_path: Path) -> None:
    """Four features are no image, a mixture has no code, and one datum is enough."""
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(VAE(4, 2, (5,), likelihood="gaussian"), x, estimator="svi", **QUICK)
    assert plot_latents(fit, x, tmp_path) == []
    mixture = zoo.fit(zoo.BernoulliMixture(2, 64), digits(), estimator="em", max_iter=2)
    assert plot_latents(mixture, digits(), tmp_path) == []
    one = zoo.fit(VAE(64, 2, (5,)), digits(1), estimator="svi", **QUICK)
    assert len(plot_latents(one, digits(1), tmp_path)) == 4


def sheets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is handed to the drawing, by file name."""
    seen: dict[str, Any] = {}

    def keep(rows: Any, path: Path, **options: Any) -> Path:
        seen[path.name] = {"rows": rows, **options}
        return path

    monkeypatch.setattr(latent_plots, "plot_sheet", keep)
    return seen


class Linear(VAE):
    """A VAE whose decoder is known: the first two units are the logits of the first two pixels."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, 3, ())
        self.requires_grad_(False)
        last = [m for m in self.decoder.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.zero_()
        last.weight[0, 0] = last.weight[1, 1] = 1.0
        self.encoder.loc.weight.zero_()  # type: ignore[union-attr]
        self.encoder.loc.bias.zero_()  # type: ignore[union-attr]
        self.encoder.loc.weight[0, 5] = 4.0  # type: ignore[union-attr]
        self.encoder.loc.weight[1, 6] = 2.0  # type: ignore[union-attr]


def test_manifold_and_traversals_hold_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = digits(200), sheets(monkeypatch)
    fit = zoo.fit(VAE(64, 3, ()), x, estimator="svi", **QUICK)
    fit.model = Linear(64)
    plot_latents(fit, x, tmp_path)
    manifold = np.stack(seen["manifold.png"]["rows"])  # (up to down, left to right, 8, 8)
    size = len(manifold)
    assert "units 0 (right) and 1 (up)" in seen["manifold.png"]["title"]
    levels = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(size) + 0.5) / size).sigmoid().numpy()
    assert np.allclose(manifold[:, :, 0, 0], levels[None, :], atol=0.03)
    assert np.allclose(manifold[:, :, 0, 1], levels[::-1, None], atol=0.03)
    assert np.allclose(manifold[:, :, 1:], 0.5)
    traversals = seen["traversals.png"]
    assert [label.split()[1] for label in traversals["labels"]] == ["0", "1", "2"]
    first, second, third = traversals["rows"]
    assert np.all(np.diff(first[:, 0, 0]) > 0)
    assert np.ptp(first[:, 0, 1]) < 1e-6
    assert np.all(np.diff(second[:, 0, 1]) > 0)
    assert np.ptp(third) <= np.ptp(third[0]) + 1e-6  # nothing moves
    data, model = seen["reconstructions.png"]["rows"][:2]
    assert set(np.unique(data)) <= {0.0, 1.0}
    assert np.allclose(model[:, 1:], 0.5)


def test_completions_keep_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = digits(), sheets(monkeypatch)
    fit = zoo.fit(ConditionalVAE(16, 48, 2, (8,)), x, estimator="svi", **QUICK)
    plot_latents(fit, x, tmp_path)
    rows = np.stack(seen["completions.png"]["rows"])  # (datum, column, 8, 8)
    given, whole, drawn = rows[:, 0], rows[:, 1], rows[:, 2:]
    known = ~np.isnan(given)
    assert known[:, 4:, :4].all()
    assert known.sum() == 16 * len(rows)
    assert np.array_equal(given[known], whole[known])
    assert (drawn[:, :, 4:, :4] == whole[:, None, 4:, :4]).all()
    first = quadrants(torch.as_tensor(whole.reshape(-1, 64)))[0]
    assert any(torch.equal(first[0].float(), row) for row in quadrants(x)[0])


def test_clusters_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen = digits(), sheets(monkeypatch)
    fit = zoo.fit(GaussianMixtureVAE(3, 64, 2, (8,)), x, estimator="svi", **QUICK)
    plot_latents(fit, x, tmp_path)
    labels = seen["samples.png"]["labels"]
    assert sorted(label.split()[1] for label in labels) == ["0", "1", "2"]
    shares = [int(label.split()[2]) for label in labels]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) <= 2


def test_draws_of_y_given_x_are_whole_images() -> None:
    x = digits()
    fit = zoo.fit(ConditionalVAE(16, 48, 2, (8,)), x, estimator="svi", **QUICK)
    drawn = draw(fit, 30, 0, x=x)
    assert drawn.shape == (30, 64)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    rows = {tuple(row.tolist()) for row in quadrants(x)[0]}
    assert {tuple(row.tolist()) for row in quadrants(drawn)[0]} <= rows
    means = draw(fit, 30, 0, x=x, means=True)
    assert torch.equal(quadrants(means)[0], quadrants(drawn)[0])
    assert 0 < float(quadrants(means)[1].min()) < float(quadrants(means)[1].max()) < 1
    assert torch.equal(draw(fit, 30, 0, x=x), drawn)


def test_a_sheet_is_one_image_beside_the_other(tmp_path: Path) -> None:
    """Unknown pixels in the colour of the grid, gaps in that of the paper; in the dark, too."""
    known = np.linspace(0, 1, 64).reshape(8, 8)
    unknown = np.full((8, 8), np.nan)
    for dark in (False, True):
        path = samples.plot_sheet([np.stack([known, unknown])], tmp_path / f"{dark}.png", labels=["a"], dark=dark)
        with Image.open(path) as picture:
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1_000_000)}
        theme = page._DARK if dark else page._LIGHT
        for name in (theme.paper, theme.grid):
            assert tuple(int(name[i : i + 2], 16) for i in (1, 3, 5)) in colours
        assert len([c for c in colours if len(set(c)) == 1]) >= 60
    assert page.image_shape(784) == (28, 28)
    assert page.image_shape(560) == (28, 20)
    assert page.image_shape(63) is None
