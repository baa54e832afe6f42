"""The table of chorales: at toy size, and its bounds against each other."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo.core.data import take
from zoo.data import load_data
from zoo.models import deep_markov_model
from zoo.reproduce import jsb, reproduce


def toy(part: str) -> dict[str, Tensor]:
    data = load_data("known_chords")
    assert isinstance(data, dict)
    rows = {"train": slice(0, 16), "valid": slice(16, 22), "test": slice(22, 30)}[part]
    return take({"x": data["x"][:, :8], "lengths": data["lengths"].clamp_max(8)}, rows)


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"num_states": (2,), "epochs": 2, "num_samples": 20, "vrnn_epochs": 2, "max_iter": 3, "repeats": 12}
    monkeypatch.setitem(jsb.SETTINGS, "quick", dataclasses.replace(jsb.SETTINGS["quick"], **sizes))
    monkeypatch.setattr(jsb, "chorales", toy)
    done = reproduce("jsb", say=lambda line: None)
    rows = {row["name"]: row for row in done.record["rows"]}
    assert list(rows)[:4] == ["HMM, K = 2", "DMM, bound", "DMM, importance-weighted", "VRNN, ELBO"]
    assert {"VRNN, IWAE of 16", "VRNN, FIVO of 4"} <= rows.keys()
    assert {row["kind"] for row in rows.values()} == {"exact", "bound", "estimate"}
    assert rows["DMM, importance-weighted"]["value"] < rows["DMM, bound"]["value"]
    assert rows["VRNN, IWAE of 16"]["value"] < rows["VRNN, IWAE of 4"]["value"]
    assert all(2 < row["value"] < 40 for row in rows.values())
    assert "6.93" in str(done)


def test_scores_of_one_draw_are_the_bound_with_its_kl_in_closed_form() -> None:
    model, x = deep_markov_model.tiny()
    many = take(x, torch.arange(len(x["x"])).repeat(400))
    torch.manual_seed(0)
    with torch.no_grad():
        exact = float(model.elbo_parts(**many, num_particles=20)[0].sum()) / 400
    for estimator in ("svi", "fivo"):
        assert jsb.bound_of(model, many, estimator, 1, 1) / 400 == pytest.approx(exact, abs=1.0)
    few, more = (jsb.bound_of(model, many, "iwae", k, 1) / 400 for k in (2, 20))
    assert exact + 1 < few < more - 1


def test_recorded_bounds_of_the_full_budget_are_in_order() -> None:
    path = Path(__file__).parent.parent / "results" / "reproduce_jsb_full.json"
    record = json.loads(path.read_text())
    assert record["setting"] == json.loads(json.dumps(vars(jsb.SETTINGS["full"])))
    assert record["published"] == jsb.PUBLISHED
    value = {row["name"]: row["value"] for row in record["rows"]}
    published = {row["name"]: row.get("value") for row in record["published"]}
    assert value["DMM, importance-weighted"] < value["DMM, bound"] <= published["DMM, bound"] + 0.005
    assert value["VRNN, ELBO"] <= published["VRNN, ELBO"]
    bounds = ["IWAE of 4", "IWAE of 8", "IWAE of 16", "FIVO of 4", "FIVO of 8", "FIVO of 16"]
    ladder = ["VRNN, ELBO", *(f"VRNN by svi, {bound}" for bound in bounds)]  # models trained apart need not be in order
    apart = [f"VRNN, {bound}" for bound in bounds]
    for rows in (ladder, apart[:3], apart[3:]):
        assert all(value[worse] > value[better] for worse, better in itertools.pairwise(rows))
