"""Sprites, and the mutual information gap on codes whose value is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import zoo
from zoo.data._sprites import FACTORS, SIDE, sprites
from zoo.errors import ZooError
from zoo.scores.disentanglement import mutual_information_gap


def grid() -> Tensor:
    """Every combination of three factors of 3, 4 and 5 values."""
    return torch.tensor(list(itertools.product(range(3), range(4), range(5))))


def test_sprites_hold_every_combination_once() -> None:
    images, factors = sprites()
    assert images.shape == (math.prod(FACTORS.values()), SIDE * SIDE)
    assert len({tuple(row) for row in factors.tolist()}) == len(factors)
    assert len({image.tobytes() for image in images}) == len(images), "no two combinations look alike"
    assert images.min() == 0
    assert images.max() == 1
    x, shapes = zoo.load_data("sprites", labels=True)
    assert isinstance(x, Tensor)
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.tensor(images))
    assert shapes.tolist() == factors[:, 0].tolist()


def test_factors_move_what_they_say() -> None:
    images, factors = sprites()
    pictures = torch.tensor(images).reshape(-1, SIDE, SIDE)
    where = torch.arange(SIDE) + 0.5
    mass = pictures.sum((1, 2))
    across, down = ((pictures.sum(axis) * where).sum(-1) / mass for axis in (1, 2))
    known = {name: torch.tensor(factors[:, i]) for i, name in enumerate(FACTORS)}
    for centre, name, other in ((across, "x", "y"), (down, "y", "x")):
        means = torch.stack([centre[known[name] == v].mean() for v in range(FACTORS[name])])
        assert torch.allclose(means.diff(), torch.full((FACTORS[name] - 1,), 1.4), atol=0.05)
        flat = torch.stack([centre[known[other] == v].mean() for v in range(FACTORS[other])])
        assert float(flat.max() - flat.min()) < 0.05
    for shape in range(3):
        sizes = torch.stack([mass[(known["shape"] == shape) & (known["scale"] == s)].mean() for s in range(3)])
        expected = (torch.tensor([2.2, 3.1, 4.0]) / 2.2).square()
        torch.testing.assert_close(sizes / sizes[0], expected, rtol=0.1, atol=0)
    # Nothing is cut off at the border but a sliver: each sprite's mass is its shape's, wherever it lies.
    inner = (known["x"].sub(2.5).abs() < 1) & (known["y"].sub(2.5).abs() < 1)
    assert float((mass.mean() / mass[inner].mean() - 1).abs()) < 0.05


def test_a_perfect_code_has_gap_one_and_a_shuffled_one_none() -> None:
    factors = grid()
    perfect = factors.double()
    scale = torch.full_like(perfect, 1e-2)
    found = mutual_information_gap(perfect, scale, factors)
    assert found.mig > 0.98
    assert found.best.tolist() == [0, 1, 2]
    torch.testing.assert_close(found.information, torch.eye(3).double(), rtol=0, atol=0.02)
    shuffled = perfect[torch.randperm(len(perfect), generator=torch.Generator().manual_seed(0))].repeat(20, 1)
    many = factors[torch.randperm(60 * 20, generator=torch.Generator().manual_seed(1)) % 60]
    assert mutual_information_gap(shuffled, torch.full_like(shuffled, 1e-2), many).mig < 0.02


def test_a_factor_told_twice_leaves_no_gap() -> None:
    factors = grid()
    code = factors.double()[:, [0, 0, 1, 2]]
    found = mutual_information_gap(code, torch.full_like(code, 1e-2), factors)
    assert float(found.gaps[0]) == pytest.approx(0.0, abs=0.04)
    assert (found.gaps[1:] > 0.95).all()
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double())[0]
    mixed = factors.double() @ turned
    assert mutual_information_gap(mixed, torch.full_like(mixed, 0.05), factors).mig < 0.5


def test_noise_takes_information_as_it_should() -> None:
    """Two values at ±1 under noise of 1: I = H of the mixture less H of a Gaussian, by numerical integration."""
    factors = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
    loc = 2.0 * factors - 1
    line = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    density = (torch.exp(-0.5 * (line - 1) ** 2) + torch.exp(-0.5 * (line + 1) ** 2)) / (2 * math.sqrt(2 * math.pi))
    mixture = float(-torch.trapezoid(density * density.log(), line))
    information = (mixture - 0.5 * math.log(2 * math.pi * math.e)) / math.log(2)
    found = mutual_information_gap(loc, torch.ones(4, 2), factors, num_samples=100_000)
    assert float(found.information[0, 0]) == pytest.approx(information, abs=0.02)
    assert float(found.information[0, 1]) == pytest.approx(0.0, abs=0.02)


def test_a_rare_value_counts_as_often_as_it_is() -> None:
    """Nine of one value for one of another, told apart without fail, and by codes of different widths: I = H(v)."""
    factors = torch.tensor([0] * 9 + [1])
    told, untold = 1e3 * factors.double(), torch.zeros(10).double()
    wide = torch.where(factors == 0, 1.0, 20.0).double()
    loc, scale = torch.stack([told, untold], -1), torch.stack([wide, torch.ones(10).double()], -1)
    found = mutual_information_gap(loc, scale, factors, num_samples=50_000)
    # An entropy is the mean of 50 000 log-densities of variance 1/2: within 0.0032, two of them over H(v) = 0.325.
    expected = torch.tensor([[1.0], [0.0]]).double()
    torch.testing.assert_close(found.information, expected, rtol=0, atol=4 * 0.0032 * math.sqrt(2) / 0.325)
    # Told by the width alone, I is less than H(v): the entropies by integrals.
    found = mutual_information_gap(torch.zeros(10, 2).double(), scale, factors, num_samples=50_000)
    line = torch.linspace(-200, 200, 400_001).double()
    parts = torch.stack([torch.distributions.Normal(0.0, s).log_prob(line) for s in (1.0, 20.0)])
    mixture = (parts + torch.tensor([0.9, 0.1]).log().unsqueeze(-1)).logsumexp(0)
    entropies = [-float(torch.trapezoid(p.exp() * p, line)) for p in (mixture, *parts)]
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    information = (entropies[0] - 0.9 * entropies[1] - 0.1 * entropies[2]) / entropy
    assert float(found.information[0, 0]) == pytest.approx(information, abs=0.06)
    assert 0.3 < information < 0.9


def test_the_callers_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    code = grid().double()
    once = mutual_information_gap(code, torch.ones_like(code), grid()).mig
    assert torch.equal(torch.get_rng_state(), before)
    assert once == mutual_information_gap(code, torch.ones_like(code), grid()).mig


@pytest.mark.parametrize(
    ("loc", "scale", "factors", "match"),
    [
        (torch.zeros(3, 1), torch.ones(3, 1), torch.zeros(3), "L at least 2"),
        (torch.zeros(3, 2), torch.ones(3, 3), torch.zeros(3), "Match them"),
        (torch.zeros(3, 2), torch.zeros(3, 2), torch.arange(3), "expected positive numbers"),
        (torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(3), "factor 0 expected to vary"),
    ],
)
def test_mistakes_are_one_line(loc: Tensor, scale: Tensor, factors: Tensor, match: str) -> None:
    with pytest.raises(ZooError, match=match):
        mutual_information_gap(loc, scale, factors)
