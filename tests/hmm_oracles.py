"""Promises that every hidden Markov model keeps, held to enumeration of all paths in numpy.

A test module describes its emissions in a ``Case`` and runs all ``CHECKS`` on it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from numpy.typing import NDArray
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

import zoo
from zoo.core.data import call
from zoo.models.shared.hidden_markov import HiddenMarkov

__all__ = ["CHECKS", "Case", "check_fit_methods", "em_steps", "sequences", "set_chain", "table"]

Array = NDArray[np.float64]
INF = float("inf")


@dataclass(frozen=True)
class Case:
    """One kind of emissions.

    Attributes:
        build: a model of K states with parameters that all differ, given K and options.
        emission: ln p(x_t | z_t = k), (K,), of one row (D,) with NaN where missing; by scipy, not by the zoo.
        holes: whether single entries of a row can be missing; else whole rows are.
    """

    build: Callable[..., HiddenMarkov]
    emission: Callable[[Any, Array], Array]
    holes: bool = True


def set_chain(model: HiddenMarkov) -> None:
    """Start and transitions without symmetries, where the model leaves them free."""
    k = model.num_states
    if model.topology == "left_right":
        return
    start = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)[:k]
    steps = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.05, 0.35, 0.6]], dtype=torch.float64)[:k, :k]
    if model.initial == "free":
        model.initial_probs = start / start.sum()
    model.transition_probs = steps / steps.sum(-1, keepdim=True)


def sequences(model: HiddenMarkov, lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Sequences of these lengths from the model, zeros beyond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = model.sample(len(lengths), max(lengths))
    for n, length in enumerate(lengths):
        x[n, length:] = 0
    return {"x": x, "lengths": torch.tensor(lengths)}


def gappy(case: Case, data: dict[str, Tensor], seed: int = 3) -> dict[str, Tensor]:
    """A third of the entries (or rows) missing, and the last sequence altogether."""
    x = data["x"].clone()
    shape = x.shape if case.holes else (*x.shape[:2], 1)
    gone = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.35
    gone[-1] = True
    gone[0, 0] = False
    gone[0, 1, 0] = True
    inside = torch.arange(x.shape[1]).unsqueeze(-1) < data["lengths"].reshape(-1, 1, 1)
    return {**data, "x": x.masked_fill(gone & inside, math.nan)}


def table(model: Any) -> tuple[Array, Array]:
    """Initial and transition probabilities as arrays."""
    return model.initial_probs.detach().numpy(), model.transition_probs.detach().numpy()


def enumerate_paths(case: Case, model: Any, x: Array) -> tuple[list[tuple[int, ...]], Array, Array]:
    """All paths through a sequence (T, D), ln p(x, path) of each, and the emissions (T, K)."""
    initial, transition = table(model)
    with np.errstate(divide="ignore"):
        start, step = np.log(initial), np.log(transition)
    emission = np.stack([case.emission(model, row) for row in x])
    paths = list(itertools.product(range(len(start)), repeat=len(x)))
    scores = [
        start[p[0]] + sum(step[i, j] for i, j in itertools.pairwise(p)) + sum(emission[t, k] for t, k in enumerate(p))
        for p in paths
    ]
    return paths, np.array(scores), emission


def logsumexp(x: Array) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum())) if np.isfinite(top) else float(top)


def each(data: dict[str, Tensor]) -> list[Array]:
    """The sequences without their padding."""
    return [x[:n].numpy() for x, n in zip(data["x"], data["lengths"].tolist(), strict=True)]


def em_steps(model: Any, data: dict[str, Tensor], n: int) -> list[float]:
    """ln p(x) + ln prior before each of n EM steps and after the last."""
    reached = []
    for _ in range(n):
        statistics = call(model.e_step, data)
        reached.append(float(statistics["log_likelihood"] + model.log_prior().detach()))
        model.m_step(statistics)
    return [*reached, float(call(model.log_marginal, data).sum().detach() + model.log_prior().detach())]


def check_evidence(case: Case) -> None:
    """Ragged sequences, entries missing: the entries that are there, summed over paths."""
    for k, start in ((2, "free"), (3, "uniform"), (3, "stationary")):
        model = case.build(k, initial=start)
        for data in (sequences(model, [4, 5, 1, 3]), gappy(case, sequences(model, [4, 5, 1, 3]))):
            brute = [logsumexp(enumerate_paths(case, model, x)[1]) for x in each(data)]
            value = call(model.log_marginal, data).detach()
            np.testing.assert_allclose(value, brute, rtol=0, atol=1e-10)
        assert value[-1].abs() < 1e-12, "a sequence of which nothing was seen"
        assert value[0].abs() > 0.1


def check_identity(case: Case) -> None:
    """∇ ln p(x) is the posterior mean of ∇ ln p(x, z) for every kind of start, with entries missing."""
    for start in ("free", "uniform", "stationary"):
        model = case.build(2, initial=start)
        data = gappy(case, sequences(model, [3, 4, 2]))
        theta = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        ours = torch.autograd.grad(call(model.log_marginal, data).sum(), theta)
        theirs = oracles.fisher_gradient(model.model, data, theta)
        for a, b in zip(ours, theirs, strict=True):
            assert b.abs().max() > 1e-4
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def check_inference(case: Case) -> None:
    """Marginals, pairs, best path, entropy, filter and forecast are those of the enumerated paths."""
    model = case.build(3)
    k = model.num_states
    for data in (sequences(model, [4, 5, 1]), gappy(case, sequences(model, [4, 5, 1]))):
        posterior, filtered = call(model.posterior, data).probs.numpy(), model.filter(data).numpy()
        paths, scores = model.viterbi(data)
        entropy, ahead = model.posterior_entropy(data).numpy(), model.forecast(data, 3).numpy()
        statistics = call(model.e_step, data)
        starts, steps = np.zeros(k), np.zeros((k, k))
        _, transition = table(model)
        for n, x in enumerate(each(data)):
            every, score, _ = enumerate_paths(case, model, x)
            share = np.exp(score - logsumexp(score))
            for t in range(len(x)):
                own = [sum(s for p, s in zip(every, share, strict=True) if p[t] == i) for i in range(k)]
                np.testing.assert_allclose(posterior[n, t], own, atol=1e-12)
                few, upto, _ = enumerate_paths(case, model, x[: t + 1])
                upto = np.exp(upto - logsumexp(upto))
                own = [sum(s for p, s in zip(few, upto, strict=True) if p[t] == i) for i in range(k)]
                np.testing.assert_allclose(filtered[n, t], own, atol=1e-12)
            for p, s in zip(every, share, strict=True):
                starts[p[0]] += s
                for i, j in itertools.pairwise(p):
                    steps[i, j] += s
            assert float(scores[n]) == pytest.approx(score.max(), abs=1e-10)
            chosen = every.index(tuple(paths[n, : len(x)].tolist()))
            assert score[chosen] == pytest.approx(score.max(), abs=1e-10)
            assert (paths[n, len(x) :] == -1).all()
            assert entropy[n] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-10)
            for h in range(3):
                now = posterior[n, len(x) - 1] @ np.linalg.matrix_power(transition, h + 1)
                np.testing.assert_allclose(ahead[n, h], now, atol=1e-12)
        assert torch.equal(call(model.predict, data), paths)
        np.testing.assert_allclose(statistics["starts"], starts, atol=1e-11)
        np.testing.assert_allclose(statistics["steps"], steps, atol=1e-11)
        inside = np.arange(posterior.shape[1]) < data["lengths"].numpy()[:, None]
        np.testing.assert_allclose(statistics["counts"], posterior[inside].sum(0), atol=1e-11)


def check_draws(case: Case) -> None:
    """Paths are drawn as often as they are probable."""
    model, draws = case.build(2), 20_000
    data = gappy(case, sequences(model, [3, 2, 1]))
    torch.manual_seed(1)
    drawn = model.sample_posterior(data, draws)
    assert drawn.shape == (draws, 3, 3)
    for n, x in enumerate(each(data)):
        every, score, _ = enumerate_paths(case, model, x)
        share = np.exp(score - logsumexp(score))
        for path, p in zip(every, share, strict=True):
            often = (drawn[:, n, : len(x)] == torch.tensor(path)).all(-1).double().mean()
            assert abs(float(often) - p) < 4.5 * math.sqrt(p * (1 - p) / draws) + 1e-9


def check_bound(case: Case) -> None:
    """``elbo`` sums the guide's chain exactly: Pyro's enumeration of guide and model, and below the evidence."""
    model = case.build(2)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype))
    for data in (sequences(model, [3, 4, 1]), gappy(case, sequences(model, [3, 4, 2]))):
        elbo = TraceEnum_ELBO(strict_enumeration_warning=False)
        for n in range(3):
            one = oracles.row(data, n)
            one = {"x": one["x"][:, : int(one["lengths"])], "lengths": one["lengths"]}
            pyros = -call(partial(elbo.loss, model.model, config_enumerate(model.guide)), one)
            assert float(call(model.elbo, one).sum().detach()) == pytest.approx(pyros, abs=1e-9)
        # Padded, the masked steps count for nothing on either side.
        pyros = -call(partial(elbo.loss, model.model, config_enumerate(model.guide)), data)
        assert float(call(model.elbo, data).sum().detach()) == pytest.approx(pyros, abs=1e-9)
        bound, evidence = call(model.elbo, data).detach(), call(model.log_marginal, data).detach()
        assert (bound <= evidence + 1e-9).all()
        assert (evidence - bound).max() > 1e-3


def check_sizes(case: Case) -> None:
    """N = 1, K = 1 and T = 1, fitted too; T = 10 000 with its gradient."""
    one = case.build(1)
    data = sequences(one, [4])
    brute = math.fsum(float(case.emission(one, row)[0]) for row in each(data)[0])
    assert float(call(one.log_marginal, data).detach()) == pytest.approx(brute, abs=1e-10)
    two = case.build(2)
    short = sequences(two, [1])
    initial, _ = table(two)
    brute = logsumexp(np.log(initial) + case.emission(two, each(short)[0][0]))
    assert float(call(two.log_marginal, short).detach()) == pytest.approx(brute, abs=1e-10)
    for model, few in ((one, data), (two, short)):
        fit = zoo.fit(model, few, estimator="em", init="current", max_iter=3)
        assert fit.log_likelihood is not None
        assert math.isfinite(fit.log_likelihood)
    long = sequences(two, [10_000])
    value = call(two.log_marginal, long)
    theta = [p for name, p in two.named_parameters() if not name.startswith("encoder.")]
    grads = torch.autograd.grad(value.sum(), theta)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in grads)
    # The chain forgets: two halves apart lose the one step between them, and nothing else that grows.
    halves = {"x": long["x"].reshape(2, 5000, -1), "lengths": torch.tensor([5000, 5000])}
    assert abs(float(value.detach() - call(two.log_marginal, halves).sum().detach())) < 10


def check_padding(case: Case) -> None:
    """What lies beyond a length is never read, however absurd."""
    model = case.build(2)
    data = sequences(model, [4, 2, 1])
    beyond = torch.arange(7).unsqueeze(-1) >= data["lengths"].reshape(-1, 1, 1)
    wide = torch.cat([data["x"], torch.zeros_like(data["x"][:, :3])], 1)
    for rubbish in (math.nan, 1e9, -3.5, INF):
        other = {"x": wide.masked_fill(beyond, rubbish), "lengths": data["lengths"]}
        value = call(model.log_marginal, other)
        torch.testing.assert_close(value, call(model.log_marginal, data), rtol=0, atol=1e-12)
        assert torch.equal(model.viterbi(other)[0][:, :4], model.viterbi(data)[0])
        assert zoo.evaluate(model, other).log_likelihood == pytest.approx(float(value.sum().detach()), abs=1e-10)
        ours, theirs = call(model.e_step, other), call(model.e_step, data)
        torch.testing.assert_close(ours["steps"], theirs["steps"], rtol=0, atol=1e-12)
        torch.testing.assert_close(ours["counts"], theirs["counts"], rtol=0, atol=1e-12)


def check_mixture(case: Case) -> None:
    """Transitions with the start's probabilities in every row: the steps are independent draws from a mixture."""
    model = case.build(3)
    share = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    model.initial_probs, model.transition_probs = share, share.expand(3, 3)
    data = sequences(model, [5, 3])
    brute = [sum(logsumexp(np.log(share.numpy()) + case.emission(model, row)) for row in x) for x in each(data)]
    np.testing.assert_allclose(call(model.log_marginal, data).detach(), brute, rtol=0, atol=1e-10)


