"""DiscreteSequenceVAE: its sums against all paths of its program, its networks, its draws, text and bad input."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from resuming import check_resumed
from torch import Tensor

import zoo
from zoo.core import program
from zoo.core.data import call
from zoo.core.schema import END
from zoo.densities.log_product import SAFE, log_product
from zoo.errors import ZooError
from zoo.models.discrete_sequence_vae import CONTEXTS, DiscreteSequenceVAE

every_context = pytest.mark.parametrize("context", CONTEXTS)
Batch = dict[str, Tensor]


def small(context: str, num_states: int = 3) -> tuple[DiscreteSequenceVAE, Batch]:
    """Ragged sequences, in float64, weights so large that states and contexts matter."""
    model = DiscreteSequenceVAE(num_states, 4, context, hidden_dim=5).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x = torch.tensor([[0, 2, 1, 3], [1, 1, 0, 0], [3, 0, 0, 0]])
    return model, {"x": x, "lengths": torch.tensor([4, 3, 1])}


@every_context
def test_evidence_is_the_sum_over_all_paths_of_the_program(context: str) -> None:
    model, x = small(context)
    with torch.no_grad():
        torch.testing.assert_close(
            call(model.log_marginal, x), oracles.log_evidence(model.model, x), rtol=0, atol=1e-10
        )


@every_context
def test_its_gradient_is_the_expected_gradient(context: str) -> None:
    model, x = small(context)
    parameters = [model.get_parameter(name) for name in program.look(model, x).theta]
    assert len(parameters) > 10
    ours = torch.autograd.grad(call(model.log_marginal, x).sum(), parameters, allow_unused=True)
    for mine, expected in zip(ours, oracles.fisher_gradient(model.model, x, parameters), strict=True):
        torch.testing.assert_close(torch.zeros_like(expected) if mine is None else mine, expected, rtol=1e-9, atol=1e-9)


@every_context
def test_what_a_token_sees_is_what_the_context_says(context: str) -> None:
    """Another first token moves what a recurrent network says of the third; of an embedding only of the second."""
    model, _ = small(context)
    with torch.no_grad():
        a, b = (model.network.emission(torch.tensor([[first, 2, 1]]), torch.tensor([3]))[0] for first in (0, 3))
    moved = [bool((x - y).abs().max() > 1e-6) for x, y in zip(a, b, strict=True)]
    assert moved == {"none": [True, False, False], "embedding": [True, True, False], "recurrent": [True] * 3}[context]


@every_context
def test_the_bound_is_that_of_the_programs_summed_over_all_paths(context: str) -> None:
    model, x = small(context)
    with torch.no_grad():
        loss = TraceEnum_ELBO(strict_enumeration_warning=False).loss
        expected = -call(partial(loss, model.model, config_enumerate(model.guide)), x)
        bound = call(model.elbo, x)
        assert float(bound.sum()) == pytest.approx(expected, abs=1e-9)
        gap = call(model.log_marginal, x) - bound
    assert bool((gap[:2] > 1e-3).all()), "a tight guide would show nothing"
    assert float(gap[2]) > 0


@every_context
def test_ragged_batches_are_their_sequences_and_padding_is_inert(context: str) -> None:
    model, x = small(context)
    with torch.no_grad():
        whole, bound = call(model.log_marginal, x), call(model.elbo, x)
        for n, length in enumerate(x["lengths"].tolist()):
            alone = {"x": x["x"][n : n + 1, :length], "lengths": x["lengths"][n : n + 1]}
            torch.testing.assert_close(call(model.log_marginal, alone), whole[n : n + 1], rtol=0, atol=1e-12)
            torch.testing.assert_close(call(model.elbo, alone), bound[n : n + 1], rtol=0, atol=1e-12)
        other = model.validate({"x": x["x"].where(x["x"] > 0, 0).clone(), "lengths": x["lengths"]})
        other["x"][1, 3], other["x"][2, 1:] = 2, 3
        assert torch.equal(call(model.log_marginal, other), whole)
        assert torch.equal(call(model.elbo, other), bound)
        path = model.predict(**x)
    assert bool((path[2, 1:] == -1).all())
    assert bool((path[0] >= 0).all())


def test_sums_that_the_product_of_exponentials_loses_are_done_one_by_one() -> None:
    """Where states and contexts like different tokens by hundreds of nats, products of their exponentials vanish."""
    generator = torch.Generator().manual_seed(0)
    by_context = (200 * torch.randn(6, 9, generator=generator)).requires_grad_()
    by_state = (200 * torch.randn(5, 9, generator=generator)).requires_grad_()
    product = (by_context - by_context.amax(-1, keepdim=True)).exp() @ (
        by_state - by_state.amax(-1, keepdim=True)
    ).exp().mT
    assert bool((product < SAFE).any())
    ours = log_product(by_context, by_state)
    theirs = (by_context.unsqueeze(1) + by_state).logsumexp(-1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-4)
    weights = torch.randn(6, 5, generator=generator)
    for a, b in zip(
        *(torch.autograd.grad((weights * v).sum(), (by_context, by_state)) for v in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@every_context
def test_perplexity_is_that_of_the_tokens(context: str) -> None:
    model, x = small(context)
    with torch.no_grad():
        nats = float(oracles.log_evidence(model.model, x).sum())
    assert model.perplexity(x) == pytest.approx(math.exp(-nats / 8), rel=1e-9)


@every_context
def test_draws_are_of_the_model(context: str) -> None:
    """The share of each pair of first tokens is its evidence, and sentences end where a token ends them."""
    model, _ = small(context, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = model.sample(40_000, 2)["x"]
    pairs = torch.tensor([[i, j] for i in range(4) for j in range(4)])
    with torch.no_grad():
        expected = model.log_marginal(pairs, torch.full((16,), 2)).exp()
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-9)
    shares = torch.bincount(x[:, 0] * 4 + x[:, 1], minlength=16) / len(x)
    assert bool(((shares - expected).abs() < 5 * (expected * (1 - expected) / len(x)).sqrt()).all())


def test_sentences_end_where_their_end_is_drawn() -> None:
    text = [["a", "b", END], ["b", END], ["a", "a", "b", END]] * 5
    fit = zoo.fit(DiscreteSequenceVAE.from_data(text, num_states=2, hidden_dim=4), text, estimator="eg", max_epochs=2)
    assert fit.model.end == 0
    drawn: Any = fit.sample(50, seed=1)
    for row, length in zip(drawn["x"].tolist(), drawn["lengths"].tolist(), strict=True):
        assert 0 not in row[: length - 1]
        assert row[length - 1] == 0 or length == 100
        assert set(row[length:]) <= {0}
    assert len(set(drawn["lengths"].tolist())) > 1


def test_words_that_training_has_not_seen_are_the_unknown_one() -> None:
    text = [["a", "b", "<unk>"], ["b", "<unk>"], ["a", "a"]]
    fit = zoo.fit(DiscreteSequenceVAE.from_data(text, num_states=2, hidden_dim=4), text, estimator="eg", max_epochs=2)
    assert fit.model.perplexity([["b", "zebra"]]) == fit.model.perplexity([["b", "<unk>"]])
    with pytest.raises(ZooError, match="expected the symbols of the fit, 'a', 'b', got 'zebra'"):
        zoo.fit(DiscreteSequenceVAE(2, 2, hidden_dim=4), [["a", "b"], ["b", "b"]], estimator="eg", max_epochs=1).score(
            [["b", "zebra"]]
        )


def test_the_chain_is_learned() -> None:
    """Two words that take turns: one bit at the start, and nothing after."""
    x = torch.tensor([[0, 1] * 5, [1, 0] * 5] * 20)
    fit = zoo.fit(DiscreteSequenceVAE(2, 2, hidden_dim=8), x, estimator="eg", max_epochs=150, learning_rate=0.1, seed=0)
    assert fit.model.perplexity(x) < 2 ** (1 / 10) * 1.05


def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path: Path) -> None:
    model, x = small("recurrent")
    options: dict[str, Any] = {"estimator": "eg", "max_epochs": 6, "batch_size": 2, "seed": 3}
    check_resumed(model, x, tmp_path / "r", "objective", **options)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (torch.tensor([[0, 4]]), r"x expected symbols from 0 to 3, got 4 in row 0. Pass num_symbols to match"),
        (torch.tensor([[0.5, 1]]), r"x expected symbols from 0 to 3, got 0.5 in row 0"),
        ({"x": torch.zeros(2, 3), "lengths": torch.tensor([3, 0])}, r"sentence 1 is empty, .* Drop it"),
        ({"x": torch.zeros(2, 3), "lengths": torch.tensor([3, 4])}, r"sentence 1 has length 4, .* Drop it"),
        (
            {"x": torch.zeros(6), "lengths": torch.tensor([3, 2])},
            r"lengths add up to 5, expected the 6 symbols of x. Correct them",
        ),
        ([[0, 1], []], r"sentence 1 is empty"),
        ({"x": torch.zeros(6), "lengths": torch.tensor([3, 0, 3])}, r"sentence 1 has length 0, expected 1 or more"),
        ({"z": torch.zeros(2, 3)}, r"data expected the names x and lengths, got z"),
    ],
)
def test_bad_data_are_refused_in_one_line(data: Any, match: str) -> None:
    model = DiscreteSequenceVAE(2, 4, hidden_dim=4)
    with pytest.raises(ZooError, match=match) as caught:
        zoo.fit(model, data, estimator="eg", max_epochs=1)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ZooError, match="context"):
        DiscreteSequenceVAE(2, 4, context="recurent")
    with pytest.raises(ZooError, match="num_states expected"):
        DiscreteSequenceVAE(0, 4)


def test_sequences_one_below_the_other_are_taken_apart() -> None:
    model, x = small("none")
    flat = torch.cat([row[:n] for row, n in zip(x["x"], x["lengths"].tolist(), strict=True)])
    joined = model.validate({"x": flat, "lengths": x["lengths"]})
    assert torch.equal(joined["lengths"], x["lengths"])
    assert joined["x"].tolist() == [[0, 2, 1, 3], [1, 1, 0, 0], [3, 0, 0, 0]]
