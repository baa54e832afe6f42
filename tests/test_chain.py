"""Sums over chains against the enumeration of all paths."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import ZooError
from zoo.structures import chain, chain_forgetting

BACKENDS = ("numba", "torch")
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(
    sequences: int,
    steps: int,
    states: int,
    seed: int = 0,
    *,
    varying: bool = False,
    own_initial: bool = False,
    ragged: bool = False,
    forbidden: float = 0.0,
    spread: float = 2.0,
) -> Problem:
    """initial, transition, emission, lengths; NaN beyond the lengths, a share of -inf."""
    rng = np.random.default_rng(seed)
    initial = rng.normal(size=(sequences, states) if own_initial else states)
    transition = rng.normal(size=(sequences, steps - 1, states, states) if varying else (states, states))
    emission = spread * rng.normal(size=(sequences, steps, states)) - 1
    for values in (initial, transition, emission):
        values[rng.random(values.shape) < forbidden] = -np.inf
    lengths = rng.integers(1, steps + 1, size=sequences) if ragged else np.full(sequences, steps)
    for n, length in enumerate(lengths):
        emission[n, length:] = np.nan
        if varying:
            transition[n, length - 1 :] = np.nan
    return torch.tensor(initial), torch.tensor(transition), torch.tensor(emission), torch.tensor(lengths)


def enumerate_paths(initial: Any, transition: Any, emission: Any, lengths: Any) -> list[dict[str, Any]]:
    """Everything about each sequence from all its K^T paths, one by one."""

    def weigh(n: int, length: int) -> dict[tuple[int, ...], float]:
        """The weight of every path of the first ``length`` steps."""
        start = initial[n] if initial.ndim == 2 else initial
        weights = {}
        for path in itertools.product(range(states), repeat=length):
            weight = float(start[path[0]])
            for t in range(length):
                weight += float(emission[n, t, path[t]])
                if t:
                    step = transition[n, t - 1] if transition.ndim == 4 else transition
                    weight += float(step[path[t - 1], path[t]])
            weights[path] = weight
        return weights

    steps, states = emission.shape[1:]
    results = []
    for n, length in enumerate(int(v) for v in lengths):
        weights = weigh(n, length)
        top = max(weights.values())
        unary, pairs = np.zeros((steps, states)), np.zeros((steps - 1, states, states))
        filters = np.zeros((steps, states))
        result: dict[str, Any] = {"value": -math.inf, "entropy": math.nan, "top": top}
        if top > -math.inf:
            result["value"] = top + math.log(math.fsum(math.exp(w - top) for w in weights.values()))
            result["posterior"] = {path: math.exp(w - result["value"]) for path, w in weights.items()}
            result["entropy"] = -math.fsum(p * math.log(p) for p in result["posterior"].values() if p > 0)
            for path, p in result["posterior"].items():
                for t in range(length):
                    unary[t, path[t]] += p
                    if t:
                        pairs[t - 1, path[t - 1], path[t]] += p
        for t in range(length):
            prefixes = weigh(n, t + 1)
            most = max(prefixes.values())
            if most > -math.inf:
                for path, weight in prefixes.items():
                    filters[t, path[t]] += math.exp(weight - most)
                filters[t] /= filters[t].sum()
        results.append({**result, "unary": unary, "pairs": pairs, "filters": filters})
    return results


def path_weight(parts: Problem, n: int, path: Any) -> float:
    """The weight of one path of sequence n."""
    initial, transition, emission, lengths = parts
    weight = float((initial[n] if initial.dim() == 2 else initial)[path[0]])
    for t in range(int(lengths[n])):
        weight += float(emission[n, t, path[t]])
        if t:
            weight += float((transition[n, t - 1] if transition.dim() == 4 else transition)[path[t - 1], path[t]])
    return weight


def gradients(parts: Problem, backend: str) -> tuple[Tensor, list[Tensor]]:
    """The value, and the gradient of its sum in the three potentials."""
    leaves = [part.clone().requires_grad_() for part in parts[:3]]
    value = chain.log_partition(*leaves, parts[3], _backend=backend)
    value.sum().backward()
    return value.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


shapes = st.fixed_dictionaries(
    {
        "sequences": st.integers(1, 4),
        "steps": st.integers(1, 6),
        "states": st.integers(1, 3),
        "seed": st.integers(0, 10_000),
        "varying": st.booleans(),
        "own_initial": st.booleans(),
        "ragged": st.booleans(),
        "forbidden": st.sampled_from([0.0, 0.0, 0.2, 0.5]),
    }
)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(shape=shapes)
def test_everything_against_the_enumeration_of_all_paths(backend: str, shape: dict[str, Any]) -> None:
    parts = problem(**shape)
    lengths = parts[3]
    before = [part.clone() for part in parts]
    oracle = enumerate_paths(*(part.numpy() for part in parts))
    possible = [n for n, result in enumerate(oracle) if result["top"] > -math.inf]
    value = np.array([result["value"] for result in oracle])
    unary = np.stack([result["unary"] for result in oracle])
    pairs = np.stack([result["pairs"] for result in oracle])
    own = (lambda a: a) if shape["own_initial"] else (lambda a: a.sum(0))
    stepwise = pairs if shape["varying"] else pairs.sum((0, 1))

    found = chain.expectations(*parts, _backend=backend)
    np.testing.assert_allclose(found.log_likelihood, value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.initial, own(unary[:, 0]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.transition, stepwise, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.marginals, unary, rtol=0, atol=1e-12)

    # The identity "gradient = posterior expectation", with weights on the sequences.
    leaves = [part.clone().requires_grad_() for part in parts[:3]]
    weights = torch.linspace(0.5, 2.0, shape["sequences"], dtype=torch.float64)
    result = chain.log_partition(*leaves, lengths, _backend=backend)
    np.testing.assert_allclose(result.detach(), value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(chain.log_partition(*parts, _backend=backend), value, rtol=0, atol=1e-12)
    result.backward(weights)
    w = weights.numpy()
    np.testing.assert_allclose(leaves[0].grad, own(w[:, None] * unary[:, 0]), rtol=0, atol=1e-9)
    expected = w[:, None, None, None] * pairs
    np.testing.assert_allclose(
        leaves[1].grad, expected if shape["varying"] else expected.sum((0, 1)), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(leaves[2].grad, w[:, None, None] * unary, rtol=0, atol=1e-9)

    paths, scores = chain.viterbi(*parts, _backend=backend)
    np.testing.assert_allclose(scores, [result["top"] for result in oracle], rtol=0, atol=1e-12)
    for n, length in enumerate(lengths.tolist()):
        used = length if n in possible else 0
        assert (paths[n, used:] == -1).all()
        if n in possible:
            assert path_weight(parts, n, paths[n].tolist()) == pytest.approx(float(scores[n]), abs=1e-12)

    entropies = chain.entropy(*parts, _backend=backend)
    np.testing.assert_allclose(entropies, [result["entropy"] for result in oracle], rtol=0, atol=1e-12)
    filters = np.stack([result["filters"] for result in oracle])
    np.testing.assert_allclose(chain.filtered(*parts, _backend=backend), filters, rtol=0, atol=1e-12)
    for part, copy in zip(parts, before, strict=True):
        assert torch.equal(part.nan_to_num(7.0), copy.nan_to_num(7.0)), "an argument was changed"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("varying", [False, True])
def test_samples_have_the_frequencies_of_the_posterior(backend: str, varying: bool) -> None:
    parts = problem(3, 4, 3, seed=5, varying=varying, ragged=True, forbidden=0.1)
    oracle = enumerate_paths(*(part.numpy() for part in parts))
    draws = 40_000
    generator = torch.Generator().manual_seed(1)
    paths = chain.sample(*parts, num_samples=draws, generator=generator, _backend=backend)
    assert paths.shape == (draws, 3, 4)
    for n, result in enumerate(oracle):
        length = int(parts[3][n])
        assert (paths[:, n, length:] == -1).all()
        seen: dict[Any, int] = {}
        for path in paths[:, n, :length].tolist():
            seen[tuple(path)] = seen.get(tuple(path), 0) + 1
        for path, p in result["posterior"].items():
            assert abs(seen.get(path, 0) - draws * p) <= 4.5 * math.sqrt(draws * p * (1 - p)) + 1e-9, (n, path, p)
    again = chain.sample(*parts, num_samples=draws, generator=torch.Generator().manual_seed(1), _backend=backend)
    assert torch.equal(paths, again)


def test_both_paths_draw_the_same_samples() -> None:
    parts = problem(5, 30, 4, seed=2, ragged=True)
    draws = [
        chain.sample(*parts, num_samples=7, generator=torch.Generator().manual_seed(3), _backend=backend)
        for backend in BACKENDS
    ]
    assert torch.equal(*draws)


# The kernels' layouts: (N, T, K) of each, the last with blocks and ragged lengths.
LAYOUTS = {
    "side by side": {"sequences": 75, "steps": 23, "states": 5, "ragged": True},
    "side by side, 16 states": {"sequences": 40, "steps": 12, "states": 16},
    "by states": {"sequences": 6, "steps": 40, "states": 21, "ragged": True},
    "by states, few": {"sequences": 3, "steps": 40, "states": 4},
    "both ends": {"sequences": 1, "steps": 50, "states": 19},
    "both ends, changing": {"sequences": 1, "steps": 50, "states": 9, "varying": True},
    "changing": {"sequences": 5, "steps": 20, "states": 11, "varying": True, "ragged": True},
    "blocks": {"sequences": 1, "steps": 4003, "states": 3},
    "blocks, ragged": {"sequences": 3, "steps": 1700, "states": 4, "ragged": True, "own_initial": True},
    "left to right": {"sequences": 70, "steps": 25, "states": 4, "forbidden": 0.15},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_agrees_with_the_torch_path(name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    parts = problem(**LAYOUTS[name], seed=11)  # type: ignore[arg-type]
    (value, grads), (expected, expected_grads) = gradients(parts, "numba"), gradients(parts, "torch")
    np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-12)
    for grad, other in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, other, rtol=1e-11, atol=1e-12)
    found, other_found = (chain.expectations(*parts, _backend=backend) for backend in BACKENDS)
    for a, b in zip(found, other_found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(chain.log_partition(*parts, _backend="numba"), expected, rtol=1e-13, atol=1e-12)
    for function in (chain.entropy, chain.filtered):
        a, b = (function(*parts, _backend=backend) for backend in BACKENDS)
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    (paths, scores), (other_paths, other_scores) = (chain.viterbi(*parts, _backend=backend) for backend in BACKENDS)
    assert torch.equal(paths, other_paths)
    np.testing.assert_allclose(scores, other_scores, rtol=1e-13)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_batch_is_its_sequences_one_by_one(name: str) -> None:
    initial, transition, emission, lengths = parts = problem(**LAYOUTS[name], seed=4)  # type: ignore[arg-type]
    together = chain.expectations(*parts)
    pairs = torch.zeros_like(together.transition)
    for n in range(len(emission)):
        length = int(lengths[n])
        alone = chain.expectations(
            initial[n] if initial.dim() == 2 else initial,
            transition[n : n + 1, : length - 1] if transition.dim() == 4 else transition,
            emission[n : n + 1, :length],
        )
        torch.testing.assert_close(alone.log_likelihood[0], together.log_likelihood[n], rtol=1e-13, atol=1e-12)
        torch.testing.assert_close(alone.marginals[0], together.marginals[n, :length], rtol=1e-11, atol=1e-12)
        assert not together.marginals[n, length:].any()
        if transition.dim() == 4:
            pairs[n, : length - 1] = alone.transition[0]
        else:
            pairs += alone.transition
    torch.testing.assert_close(pairs, together.transition, rtol=1e-11, atol=1e-12)


def test_the_number_of_threads_changes_no_bit() -> None:
    parts = problem(300, 20, 5, seed=1, ragged=True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(chain.expectations(*parts))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# Chains that emit Gaussians, in one pass over the data ---------------------------------------------------------------


def gaussian_problem(
    sequences: int,
    steps: int,
    states: int,
    features: int,
    ragged: bool = False,
    forbidden: float = 0.0,
    sticky: float = 0.0,
) -> tuple[Tensor, ...]:
    """initial, transition, x, means, scale, lengths; NaN beyond the lengths. Sticky ones stay by so many nats, and the
    data say almost nothing of the states.
    """
    initial, transition, _, lengths = problem(
        sequences, steps, states, seed=features, ragged=ragged, forbidden=forbidden
    )
    generator = torch.Generator().manual_seed(features)
    means = 2 * torch.randn(states, features, dtype=torch.float64, generator=generator) + 3
    scale = 0.5 + torch.rand(states, features, dtype=torch.float64, generator=generator)
    if sticky:
        transition = (transition + sticky * torch.eye(states, dtype=torch.float64)).log_softmax(-1)
        means = means[:1] + 0.01 * means
    x = means[torch.randint(states, (sequences, steps), generator=generator)]
    x = x + torch.randn(x.shape, dtype=torch.float64, generator=generator)
    x[torch.arange(steps) >= lengths.unsqueeze(-1)] = math.nan
    return initial, transition, x, means, scale, lengths


def log_densities(x: Tensor, means: Tensor, scale: Tensor) -> Tensor:
    return torch.distributions.Normal(means, scale).log_prob(x.unsqueeze(-2).nan_to_num(0.0)).sum(-1)


def check_totals(found: chain.Totals, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-11, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("states", "features"), [(2, 1), (3, 4), (4, 3), (5, 2), (6, 6), (17, 9)])
def test_gaussian_totals_against_the_enumeration_of_all_paths(states: int, features: int) -> None:
    steps = 3 if states > 4 else 5
    parts = gaussian_problem(9, steps, states, features, ragged=True)
    initial, transition, x, means, _, lengths = (part.numpy() for part in parts)
    paths = enumerate_paths(initial, transition, log_densities(parts[2], *parts[3:5]).numpy(), lengths)
    unary = np.stack([path["unary"] for path in paths])  # (N, T, K), zero beyond the lengths
    delta = np.nan_to_num(x)[:, :, None] - means  # (N, T, K, D)
    expected = {
        "log_likelihood": sum(path["value"] for path in paths),
        "initial": unary[:, 0].sum(0),
        "transition": sum(path["pairs"].sum(0) for path in paths),
        "counts": unary.sum((0, 1)),
        "first": np.einsum("ntk,ntkd->kd", unary, delta),
        "second": np.einsum("ntk,ntkd->kd", unary, delta**2),
        "left": [],
    }
    found = chain.gaussian_totals(*parts)
    assert found is not None
    check_totals(found, expected)


GAUSSIAN_LAYOUTS = {
    "side by side": {"sequences": 75, "steps": 23, "states": 5, "features": 4, "ragged": True},
    "side by side, wide": {"sequences": 300, "steps": 12, "states": 6, "features": 5, "ragged": True},
    "left to right": {"sequences": 70, "steps": 25, "states": 4, "features": 2, "forbidden": 0.15},
    "blocks": {"sequences": 1, "steps": 4003, "states": 3, "features": 4},
    "many blocks": {"sequences": 3, "steps": 20_000, "states": 2, "features": 1, "ragged": True},
    "blocks that forget nothing": {"sequences": 1, "steps": 1700, "states": 3, "features": 2, "sticky": 18.0},
    "by states": {"sequences": 8, "steps": 40, "states": 21, "features": 3, "ragged": True},
}


@pytest.mark.parametrize("name", GAUSSIAN_LAYOUTS)
def test_gaussian_totals_of_every_layout_are_those_of_the_torch_path(name: str) -> None:
    parts = gaussian_problem(**GAUSSIAN_LAYOUTS[name])  # type: ignore[arg-type]
    initial, transition, x, means, scale, lengths = parts
    plain = chain.expectations(initial, transition, log_densities(x, means, scale), lengths, _backend="torch")
    possible = plain.log_likelihood > -math.inf
    delta = x.nan_to_num(0.0).unsqueeze(-2) - means
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = chain.gaussian_totals(*parts)
        assert found is not None
        results.append(found)
        expected = {
            "log_likelihood": plain.log_likelihood[possible].sum(),
            "initial": plain.initial,
            "transition": plain.transition,
            "counts": plain.marginals.sum((0, 1)),
            "first": torch.einsum("ntk,ntkd->kd", plain.marginals, delta),
            "second": torch.einsum("ntk,ntkd->kd", plain.marginals, delta.square()),
            "left": (~possible).nonzero()[:, 0],
        }
        check_totals(found, expected)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two), "the number of threads changes no bit"


@pytest.mark.parametrize("name", GAUSSIAN_LAYOUTS)
def test_gaussian_totals_name_the_sequences_that_they_leave(name: str) -> None:
    """Missing, infinitely far, and so unlikely that nothing is left of the message: in none of the sums."""
    *parts, lengths = gaussian_problem(**GAUSSIAN_LAYOUTS[name])  # type: ignore[arg-type]
    whole = chain.gaussian_totals(*parts, lengths)
    x = parts[2].clone()
    wrong = [0] if len(x) < 4 else [1, 2, 5]
    for n, value in zip(wrong, (math.nan, 1e200, math.nan), strict=False):
        x[n, int(lengths[n]) - 1, -1] = value
    found = chain.gaussian_totals(*parts[:2], x, *parts[3:], lengths)
    assert found is not None
    assert whole is not None
    if "blocks" in name:  # all or nothing
        assert found.left.tolist() == list(range(len(x)))
        assert not any(bool(part.any()) for part in found[:6])
        return
    assert set(found.left.tolist()) == {*wrong, *whole.left.tolist()}
    right = torch.tensor([n for n in range(len(x)) if n not in wrong])
    alone = chain.gaussian_totals(*parts[:2], parts[2][right], *parts[3:], lengths[right])
    if alone is None:  # too few are left
        return
    for name_, a, b in zip(found._fields, found, alone, strict=True):
        if name_ != "left":
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10)


def test_blocks_go_by_their_windows_where_they_forget_and_by_whole_transfers_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both ways give the same; above, each is compared with the torch path."""
    one_pass, took = chain_forgetting.one_pass, []

    def watched(*arguments: Any) -> Any:
        took.append(one_pass(*arguments))
        return took[-1]

    for name in ("many blocks", "blocks that forget nothing"):
        parts = gaussian_problem(**GAUSSIAN_LAYOUTS[name])  # type: ignore[arg-type]
        monkeypatch.setattr(chain_forgetting, "one_pass", watched)
        forgetting = chain.gaussian_totals(*parts)
        monkeypatch.setattr(chain_forgetting, "one_pass", lambda *_: None)
        transfers = chain.gaussian_totals(*parts)
        assert forgetting is not None
        assert transfers is not None
        for field, a, b in zip(forgetting._fields, forgetting, transfers, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11, msg=field)
    assert [found is None for found in took] == [False, True]