def check_climbing(case: Case) -> None:
    """EM never falls: with missing entries, every start, and what a prior adds to the objective."""
    for options in (
        {},
        {"initial": "stationary"},
        {"initial": "uniform"},
        {"concentration": 1.7, "prior_strength": 0.8},
        {"initial": "stationary", "concentration": 1.7, "prior_strength": 0.8},
    ):
        truth = case.build(2)
        model = case.build(2, **options)
        data = gappy(case, sequences(truth, [12, 15, 7, 4], seed=5))
        model.overall.copy_(model.overall_statistic(model.rows(data)))
        reached = em_steps(model, data, 12)
        assert reached[1] > reached[0] + 1e-4, options
        assert all(b >= a - 1e-8 for a, b in itertools.pairwise(reached)), (options, np.diff(reached))


def check_prior_counts(case: Case) -> None:
    """A prior's M step is the M step of the expected counts with the prior's counts added."""
    model = case.build(2, concentration=2.5)
    data = sequences(model, [12, 9], seed=2)
    statistics = call(model.e_step, data)
    model.m_step(statistics)
    starts, steps = (statistics[name].numpy() + 1.5 for name in ("starts", "steps"))
    initial, transition = table(model)
    np.testing.assert_allclose(initial, starts / starts.sum(), atol=1e-13)
    np.testing.assert_allclose(transition, steps / steps.sum(1, keepdims=True), atol=1e-13)


