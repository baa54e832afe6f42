"""What a person holds after `zoo fit`: parameters on the screen and in files, the latents of every datum, a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Ran

import zoo

#: Two groups far apart, of 3 and of 5: what is fitted are their shares, means and moments.
SMALL = [[150.0, 50], [152, 51], [154, 55]]
TALL = [[190.0, 88], [191, 92], [188, 90], [192, 95], [189, 85]]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A table of one's own, with names and a column of words."""
    rows = [*SMALL, *TALL]
    lines = [f"{h},{w},{'small' if i < 3 else 'tall'}" for i, (h, w) in enumerate(rows)]
    path = tmp_path / "people.csv"
    path.write_text("height_cm,weight_kg,kind\n" + "\n".join(lines) + "\n")
    return path


MIXTURE = ("gaussian_mixture", "--data", "people.csv", "--columns", "height_cm,weight_kg", "--set", "num_components=2")


def test_the_answer_of_a_mixture_on_a_table_of_ones_own(run: Callable[..., Ran], people: Path) -> None:
    ran = run("fit", *MIXTURE, "--labels", "kind", "--set", "covariance_type=diag", "--out", "a")
    assert ran.code == 0, ran.err
    groups = [np.array(SMALL), np.array(TALL)]
    table = pd.read_csv("a/parameters.csv")
    means = table[table["parameter"] == "means"].pivot(index="component", columns="feature", values="value")
    first = int(means["height_cm"].idxmin())  # the number of the small ones
    order = groups if first == 0 else groups[::-1]
    for k, group in enumerate(order):
        assert means.loc[k, "weight_kg"] == pytest.approx(group.mean(0)[1], abs=1e-3)
    shown = [
        "parameters to 4 digits, in full in a/parameters.csv",
        "",
        "component  weights",
        *(f"        {k}   {len(g) / 8:.4f}" for k, g in enumerate(order)),
        "",
        "means (component, feature)",
        "component  height_cm  weight_kg",
        *(f"        {k}      {g[:, 0].mean():.1f}      {g[:, 1].mean():.2f}" for k, g in enumerate(order)),
        "",
        "covariances, diagonals (component, feature)",
        "component  height_cm  weight_kg",
        *(f"        {k}      {g[:, 0].var():.3f}  {g[:, 1].var():>9.2f}" for k, g in enumerate(order)),
        "",
    ]
    assert "\n".join(shown) in ran.out
    counts = (f"        {k}      {3 * (k == first)}     {5 * (k != first)}" for k in (0, 1))
    crossed = ["component  small  tall", *counts]
    assert "\n".join(crossed) in ran.out
    assert json.loads(Path("a/parameters.json").read_text())["axes"]["means"][1]["entries"] == [
        "height_cm",
        "weight_kg",
    ]
    latents = pd.read_csv("a/posterior.csv")
    assert list(latents.columns) == ["component", "p_0", "p_1"]
    assert latents["component"].tolist() == [first] * 3 + [1 - first] * 5
    assert (latents[["p_0", "p_1"]].max(axis=1) > 0.999).all()
    page = Path("a/report.html").read_text()
    for words in ("people.csv", "height_cm", "<h3>means (component, feature)</h3>", "Data by component", "37.5%"):
        assert words in page
    files = {"parameters.csv", "parameters.json", "posterior.csv", "report.html", "components.png"}
    assert files <= {path.name for path in Path("a").iterdir()}
    assert all(name in ran.out for name in files)


def test_json_holds_the_parameters_and_the_criteria(run: Callable[..., Ran], people: Path) -> None:
    found = json.loads(run("fit", *MIXTURE, "--json").out)
    (row,) = found["rows"]
    assert row["num_parameters"] == 11
    assert row["bic"] == pytest.approx(11 * np.log(8) - 2 * row["log_likelihood"])
    assert row["aic"] == pytest.approx(22 - 2 * row["log_likelihood"])
    assert np.shape(found["parameters"]["covariances"]) == (2, 2, 2)
    assert sum(found["parameters"]["weights"]) == pytest.approx(1)


def test_states_scores_and_codes_have_tables_of_their_own(run: Callable[..., Ran]) -> None:
    rows = [f"{s},{'' if (s, t) == ('a', 1) else 10 * (t > 2) + t % 2}" for s in "ab" for t in range(6)]
    Path("s.csv").write_text("sequence,level\n" + "\n".join(rows) + "\n")
    few = ("--set", "num_states=2", "--no-report", "--out", "h")
    ran = run("fit", "gaussian_hmm", "--data", "s.csv", "--columns", "level", *few)
    assert ran.code == 0, ran.err
    assert "transition_probs (state, next state)" in ran.out
    states = pd.read_csv("h/posterior.csv")
    assert list(states.columns) == ["sequence", "step", "state", "p_0", "p_1"]
    assert (states["sequence"].tolist(), states["step"].tolist()) == ([0] * 6 + [1] * 6, [0, 1, 2, 3, 4, 5] * 2)
    low = states["state"][0]
    assert states["state"].tolist() == ([low] * 3 + [1 - low] * 3) * 2
    assert not Path("h/report.html").exists()
    ran = run("fit", "ppca", "--data", "iris", "--set", "num_factors=1", "--no-report", "--out", "f")
    assert "loadings (feature, factor)" in ran.out
    assert list(pd.read_csv("f/posterior.csv").columns) == ["factor_0", "factor_0_sd"]
    np.save("bits.npy", np.random.default_rng(0).random((30, 6)).round())
    few = ("--set", "max_epochs=1", "--set", "hidden_dims=4", "--set", "latent_dim=1", "--no-report", "--out", "v")
    ran = run("fit", "vae", "--data", "bits.npy", *few)
    assert "decoder: 38 numbers (Standardize, Linear 1 to 4, ReLU, Linear 4 to 6)" in ran.out
    assert list(pd.read_csv("v/posterior.csv").columns) == ["z_0"]


def test_a_fit_outlives_what_cannot_be_told_of_it(
    run: Callable[..., Ran], people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.reporting import answer, fit_pictures

    def broken(*_args: object, **_more: object) -> None:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(fit_pictures, "plot_components", broken)
    monkeypatch.setattr(answer, "latent_table", broken)
    ran = run("fit", *MIXTURE, "--out", "a")
    assert ran.code == 0
    assert "note: no posterior.csv: RuntimeError: out of ink" in ran.err
    assert "note: no picture 'The fit': RuntimeError: out of ink" in ran.err
    assert zoo.load("a").num_parameters == 11
    page = Path("a/report.html").read_text()
    assert "out of ink" in page
    assert "responsibilities.png" in ran.out
    assert not Path("a/components.png").exists()
    monkeypatch.setattr(answer, "write_fit_report", broken)
    monkeypatch.setattr(answer, "parameters_of", broken)
    ran = run("fit", *MIXTURE, "--out", "b")
    assert (ran.code, ran.err.count("out of ink")) == (0, 3)
    assert zoo.load("b").num_parameters == 11
