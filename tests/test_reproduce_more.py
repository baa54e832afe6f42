"""The tables of Gaussian mixture VAE, conditional VAE and β-VAE: at toy size, and what was recorded of them."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.models.gaussian_mixture_vae import GaussianMixtureVAE
from zoo.reproduce import BUDGETS, beta_vae, cvae, gmvae, reproduce
from zoo.reproduce._curves import thinned

RESULTS = Path(__file__).parents[1] / "results"
OURS: dict[str, Any] = {"gmvae": gmvae, "cvae": cvae, "beta_vae": beta_vae}


def _shrunk(monkeypatch: pytest.MonkeyPatch, module: Any, **sizes: Any) -> None:
    for budget in BUDGETS:
        monkeypatch.setitem(module.SETTINGS, budget, dataclasses.replace(module.SETTINGS[budget], **sizes))


def _silent(line: str) -> None:
    pass


def _recorded(table: str) -> dict[str, Any]:
    record = json.loads((RESULTS / f"reproduce_{table}_quick.json").read_text())
    assert record["command"] == f"zoo reproduce {table} --budget quick"
    assert record["published"] == OURS[table].PUBLISHED
    setting = json.loads(json.dumps(vars(OURS[table].SETTINGS["quick"])))
    assert {name: record["setting"][name] for name in setting} == setting
    assert record["cpu_seconds"] < 30 * 60
    for name in {point["name"] for point in record["curve"]}:
        bounds = [point["training_bound"] for point in record["curve"] if point["name"] == name]
        assert len(bounds) <= 25
        assert bounds[-1] > bounds[0]
    return record


@pytest.mark.parametrize("length", [0, 1, 2, 20, 21, 1000])
def test_a_thin_curve_keeps_its_ends(length: int) -> None:
    kept = thinned(length)
    assert len(kept) <= 21
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)


# --- Gaussian mixture VAE ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
def test_gmvae_runs_at_toy_size(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _shrunk(
        monkeypatch, gmvae, data="digits", rows=200, hidden_dims=(16,), latent_dim=3, epochs=4, seeds=2, seedings=1,
        mixture_restarts=1,
    )  # fmt: skip
    begun = min(5, gmvae.SETTINGS[budget].start_epochs)
    _shrunk(monkeypatch, gmvae, start_epochs=begun)
    record = reproduce("gmvae", budget, 3, _silent).record
    methods = ("k-means", "Gaussian mixture", "GMVAE")
    medians = [f"{s}, {m}" for s in gmvae.SCORES for m in methods]
    assert [row["name"] for row in record["rows"]][: len(medians)] == medians
    assert [(run["method"], run["seed"]) for run in record["runs"]] == [(m, s) for s in (3, 4) for m in methods]
    for row in record["rows"][: len(medians)]:
        score, method = row["name"].split(", ")
        assert row["value"] == statistics.median(r[score] for r in record["runs"] if r["method"] == method)
    ours = [run for run in record["runs"] if run["method"] == "GMVAE"]
    chosen = {row["name"]: row["value"] for row in record["rows"][len(medians) :]}
    assert chosen["purity, GMVAE, the highest bound"] == max(ours, key=lambda run: run["bound"])["purity"]
    # The epochs of the start come before those of the curve.
    assert [p["epoch"] for p in record["curve"]] == [*range(begun + 1, begun + 5)] * 2
    again = reproduce("gmvae", budget, 3, _silent).record
    assert [run["purity"] for run in again["runs"]] == [run["purity"] for run in record["runs"]]


def test_bound_given_the_label_is_the_summed_bound_of_a_certain_guide() -> None:
    torch.manual_seed(0)
    model = GaussianMixtureVAE(3, 6, latent_dim=2, hidden_dims=(5,)).double()
    x = torch.bernoulli(torch.full((4, 6), 0.5, dtype=torch.float64))
    with torch.no_grad():
        model.classifier[-1].weight.zero_()
        model.classifier[-1].bias.copy_(torch.tensor([0.0, 200.0, 0.0]))
        summed = torch.stack([model.elbo_parts(x, 1)[0] for _ in range(3000)]).mean(0)
        given = torch.stack([model.bound_given(x, torch.ones(4, dtype=torch.long)) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(given - torch.log(torch.tensor(3.0)), summed, atol=0.1, rtol=0)


def test_a_start_from_clusters_learns_to_name_them() -> None:
    setting = dataclasses.replace(gmvae.SETTINGS["quick"], rows=300)
    x, _ = gmvae.images(setting)
    clusters = (x[:, 20] > 0.5).long() + 2 * (x[:, 42] > 0.5).long()
    torch.manual_seed(0)
    model = GaussianMixtureVAE(4, 64, 3, (32,), likelihood="gaussian")
    x = x + 0.1 * torch.randn_like(x)
    model.initialize(x, "random")
    gmvae.start(model, x, clusters, epochs=15, batch_size=25, rate=3e-3)
    assert (model.predict(x) == clusters).float().mean() > 0.95


def test_the_full_budget_of_gmvae_is_the_published_setting() -> None:
    full = gmvae.SETTINGS["full"]
    assert (full.data, full.likelihood, full.binarization) == ("mnist", "bernoulli", "dynamic")
    assert (full.hidden_dims, full.latent_dim, full.batch_size, full.rate) == ((512, 512), 64, 100, 1e-3)
    assert abs(full.epochs * 60_000 / full.batch_size - 25_000) < 600
    assert full.start_epochs == 0


def test_recorded_mixture_vae_beats_kmeans_and_the_mixture() -> None:
    record = _recorded("gmvae")
    rows = {row["name"]: row["value"] for row in record["rows"]}
    for score in ("accuracy", "purity"):
        assert rows[f"{score}, GMVAE"] > rows[f"{score}, Gaussian mixture"] > rows[f"{score}, k-means"] > 0.75
    assert len({run["seed"] for run in record["runs"]}) == 5
    # Both criteria that see no labels point to a run no worse than the median.
    assert rows["accuracy, GMVAE, the highest bound"] >= rows["accuracy, GMVAE"]
    assert rows["accuracy, Gaussian mixture, the most likely"] > rows["accuracy, Gaussian mixture"]


# --- conditional VAE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
def test_cvae_runs_at_toy_size(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _shrunk(monkeypatch, cvae, data="digits", epochs=3, width=16, latent_dim=3, test_rows=50, draws=20)
    record = reproduce("cvae", budget, 1, _silent).record
    rows = {row["name"]: row for row in record["rows"]}
    for given in cvae.SETTINGS[budget].given:
        ours, bound = rows[f"CVAE, {given} given"], rows[f"CVAE's bound, {given} given"]
        assert 0 < ours["value"] < bound["value"] < 50
        base = rows[f"baseline, {given} given"]["value"]
        assert rows[f"baseline less CVAE, {given} given"]["value"] == pytest.approx(base - ours["value"])
    assert set(cvae.SETTINGS["full"].given) == {1, 2, 3}
    assert {p["epoch"] for p in record["curve"]} == {1, 2, 3}


def test_cvae_scores_one_binary_draw_of_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    _shrunk(monkeypatch, cvae, data="digits", test_rows=None)
    train, test = cvae.images(cvae.SETTINGS["quick"], 0)
    assert bool(((test == 0) | (test == 1)).all())
    assert (len(train), len(test)) == (1497, 300)
    assert bool(((train > 0) & (train < 1)).any())
    torch.testing.assert_close(test, cvae.images(cvae.SETTINGS["full"], 0)[1])


def test_every_published_row_of_cvae_says_whether_it_was_read() -> None:
    for row in cvae.PUBLISHED:
        assert ("recalled" in row["source"]) != (", read" in row["source"])


def test_recorded_code_is_worth_twenty_nats() -> None:
    rows = {row["name"]: row for row in _recorded("cvae")["rows"]}
    assert rows["baseline, 1 given"]["value"] - rows["CVAE, 1 given"]["value"] >= 20
    assert rows["CVAE, 1 given"]["monte_carlo_se"] < 0.5
    assert rows["CVAE, 1 given"]["value"] < rows["CVAE's bound, 1 given"]["value"]


# --- β-VAE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
def test_beta_vae_runs_at_toy_size_and_draws(budget: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _shrunk(monkeypatch, beta_vae, epochs=2, seeds=2, hidden_dims=(16,), latent_dim=3, samples=50, every=5)
    found = reproduce("beta_vae", budget, 0, _silent)
    rows = {row["name"]: row for row in found.record["rows"]}
    for beta in ("1", "4"):
        each = [rows[f"MIG, beta={beta}, seed {seed}"]["value"] for seed in (0, 1)]
        assert rows[f"MIG, beta={beta}, median"]["value"] == pytest.approx(sum(each) / 2)
    assert set(found.record["rows"][0]["gaps"]) == {"shape", "scale", "rotation", "x", "y"}
    path = found.save(tmp_path / "record.json")
    assert json.loads(path.read_text()) == json.loads(json.dumps(found.record))
    assert (tmp_path / "record.png").read_bytes()[:4] == b"\x89PNG"


def test_recorded_beta_vaes_have_both_weights_at_the_same_seeds() -> None:
    rows = {row["name"]: row for row in _recorded("beta_vae")["rows"]}
    for beta in ("1", "4"):
        each = [rows[f"MIG, beta={beta}, seed {seed}"] for seed in range(5)]
        assert rows[f"MIG, beta={beta}, median"]["value"] == statistics.median(row["value"] for row in each)
        assert all(-0.01 < row["value"] < 1 for row in each)
    for seed in range(5):  # a heavier KL is a smaller one
        assert rows[f"MIG, beta=4, seed {seed}"]["kl"] < rows[f"MIG, beta=1, seed {seed}"]["kl"]
    assert (RESULTS / "reproduce_beta_vae_quick.png").read_bytes()[:4] == b"\x89PNG"
