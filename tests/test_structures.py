"""Every structure of zoo/structures, and a throw-away one, against the enumeration of all values."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyro
import pytest
import scipy.stats
import structure_oracles as oracles
import torch
from pyro.infer import Trace_ELBO
from structure_oracles import KINDS, Kind, Use, enumerated, random_potentials
from torch import Tensor

import zoo
import zoo.structures
from zoo.core.found import modules_in
from zoo.errors import ZooError
from zoo.structures import Chain, Structure, Structured

# A structure of two states, as short as one can be ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Coin(Structure[Tensor]):
    """One of two values, of weight ``bias[z] + logits[n, z]``; the bias is shared by all items."""

    potentials: ClassVar[tuple[str, ...]] = ("bias", "logits")
    bias: Tensor  # (2,)
    logits: Tensor  # (N, 2)

    @property
    def num_items(self) -> int:
        return len(self.logits)

    @property
    def part_shape(self) -> tuple[int, ...]:
        return ()

    def _probs(self) -> Tensor:
        return (self.bias + self.logits - self.value().unsqueeze(-1)).exp().nan_to_num(0.0)

    @torch.no_grad()
    def value(self) -> Tensor:
        return (self.bias + self.logits).logsumexp(-1)

    @torch.no_grad()
    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Tensor, ...]]:
        p = self._probs()
        return self.value(), (p if by_item[0] else p.sum(0), p)

    @torch.no_grad()
    def moments(self, other: Coin | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        p = self._probs()
        score = torch.where(p > 0, p.log() if other is None else other.bias + other.logits, 0.0)
        mean = (p * score).sum(-1).masked_fill(self.value() == -math.inf, math.nan)
        covariance = p * (score - mean.unsqueeze(-1))
        return mean, (covariance, covariance)

    def argmax(self) -> tuple[Tensor, Tensor]:
        scores, z = (self.bias + self.logits).max(-1)
        return z.masked_fill(scores == -math.inf, -1), scores

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        return torch.multinomial(self._probs(), num_samples, True, generator=generator).mT

    def score(self, parts: Tensor) -> Tensor:
        z = parts.clamp(0, 1)
        rows = torch.arange(self.num_items)
        return (self.bias[z] + self.logits[rows, z]).masked_fill(z != parts, -math.inf)


def coin_values(coin: Coin, n: int) -> Iterator[tuple[Any, list[Use]]]:
    for z in (0, 1):
        yield z, [("bias", (z,)), ("logits", (z,))]


def make_coin() -> Coin:
    return Coin(torch.tensor([0.3, -0.2]).double(), torch.tensor([[0.5, 0.1], [2.0, 0.0], [-math.inf, 1.0]]).double())


COIN = Kind(
    values=coin_values,
    variants=lambda: {"three": make_coin()},
    impossible=lambda: Coin(torch.zeros(2).double(), torch.tensor([[0.5, 0.1], [-math.inf, -math.inf]]).double()),
    alone=lambda coin, n: Coin(coin.bias, coin.logits[n : n + 1]),
    parts=lambda coin, parts, n: int(parts[n]),
    nonsense=lambda coin: torch.full((coin.num_items,), 2),
)  # fmt: skip

# All of them, found by being there --------------------------------------------------------------------------------


def found() -> dict[str, Structure[Any]]:
    """By class name, the tiny instance of every structure."""
    modules = modules_in("zoo.structures").values()
    return {type(s).__name__: s for s in (m.tiny() for m in modules if hasattr(m, "tiny"))}


TINY = found()
ALL: dict[str, Kind] = {**KINDS, "Coin": COIN}
CASES = {
    **{f"{name}: {label}": (ALL[name], s) for name in ALL for label, s in ALL[name].variants().items()},
    **{f"{name}: tiny": (ALL[name], s) for name, s in TINY.items() if name in ALL},
}
every = pytest.mark.parametrize("name", CASES)
every_kind = pytest.mark.parametrize("kind", ALL)


def with_leaves(structure: Any) -> tuple[Any, list[Tensor]]:
    """The structure over potentials that want gradients."""
    leaves = [getattr(structure, name).clone().requires_grad_() for name in structure.potentials]
    return dataclasses.replace(structure, **dict(zip(structure.potentials, leaves, strict=True))), leaves


def placed(structure: Any, by_item: list[dict[str, np.ndarray]], weights: Any = None) -> list[np.ndarray]:
    """Each item's numbers where its potential stands: side by side, or summed where it is shared."""
    weights = np.ones(len(by_item)) if weights is None else weights
    results = []
    for name in structure.potentials:
        shape = tuple(getattr(structure, name).shape)
        out = np.zeros(shape)
        for n, (weight, numbers) in enumerate(zip(weights, by_item, strict=True)):
            if numbers[name].ndim < len(shape):
                out[n] = weight * numbers[name]
            else:
                out += weight * numbers[name]
        results.append(out)
    return results


