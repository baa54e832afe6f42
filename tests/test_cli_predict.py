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


def test_known_classes_are_scored_beside_the_likelihood(fitted: Callable[..., Ran]) -> None:
    """One of eight is of the other kind; the best naming is found by trying both."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    kinds = ["child", "child", "adult", "adult", "adult", "adult", "adult", "adult"]
    table = pd.DataFrame(ROWS, columns=["height_cm", "weight_kg"]).assign(kind=kinds)
    table.to_csv("known.csv", index=False)
    ran = fitted("evaluate", "a", "--data", "known.csv", "--labels", "kind", "--json")
    assert ran.code == 0, ran.err
    scores = json.loads(ran.out)
    predicted = zoo.load("a").predict(table[["height_cm", "weight_kg"]]).tolist()
    known = [kind == "adult" for kind in kinds]
    agreeing = sum(bool(z) == k for z, k in zip(predicted, known, strict=True))
    assert scores["accuracy"] == max(agreeing, 8 - agreeing) / 8 == 7 / 8
    assert scores["adjusted_rand_index"] == pytest.approx(adjusted_rand_score(known, predicted))
    assert scores["normalized_mutual_information"] == pytest.approx(normalized_mutual_info_score(known, predicted))
    plain = json.loads(fitted("evaluate", "a", "--data", "known.csv", "--json").out)
    assert scores == {**plain, **{name: scores[name] for name in set(scores) - set(plain)}}
    assert "accuracy 0.8750" in fitted("evaluate", "a", "--data", "known.csv", "--labels", "kind").out
    assert "no column 'sort'" in fitted("evaluate", "a", "--data", "known.csv", "--labels", "sort").err


def test_a_model_without_components_has_no_use_for_classes(run: Callable[..., Ran]) -> None:
    assert run("fit", "ppca", "--data", "iris", "--no-report", "--out", "p").code == 0
    ran = run("evaluate", "p", "--labels", "true")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "--labels expected a model that predicts a component" in ran.err


def test_a_forecast_lays_other_sequences_out_as_the_fitted_ones(run: Callable[..., Ran]) -> None:
    """Rows of two subjects, shuffled: put in order they end high and low, as they lie both end low."""
    level = [0.0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9]
    parts = {"a": level, "b": level[::-1]}
    rows = [(who, time, value) for who, values in parts.items() for time, value in enumerate(values)]
    table = pd.DataFrame(rows, columns=["subject", "t", "level"])
    table["level"] += np.random.default_rng(0).normal(0, 0.1, len(table))
    table.sample(frac=1, random_state=1).to_csv("long.csv", index=False)
    made = run(
        "fit", "gaussian_hmm", "--data", "long.csv", "--sequence", "subject", "--time", "t", "--columns", "level",
        "--set", "num_states=2", "--no-report", "--out", "f",
    )  # fmt: skip
    assert made.code == 0, made.err
    other = table.sort_values("level")
    other.to_csv("other.csv", index=False)
    ran = run("forecast", "f", "--data", "other.csv", "--steps", "1", "-n", "40", "--out", "next.csv")
    assert ran.code == 0, ran.err
    assert ran.out == "2 sequences, 40 draws of 1 steps each, in next.csv\n"
    drawn = pd.read_csv("next.csv")["level"].to_numpy().reshape(2, 40)
    low, high = sorted(drawn.mean(1))  # in the order in which the subjects come in the file
    assert low < 3
    assert high > 6


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
