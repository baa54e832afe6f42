"""Comparisons: one start for all, options by estimator, gradients against the exact one, export."""

from __future__ import annotations

import json

import pytest
import torch
from arviz_versions import group_names
from sklearn.datasets import load_iris

import zoo
from zoo import Variant
from zoo.runs.gradients import gradient_quality

IRIS = torch.tensor(load_iris().data)
QUICK = {"max_epochs": 30, "warmup": 20}


@pytest.fixture(scope="module")
def comparison():
    model = zoo.GaussianMixture(3, 4)
    return zoo.compare(model, IRIS, estimators=["em", "eg", "svi", "rws"], seeds=2, data_name="iris", **QUICK)


def test_every_estimator_starts_at_the_same_evidence(comparison):
    for seed in (0, 1):
        starts = [fit.history["log_likelihood"][0] for fit in comparison.fits if fit.seed == seed]
        assert len(starts) == 4
        assert starts[0] == pytest.approx(starts[1], abs=1e-9)  # em and eg record it before their first step
    first = [fit for fit in comparison.fits if fit.estimator == "svi"]
    # svi's first row comes after one step, its objective before it: a bound of the same start
    for fit, seed in zip(first, (0, 1), strict=True):
        em = next(f for f in comparison.fits if f.estimator == "em" and f.seed == seed)
        assert fit.history["elbo"][0] <= em.history["log_likelihood"][0] + 1e-9


def test_rows_are_what_json_promises(comparison):
    printed = json.loads(json.dumps(comparison.to_dict()))
    assert printed["model"] == "gaussian_mixture"
    assert printed["num_data"] == 150
    keys = [
        "estimator",
        "seed",
        "status",
        "log_likelihood",
        "elbo",
        "evidence_gap",
        "iterations",
        "seconds",
        "peak_memory_mb",
    ]
    assert all(list(row) == keys for row in printed["rows"])
    assert [row["estimator"] for row in printed["rows"]] == ["em", "em", "eg", "eg", "svi", "svi", "rws", "rws"]


def test_gaps_are_zero_for_exact_steps_and_positive_for_guides(comparison):
    for fit in comparison.fits:
        if fit.estimator in ("em", "eg"):
            assert fit.evidence_gap == 0
        else:
            assert fit.evidence_gap > 0


def test_the_exact_gradient_has_neither_bias_nor_variance(comparison):
    eg = [row for row in comparison.gradients if row.estimator == "eg"]
    assert [row.point for row in eg] == ["start", "optimum"]
    for row in eg:
        assert row.bias == pytest.approx(0, abs=1e-12)
        assert row.sd == pytest.approx(0, abs=1e-12)
    assert {row.estimator for row in comparison.gradients} == {"eg", "svi", "rws"}
    rws = next(row for row in comparison.gradients if row.estimator == "rws")
    assert rws.sd > 0


def test_more_particles_mean_less_variance_and_less_bias():
    model = zoo.fit(zoo.GaussianMixture(2, 4), IRIS, max_iter=2, tol=0).model
    few, many = (
        gradient_quality(model, IRIS, {"rws": {"num_particles": k}}, point="here", num_draws=60, warmup=50)[0]
        for k in (2, 64)
    )
    assert many.sd < few.sd / 3
    assert many.bias < few.bias


def test_a_seed_s_row_does_not_depend_on_its_neighbours(comparison):
    alone = zoo.compare(
        zoo.GaussianMixture(3, 4), IRIS, estimators=["rws"], seeds=[1], gradients=False, track=0, **QUICK
    ).fits[0]
    among = next(fit for fit in comparison.fits if fit.estimator == "rws" and fit.seed == 1)
    assert alone.log_likelihood == among.log_likelihood
    assert alone.history["bound"] == among.history["bound"]


