"""Grammars against the recursive generative program, run on every tree that can be: exact sums, EM, draws, trees."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import zoo
from zoo.core.contract import prepared
from zoo.core.data import map_tensors
from zoo.data import known_grammar
from zoo.data.parse_tree import parse_trees
from zoo.models.pcfg import PCFG, tiny

# The textbook's program: a symbol becomes two, or a word, by calling itself -----------------------------------------


def generate(model: PCFG) -> list[int]:
    """One sentence by the recursive program; a site for every choice, named after the path to its node."""
    symbols = model.num_nonterminals + model.num_preterminals

    def grow(symbol: int, place: str) -> list[int]:
        if symbol >= model.num_nonterminals:
            probs = model.emission_probs[symbol - model.num_nonterminals]
            return [int(pyro.sample(f"word{place}", dist.Categorical(probs)))]
        pair = int(pyro.sample(f"rule{place}", dist.Categorical(model.rule_probs[symbol].flatten())))
        return grow(pair // symbols, place + "l") + grow(pair % symbols, place + "r")

    return grow(int(pyro.sample("root", dist.Categorical(model.root_probs))), "")


def choices(model: PCFG, words: list[int]) -> Iterator[dict[str, int]]:
    """What every derivation of a sentence chooses at each site of the program."""
    a, s = model.num_nonterminals, model.num_nonterminals + model.num_preterminals

    def below(symbol: int, part: list[int], place: str) -> Iterator[dict[str, int]]:
        if symbol >= a:
            if len(part) == 1:
                yield {f"word{place}": part[0]}
            return
        for cut in range(1, len(part)):
            for pair in range(s * s):
                for left in below(pair // s, part[:cut], place + "l"):
                    for right in below(pair % s, part[cut:], place + "r"):
                        yield {f"rule{place}": pair, **left, **right}

    for root in range(a):
        for found in below(root, words, ""):
            yield {"root": root, **found}


def joints(model: PCFG, words: list[int]) -> list[tuple[dict[str, int], Tensor]]:
    """ln p of every derivation, by the program run on its choices; each run gives the sentence back."""
    found = []
    for chosen in choices(model, words):
        data = {name: torch.tensor(value) for name, value in chosen.items()}
        trace = poutine.trace(poutine.condition(generate, data=data)).get_trace(model)
        assert trace.nodes["_RETURN"]["value"] == words
        found.append((chosen, trace.log_prob_sum()))
    return found


def sentences(x: dict[str, Tensor]) -> list[list[int]]:
    return [row[:length] for row, length in zip(x["x"].tolist(), x["lengths"].tolist(), strict=True)]


def theta(model: PCFG) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def test_the_evidence_and_its_gradient_are_sums_over_the_programs_runs() -> None:
    """∇ ln p(x) = E_{p(tree|x)} ∇ ln p(x, tree), to 1e-9."""
    model, x = tiny()
    value = model.log_marginal(**x)
    direct = torch.autograd.grad(value.sum(), theta(model))
    expected = [torch.zeros_like(p) for p in theta(model)]
    for n, words in enumerate(sentences(x)):
        logs = torch.stack([log for _, log in joints(model, words)])
        assert float(value[n].detach()) == pytest.approx(float(logs.logsumexp(0).detach()), abs=1e-9)
        shares = logs.softmax(0).detach()
        for total, part in zip(expected, torch.autograd.grad((shares * logs).sum(), theta(model)), strict=True):
            total += part
    for ours, theirs in zip(direct, expected, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hard", [False, True])
def test_statistics_count_the_choices_of_the_programs_runs(hard: bool) -> None:
    model, x = tiny()
    s = model.num_nonterminals + model.num_preterminals
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    root, rules = torch.zeros(2).double(), torch.zeros(2, s, s).double()
    emissions = torch.zeros(2, 3).double()
    for weight, words in zip(weights.tolist(), sentences(x), strict=True):
        runs = joints(model, words)
        logs = torch.stack([log for _, log in runs]).detach()
        shares = torch.nn.functional.one_hot(logs.argmax(), len(runs)).double() if hard else logs.softmax(0)
        for (chosen, _), share in zip(runs, (weight * shares).tolist(), strict=True):
            symbol = {"": chosen["root"]}
            for name in chosen:  # parents stand before their children
                place = name[4:]
                if name.startswith("rule"):
                    rules[symbol[place]].view(-1)[chosen[name]] += share
                    symbol[place + "l"], symbol[place + "r"] = chosen[name] // s, chosen[name] % s
                elif name.startswith("word"):
                    emissions[symbol[place] - 2, chosen[name]] += share
            root[chosen["root"]] += share
    found = model.e_step(**x, hard=hard, weights=weights)
    for name, expected in (("root_counts", root), ("rule_counts", rules), ("emission_counts", emissions)):
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9)
    assert found["num_data"] == 6.5


def test_statistics_are_the_gradient_in_the_log_probabilities() -> None:
    model, x = tiny()
    logs = [t.detach().clone().requires_grad_() for t in model.tables()]
    model.tables = lambda: tuple(logs)  # type: ignore[method-assign]
    counts = torch.autograd.grad(model.log_marginal(**x).sum(), logs)
    found = model.e_step(**x)
    for ours, name in zip(counts, ("root_counts", "rule_counts", "emission_counts"), strict=True):
        torch.testing.assert_close(ours, found[name], rtol=1e-9, atol=1e-9)


def test_padding_is_inert_and_a_batch_is_its_sentences_one_by_one() -> None:
    model, x = tiny()
    value = model.log_marginal(**x).detach()
    padded = {"x": torch.cat([x["x"], torch.full((4, 3), 2)], 1), "lengths": x["lengths"]}
    torch.testing.assert_close(model.log_marginal(**padded).detach(), value, rtol=0, atol=1e-12)
    for n, words in enumerate(sentences(x)):
        alone = model.log_marginal(torch.tensor([words])).detach()
        torch.testing.assert_close(alone, value[n : n + 1], rtol=0, atol=1e-12)


def test_all_sentences_of_all_lengths_have_probability_one() -> None:
    """Of a grammar that ends soon: what is left beyond six words is what draws leave there."""
    model = PCFG(1, 1, 2)
    model.rule_probs = torch.tensor([[[0.02, 0.08], [0.1, 0.8]]])
    model.emission_probs = torch.tensor([[0.3, 0.7]])
    total = 0.0
    for length in range(2, 7):
        x = torch.cartesian_prod(*[torch.arange(2)] * length)
        total += float(model.log_marginal(x).detach().exp().sum())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lengths = model.sample(20_000)["lengths"]
    share = float((lengths <= 6).double().mean())
    assert total == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5 + 1e-4)
    assert 0.99 < total < 1 - 1e-6


def test_drawn_sentences_are_as_frequent_as_their_probability() -> None:
    model, _ = tiny()
    model.rule_probs = 0.2 * model.rule_probs.detach() + 0.8 * torch.nn.functional.one_hot(torch.tensor(15), 16).view(
        4, 4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = Counter(tuple(words) for words in sentences(model.sample(20_000)))
        program = poutine.uncondition(model.model)
        given = torch.zeros(3000, 3).long()
        pairs = poutine.trace(program).get_trace(given, torch.full((3000,), 2)).nodes["x"]["value"]
    x = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    probs = model.log_marginal(x).detach().exp()
    for words, p in zip(x.tolist(), probs.tolist(), strict=True):
        assert drawn[tuple(words)] / 20_000 == pytest.approx(p, abs=4.5 * (p * (1 - p) / 20_000) ** 0.5)
    assert bool((pairs[:, 2] == 0).all())
    conditional = probs / probs.sum()
    counted = Counter(tuple(row) for row in pairs[:, :2].tolist())
    for words, p in zip(x.tolist(), conditional.tolist(), strict=True):
        assert counted[tuple(words)] / 3000 == pytest.approx(p, abs=4.5 * (p * (1 - p) / 3000) ** 0.5)


def known() -> PCFG:
    """The grammar behind the embedded sentences."""
    model = PCFG(6, 9, len(known_grammar.WORDS), labels=(*known_grammar.NONTERMINALS, *known_grammar.TAGS))
    model.root_probs, model.rule_probs, model.emission_probs = map(torch.as_tensor, known_grammar.tables())
    return model


def test_the_known_grammars_sentences_have_the_trees_they_were_drawn_by() -> None:
    """Each has one tree, so that -ln p of sentences has the mean that was solved for."""
    x, trees = zoo.load_data("known_grammar", symbols=True), zoo.load_trees("known_grammar")
    model = known()
    data = prepared(model, map_tensors(lambda t: t[:200], x) | {"x": x["x"][:200]}, new=True)
    assert model.parse(data) == trees[:200]
    entropy = model.structure(data).entropy()
    torch.testing.assert_close(entropy, torch.zeros_like(entropy), rtol=0, atol=1e-9)
    costs = -model.log_marginal(**data).detach()
    expected, _ = known_grammar.sentence_entropy()
    assert float(costs.mean()) == pytest.approx(expected, abs=4 * float(costs.std()) / 200**0.5)


def test_em_climbs_and_the_fit_is_read_and_saved(tmp_path: Any) -> None:
    text = [["a", "b"], ["a", "a", "b", "b"], ["c"], ["a", "b", "a", "b"], ["a", "a", "a", "b", "b", "b"]]
    model = zoo.PCFG.from_data(text, num_nonterminals=3, num_preterminals=2)
    fit = zoo.fit(model, text, estimator="em", seed=0, max_iter=40, restarts=1)
    history = fit.history["log_likelihood"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(history))
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)
    assert fit.num_units == 16
    assert any("1 of 5 data (index 2) left out" in note and "one word" in note for note in fit.notes)
    assert "-> a" in fit.model.grammar()
    fit.save(tmp_path / "fit")
    again = zoo.load(tmp_path / "fit")
    with pytest.warns(UserWarning, match="a sentence of one word: every rule makes two"):
        scores = again.score_samples(text)
    assert scores[2] == -math.inf
    trees = again.model.parse(text)
    assert trees[2] is None
    assert trees[1].words() == ("a", "a", "b", "b")
    drawn = fit.sample(5, seed=0)
    assert set(drawn) == {"x", "lengths"}
    assert len(drawn["x"]) == 5


@pytest.mark.parametrize("estimator", ["hard_em", "online_em", "eg"])
def test_the_other_estimators_climb_too(estimator: str) -> None:
    model, x = tiny()
    options = {"eg": {"max_epochs": 20}, "online_em": {"max_epochs": 5}, "hard_em": {"max_iter": 5}}[estimator]
    fit = zoo.fit(model, x, estimator=estimator, seed=0, restarts=1, **options)  # type: ignore[arg-type]
    assert fit.history["objective"][-1] > fit.history["objective"][0]


def test_a_prior_keeps_rules_possible() -> None:
    _, x = tiny()
    fit = zoo.fit(PCFG(2, 2, 3, concentration=1.5), x, estimator="em", seed=0, max_iter=200, restarts=1)
    assert float(fit.model.rule_probs.min()) > 0.5 / (9 + 0.5 * 32) - 1e-6
    objective = fit.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(objective))


def test_a_grammar_is_read_off_trees() -> None:
    trees = parse_trees("(S (NP (D d) (N n)) (VP (V v) (NP (D d) (A a) (N n)))) (S (NP (N n)) (VP (V v))) (X (N n))")
    model = PCFG.from_treebank(trees, smoothing=0.0)
    assert model.labels == ("@NP", "NP", "S", "VP", "A", "D", "N", "V")
    assert model.words() == ["A", "D", "N", "V"]
    index = {label: i for i, label in enumerate(model.labels)}
    rules = model.rule_probs
    for above, left, right, share in (
        ("S", "NP", "VP", 0.5), ("S", "N", "V", 0.5), ("NP", "D", "N", 0.5), ("NP", "D", "@NP", 0.5),
        ("@NP", "A", "N", 1.0), ("VP", "V", "NP", 1.0),
    ):  # fmt: skip
        assert float(rules[index[above], index[left], index[right]].detach()) == share
    (again,) = model.parse([["D", "N", "V", "D", "A", "N"]])
    assert again is not None
    assert again.spans() == trees[0].spans()
    assert [node.label for node, _, _ in again.nodes() if not node.is_tag] == ["NP", "NP", "VP", "S"]
    smooth = PCFG.from_treebank(trees, symbols=["A", "D", "N", "V", "W"], smoothing=1.0)
    assert float(smooth.emission_probs.detach().min()) > 0
    assert zoo.bracketing(smooth.parse([["D", "N", "V", "D", "A", "N"]]), trees[:1]).f1 == 1.0
    with pytest.raises(zoo.ZooError, match="trees of two words or more, got none"):
        PCFG.from_treebank(trees[2:])
    with pytest.raises(zoo.ZooError, match="expected the symbols named, got 'D'"):
        PCFG.from_treebank(trees, symbols=["A", "N", "V"])


def test_least_risky_trees_have_the_brackets_that_are_expected_most() -> None:
    model, x = tiny()
    words = sentences(x)[0]
    shares: Counter[tuple[int, int]] = Counter()
    runs = joints(model, words)
    posterior = torch.stack([log for _, log in runs]).detach().softmax(0).tolist()
    brackets = []
    for (chosen, _), share in zip(runs, posterior, strict=True):
        leaves = sorted(name[4:] for name in chosen if name.startswith("word"))
        spans = {
            tuple(i for i, leaf in enumerate(leaves) if leaf.startswith(name[4:]))
            for name in chosen
            if name.startswith("rule")
        }
        found = {(span[0], span[-1] + 1) for span in spans}
        brackets.append(found)
        for span in found:
            shares[span] += share
    best = max(sum(shares[span] for span in found) for found in brackets)
    (tree,) = model.parse({"x": x["x"][:1], "lengths": x["lengths"][:1]}, minimum_risk=True)
    assert tree is not None
    assert sum(shares[span] for span in tree.spans() if span[1] - span[0] > 1) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ({"x": torch.tensor([[0, 1], [1, 3]])}, "symbols from 0 to 2, got 3 in row 1"),
        ({"x": torch.tensor([[0, 1], [1, 1]]), "lengths": torch.tensor([2, 0])}, "sentence 1 is empty"),
        ({"x": torch.tensor([[0, 1]]), "lengths": torch.tensor([3])}, "sentence 0 has length 3, expected from 1 to 2"),
        ({"x": torch.tensor([[0.0, math.nan]])}, "symbols from 0 to 2, got nan in row 0"),
        (torch.zeros(2, 2, 2), "expected sentences"),
        ({"x": torch.tensor([[0], [1]])}, "expected data that the model can make, got none: a sentence of one word"),
    ],
)
def test_bad_data_are_refused_in_one_line(x: Any, says: str) -> None:
    model, _ = tiny()
    with pytest.raises(zoo.ZooError) as caught:
        zoo.fit(model, x, estimator="em")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grammar_without_an_end_is_refused() -> None:
    model, x = tiny()
    endless = torch.zeros(2, 4, 4)
    endless[:, 0, 2] = 1.0
    model.rule_probs = endless
    with pytest.raises(zoo.ZooError, match="expected a root that reaches words"):
        zoo.fit(model, x, estimator="em", init="current")
    with pytest.raises(zoo.ZooError, match="expected a grammar whose sentences end"):
        model.sample(2)


def test_rules_that_have_all_but_vanished_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As EM leaves them: the sums stay those of scaled numbers, and are the same as without such rules."""
    model, x = tiny()
    rules = model.rule_probs.detach().clone()
    rules[:, 0, 1] = 0.0
    model.rule_probs = rules / rules.sum((1, 2), keepdim=True)
    without = model.log_marginal(**x).detach()
    small = rules.clone()
    small[:, 0, 1] = 1e-200
    model.rule_probs = small / small.sum((1, 2), keepdim=True)
    monkeypatch.setattr("zoo.structures.tree_logs.log_partition", lambda *a: pytest.fail("by logarithms"))
    torch.testing.assert_close(model.log_marginal(**x).detach(), without, rtol=0, atol=1e-12)
    assert 0 < float(model.e_step(**x)["rule_counts"][:, 0, 1].max()) < 1e-190


