"""Corruption: how many features, which ones, and what becomes of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

import zoo
from zoo.models.shared.corruption import Corruption


def drawn(kind: str, amount: float, x: torch.Tensor, **ends: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    corruption = Corruption(kind, amount, x.shape[-1])
    return corruption(x, corruption.draw(x, len(x)), **ends)


@pytest.mark.parametrize(("amount", "count"), [(0.2, 1), (0.25, 1), (0.5, 3), (0.29, 1), (0.99, 5)])
def test_masking_takes_a_random_subset_of_one_size(amount: float, count: int) -> None:
    spoilt = drawn("masking", amount, torch.full((4000, 6), 2.0))
    assert set(spoilt.unique().tolist()) == {0.0, 2.0}
    assert ((spoilt == 0).sum(1) == count).all()
    subsets = list(itertools.combinations(range(6), count))
    seen = [subsets.index(tuple(row.nonzero().flatten().tolist())) for row in spoilt == 0]
    counts = torch.bincount(torch.tensor(seen), minlength=len(subsets))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_share_that_rounding_leaves_below_a_whole_number_counts_as_that() -> None:
    assert Corruption("masking", 0.29, 100).num_corrupted == 29


def test_salt_and_pepper_fall_by_a_fair_coin_that_knows_nothing_of_the_choice() -> None:
    low, high = torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    spoilt = drawn("salt_and_pepper", 0.5, torch.zeros(8000, 4), low=low, high=high)
    assert ((spoilt != 0).sum(1) == 2).all()
    at = spoilt != 0
    assert ((spoilt == high) | (spoilt == low))[at].all()
    # By the pair that was chosen and the two coins: six pairs, four outcomes each, all alike.
    kinds = (at.long() * torch.tensor([27, 9, 3, 1])).sum(1) + ((spoilt > 0).long() * torch.tensor([27, 9, 3, 1])).sum(
        1
    )
    counts = torch.unique(kinds, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_gaussian_noise_has_its_deviation() -> None:
    spoilt = drawn("gaussian", 0.3, torch.full((20000, 3), 1.5, dtype=torch.float64))
    assert stats.kstest((spoilt.flatten() - 1.5).numpy() / 0.3, "norm").pvalue > 1e-3


def test_nothing_is_drawn_where_nothing_is_spoilt() -> None:
    x, state = torch.ones(3, 4), torch.get_rng_state()
    for kind in ("masking", "gaussian"):
        corruption = Corruption(kind, 0.0, 4)
        assert corruption(x, corruption.draw(x, 3)) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("kind", "amount", "match"),
    [
        ("blur", 0.1, "corruption expected|corruption 'blur'"),
        ("masking", 1.0, "noise expected a share of at least 0, below 1, got 1.0"),
        ("masking", -0.1, "noise expected a share"),
        ("masking", True, "noise expected a share"),
        ("masking", "much", "noise expected a share"),
        ("gaussian", float("nan"), "noise expected a standard deviation"),
        ("gaussian", float("inf"), "noise expected a standard deviation"),
        ("salt_and_pepper", 0.1, "noise=0.1 of 6 features comes to none of them. Take at least 0.17"),
    ],
)
def test_bad_amounts_are_refused(kind: str, amount: float, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        Corruption(kind, amount, 6)
