"""What follows sequences of tokens: exact probabilities held to sums over all paths of the program, draws to these."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor

import zoo
from zoo.core.contract import LatentVariableModel
from zoo.core.schema import END, Schema
from zoo.models.discrete_sequence_vae import DiscreteSequenceVAE

X, LENGTHS = torch.tensor([[0, 2], [1, 0]]), torch.tensor([2, 1])


def made(kind: str, end: int | None = None) -> LatentVariableModel:
    """A model of two states and three tokens with every parameter moved."""
    model: LatentVariableModel = zoo.CategoricalHMM(2, 3)
    if kind != "hmm":
        model = DiscreteSequenceVAE(2, 3, kind, hidden_dim=4).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    if end is not None:
        words = ["a", "b", "c"]
        words[end] = END
        model.schema = Schema(symbols=tuple(words))
    return model


def probability(model: LatentVariableModel, tokens: list[int]) -> float:
    """p of a sequence: the program's density, added up over all paths."""
    x = torch.tensor([tokens]).double() if isinstance(model, zoo.CategoricalHMM) else torch.tensor([tokens])
    x = x.unsqueeze(-1) if isinstance(model, zoo.CategoricalHMM) else x
    total = 0.0
    for path in itertools.product(range(2), repeat=len(tokens)):
        states = {f"z_{t}": torch.tensor([z]) for t, z in enumerate(path)}
        trace = poutine.trace(poutine.condition(model.model, states)).get_trace(x)
        total += float(torch.as_tensor(trace.log_prob_sum()).detach().exp())
    return total


def following(model: LatentVariableModel, tokens: list[int], steps: int, end: int | None) -> Tensor:
    """p(x_{T+h} = v | x_1..x_T), (steps, V), by every way to go on."""
    found, whole = torch.zeros(steps, 3, dtype=torch.float64), probability(model, tokens)
    for ahead in itertools.product(range(3), repeat=steps):
        weight = probability(model, tokens + list(ahead)) / whole
        over = tokens[-1] == end
        for h, token in enumerate(ahead):
            found[h, end if over and end is not None else token] += weight
            over = over or token == end
    return found


@pytest.mark.parametrize(
    ("kind", "end"), [("none", None), ("none", 1), ("embedding", 1), ("recurrent", None), ("hmm", None)]
)
def test_probabilities_are_sums_over_paths_and_draws_have_them(kind: str, end: int | None) -> None:
    model, steps = made(kind, end), 2 if kind in ("none", "hmm") else 1
    stops = None if kind == "hmm" else end
    data = {"x": X, "lengths": LENGTHS}
    prepared: Any = model.prepare(data)
    hook: Any = model
    ours: Tensor = hook.continuation_probs(**prepared, num_steps=steps)
    wanted = torch.stack([following(model, row[:n].tolist(), steps, stops) for row, n in zip(X, LENGTHS, strict=True)])
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-8, atol=1e-10)
    torch.manual_seed(0)
    draws = hook.continuation(**prepared, num_steps=3, num_samples=20_000).reshape(20_000, 2, 3)
    for token in range(3):
        share, p = (draws[:, :, :steps] == token).double().mean(0), wanted[..., token]
        assert ((share - p).abs() <= 4 * (p * (1 - p) / 20_000).sqrt() + 1e-12).all()
    if stops is not None:
        assert (draws[:, 1] == stops).all(), "that sentence had ended"
        assert (draws[:, 0, 2][draws[:, 0, 1] == stops] == stops).all()


@pytest.mark.parametrize("context", ["embedding", "recurrent"])
def test_what_a_token_sees_is_carried_through_draws(context: str) -> None:
    """Pairs of tokens, of which the second sees the first."""
    model: Any = made(context)
    torch.manual_seed(1)
    draws = model.continuation(X, LENGTHS, num_steps=2, num_samples=20_000)[:, 0]
    whole = probability(model, [0, 2])
    for pair in itertools.product(range(3), repeat=2):
        p = probability(model, [0, 2, *pair]) / whole
        share = float((draws == torch.tensor(pair)).all(-1).double().mean())
        assert abs(share - p) < 4 * (p * (1 - p) / 20_000) ** 0.5
    with pytest.raises(zoo.ZooError, match=r"num_steps expected 1 with context="):
        model.continuation_probs(X, LENGTHS, num_steps=2)


def test_the_command_line_writes_words(run: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("the cat sat\nthe dog sat\nthe cat ran\nthe dog ran\n" * 5)
    (tmp_path / "begun.txt").write_text("the\nthe cat\n")
    options = ("--set", "num_states=2", "--set", "max_epochs=2", "--set", "hidden_dim=4")
    assert run("fit", "discrete_sequence_vae", "--data", "mine.txt", *options, "--out", "f").code == 0
    found = run("forecast", "f", "--data", "begun.txt", "--steps", "3", "-n", "2", "--out", "next.txt")
    assert found.code == 0, found.err
    lines = (tmp_path / "next.txt").read_text().splitlines()
    words = {"the", "cat", "dog", "sat", "ran", END, "<unk>"}
    assert len(lines) == 4
    for line in lines:
        said = line.split()
        assert set(said) <= words
        assert len(said) == 3 or said[-1] == END
        assert END not in said[:-1]
    asked = ("forecast", "f", "--data", "begun.txt", "--probs", "--steps", "1", "-n", "2", "--out", "next.csv")
    assert run(*asked).code == 0
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert [row["sequence"] for row in rows] == ["0", "0", "1", "1"]
    fit = zoo.load("f")
    likeliest = fit.forecast_probs([["the"], ["the", "cat"]])[:, 0].max(-1)
    assert fit.model.schema is not None
    for row, p, code in zip(rows[::2], likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
        assert float(row["probability"]) == pytest.approx(p, abs=1e-6)
        assert row["token"] == fit.model.schema.decode([code])[0]
    assert run("forecast", "f", "--probs", "--out", "next.txt").code == 2


def test_models_of_other_things_have_no_such_probabilities() -> None:
    fit = zoo.fit(zoo.GaussianMixture(2, 2), torch.randn(20, 2), estimator="em", max_iter=2)
    with pytest.raises(zoo.ZooError, match="forecast_probs: expected a model of tokens, but it has no cont"):
        fit.forecast_probs(torch.zeros(3, 2))
