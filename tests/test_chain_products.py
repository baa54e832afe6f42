"""Chains of very many states: steps as products of matrices, held to torch's sums by logarithms, another code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.structures import Chain, chain_layouts
from zoo.structures.chain import expectations
from zoo.structures.chain_products import CountsByItem

K = chain_layouts._VERY_MANY_STATES


def problem(n: int, t: int, k: int = K, spread: float = 3.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(k, generator=generator, dtype=torch.float64)
    transition = torch.randn(k, k, generator=generator, dtype=torch.float64)
    emission = spread * torch.randn(n, t, k, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, t + 1, (n,), generator=generator)
    lengths[0] = t
    return initial, transition, emission, lengths


def gradients(arguments: tuple[Tensor, ...], lengths: Tensor, backend: str) -> tuple[Tensor, ...]:
    """Values, and the gradient of a weighted sum of them, each item with a weight of its own."""
    leaves = [a.clone().requires_grad_() for a in arguments]
    value = Chain(*leaves, lengths, backend).log_partition()
    weights = torch.linspace(-1.0, 2.0, len(value), dtype=value.dtype)
    possible = value > -math.inf
    return value.detach(), *torch.autograd.grad((weights * value)[possible].sum(), leaves)


@pytest.mark.parametrize("own_start", [False, True])
def test_values_and_gradients_are_those_by_logarithms(own_start: bool) -> None:
    initial, transition, emission, lengths = problem(9, 7)
    if own_start:
        initial = torch.randn(9, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    arguments = (initial, transition, emission)
    assert chain_layouts.Layouts(Chain(*arguments, lengths)._problem)._suits_products()
    for ours, theirs in zip(
        gradients(arguments, lengths, "numba"), gradients(arguments, lengths, "torch"), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    value = Chain(*arguments, lengths).log_partition()
    torch.testing.assert_close(value, gradients(arguments, lengths, "torch")[0], rtol=1e-13, atol=0)


def extreme() -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Numbers that differ by hundreds of nats, two halves of states that no step joins, item 3 impossible."""
    initial, transition, emission, lengths = problem(10, 6, spread=400.0)
    transition *= 100
    transition[: K // 2, K // 2 :] = -math.inf
    transition[K // 2 :, : K // 2] = -math.inf
    emission[3, 1, : K // 2] = -math.inf
    emission[3, 0, K // 2 :] = -math.inf
    lengths[3] = 4
    return (initial, transition, emission), lengths


def test_what_scaling_would_lose_is_done_by_logarithms() -> None:
    arguments, lengths = extreme()
    layouts = chain_layouts.Layouts(Chain(*arguments, lengths)._problem)
    layouts._by_products(write=False, checked=True, per_sequence=False)
    assert layouts.bad[3]
    assert layouts.bad.sum() > 1, "nothing would be lost"
    found, expected = gradients(arguments, lengths, "numba"), gradients(arguments, lengths, "torch")
    assert found[0][3] == -math.inf
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(Chain(*arguments, lengths).log_partition(), expected[0], rtol=1e-12, atol=0)


def test_counts_with_weights_are_sums_of_the_items_own() -> None:
    initial, transition, emission, lengths = problem(8, 5)
    weights = torch.arange(8, dtype=torch.float64)
    whole = expectations(initial, transition, emission, lengths, weights=weights)
    alone = [
        expectations(initial, transition, emission[n : n + 1], lengths[n : n + 1]).transition for n in range(8)
    ]  # one sequence is no product of matrices
    expected = sum(w * counts for w, counts in zip(weights, alone, strict=True))
    torch.testing.assert_close(whole.transition, expected, rtol=1e-11, atol=1e-12)
    plain = expectations(initial, transition, emission, lengths)
    torch.testing.assert_close(plain.transition, torch.stack(alone).sum(0), rtol=1e-11, atol=1e-12)
    assert float(plain.transition.sum()) == pytest.approx(float((lengths - 1).sum()), abs=1e-9)


def test_counts_by_item_are_never_made_where_a_gradient_is_wanted() -> None:
    """(N, K, K) numbers would be a hundred times the data."""
    initial, transition, emission, lengths = problem(8, 4)
    _, counts = Chain(initial, transition, emission, lengths).solve([True, True, True])
    assert isinstance(counts[1], CountsByItem)
