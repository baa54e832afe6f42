"""`zoo show` and `zoo predict`: what a folder holds, and what its fit says of other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Ran

import zoo

ROWS = [[150.0, 50], [152, 51], [154, 55], [190, 88], [191, 92], [188, 90], [192, 95], [189, 85]]
MIXTURE = ("gaussian_mixture", "--data", "people.csv", "--set", "num_components=2", "--no-report", "--out", "a")


@pytest.fixture
def fitted(run: Callable[..., Ran]) -> Callable[..., Ran]:
    """A folder `a` of a fit to heights and weights."""
    pd.DataFrame(ROWS, columns=["height_cm", "weight_kg"]).to_csv("people.csv", index=False)
    assert run("fit", *MIXTURE).code == 0
    return run


def test_labels_of_another_table_go_by_the_names_of_its_columns(fitted: Callable[..., Ran]) -> None:
    new = pd.DataFrame({"weight_kg": [91, 52], "who": ["Al", "Bo"], "height_cm": [190.5, 151]})
    new.to_csv("new.csv", index=False)
    tall, small = zoo.load("a").predict(new[["height_cm", "weight_kg"]]).tolist()
    assert tall != small
    assert fitted("predict", "a", "--data", "new.csv").out == f"component\n{tall}\n{small}\n"
    ran = fitted("predict", "a", "--data", "new.csv", "--proba", "--scores", "--out", "labels.csv")
    assert (ran.code, ran.out) == (0, "2 rows of component, p_0, p_1, log_likelihood in labels.csv\n")
    labels = pd.read_csv("labels.csv")
    assert labels["component"].tolist() == [tall, small]
    assert labels[f"p_{tall}"].tolist() == pytest.approx([1, 0], abs=1e-6)
    weights, means, covariances = (zoo.load("a").parameters[n] for n in ("weights", "means", "covariances"))
    for i, k in enumerate((tall, small)):  # the other component is far away
        away = new[["height_cm", "weight_kg"]].to_numpy()[i] - means[k]
        distance = away @ np.linalg.solve(covariances[k], away)
        expected = np.log(weights[k]) - 0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariances[k])[1])
        assert labels["log_likelihood"][i] == pytest.approx(expected, abs=1e-6)
    found = json.loads(fitted("predict", "a", "--json").out)
    assert (found["num_rows"], found["data"]) == (8, "people.csv")
    assert found["columns"]["component"] == [small] * 3 + [tall] * 5


def test_tables_of_other_kinds(fitted: Callable[..., Ran]) -> None:
    expected = pd.read_csv("a/posterior.csv")
    for name in ("l.tsv", "l.json", "l.npy", "l.parquet"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        assert fitted("predict", "a", "--proba", "--out", name).code == 0
    for found in (pd.read_csv("l.tsv", sep="\t"), pd.read_json("l.json"), pd.read_parquet("l.parquet")):
        pd.testing.assert_frame_equal(found, expected, check_exact=False)
    np.testing.assert_allclose(np.load("l.npy"), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    {
        "missing column": (("--data", "less.csv"), "less.csv has no column 'weight_kg'"),
        "file that is there": (("--out", "people.csv"), "'people.csv' exists"),
        "kind of file": (("--out", "labels.doc"), "'labels.doc'"),
        "gap": (("--data", "gap.csv"), "NaN"),
    }.values(),
)
def test_mistakes_are_one_line(fitted: Callable[..., Ran], arguments: tuple[str, ...], words: str) -> None:
    Path("less.csv").write_text("height_cm\n150\n")
    Path("gap.csv").write_text("height_cm,weight_kg\n150,\n151,50\n")
    ran = fitted("predict", "a", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert words in ran.err


def test_states_of_other_sequences(run: Callable[..., Ran]) -> None:
    level = ("level", [0, 1, 0, 9, 10, 9, 10, 0])
    pd.DataFrame(dict([level])).to_csv("s.csv", index=False)
    few = ("--set", "num_states=2", "--set", "initial=uniform", "--no-report", "--out", "h")
    assert run("fit", "gaussian_hmm", "--data", "s.csv", *few).code == 0
    new = pd.DataFrame({"sequence": ["x"] * 3 + ["y"] * 2, "level": [9, 10, 0, 0, 1]})
    new.to_csv("new.csv", index=False)
    assert run("predict", "h", "--data", "new.csv", "--scores", "--out", "states.csv").code == 0
    states = pd.read_csv("states.csv")
    assert list(states.columns) == ["sequence", "step", "state", "log_likelihood"]
    low = states["state"].iloc[-1]
    assert states["state"].tolist() == [1 - low, 1 - low, low, low, low]
    each = zoo.load("h").score_samples([[[9.0], [10], [0]], [[0.0], [1]]]).tolist()
    assert states["log_likelihood"].tolist() == pytest.approx([each[0]] * 3 + [each[1]] * 2)


def test_what_a_folder_holds(fitted: Callable[..., Ran]) -> None:
    shown = fitted("show", "a")
    assert shown.code == 0
    assert "data       people.csv: height_cm, weight_kg\n" in shown.out
    assert "model      gaussian_mixture, num_components=2, num_features=2, covariance_type=full" in shown.out
    assert "estimator  em, seed 0, max_iter=" in shown.out
    assert "component  height_cm  weight_kg" in shown.out
    assert "a holds fit.json, identity.json, model.safetensors, parameters.csv" in shown.out
    found = json.loads(fitted("show", "a", "--json").out)
    fit = zoo.load("a")
    assert found["columns"] == ["height_cm", "weight_kg"]
    assert found["bic"] == pytest.approx(fit.bic)
    np.testing.assert_allclose(found["parameters"]["means"], fit.parameters["means"])


def test_what_a_folder_of_a_comparison_holds(run: Callable[..., Ran]) -> None:
    from zoo.models import poisson_mixture

    model, x = poisson_mixture.tiny()
    made = zoo.compare(model, x, estimators=["em"], gradients=False, data_name="counts")
    made.save("c")
    shown = run("show", "c")
    assert "poisson_mixture on counts: 12 data, totals in nats" in shown.out
    assert f"em            0  converged  {made.fits[0].log_likelihood:>14.4f}" in shown.out
    assert "zoo show c/fits/em-0" in shown.out
    assert json.loads(run("show", "c", "--json").out)["rows"][0]["estimator"] == "em"
    Path("c/comparison.json").write_text("{")
    broken = run("show", "c")
    assert (broken.code, "damaged" in broken.err) == (2, True)