def close(found: Any, expected: Any, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=atol)


def test_every_structure_has_an_oracle() -> None:
    assert set(TINY) == set(KINDS)
    assert "Chain" in TINY


@every
def test_the_value_and_its_gradient_are_the_log_partition_and_the_expected_counts(name: str) -> None:
    kind, structure = CASES[name]
    items = enumerated(kind, structure)
    assert max(len(item.values) for item in items) > 1 or "one state" in name
    over, leaves = with_leaves(structure)
    value = over.log_partition()
    close(value.detach(), [item.value for item in items])
    close(structure.log_partition(), [item.value for item in items])
    weights = np.linspace(0.5, 2.0, len(items))
    value.backward(torch.as_tensor(weights))
    for leaf, expected in zip(leaves, placed(structure, [i.counts() for i in items], weights), strict=True):
        close(leaf.grad, expected)
    marginals = structure.marginals()
    assert type(marginals) is type(structure)
    for field, expected in zip(structure.potentials, placed(structure, [i.counts() for i in items]), strict=True):
        close(getattr(marginals, field), expected)


@every
def test_some_gradients_only(name: str) -> None:
    kind, structure = CASES[name]
    expected = placed(structure, [i.counts() for i in enumerated(kind, structure)])
    for field, counts in zip(structure.potentials, expected, strict=True):
        leaf = getattr(structure, field).clone().requires_grad_()
        dataclasses.replace(structure, **{field: leaf}).log_partition().sum().backward()
        close(leaf.grad, counts)


@every
def test_the_most_probable_parts(name: str) -> None:
    kind, structure = CASES[name]
    parts, scores = structure.argmax()
    for n, item in enumerate(enumerated(kind, structure)):
        top = item.weights.max()
        assert float(scores[n]) == pytest.approx(top, abs=1e-12)
        if top > -math.inf:
            assert item.weights[item.values.index(kind.parts(structure, parts, n))] == pytest.approx(top, abs=1e-12)
    possible = scores > -math.inf
    close(structure.score(parts)[possible], scores[possible])


@every
def test_draws_have_the_frequencies_of_the_posterior(name: str) -> None:
    kind, structure = CASES[name]
    items = enumerated(kind, structure)
    if any(item.value == -math.inf for item in items):
        pytest.skip("nothing to draw from")
    draws = 4000
    parts = structure.sample(draws, torch.Generator().manual_seed(3))
    again = structure.sample(draws, torch.Generator().manual_seed(3))
    assert torch.equal(parts, again)
    for n, item in enumerate(items):
        drawn = collections.Counter(kind.parts(structure, sample, n) for sample in parts)
        assert set(drawn) <= {v for v, p in zip(item.values, item.probs, strict=True) if p > 0}
        counts, expected = np.array([drawn[v] for v in item.values]), draws * item.probs
        rare = expected < 8
        pairs = [*zip(counts[~rare], expected[~rare], strict=True), (counts[rare].sum(), expected[rare].sum())]
        pairs = [(c, e) for c, e in pairs if e > 0]
        statistic = sum((c - e) ** 2 / e for c, e in pairs)
        if len(pairs) > 1:
            assert scipy.stats.chi2.sf(statistic, len(pairs) - 1) > 1e-5, (n, pairs)


@every
def test_the_entropy_and_its_gradient(name: str) -> None:
    kind, structure = CASES[name]
    items = enumerated(kind, structure)
    over, leaves = with_leaves(structure)
    entropy = over.entropy()
    close(entropy.detach(), [item.entropy for item in items])
    close(structure.entropy(), entropy.detach(), 0)
    weights = np.linspace(0.5, 2.0, len(items))
    torch.nan_to_num(entropy).backward(torch.as_tensor(weights))
    slopes = []
    for item in items:
        with np.errstate(divide="ignore"):
            slopes.append({field: -s for field, s in item.covariances(np.log(item.probs)).items()})
    for leaf, expected in zip(leaves, placed(structure, slopes, weights), strict=True):
        close(leaf.grad, expected, 1e-11)