def check_left_right(case: Case) -> None:
    """Steps that are impossible stay so, bit for bit, under EM, gradients and on disk."""
    truth = case.build(3, topology="left_right")
    data = sequences(truth, [9, 12, 8, 10], seed=4)
    zeros = torch.tensor([[0, 0, 1], [1, 0, 0], [1, 1, 0]]).bool()
    kinds: dict[str, dict[str, Any]] = {"em": {"max_iter": 8}, "hard_em": {"max_iter": 4}, "eg": {"max_epochs": 20}}
    for estimator, options in kinds.items():
        fit = zoo.fit(truth, data, estimator=estimator, **options)
        model = fit.model
        assert fit.status != "diverged"
        assert (model.transition_probs[zeros] == 0).all()
        assert model.initial_probs.tolist() == [1, 0, 0]
        assert fit.log_likelihood is not None
        assert math.isfinite(fit.log_likelihood)
        paths = model.viterbi(data)[0]
        for path, length in zip(paths, data["lengths"].tolist(), strict=True):
            assert set(path[:length].diff().tolist()) <= {0, 1}
        assert not torch.equal(model.transition_probs, truth.transition_probs)


def check_missing_fits(case: Case) -> None:
    """Fits of data with missing entries, a sequence of which nothing was seen among them."""
    model = case.build(2)
    data = gappy(case, sequences(model, [10, 12, 6], seed=6))
    without = {name: value[:2] for name, value in data.items()}
    em = zoo.fit(model, data, estimator="em", init="current", max_iter=5)
    alone = zoo.fit(model, without, estimator="em", init="current", max_iter=5)
    assert em.log_likelihood is not None
    assert em.log_likelihood == pytest.approx(float(call(em.model.log_marginal, without).sum().detach()), abs=1e-9)
    assert alone.log_likelihood is not None
    before = float(call(model.log_marginal, data).sum().detach())
    assert em.log_likelihood > before
    eg = zoo.fit(model, data, estimator="eg", init="current", max_epochs=60)
    assert eg.status != "diverged"
    assert eg.log_likelihood is not None
    assert eg.log_likelihood > before
    svi = zoo.fit(model, data, estimator="svi", max_epochs=20)
    assert svi.elbo is not None
    assert svi.log_likelihood is not None
    assert svi.elbo <= svi.log_likelihood + 1e-9


