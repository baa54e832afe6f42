"""The table of restricted Boltzmann machines, small."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from zoo.data import load_data
from zoo.reproduce import rbm, reproduce


def test_the_table_runs_small(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = (load_data("digits")[:400] > 8).float()
    monkeypatch.setattr(rbm, "images", lambda rows: (digits[:300], digits[300:]))
    sizes: dict[str, Any] = {"epochs": 4, "large_epochs": 2, "small": 4, "large": 30, "num_temperatures": 60}
    monkeypatch.setitem(rbm.SETTINGS, "quick", dataclasses.replace(rbm.SETTINGS["quick"], **sizes))
    done = reproduce("rbm", say=lambda line: None)
    found = {row["name"]: row["value"] for row in done.record["rows"]}
    assert next(iter(found)) == "4 hidden, plain"
    assert abs(found["4 hidden, centred: ln Z annealed forwards less exact"]) < 0.5
    assert abs(found["4 hidden, centred: ln Z annealed backwards less exact"]) < 0.5
    backwards = found["30 hidden, annealed backwards, from long chains"]
    assert found["30 hidden, annealed"] == pytest.approx(backwards, abs=3)
    independent = torch.distributions.Bernoulli(digits[:300].mean(0).clamp(0.01, 0.99))
    assert found["4 hidden, plain"] > float(independent.log_prob(digits[300:]).sum(1).mean()) - 5