@every
def test_the_score_of_every_value_and_its_gradient(name: str) -> None:
    kind, structure = CASES[name]
    parts = structure.sample(40) if all(i.value > -math.inf for i in enumerated(kind, structure)) else None
    if parts is None:
        pytest.skip("no parts to score")
    items = enumerated(kind, structure)
    over, leaves = with_leaves(structure)
    scores = over.score(parts)
    log_probs = structure.log_prob(parts)
    used: list[dict[str, Any]] = [{} for _ in items]
    for n, item in enumerate(items):
        index = [item.values.index(kind.parts(structure, sample, n)) for sample in parts]
        close(scores[:, n].detach(), item.weights[index])
        close(log_probs[:, n], np.log(item.probs[index]), 1e-11)
        used[n] = {field: use[index].sum(0) for field, use in item.uses.items()}
    scores.sum().backward()
    for leaf, expected in zip(leaves, placed(structure, used), strict=True):
        close(torch.nan_to_num(leaf.grad), expected)
    assert (structure.score(kind.nonsense(structure)) == -math.inf).all()


@every
def test_the_expectation_of_another_score_and_its_gradients(name: str) -> None:
    kind, structure = CASES[name]
    other = random_potentials(structure, 8)
    items, others = enumerated(kind, structure), enumerated(kind, other)
    over, leaves = with_leaves(structure)
    over_other, other_leaves = with_leaves(other)
    mean = over.expect(over_other)
    possible = np.array([item.value > -math.inf for item in items])
    expected = [i.probs @ np.where(i.probs > 0, o.weights, 0.0) for i, o in zip(items, others, strict=True)]
    close(mean.detach()[possible], np.array(expected)[possible])
    assert mean[~possible].isnan().all()
    weights = np.linspace(0.5, 2.0, len(items))
    torch.nan_to_num(mean).backward(torch.as_tensor(weights))
    slopes = [item.covariances(o.weights) for item, o in zip(items, others, strict=True)]
    for leaf, numbers in zip(leaves, placed(structure, slopes, weights), strict=True):
        close(leaf.grad, numbers, 1e-11)
    for leaf, numbers in zip(other_leaves, placed(structure, [i.counts() for i in items], weights), strict=True):
        close(leaf.grad, numbers)


@every
def test_a_batch_is_its_items_one_by_one(name: str) -> None:
    kind, structure = CASES[name]
    value, entropy = structure.log_partition(), structure.entropy()
    parts, scores = structure.argmax()
    for n in range(structure.num_items):
        alone = kind.alone(structure, n)
        close(alone.log_partition()[0], value[n])
        close(alone.entropy()[0], entropy[n])
        best, score = alone.argmax()
        close(score[0], scores[n])
        if score[0] > -math.inf:
            assert kind.parts(alone, best, 0) == kind.parts(structure, parts, n)


@every
def test_what_lies_beyond_an_item_is_never_read(name: str) -> None:
    _, structure = CASES[name]
    over, leaves = with_leaves(structure)
    over.log_partition().sum().backward()
    for rubbish in (0.0, 1e9, math.inf, -math.inf):
        filled = {
            field: getattr(structure, field).nan_to_num(rubbish, neginf=-math.inf) for field in structure.potentials
        }
        other, other_leaves = with_leaves(dataclasses.replace(structure, **filled))
        value = other.log_partition()
        assert torch.equal(value.detach(), structure.log_partition())
        value.sum().backward()
        for leaf, other_leaf in zip(leaves, other_leaves, strict=True):
            assert torch.equal(leaf.grad, other_leaf.grad)
        assert torch.equal(other.entropy().nan_to_num(7.0), structure.entropy().nan_to_num(7.0))
        assert torch.equal(other.argmax()[1], structure.argmax()[1])