def check_inputs(case: Case) -> None:
    """A batch, a pair, names, one sequence: the same data give the same answers."""
    model = case.build(2)
    data = sequences(model, [5, 5])
    x, total = data["x"], float(call(model.log_marginal, data).sum().detach())
    for form in (x, data, (x, data["lengths"]), {"x": x}, x.numpy(), x.tolist()):
        assert zoo.evaluate(model, form).log_likelihood == pytest.approx(total, abs=1e-10)
    first = float(call(model.log_marginal, oracles.row(data, 0)).detach())
    assert zoo.evaluate(model, x[0]).log_likelihood == pytest.approx(first, abs=1e-10)
    if model.num_features == 1:
        assert zoo.evaluate(model, x[0, :, 0]).log_likelihood == pytest.approx(first, abs=1e-10)
        assert zoo.evaluate(model, x[..., 0]).log_likelihood == pytest.approx(total, abs=1e-10)


def check_fit_methods(case: Case, folder: Path) -> None:
    """New data have the shape of the old, a saved fit scores the same, relabelled states score the same."""
    model = case.build(2)
    data = sequences(model, [8, 6, 7])
    fit = zoo.fit(model, data, estimator="em", max_iter=4)
    new = fit.sample(5, seed=1)
    assert new.shape == (5, 8, model.num_features)
    assert torch.equal(new, fit.sample(5, seed=1))
    assert zoo.evaluate(fit, new).log_likelihood is not None
    fit.save(folder / "fit")
    again = zoo.load(folder / "fit")
    assert torch.equal(call(again.model.log_marginal, data), call(fit.model.log_marginal, data))
    turned = zoo.load(folder / "fit")
    turned.model.permute_components(torch.tensor([1, 0]))
    value = call(turned.model.log_marginal, data)
    torch.testing.assert_close(value, call(fit.model.log_marginal, data), rtol=0, atol=1e-11)
    bound = call(turned.model.elbo, data)
    torch.testing.assert_close(bound, call(fit.model.elbo, data), rtol=0, atol=1e-11)
    shares = call(turned.model.posterior, data).probs.flip(-1)
    torch.testing.assert_close(shares, call(fit.model.posterior, data).probs, rtol=0, atol=1e-11)
    back = zoo.align(turned, fit)
    torch.testing.assert_close(back.model.transition_probs, fit.model.transition_probs, rtol=0, atol=1e-12)
    for name, value in fit.model.named_parameters():
        torch.testing.assert_close(back.model.get_parameter(name), value, rtol=0, atol=1e-12)


