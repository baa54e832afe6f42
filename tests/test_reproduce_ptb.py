"""The table of hidden Markov language models: at toy size, on the sentences of a known chain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.core.data import take
from zoo.data import load_data
from zoo.reproduce import ptb, reproduce


def toy(split: str, count: int | None = None) -> Any:
    return take(load_data("known_sentences"), slice(0, 200) if split == "train" else slice(200, 260))


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"sentences": 150, "states": (1, 12), "epochs": 15, "batch": 16, "rate": 0.05, "hidden_dim": 8}
    more = {"passes": 15, "em_batch": 16, "short": 12, "short_states": 2, "short_epochs": 2, "measured": 4, "draws": 20}
    setting = dataclasses.replace(ptb.SETTINGS["quick"], **sizes, **more, guide_steps=3)
    monkeypatch.setitem(ptb.SETTINGS, "quick", setting)
    monkeypatch.setattr(ptb, "sentences", toy)
    monkeypatch.setattr(ptb, "PSEUDO", 1.0)
    done = reproduce("ptb", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert list(rows)[:2] == ["Kneser-Ney 5-gram, whole corpus", "Kneser-Ney 5-gram, the same sentences"]
    for kind in ("HMM", "neural HMM"):
        one, many = (rows[f"{kind}, {k} states"]["value"] for k in (1, 12))
        assert many < 0.7 * one, kind
        assert "first 150 of 200 sentences" in rows[f"{kind}, 1 states"]["note"]
    x = toy("train")
    shares = torch.bincount(x["x"][torch.arange(10) < x["lengths"][:, None]]).double()
    unigram = float((-(shares / shares.sum()).log() @ (shares / shares.sum())).exp())
    assert rows["HMM, 1 states"]["value"] == pytest.approx(unigram, rel=0.1), "one state knows frequencies alone"
    for name in ptb.ESTIMATORS:
        row = rows[f"{name}, short sentences"]
        assert row["value"] < 0
        assert set(row["gradients"]) == {"start", "optimum"}
        assert (row["gap"] is None) == (name == "eg")
    exact, summed, drawn = (rows[f"{n}, short sentences"]["gradients"]["start"] for n in ("eg", "svi", "reinforce"))
    assert exact["bias"] == exact["sd"] == summed["sd"] == 0
    assert summed["bias"] > 0.001, "the guide is not the posterior"
    assert drawn["bias"] <= summed["bias"] + 5 * drawn["bias_se"]
    assert "141.20" in str(done)


@pytest.mark.parametrize(("budget", "least", "minutes"), [("quick", 260, 10), ("full", 210, 20)])
def test_recorded_perplexity_falls_as_states_are_added(budget: str, least: float, minutes: float) -> None:
    record = json.loads((Path(__file__).parents[1] / "results" / f"reproduce_ptb_{budget}.json").read_text())
    assert record["setting"] == json.loads(json.dumps({**vars(ptb.SETTINGS[budget]), "rows": ptb.ESTIMATORS}))
    values = {row["name"]: row["value"] for row in record["rows"]}
    for kind in ("HMM", "neural HMM"):
        found = [values[f"{kind}, {k} states"] for k in (8, 32, 128, 512)]
        assert found == sorted(found, reverse=True), kind
    assert values["HMM, 512 states"] < least
    assert values["Kneser-Ney 5-gram, whole corpus"] == pytest.approx(141.2, abs=0.05)
    assert record["cpu_seconds"] < minutes * 60