@every_kind
def test_an_impossible_item_scores_minus_infinity_and_moves_nothing(kind: str) -> None:
    structure = ALL[kind].impossible()
    items = enumerated(ALL[kind], structure)
    assert [item.value == -math.inf for item in items] == [n == 1 for n in range(len(items))]
    over, leaves = with_leaves(structure)
    value = over.log_partition()
    close(value.detach(), [item.value for item in items])
    value.sum().backward()
    for leaf, expected in zip(leaves, placed(structure, [i.counts() for i in items]), strict=True):
        close(leaf.grad, expected)
    assert structure.entropy().isnan().tolist() == [n == 1 for n in range(len(items))]
    assert structure.argmax()[1][1] == -math.inf
    for answer in (over.entropy(), over.expect(random_potentials(structure, 1))):
        for gradient in torch.autograd.grad(answer.sum(), leaves):
            assert not gradient.isnan().any()
    possible = dataclasses.replace(structure, **{f: getattr(structure, f).clamp_min(-3) for f in structure.potentials})
    over, leaves = with_leaves(possible)
    mean = over.expect(structure)
    assert mean[1] == -math.inf, "it allows what the other forbids"
    assert not any(gradient.isnan().any() for gradient in torch.autograd.grad(mean.sum(), leaves))


@every_kind
def test_a_second_derivative_is_refused(kind: str) -> None:
    structure = next(iter(ALL[kind].variants().values()))
    for answer in ("log_partition", "entropy"):
        over, leaves = with_leaves(structure)
        first = torch.autograd.grad(getattr(over, answer)().sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="once only"):
            sum(g.nan_to_num().square().sum() for g in first).backward()  # type: ignore[union-attr]


@every_kind
def test_single_precision_in_and_out(kind: str) -> None:
    for structure in ALL[kind].variants().values():
        narrow = dataclasses.replace(structure, **{f: getattr(structure, f).float() for f in structure.potentials})
        over, leaves = with_leaves(narrow)
        value = over.log_partition()
        assert value.dtype == over.entropy().dtype == torch.float32
        assert all(getattr(narrow.marginals(), f).dtype == torch.float32 for f in structure.potentials)
        np.testing.assert_allclose(value.detach(), structure.log_partition(), rtol=1e-5, atol=1e-5)
        value.sum().backward()
        assert all(leaf.grad.dtype == torch.float32 for leaf in leaves)  # type: ignore[union-attr]


def test_structures_of_other_values_are_not_compared() -> None:
    chain = oracles.make_chain(3, 4, 2)
    for other, message in (
        (make_coin(), "got a Coin over 3"),
        (oracles.make_chain(2, 4, 2), "over 3 items, got a Chain over 2"),
        (oracles.make_chain(3, 4, 3), "initial expected shape"),
        (oracles.make_chain(3, 5, 2), "emission expected shape"),
        (oracles.make_chain(3, 4, 2, ragged=True), "same lengths"),
    ):
        with pytest.raises(ZooError, match=message) as caught:
            chain.expect(other)
        assert "\n" not in str(caught.value)


def test_chains_of_shared_and_of_changing_steps_are_compared() -> None:
    """The potentials of one are laid out as those of the other need them."""
    shared = oracles.make_chain(3, 4, 2, ragged=True)
    changing = oracles.make_chain(3, 4, 2, varying=True, own=True, ragged=True)
    kind = KINDS["Chain"]
    for one, other in ((shared, changing), (changing, shared)):
        (over, leaves), (over_other, other_leaves) = with_leaves(one), with_leaves(other)
        mean = over.expect(over_other)
        items, others = enumerated(kind, one), enumerated(kind, other)
        close(mean.detach(), [i.probs @ o.weights for i, o in zip(items, others, strict=True)])
        mean.sum().backward()
        slopes = placed(one, [i.covariances(o.weights) for i, o in zip(items, others, strict=True)])
        for leaf, expected in zip(leaves, slopes, strict=True):
            close(leaf.grad, expected, 1e-11)
        wide = [np.tensordot(i.probs, o.uses["transition"], 1) for i, o in zip(items, others, strict=True)]
        close(other_leaves[1].grad, np.stack(wide) if other is changing else sum(wide))


# In a Pyro program ------------------------------------------------------------------------------------------------


