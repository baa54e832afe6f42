"""A newcomer's first hour: a table of one's own with names, ids, words and gaps; what each line answers, as read.

The table is drawn here from three kinds of birds, so that what a person would look for is known.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import Ran

import zoo

KINDS = ("auk", "gull", "tern")
SHARES = np.array([0.25, 0.35, 0.4])
MEANS = np.array([[181.0, 82.0], [170.0, 61.0], [155.0, 70.0]])
SDS = np.array([4.0, 5.0])
ROWS = 300
FIT = ("gaussian_mixture", "--data", "birds.csv", "--set", "num_components=3")


@pytest.fixture
def birds(tmp_path: Path) -> pd.DataFrame:
    """birds.csv: rings that are all different, two measurements with gaps, kinds that are known of six in seven; and
    new.csv: three new birds, the columns in another order beside one that nobody asked for."""
    rng = np.random.default_rng(3)
    kind = rng.choice(3, ROWS, p=SHARES)
    x = MEANS[kind] + SDS * rng.normal(size=(ROWS, 2))
    with (tmp_path / "birds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["ring", "wing_mm", "mass_g", "kind"])
        for i, (wing, mass) in enumerate(x):
            cells = ["" if i % 29 == 0 else f"{wing:.1f}", "NA" if i % 31 == 5 else f"{mass:.1f}"]
            writer.writerow([f"R{1000 + i}", *cells, "" if i % 7 == 0 else KINDS[kind[i]]])
    (tmp_path / "new.csv").write_text("mass_g,note,wing_mm\n61,a,170\n82,b,181\n70,c,155\n")
    table = pd.read_csv(tmp_path / "birds.csv")
    table["truth"] = kind
    return table


def numbers(text: str, head: str) -> dict[str, list[float]]:
    """The rows of a printed table by their first word, below a line that begins so."""
    lines = text[text.index(head) :].splitlines()[1:]
    rows = {}
    for line in lines:
        words = line.split()
        if not words or not re.fullmatch(r"-?\d+(\.\d+)?", words[-1]):
            break
        rows[words[0]] = [float(word) for word in words[1:]]
    return rows


def by_wing(means: Any) -> list[int]:
    """Components in the order of :data:`KINDS`: by their wings, the longest first."""
    return [int(k) for k in np.argsort(-np.asarray(means)[:, 0])]


def test_eight_lines_of_the_shell(run: Callable[..., Ran], birds: pd.DataFrame) -> None:
    ran = run("models", "gaussian_mixture")
    assert ran.code == 0
    for words in ("Mixture of K Gaussians", "num_components", "K, at least 1", "covariance_type", "estimators: advi"):
        assert words in ran.out

    ran = run("fit", *FIT, "--labels", "kind")
    assert ran.code == 2
    gaps = sorted({*range(0, ROWS, 29), *range(5, ROWS, 31)})
    assert f"got NaN in rows {gaps[0] + 1}, {gaps[1] + 1}, " in ran.err
    assert ran.err.strip().endswith("Drop or fill those rows; --drop-missing does.")
    assert ran.err.count("\n") == 1

    ran = run("fit", *FIT, "--labels", "kind", "--drop-missing", "--out", "a")
    assert ran.code == 0, ran.err
    kept = ROWS - len(gaps)
    assert f"read {kept} rows x 2 columns: wing_mm, mass_g; left out: ring (all different text), " in ran.err
    assert f", {len(gaps)} rows with gaps" in ran.err
    assert "keep ring with --columns ring,wing_mm,mass_g" in ran.err
    assert ran.out.startswith("gaussian_mixture by em: converged after ")
    means = numbers(ran.out, "component  wing_mm  mass_g")
    weights = numbers(ran.out, "component  weights")
    order = by_wing([means[str(k)] for k in range(3)])
    for share, mean, k in zip(SHARES, MEANS, order, strict=True):
        assert weights[str(k)][0] == pytest.approx(share, abs=0.08)
        assert means[str(k)] == pytest.approx(mean, abs=1.5)
    counts = numbers(ran.out, "component  auk  gull  tern")
    right = sum(counts[str(k)][place] for place, k in enumerate(order))
    assert right / sum(map(sum, counts.values())) > 0.95
    assert float(re.search(r"adjusted Rand index (\S+) against", ran.out)[1]) > 0.9  # type: ignore[index]

    ran = run("show", "a")
    assert ran.code == 0
    assert "data       birds.csv: wing_mm, mass_g" in ran.out
    assert numbers(ran.out, "component  wing_mm  mass_g") == means

    ran = run("predict", "a", "--data", "new.csv", "--proba", "--out", "labels.csv")
    assert (ran.code, ran.out) == (0, "3 rows of component, p_0, p_1, p_2 in labels.csv\n")
    labels = pd.read_csv("labels.csv")
    assert labels["component"].tolist() == [order[1], order[0], order[2]]
    assert (labels[["p_0", "p_1", "p_2"]].max(axis=1) > 0.9).all()
    posterior = pd.read_csv("a/posterior.csv")
    assert posterior["row"].tolist() == [i + 1 for i in range(ROWS) if i not in gaps]
    truth = birds["truth"].to_numpy()[posterior["row"] - 1]
    assert (posterior["component"] == np.array(order)[truth]).mean() > 0.95

    table = ("--data", "birds.csv", "--columns", "wing_mm,mass_g", "--drop-missing")
    ran = run("select", "gaussian_mixture", *table, "--grid", "num_components=1..4", "--restarts", "3", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["best"]["bic"] == {"num_components": 3}

    few = ("--set", "num_components=3", "--estimators", "em,eg", "--set", "eg.max_epochs=200", "--no-gradients")
    ran = run("compare", "gaussian_mixture", *table, *few)
    assert ran.code == 0
    (em, eg) = (line.split() for line in ran.out.splitlines() if line.split()[:1] in (["em"], ["eg"]))
    assert em[1] == "converged"
    assert float(eg[2]) <= float(em[2]) + 1e-3

    page = Path("a/report.html").read_text()
    for words in (
        "gaussian_mixture on birds.csv",
        "wing_mm",
        "Data by component",
        "<h2>The fit</h2>",
        "data:image/png",
    ):
        assert words in page
    assert page.index("<h2>The fit</h2>") < page.index("<h2>Parameters</h2>")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("modles", "Did you mean 'models'?"),
        ("describe gaussian_mixture", "Did you mean 'models'?"),
        ("fit gausian_mixture", "Did you mean 'gaussian_mixture'?"),
        ("fit gaussian_mixture --data bird.csv", "Did you mean 'birds.csv'?"),
        ("fit gaussian_mixture --data birds.csv --columns wing,mass_g", "Did you mean 'wing_mm'?"),
        ("fit gaussian_mixture --set num_component=3", "Did you mean 'num_components'?"),
        ("fit gaussian_mixture --estimator EM", "Did you mean 'em'?"),
        ("fit gaussian_mixture --sett num_components=3", "Possible options: --seed, --set, --split"),
        ("fit gaussian_mixture --n-components 3", "--set num_components=..."),
        ("fit gaussian_mixture --max-iter 3", "--set max_iter=..."),
        ("fit gaussian_mixture --set num_components=1,2,3", "zoo select gaussian_mixture --grid num_components=1,2,3"),
        ("fit gaussian_mixture --set num_components=1..4", "zoo select gaussian_mixture --grid num_components=1..4"),
        ("fit gaussian_mixture --data birds.csv", "column 'kind', row 2 (line 3), got 'auk'"),
    ],
)
def test_what_is_mistyped_is_told_in_one_line(
    run: Callable[..., Ran], birds: pd.DataFrame, line: str, said: str
) -> None:
    ran = run(*line.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_the_same_in_python(birds: pd.DataFrame, tmp_path: Path) -> None:
    rows = birds[["wing_mm", "mass_g"]].dropna()
    with pytest.raises(zoo.ZooError, match=r"got NaN in rows 0, 5, .*drop_missing=True"):
        zoo.fit("gaussian_mixture", birds[["wing_mm", "mass_g"]], num_components=3)
    fit = zoo.fit("gaussian_mixture", rows, num_components=3)
    assert repr(fit).startswith("gaussian_mixture by em: converged")
    assert len(repr(fit).splitlines()) == 2
    order = by_wing(fit.parameters["means"])
    np.testing.assert_allclose(fit.parameters["means"][order], MEANS, atol=1.5)
    frame = fit.parameters_frame()
    mine = frame[(frame["parameter"] == "means") & (frame["component"] == order[0])].set_index("feature")["value"]
    assert mine["wing_mm"] == pytest.approx(181, abs=1.5)
    assert '<th class="n">wing_mm</th>' in fit._repr_html_()
    new = pd.read_csv(tmp_path / "new.csv")[["mass_g", "wing_mm"]]  # in another order
    assert fit.predict(new).tolist() == [order[1], order[0], order[2]]
    assert torch.equal(fit.predict(tmp_path / "new.csv"), fit.predict(new))  # a file's columns by their names
    assert zoo.evaluate(fit, str(tmp_path / "new.csv")).log_likelihood == pytest.approx(fit.score(new))
    with pytest.raises(zoo.ZooError, match="There is no file"):
        fit.predict("nwe.csv")
    assert fit.predict_proba(new).max(1).values.min() > 0.9
    selection = zoo.select("gaussian_mixture", rows, grid={"num_components": [2, 3, 4]}, restarts=3)
    assert selection.chosen == {"num_components": 3}
    figure = fit.plot()
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("wing_mm", "mass_g")
    kinds = birds["kind"][rows.index]
    taught = zoo.fit("gaussian_mixture", rows, num_components=3, known={"z": kinds})  # words, and gaps
    assert by_wing(taught.parameters["means"]) == [0, 1, 2]  # numbered as the words are sorted
    truth = birds["truth"].to_numpy()[rows.index]
    assert (taught.predict(rows).numpy() == truth).mean() > 0.95
    again = zoo.fit(
        "gaussian_mixture", rows, num_components=3, known={"z": [KINDS.index(k) if k == k else -1 for k in kinds]}
    )
    np.testing.assert_array_equal(taught.parameters["means"], again.parameters["means"])
