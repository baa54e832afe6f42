"""The table of the HMM-VAE: at toy size, and what was recorded of it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.core.data import take
from zoo.data import load_data
from zoo.reproduce import BUDGETS, hmm_vae, reproduce

RESULTS = Path(__file__).parents[1] / "results"


def toy(split: str, every: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    data = load_data("known_chain")
    assert isinstance(data, dict)
    few = take(data, slice(0, 30) if split == "train" else slice(30, 50))
    return few, torch.arange(len(few["x"])) % 10


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_states": 3, "few": 2, "many": 3, "hidden_dims": (4,), "epochs": 2, "seeds": 2}
    sizes["max_iter"] = 3
    monkeypatch.setitem(hmm_vae.SETTINGS, "quick", dataclasses.replace(hmm_vae.SETTINGS["quick"], **sizes))
    monkeypatch.setattr(hmm_vae, "recordings", toy)
    done = reproduce("hmm_vae", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert list(rows) == ["HMM, diagonal", "HMM, full", "VAE, then HMM", "HMMVAE, 2", "HMMVAE, 3"]
    for name, row in rows.items():
        found = [r["information"] for r in done.record["runs"] if r["method"] == name]
        assert len(found) == 2
        assert row["value"] == statistics.median(found)
        assert 0 <= row["value"] < 0.5  # the digits here say nothing of the frames
    bounds = [r["bound"] for r in done.record["runs"] if r["method"] == "HMMVAE, 3"]
    assert -20 < min(bounds) < max(bounds) < 1
    assert done.save(tmp_path / "record.json").with_suffix(".png").stat().st_size > 10_000


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_was_recorded(budget: str) -> None:
    record = json.loads((RESULTS / f"reproduce_hmm_vae_{budget}.json").read_text())
    assert record["command"] == f"zoo reproduce hmm_vae --budget {budget}"
    setting = json.loads(json.dumps(vars(hmm_vae.SETTINGS[budget])))
    assert record["setting"] == setting
    values = {row["name"]: row["value"] for row in record["rows"]}
    assert list(values) == list(hmm_vae.models(hmm_vae.SETTINGS[budget]))
    for name, value in values.items():
        found = [r["information"] for r in record["runs"] if r["method"] == name]
        assert len(found) == setting["seeds"]
        assert value == statistics.median(found)
    assert values["HMMVAE, 12"] > max(values["HMM, diagonal"], values["VAE, then HMM"])
    assert values["HMMVAE, 39"] > values["HMM, full"]