def test_a_structure_is_a_distribution_over_its_parts() -> None:
    chain = oracles.make_chain(3, 3, 2, ragged=True)
    q = Structured(chain)
    assert q.batch_shape == (3,)
    assert q.event_shape == (3,)
    torch.manual_seed(0)
    z = q.sample((5, 2))
    assert z.shape == (5, 2, 3, 3)
    assert q.log_prob(z).shape == (5, 2, 3)
    for n, item in enumerate(enumerated(KINDS["Chain"], chain)):
        paths = [torch.tensor([*path, *[-1] * (3 - len(path))]) for path in item.values]
        rows = torch.full((len(paths), 3, 3), 0)
        rows[:, n] = torch.stack(paths)
        assert float(q.log_prob(rows)[:, n].exp().sum()) == pytest.approx(1.0, abs=1e-12)
    wide = q.expand((4, 3))
    assert wide.sample().shape == (4, 3, 3)
    assert wide.log_prob(wide.sample()).shape == (4, 3)
    assert wide.entropy().shape == (4, 3)
    with pytest.raises(ZooError, match="expected a plate of 3 items"):
        q.expand((4,))
    with pytest.raises(ZooError, match="expected a structure"):
        Structured(torch.zeros(3))  # type: ignore[arg-type]


def test_the_divergence_between_two_structures_is_exact() -> None:
    q, p = oracles.make_chain(3, 4, 2, ragged=True), random_potentials(oracles.make_chain(3, 4, 2, ragged=True), 5)
    found = torch.distributions.kl_divergence(Structured(q), Structured(p))
    items = zip(enumerated(KINDS["Chain"], q), enumerated(KINDS["Chain"], p), strict=True)
    close(found, [float(a.probs @ np.log(a.probs / b.probs)) for a, b in items])


def test_a_program_draws_and_scores_paths() -> None:
    """With the posterior as its guide a program's bound is the evidence, whatever is drawn."""
    chain = oracles.make_chain(4, 5, 3, ragged=True)
    emission = chain.emission.nan_to_num(0.0)
    prior = dataclasses.replace(chain, emission=torch.zeros_like(emission))

    def model() -> None:
        with pyro.plate("data", 4):
            z = pyro.sample("z", Structured(prior))
            there = z >= 0
            said = emission[torch.arange(4).unsqueeze(-1), torch.arange(5), z.clamp_min(0)]
            pyro.factor("x", torch.where(there, said, 0.0).sum(-1))

    def guide() -> None:
        with pyro.plate("data", 4):
            pyro.sample("z", Structured(chain))

    expected = float((chain.log_partition() - prior.log_partition()).sum())
    for particles in (1, 3):
        elbo = Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
        assert -elbo.loss(model, guide) == pytest.approx(expected, abs=1e-10)


def test_a_fitted_chain_hands_out_its_structure() -> None:
    """Joint draws take no step that the chain forbids, as draws of each step's marginal do."""
    model = zoo.GaussianHMM(num_states=3, num_features=1, topology="left_right")
    x = torch.tensor([[0.0, 0.1, 3.0, 2.9, 6.0], [0.1, 2.8, 3.1, 6.1, 6.2]]).double().unsqueeze(-1)
    fit = zoo.fit(model, x, estimator="em", max_iter=2)
    chain = fit.structure(x)
    assert float(chain.log_partition().sum()) == pytest.approx(fit.log_likelihood, abs=1e-10)
    close(chain.marginals().emission, fit.posterior(x).probs)
    draws = chain.sample(200)
    assert (draws.diff() >= 0).all()
    assert torch.equal(chain.argmax()[0], fit.predict(x))
    assert chain.score(draws).isfinite().all()
    mixture = zoo.fit(zoo.GaussianMixture(2, 1), x[0], estimator="em", max_iter=2)
    with pytest.raises(ZooError, match="it has no structure"):
        mixture.structure(x[0])


def test_two_gaussian_states_in_six_lines() -> None:
    """A program's own densities, summed over paths; the gradient is the posterior's."""
    x = torch.tensor([[-1.0, -1.2, 2.0, 2.2], [2.0, 1.8, -1.0, 0.0]]).double()
    means = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    emission = torch.distributions.Normal(means, 1.0).log_prob(x.unsqueeze(-1))
    chain = Chain(torch.zeros(2).double(), torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double().log(), emission)
    (slope,) = torch.autograd.grad(chain.log_partition().sum(), means)
    marginals = chain.marginals().emission
    close(slope, (marginals * (x.unsqueeze(-1) - means.detach())).sum((0, 1)))
    assert chain.argmax()[0].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    paths = torch.tensor([list(p) for p in itertools.product((0, 1), repeat=4)]).unsqueeze(1).expand(-1, 2, -1)
    close(chain.score(paths).logsumexp(0).detach(), chain.log_partition().detach())