def test_options_go_to_the_estimators_that_have_them():
    both = zoo.compare(
        zoo.GaussianMixture(2, 4), IRIS, estimators=["em", "eg"], gradients=False, max_epochs=7,
        options={"em": {"max_iter": 3, "tol": 0}},
    )  # fmt: skip
    assert [fit.iterations for fit in both.fits] == [3, 7]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"estimators": ["em", "egg"]}, "estimator 'egg' is not known. Did you mean 'eg'"),
        ({"estimators": []}, "at least one name"),
        ({"estimators": ["em"], "max_epoch": 3}, "option 'max_epoch' is not known"),
        ({"estimators": ["em"], "options": {"eg": {}}}, "options for 'eg' expected it among the estimators"),
        ({"estimators": ["em"], "options": {"em": {"tol": -1}}}, "tol expected a finite number of at least 0"),
        ({"estimators": ["em"], "seeds": 0}, "seeds expected at least one"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(zoo.ZooError, match=match):
        zoo.compare(zoo.GaussianMixture(2, 4), IRIS, **arguments)


def test_refusal_comes_before_any_work():
    rows = []
    model = zoo.FactorAnalysis(1, 4)
    with pytest.raises(
        zoo.ZooError, match=r"gumbel cannot fit this model: it has no discrete latent to relax\. Use .*eg.* em"
    ):
        zoo.compare(model, IRIS, estimators=["em", "gumbel"], progress=lambda *_: lambda row, _: rows.append(row))
    assert not rows


def test_inference_data_holds_draws_evidence_and_parameters(comparison):
    data = comparison.to_inference_data(num_draws=10)
    assert "posterior_predictive" not in group_names(data), "not asked for"
    assert comparison.to_inference_data(8, predictive=True).posterior_predictive["x"].shape[:2] == (8, 8)
    assert data.posterior["z"].shape == (8, 10, 150)
    assert data.log_likelihood["x"].shape == (8, 10, 150)
    assert data.constant_data["means"].shape == (8, 3, 4)
    total = data.log_likelihood["x"].mean("draw").sum("x_dim_0").values
    assert total == pytest.approx([fit.log_likelihood for fit in comparison.fits])


def test_a_budget_of_seconds_stops_every_estimator():
    short = zoo.compare(
        zoo.GaussianMixture(3, 4), IRIS, estimators=["em", "eg"], gradients=False, max_seconds=1e-6, track=0
    )
    assert [fit.iterations for fit in short.fits] == [1, 1]
    assert all(fit.log_likelihood is not None for fit in short.fits)


# --- variants ---------------------------------------------------------------------------------------------------------


def test_one_estimator_stands_several_times_in_a_comparison(tmp_path):
    labels = ["gumbel:temperature=0.5", "gumbel:temperature=1.0", "em", "patient em"]
    made = zoo.compare(
        zoo.GaussianMixture(2, 4), IRIS, estimators=[*labels[:3], Variant("patient em", "em", {"tol": 0})], seeds=2,
        options={"em": {"max_iter": 7, "tol": 1.0}, "gumbel": {"final_temperature": 0.3}}, track=0, **QUICK,
    )  # fmt: skip
    assert made.estimators == labels
    assert [row["estimator"] for row in made.rows] == [label for label in labels for _ in range(2)]
    assert [fit.options["temperature"] for fit in made.fits[:4:2]] == [0.5, 1.0]
    assert {fit.options["final_temperature"] for fit in made.fits[:4]} == {0.3}
    assert [fit.iterations for fit in made.fits[5::2]] == [made.fits[5].iterations, 7]
    assert made.fits[5].iterations < 7
    assert [row.estimator for row in made.gradients] == labels[:2] * 2
    assert {row.sd for row in made.gradients if row.point == "start"} != {made.gradients[0].sd}
    alone = zoo.compare(
        zoo.GaussianMixture(2, 4), IRIS, estimators=["gumbel"], seeds=2, gradients=False, track=0,
        temperature=0.5, final_temperature=0.3, **QUICK,
    )  # fmt: skip
    assert [fit.history["bound"] for fit in alone.fits] == [fit.history["bound"] for fit in made.fits[:2]]
    for label in labels:
        assert label in str(made)
    made.save(tmp_path / "c")
    folders = sorted(path.name for path in (tmp_path / "c" / "fits").iterdir())
    assert folders[0] == "em-0"
    assert folders[2:] == ["gumbel_temperature=0.5-0", "gumbel_temperature=0.5-1", "gumbel_temperature=1.0-0",
                           "gumbel_temperature=1.0-1", "patient_em-0", "patient_em-1"]  # fmt: skip
    again = zoo.load(tmp_path / "c" / "fits" / "patient_em-1")
    assert (again.label, again.estimator) == ("patient em", "em")
    assert "gumbel:temperature=1.0" in (tmp_path / "c" / "report.html").read_text()
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["rows"][6]["estimator"] == "patient em"


def test_a_variant_may_have_a_model_of_its_own():
    made = zoo.compare(
        zoo.GaussianMixture(2, 4), IRIS, track=0,
        estimators=["em", Variant("three", "em", model=zoo.GaussianMixture(3, 4)), "eg:max_epochs=2"],
    )  # fmt: skip
    assert [fit.model.num_components for fit in made.fits] == [2, 3, 2]
    direct = zoo.compare(zoo.GaussianMixture(3, 4), IRIS, estimators=["em"], track=0).fits[0]
    assert made.fits[1].log_likelihood == direct.log_likelihood
    assert made.best.label == "three"
    assert {row.estimator for row in made.gradients} <= {"eg:max_epochs=2"}


def test_a_fit_saved_before_there_were_labels_has_its_estimators(tmp_path):
    fit = zoo.fit(zoo.GaussianMixture(1, 4), IRIS)
    path = fit.save(tmp_path / "a")
    record = json.loads((path / "fit.json").read_text())
    assert record.pop("label") == "em"
    (path / "fit.json").write_text(json.dumps(record))
    assert zoo.load(path).label == "em"


@pytest.mark.parametrize(
    ("estimators", "match"),
    [
        (["em", "em"], "a label of its own for each, got 'em' again"),
        (["em:tol=0", "em:tol=0"], "a label of its own for each, got 'em:tol=0' again"),
        ([Variant("a:b", "em"), Variant("a_b", "eg")], "got 'a_b' again"),
        ([Variant("", "em")], "got '' again"),
        (["em:tol"], "NAME:OPTION=VALUE, got 'tol'"),
        (["em:tols=1"], "option of em 'tols' is not known"),
        (["em:tol=NaN"], "expected a finite tol, got NaN"),
        ([Variant("mine", "emm")], "estimator 'emm' is not known"),
    ],
)
def test_bad_variants(estimators, match):
    with pytest.raises(zoo.ZooError, match=match):
        zoo.compare(zoo.GaussianMixture(2, 4), IRIS, estimators=estimators)