def test_where_gaussian_totals_do_not_serve() -> None:
    parts = gaussian_problem(7, 5, 3, 2)
    assert chain.gaussian_totals(*parts) is None, "too few to put side by side"
    initial, transition, x, means, scale, _ = gaussian_problem(9, 5, 3, 2)
    assert chain.gaussian_totals(initial, transition, x.float(), means, scale) is None
    assert chain.gaussian_totals(initial, transition, x, means, scale) is not None
    with pytest.raises(ZooError, match="lengths: expected 1 to 5, got 6 for sequence 8"):
        chain.gaussian_totals(initial, transition, x, means, scale, torch.tensor([5] * 8 + [6]))


def test_gaussian_totals_hold_no_array_of_marginals() -> None:
    """Peak beyond the arguments, in a process of its own; marginals would take 51 MB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")
    printed = run(
        """
        import torch
        from pathlib import Path
        from zoo.structures import chain
        torch.set_num_threads(2)
        def peak():
            return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        initial, transition = torch.zeros(8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
        means, scale = torch.zeros(8, 2, dtype=torch.float64), torch.ones(8, 2, dtype=torch.float64)
        for shape in ((8000, 100, 2), (1, 800_000, 2)):
            x = torch.ones(shape, dtype=torch.float64)
            chain.gaussian_totals(initial, transition, x[:500, :5000], means, scale)
            Path("/proc/self/clear_refs").write_text("5")
            before = peak()
            chain.gaussian_totals(initial, transition, x, means, scale)
            print((peak() - before) / 1e6, end=" ")
        """
    )
    side_by_side, blocks = (float(part) for part in printed.split())
    assert side_by_side < 10
    assert blocks < 15


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("varying", [False, True])
def test_gradcheck(backend: str, varying: bool) -> None:
    initial, transition, emission, lengths = problem(3, 5, 3, seed=8, varying=varying)
    lengths = torch.tensor([5, 1, 3])
    leaves = [part.clone().requires_grad_() for part in (initial, transition, emission)]
    assert torch.autograd.gradcheck(lambda *a: chain.log_partition(*a, lengths, _backend=backend), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_raises(backend: str) -> None:
    initial, transition, emission, _ = problem(2, 4, 3)
    emission.requires_grad_()
    transition.requires_grad_()
    value = chain.log_partition(initial, transition, emission, _backend=backend).sum()
    first = torch.autograd.grad(value, [emission, transition], create_graph=True)
    for one in first:
        # With a term that can be differentiated: it must not hide that the other cannot.
        with pytest.raises(RuntimeError, match="differentiated once only"):
            torch.autograd.grad(one.square().sum() + emission.square().sum(), emission, retain_graph=True)


@pytest.mark.parametrize("states", [3, 20])
@pytest.mark.parametrize("sequences", [1, 12])
def test_ten_thousand_steps_are_finite_and_right(sequences: int, states: int) -> None:
    parts = problem(sequences, 10_000 if sequences == 1 else 2000, states, seed=3, spread=10.0)
    (value, grads), (expected, expected_grads) = gradients(parts, "numba"), gradients(parts, "torch")
    assert value.isfinite().all()
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    for grad, other in zip(grads, expected_grads, strict=True):
        assert grad.isfinite().all()
        np.testing.assert_allclose(grad, other, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(grads[2].sum(-1), 1.0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads[1].sum(), sequences * (parts[2].shape[1] - 1), rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shift", [1e5, -1e5])
@pytest.mark.parametrize("varying", [False, True])
def test_log_mass_of_a_hundred_thousand_a_step(backend: str, shift: float, varying: bool) -> None:
    parts = initial, transition, emission, lengths = problem(40, 30, 3, seed=6, varying=varying)
    value, grads = gradients(parts, backend)
    rng = np.random.default_rng(0)
    # Multiples of 2^-20, so that little is lost when they are added to the potentials.
    moved = torch.tensor(np.round(rng.uniform(0.5, 1.0, size=(40, 30, 1)) * shift))
    shifted = (initial + shift, transition + shift, emission + moved, lengths)
    other, other_grads = gradients(shifted, backend)
    expected = value + shift + 29 * shift + moved.sum((1, 2))
    np.testing.assert_allclose(other, expected, rtol=1e-13)
    for grad, other_grad in zip(grads, other_grads, strict=True):
        assert other_grad.isfinite().all()
        np.testing.assert_allclose(other_grad, grad, rtol=0, atol=1e-7)  # potentials near 1e5 are rounded to 1e-11


def underflowing(sequences: int, digits: int) -> Problem:
    """Two states that never meet: the one that looks impossible for one step wins by 40 ln 10 nats or more."""
    initial = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    transition = torch.eye(2, dtype=torch.float64).log()
    emission = torch.zeros(sequences, 6, 2, dtype=torch.float64)
    emission[:, 0, 1] = -320 * math.log(10)
    emission[:, 2:, 0] = -digits * math.log(10)
    return initial, transition, emission, torch.full((sequences,), 6)


# A normaliser of 1e-120 is refused at once; those of 1e-90 only show in the other direction's messages.
@pytest.mark.parametrize("digits", [90, 120])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sequences", [1, 3, 40])
def test_a_state_that_underflows_and_wins_later_is_not_lost(sequences: int, threads: int, digits: int) -> None:
    torch.set_num_threads(threads)
    parts = underflowing(sequences, digits)
    oracle = enumerate_paths(*(part[:1].numpy() if i > 1 else part.numpy() for i, part in enumerate(parts)))[0]
    assert oracle["unary"][3, 1] == pytest.approx(1.0), "the second state must win for this to test anything"
    value, grads = gradients(parts, "numba")
    np.testing.assert_allclose(value, oracle["value"], rtol=1e-14)
    np.testing.assert_allclose(chain.log_partition(*parts), oracle["value"], rtol=1e-14)
    for grad in grads[2]:
        np.testing.assert_allclose(grad, oracle["unary"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads[1], sequences * oracle["pairs"].sum(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sequences", [1, 3, 40])
def test_a_message_lost_long_ago_is_noticed_also_where_nothing_overflows(sequences: int) -> None:
    """The lost state comes back to 6e-4 of the total, 2.3 nats a step: no number on the way looks odd."""
    steps, rate = 307, math.log(10)
    emission = torch.zeros(sequences, steps, 2, dtype=torch.float64)
    emission[:, 0, 1] = -712
    emission[:, 1:, 0] = -rate
    initial, transition = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).log()
    expected = np.logaddexp(-712, -rate * (steps - 1))  # the two states never meet
    value, grads = gradients((initial, transition, emission, torch.full((sequences,), steps)), "numba")
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(grads[2][..., 1], math.exp(-712 - expected), rtol=1e-9)
    np.testing.assert_allclose(chain.log_partition(initial, transition, emission), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sequences", [1, 3, 40])
def test_a_start_against_the_data_is_not_lost_in_the_value_alone(sequences: int) -> None:
    initial = torch.tensor([0.0, -700.0], dtype=torch.float64)
    transition = torch.full((2, 2), 0.5, dtype=torch.float64).log()
    emission = torch.zeros(sequences, 3, 2, dtype=torch.float64)
    emission[:, 0, 0] = -710
    value = chain.log_partition(initial, transition, emission)
    np.testing.assert_allclose(value, np.logaddexp(-700, -710), rtol=0, atol=1e-11)


@pytest.mark.parametrize("sequences", [1, 3, 40])
def test_data_that_only_an_unreachable_state_explains(sequences: int) -> None:
    initial, transition, emission, lengths = problem(sequences, 6, 3, seed=2)
    initial[2] = transition[:, 2] = -math.inf
    emission[..., :2] -= 90 * math.log(10)
    parts = initial, transition, emission, lengths
    oracle = enumerate_paths(*(part.numpy() for part in parts))
    value, grads = gradients(parts, "numba")
    np.testing.assert_allclose(value, [result["value"] for result in oracle], rtol=1e-14)
    np.testing.assert_allclose(grads[2], np.stack([result["unary"] for result in oracle]), rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sequences=st.sampled_from([1, 2, 9]),
    scale=st.sampled_from([30.0, 300.0, 3000.0]),
    varying=st.booleans(),
)
def test_extreme_potentials_are_right_to_rounding(seed: int, sequences: int, scale: float, varying: bool) -> None:
    initial, transition, emission, lengths = problem(sequences, 6, 3, seed, varying=varying, forbidden=0.2)
    parts = (initial * scale, transition * scale, emission * scale, lengths)
    oracle = enumerate_paths(*(part.numpy() for part in parts))
    value, grads = gradients(parts, "numba")
    np.testing.assert_allclose(value, [result["value"] for result in oracle], rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(grads[2], np.stack([result["unary"] for result in oracle]), rtol=0, atol=1e-9)
    pairs = np.stack([result["pairs"] for result in oracle])
    np.testing.assert_allclose(grads[1], pairs if varying else pairs.sum((0, 1)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(chain.log_partition(*parts), value, rtol=1e-13, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sequences", [2, 40])
def test_an_impossible_sequence_scores_minus_infinity_and_moves_nothing(backend: str, sequences: int) -> None:
    initial, transition, emission, lengths = problem(sequences, 5, 3, seed=9)
    emission[1, 2] = -math.inf
    value, grads = gradients((initial, transition, emission, lengths), backend)
    assert value[1] == -math.inf
    assert not grads[2][1].any()
    rest = [n for n in range(sequences) if n != 1]
    other, other_grads = gradients((initial, transition, emission[rest], lengths[rest]), backend)
    np.testing.assert_allclose(value[rest], other, rtol=1e-14)
    np.testing.assert_allclose(grads[0], other_grads[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads[1], other_grads[1], rtol=0, atol=1e-12)
    paths, scores = chain.viterbi(initial, transition, emission, _backend=backend)
    assert scores[1] == -math.inf
    assert (paths[1] == -1).all()
    assert chain.entropy(initial, transition, emission, _backend=backend).isnan().tolist() == [
        n == 1 for n in range(sequences)
    ]
    assert not chain.filtered(initial, transition, emission, _backend=backend)[1, 2:].any()
    with pytest.raises(ZooError, match="sequence 1 "):
        chain.sample(initial, transition, emission, _backend=backend)


@pytest.mark.parametrize("impossible", [False, True])
def test_an_impossible_or_unlikely_step_in_a_long_chain(impossible: bool) -> None:
    parts = problem(2, 2000, 3, seed=9)
    if impossible:
        parts[2][0, 700] = -math.inf
    else:  # only the first of the pieces into which it is cut has to be done again
        parts[0][1:] = -math.inf
        parts[2][0, 0, 1] += 300
    (value, grads), (expected, expected_grads) = gradients(parts, "numba"), gradients(parts, "torch")
    assert (value[0] == -math.inf) == impossible
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    for grad, other in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, other, rtol=0, atol=1e-9)
    np.testing.assert_allclose(chain.expectations(*parts).transition, expected_grads[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sequences", [1, 40])
def test_nan_within_a_sequence_shows_and_stays_there(sequences: int) -> None:
    parts = problem(sequences, 6, 3, seed=1)
    parts[2][0, 3, 1] = math.nan
    for value in (chain.expectations(*parts).log_likelihood, chain.log_partition(*parts)):
        assert value[0].isnan()
        assert value[1:].isfinite().all()


def test_dtypes() -> None:
    parts = initial, transition, emission, lengths = problem(3, 5, 3, ragged=True)
    exact = chain.expectations(*parts)
    leaf = emission.float().requires_grad_()
    value = chain.log_partition(initial.float(), transition.float(), leaf, lengths.int())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.detach().double(), exact.log_likelihood, rtol=1e-6, atol=1e-6)
    value.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32
    torch.testing.assert_close(leaf.grad.double(), exact.marginals, rtol=1e-5, atol=1e-6)
    assert all(
        part.dtype == torch.float32 for part in chain.expectations(initial, transition, emission.float(), lengths)
    )
    whole = torch.zeros(2, 3, 4, dtype=torch.int64)
    counted = chain.log_partition(whole[0, 0], whole[0, 0].expand(4, 4), whole)
    assert counted.dtype == torch.get_default_dtype()
    np.testing.assert_allclose(counted, 3 * math.log(4), rtol=1e-6)  # 4^3 paths of weight 1


def test_marginals_are_written_where_asked() -> None:
    parts = problem(9, 6, 3, ragged=True)
    out = torch.full_like(parts[2], 7.0)
    found = chain.expectations(*parts, out=out)
    assert found.marginals.data_ptr() == out.data_ptr()
    assert torch.equal(out, chain.expectations(*parts).marginals)
    with pytest.raises(ZooError, match="out: expected"):
        chain.expectations(*parts, out=out.float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, t, e, n: (i, t, e[0], n), r"emission: expected shape \(N, T, K\)"),
        (lambda i, t, e, n: (i, t, e[:, :0], n), "with no zero in it"),
        (lambda i, t, e, n: (i[:2], t, e, n), r"initial: expected shape \(3,\) or \(2, 3\)"),
        (lambda i, t, e, n: (i, t[:2], e, n), r"transition: expected shape \(3, 3\) or \(2, 3, 3, 3\)"),
        (lambda i, t, e, n: (i, t.expand(2, 4, 3, 3), e, n), r"got \(2, 4, 3, 3\)"),
        (lambda i, t, e, n: (i, t, e, torch.tensor([4, 0])), "got 0 for sequence 1"),
        (lambda i, t, e, n: (i, t, e, torch.tensor([5, 4])), "expected 1 to 4, got 5 for sequence 0"),
        (lambda i, t, e, n: (i, t, e, torch.tensor([-1, 4])), "got -1 for sequence 0"),
        (lambda i, t, e, n: (i, t, e, torch.tensor([4])), "lengths: expected 2 integers"),
        (lambda i, t, e, n: (i, t, e, torch.tensor([4.0, 4.0])), "of torch.float32"),
        (lambda i, t, e, n: (i.to("meta"), t, e, n), "initial on meta"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(change: Any, message: str) -> None:
    for function in (
        chain.log_partition,
        chain.expectations,
        chain.viterbi,
        chain.sample,
        chain.entropy,
        chain.filtered,
    ):
        with pytest.raises(ZooError, match=message) as caught:
            function(*change(*problem(2, 4, 3)))  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_no_samples_asked_for() -> None:
    with pytest.raises(ZooError, match="num_samples: expected at least 1, got 0"):
        chain.sample(*problem(2, 4, 3), num_samples=0)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_importing_compiles_nothing_and_threads_and_forks_are_safe() -> None:
    """In a process of its own, as a crash would take the others along."""
    printed = run(
        """
        import sys, threading, os
        from zoo.structures import chain
        print("numba" in sys.modules, end=" ")
        import torch
        torch.set_num_threads(2)
        torch.manual_seed(0)
        parts = torch.zeros(4).log_softmax(0), torch.randn(4, 4).log_softmax(-1), torch.randn(200, 30, 4)
        expected = chain.log_partition(*parts)
        right = []
        def work():
            for _ in range(20):
                right.append(torch.equal(chain.log_partition(*parts), expected))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(all(right), len(right), end=" ")
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(chain.log_partition(*parts), expected) else 1)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert printed == "False True 80 0"


def test_memory_of_the_value_alone_does_not_grow_with_time() -> None:
    """Peak beyond the arguments, in a process of its own; 41 MB of messages would be kept for a gradient."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")
    printed = run(
        """
        import torch
        from pathlib import Path
        from zoo.structures import chain
        torch.set_num_threads(1)
        def peak():
            return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        initial, transition = torch.zeros(16, dtype=torch.float64), torch.zeros(16, 16, dtype=torch.float64)
        emission = torch.ones(32, 10_000, 16, dtype=torch.float64)
        chain.log_partition(initial, transition, emission[:1])  # compiles what is measured
        chain.expectations(initial, transition, emission[:1])
        for function in (chain.log_partition, chain.expectations):
            Path("/proc/self/clear_refs").write_text("5")
            before = peak()
            function(initial, transition, emission)
            print((peak() - before) / 1e6, end=" ")
        """
    )
    alone, everything = (float(part) for part in printed.split())
    assert alone < 5
    assert everything > 35, "the measurement must see what is kept"
    assert everything < 41 + 82 + 20, "the marginals, and two messages of the lanes now worked on"