def test_a_span_as_improbable_as_numbers_allow_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of b a b the first two are a phrase by a rule of 1e-320 alone, and the sentence is another's."""
    model = PCFG(1, 2, 2)
    rules = torch.zeros(1, 3, 3)
    rules[0, 1, 2], rules[0, 2, 0], rules[0, 0, 2] = 0.5, 0.25, 0.25
    model.rule_probs, model.emission_probs = rules, torch.eye(2)
    with torch.no_grad():
        model.productions_unconstrained.view(1, 3, 3)[0, 2, 1] = math.log(5e-324) + 7
    monkeypatch.setattr("zoo.structures.tree_logs.log_partition", lambda *a: pytest.fail("by logarithms"))
    assert float(model.log_marginal(torch.tensor([[1, 0, 1]])).detach().exp()) == pytest.approx(0.125, rel=1e-12)


@pytest.mark.slow
def test_a_fit_as_it_comes_finds_the_known_grammars_entropy() -> None:
    """On new sentences, to 0.03 nats a word, from the default start of three seeds in four at least."""
    trees = known_grammar.known_trees(number=500, seed=1)
    x: Any = zoo.load_data("known_grammar", symbols=True)
    data = {name: x[name] for name in ("x", "lengths")}
    entropy, length = known_grammar.sentence_entropy()
    away = []
    for seed in range(4):
        model = PCFG.from_data(data, num_nonterminals=10, num_preterminals=12)
        fit = zoo.fit(model, data, estimator="em", seed=seed, max_iter=60)
        scores = fit.score_samples([list(tree.words()) for tree in trees])
        kept = scores.isfinite()
        words = sum(len(tree.words()) for tree, possible in zip(trees, kept.tolist(), strict=True) if possible)
        assert int(kept.sum()) >= 490
        away.append(-float(scores[kept].sum()) / words - entropy / length)
    assert sum(nats < 0.03 for nats in away) >= 3, away
