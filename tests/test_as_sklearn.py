"""Models as estimators of scikit-learn: its own checks, a pipeline, a search, and the numbers of the fit behind."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import zoo

ROWS = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0, 0], [8, 2]], 30, axis=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gaussian_mixture", {"num_components": 2, "max_iter": 15, "restarts": 1}),
        ("factor_analysis", {"num_factors": 1, "max_iter": 15}),
        ("ppca", {"num_factors": 1, "max_iter": 15}),
    ],
)
def test_scikit_learn_finds_nothing_to_complain_of(model: str, options: dict[str, Any]) -> None:
    results = check_estimator(zoo.as_sklearn(model, **options), on_fail=None, on_skip=None)
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 30


def test_a_search_over_k_is_cross_validation() -> None:
    mixture = zoo.as_sklearn(zoo.GaussianMixture(num_components=1), restarts=1)
    folds = KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(mixture, {"num_components": [1, 2, 3]}, cv=folds).fit(ROWS)
    assert search.best_params_ == {"num_components": 2}
    by_hand = [
        zoo.fit(zoo.GaussianMixture(2, 2), ROWS[train], restarts=1).score(ROWS[test]) / len(test)
        for train, test in folds.split(ROWS)
    ]
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert np.mean(cross_val_score(clone(mixture).set_params(num_components=2), ROWS, cv=folds)) == pytest.approx(
        np.mean(by_hand), rel=1e-12
    )


def test_what_it_says_is_what_the_fit_says() -> None:
    frame = pandas.DataFrame(ROWS, columns=["height", "weight"])
    made = zoo.as_sklearn("gaussian_mixture", num_components=2, seed=3).fit(frame)
    assert list(made.feature_names_in_) == ["height", "weight"]
    direct = zoo.fit(zoo.GaussianMixture(2, 2), ROWS, seed=3)
    np.testing.assert_array_equal(made.predict(frame), direct.predict(ROWS))
    np.testing.assert_allclose(made.predict_proba(frame), direct.predict_proba(ROWS), atol=1e-12)
    assert made.score(frame) * len(ROWS) == pytest.approx(direct.log_likelihood, rel=1e-12)
    assert made.bic(frame) == pytest.approx(direct.bic, rel=1e-12)
    assert made.aic(frame) == pytest.approx(direct.aic, rel=1e-12)
    assert made.sample(4).shape == (4, 2)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again.predict(frame), made.predict(frame))


def test_factors_go_on_in_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), zoo.as_sklearn("factor_analysis", num_factors=1)).fit(ROWS)
    assert pipeline.transform(ROWS).shape == (60, 1)
    assert list(pipeline.get_feature_names_out()) == ["factoranalysis0"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: zoo.as_sklearn("gausian_mixture"), "Did you mean 'gaussian_mixture'"),
        (lambda: zoo.as_sklearn("gaussian_mixture", n_components=3), "Did you mean 'num_components'"),
        (lambda: zoo.as_sklearn("gaussian_mixture").fit(ROWS), "expected num_components, got nothing"),
        (lambda: zoo.as_sklearn(3), "expected the name or class of a model"),
    ],
)
def test_each_mistake_has_its_line(call: Any, words: str) -> None:
    with pytest.raises(zoo.ZooError, match=words):
        call()