def check_refusals(case: Case) -> None:
    """Data that cannot be right, in one line with a fix."""
    model = case.build(2)
    x, d = sequences(model, [4, 4])["x"], model.num_features
    for bad, match in (
        ({"x": x, "lengths": torch.tensor([4, 5])}, r"lengths expected from 1 to 4, got 5 for sequence 1\. \w+"),
        ({"x": x, "lengths": torch.tensor([0, 4])}, r"lengths expected from 1 to 4, got 0 for sequence 0\. \w+"),
        (
            {"x": x, "lengths": torch.tensor([4, 2, 2])},
            r"lengths expected shape \(2,\), one a sequence, got \(3,\)\. \w+",
        ),
        ((x[0], torch.tensor([2, 1])), r"lengths expected to add up to the \d+ rows of x, got 3 in all\. \w+"),
        ((x, torch.tensor([4, 4]), x), r"data expected \(x, lengths\), got 3 entries"),
        ({"y": x}, r"data expected the names x and lengths, got y"),
        ({"x": x, "length": torch.tensor([4, 4])}, r"data expected the names x and lengths, got x, length"),
        (
            torch.cat([x, x, x], -1),
            rf"x expected shape \(N, T, {d}\) or one sequence \(T, {d}\), got \(2, 4, {3 * d}\)",
        ),
        (x[:0], r"x expected at least one sequence of one step, got shape \(0, 4, "),
        (x[:, :0], r"x expected at least one sequence of one step, got shape \(2, 0, "),
        (
            x.masked_fill(torch.arange(2).reshape(2, 1, 1) == 1, INF),
            r"sequence 1 of x expected .*, got inf.* in rows 0, .*\. \w+",
        ),
        ({"x": x, "lengths": torch.tensor([4, 2.5])}, r"lengths expected whole numbers, got 2\.5 for sequence 1\. \w+"),
    ):
        with pytest.raises(zoo.ZooError, match=match) as caught:
            zoo.fit(model, bad)
        assert "\n" not in str(caught.value)
    for options, match in (
        ({"initial": "stationary", "topology": "left_right"}, r"left_right chain has no stationary start\. Use"),
        ({"initial": "first"}, r"initial.*'first'"),
        ({"topology": "ring"}, r"topology.*'ring'"),
        ({"concentration": 0.5}, r"concentration expected a number of at least 1, got 0\.5"),
        ({"concentration": math.nan}, r"concentration expected a number of at least 1, got nan"),
        ({"prior_strength": -1.0}, r"prior_strength expected a number of at least 0, got -1\.0"),
    ):
        with pytest.raises(zoo.ZooError, match=match):
            case.build(2, **options)
    for k in (0, -1, 2.0, True):
        with pytest.raises(zoo.ZooError, match="num_states expected a whole number of at least 1"):
            type(model)(**{**model.config, "num_states": k})
    with pytest.raises(zoo.ZooError, match=r"initial_probs: the start is uniform; it cannot be assigned"):
        case.build(2, initial="uniform").initial_probs = torch.tensor([0.5, 0.5])


CHECKS: list[Callable[[Case], None]] = [
    check_evidence,
    check_identity,
    check_inference,
    check_draws,
    check_bound,
    check_sizes,
    check_padding,
    check_mixture,
    check_climbing,
    check_prior_counts,
    check_left_right,
    check_missing_fits,
    check_inputs,
    check_refusals,
]
