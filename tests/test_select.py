"""Choosing sizes: criteria against sums by hand, published choices, what becomes of fits that fail or end low."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.model_selection import KFold

import zoo
import zoo.runs.select
from zoo.errors import ZooError
from zoo.runs.grids import holds, points

GENERATOR = np.random.default_rng(3)
TWO = np.concatenate([GENERATOR.normal((-3, 0), 1, (40, 2)), GENERATOR.normal((2, 1), 0.7, (30, 2))])
COUNTS = np.concatenate([GENERATOR.poisson(1.5, 30), GENERATOR.poisson(9.0, 30)]).reshape(-1, 1)


def poisson_program(k):
    def program(x):
        weights = pyro.param("weights", torch.ones(k) / k, constraint=dist.constraints.simplex)
        rates = pyro.param("rates", torch.linspace(1.0, 10.0, k + 1)[1:], constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Poisson(rates[z]), obs=x)

    return program


@pytest.fixture(scope="module")
def selection():
    grid = {"covariance_type": ["full", "spherical"], "num_components": range(1, 4)}
    return zoo.select("gaussian_mixture", TWO, grid=grid, data_name="two", restarts=1)


def test_a_row_a_point_in_the_grids_order_and_the_lowest_bic_is_chosen(selection):
    kinds = [(row["covariance_type"], row["num_components"]) for row in selection.rows]
    assert kinds == list(itertools.product(["full", "spherical"], [1, 2, 3]))
    for each in selection.candidates[::4]:
        alone = zoo.fit("gaussian_mixture", TWO, **each.point, restarts=1)
        assert alone.log_likelihood == each.fit.log_likelihood
    best = min(selection.rows, key=lambda row: row["bic"])
    assert selection.best.bic == best["bic"]
    assert selection.chosen == {name: best[name] for name in ("covariance_type", "num_components")}
    assert selection.chosen["num_components"] == 2
    assert len(selection.table) == 6


def test_icl_is_bic_and_twice_the_entropy_of_the_responsibilities(selection):
    for each in selection.candidates:
        model, total = each.fit.model, 0.0
        densities = [
            weight * multivariate_normal(mean, cov).pdf(TWO)
            for weight, mean, cov in zip(
                model.weights.tolist(), model.means.tolist(), model.covariances.tolist(), strict=True
            )
        ]
        probs = np.array(densities) / np.sum(densities, 0)
        total = -np.sum(probs * np.log(np.maximum(probs, 1e-300)))
        assert each.icl == pytest.approx(each.fit.bic + 2 * total, abs=1e-6)
        assert each.icl >= each.fit.bic


def test_icl_of_a_chain_takes_the_entropy_of_whole_paths():
    x = torch.tensor([[[0.0], [1], [5], [7], [1]], [[4.0], [6], [0], [2], [0]]], dtype=torch.float64)
    found = zoo.select("poisson_hmm", {"x": x}, grid={"num_states": [2]}, restarts=1, max_iter=5).candidates[0]
    model = found.fit.model
    emission = torch.distributions.Poisson(model.rates[:, 0].detach())
    total = 0.0
    for sequence in x[..., 0]:
        paths = []
        for path in itertools.product(range(2), repeat=5):
            p = float(model.initial_probs[path[0]])
            for before, after in itertools.pairwise(path):
                p *= float(model.transition_probs[before, after])
            paths.append(p * math.exp(sum(float(emission.log_prob(v)[z]) for v, z in zip(sequence, path, strict=True))))
        probs = np.array(paths) / sum(paths)
        total -= float(np.sum(probs * np.log(np.maximum(probs, 1e-300))))
    assert found.icl == pytest.approx(found.fit.bic + 2 * total, abs=1e-8)
    assert found.fit.bic == pytest.approx(found.fit.num_parameters * math.log(10) - 2 * found.fit.log_likelihood)


def test_cross_validation_is_that_of_scikit_learns_folds_and_closed_forms():
    found = zoo.select(
        "gaussian_mixture", TWO, grid={"num_components": [1]}, criterion="cv", folds=4, seed=5, restarts=1
    )
    scores = np.empty(len(TWO))
    for kept, apart in KFold(4, shuffle=True, random_state=5).split(TWO):
        mean, cov = TWO[kept].mean(0), np.cov(TWO[kept].T, bias=True)
        scores[apart] = multivariate_normal(mean, cov).logpdf(TWO[apart])
    row = found.rows[0]
    assert row["cv"] == pytest.approx(scores.mean(), abs=1e-9)
    assert row["cv_se"] == pytest.approx(scores.std(ddof=1) / math.sqrt(len(TWO)), abs=1e-9)
    assert found.chosen == {"num_components": 1}


def test_a_grid_search_of_scikit_learn_agrees():
    from sklearn.model_selection import GridSearchCV

    folds = KFold(5, shuffle=True, random_state=2)
    made = zoo.as_sklearn("gaussian_mixture", covariance_type="diag", seed=2, restarts=1)
    theirs = GridSearchCV(made, {"num_components": [1, 2]}, cv=folds, refit=False).fit(TWO).cv_results_
    found = zoo.select(
        "gaussian_mixture", TWO, grid={"num_components": [1, 2]}, covariance_type="diag", folds=5, seed=2, restarts=1
    )
    assert [row["cv"] for row in found.rows] == pytest.approx(theirs["mean_test_score"].tolist(), abs=1e-9)


def test_held_out_data_that_are_impossible_are_counted():
    x = np.zeros((20, 2))
    x[::2, 0], x[7, 1] = 1, 1  # one row alone has the second bit
    found = zoo.select("bernoulli_mixture", x, grid={"num_components": [1]}, folds=5, restarts=1)
    assert found.candidates[0].held_out.num_impossible == 1
    assert found.rows[0]["cv"] == -math.inf
    assert found.rows[0]["cv_se"] is None
    assert "1 held-out datum has probability zero under the fit to the others" in " ".join(str(found).split())
    with pytest.raises(ZooError, match="folds=30 expected at least as many rows or sequences, got 20"):
        zoo.select("bernoulli_mixture", x, grid={"num_components": [1]}, folds=30, restarts=1)


def test_programs_by_a_function_of_k_agree_with_the_model_of_the_zoo():
    x = torch.tensor(COUNTS[:, 0], dtype=torch.float64)
    found = zoo.select(poisson_program, x, grid={"k": [1, 2]}, folds=2, restarts=1)
    theirs = zoo.select("poisson_mixture", COUNTS, grid={"num_components": [1, 2]}, folds=2, restarts=1)
    assert found.chosen == {"k": 2}
    assert theirs.chosen == {"num_components": 2}
    for mine, other in zip(found.rows, theirs.rows, strict=True):
        for name in ("log_likelihood", "bic", "aic", "icl", "cv", "cv_se"):
            assert mine[name] == pytest.approx(other[name], abs=2e-3), name


def test_a_program_comes_with_a_guide_of_its_own():
    def make(k):
        program = poisson_program(k)

        def guide(x):
            logits = pyro.param("logits", torch.zeros(len(x), k))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

        return program, guide

    x = torch.tensor(COUNTS[:, 0], dtype=torch.float64)
    found = zoo.select(make, x, grid={"k": [1, 2]}, estimator="svi", max_epochs=3, warmup=0)
    assert [fit.guide_trained for fit in found.fits] == [True, True]


def low_at_first(monkeypatch):
    """Fits of three components are one step from a bad start, unless told how many starts to take."""
    honest = zoo.runs.select.fit
    asked = []

    def low(model, x, **options):
        asked.append((model.num_components, options["restarts"]))
        if model.num_components == 3 and options["restarts"] in (None, 2):
            options |= {"max_iter": 1, "init": "random", "restarts": 1}
        return honest(model, x, **options)

    monkeypatch.setattr(zoo.runs.select, "fit", low)
    return asked


def test_a_larger_model_that_ends_below_a_smaller_one_is_fitted_from_more_starts(monkeypatch):
    asked = low_at_first(monkeypatch)
    found = zoo.select("gaussian_mixture", TWO, grid={"num_components": [1, 2, 3]}, covariance_type="tied")
    assert asked == [(1, None), (2, None), (3, None), (3, 10)]
    likelihoods = [fit.log_likelihood for fit in found.fits]
    assert likelihoods == sorted(likelihoods)
    assert "num_components=3: 10 starts, as the usual ones ended" in found.notes[0]


def test_where_somebody_says_how_many_starts_it_is_told_alone(monkeypatch):
    asked = low_at_first(monkeypatch)
    found = zoo.select("gaussian_mixture", TWO, grid={"num_components": [2, 3]}, restarts=2, covariance_type="tied")
    assert asked == [(2, 2), (3, 2)]
    assert "nats below num_components=2, which it holds as a special case: its best" in found.notes[0]


def test_what_holds_what():
    wide, narrow = {"num_components": 3, "covariance_type": "full"}, {"num_components": 2, "covariance_type": "tied"}
    assert holds(wide, narrow, {}, True)
    assert not holds(narrow, wide, {}, True)
    assert not holds(wide, wide, {}, True)
    assert not holds({"covariance_type": "tied"}, {"covariance_type": "spherical"}, {}, True)
    assert not holds({"num_states": 3}, {"num_states": 2}, {"initial": "uniform"}, True)
    assert not holds({"hidden_dim": 9}, {"hidden_dim": 8}, {}, True)
    assert holds({"k": 9}, {"k": 8}, {}, False)


def test_a_point_that_fails_is_a_row_with_its_reason():
    found = zoo.select("gaussian_mixture", TWO[:6], grid={"num_components": [1, 0, 50]}, restarts=1)
    assert [row["status"] for row in found.rows][:2] == ["converged", "failed"]
    assert found.rows[1]["reason"].startswith("GaussianMixture: num_components expected")
    assert found.chosen == {"num_components": 1}
    assert "num_components=0: GaussianMixture: num_components expected" in " ".join(str(found).split())
    with pytest.raises(ZooError, match="num_components expected"):
        zoo.select("gaussian_mixture", TWO, grid={"num_components": [0]})


def test_a_word_that_nobody_knows_is_refused_before_any_fit(monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.runs.select.fit", lambda *_, **__: pytest.fail("a fit"))
    for values in (["full", "typo"], ["typo", "full"], "typo"):
        with pytest.raises(ZooError, match=r"^GaussianMixture: covariance_type 'typo' is not known"):
            zoo.select("gaussian_mixture", TWO, grid={"num_components": [1, 2], "covariance_type": values})
    monkeypatch.undo()
    found = zoo.select("gaussian_mixture", TWO, grid={"num_components": [0, 1], "covariance_type": ["full", "diag"]})
    assert [row["status"] for row in found.rows] == ["failed", "failed", "converged", "converged"]

    def made(kind, sizes=None):
        if kind == "broken":
            raise RuntimeError("a program of one's own")
        return zoo.GaussianMixture(1, 2, kind)

    found = zoo.select(made, TWO, grid={"kind": ["broken", "full"], "sizes": [[1, 2]]})
    assert [row["status"] for row in found.rows] == ["failed", "converged"]
    with pytest.raises(ZooError, match="covariance_type 'typo' is not known"):
        zoo.select(made, TWO, grid={"kind": ["full", "typo"]})


def test_a_model_without_a_likelihood_is_chosen_by_its_held_out_bound():
    x = torch.tensor(TWO, dtype=torch.float32)
    found = zoo.select("vae", x, grid={"latent_dim": [1, 2]}, folds=2, max_epochs=2, likelihood="gaussian")
    assert found.criterion == "cv"
    assert [name in found.known for name in ("bic", "icl", "cv")] == [False, False, True]
    assert not found.candidates[0].held_out.exact
    assert "CV is of the importance-weighted bound" in str(found)
    with pytest.raises(ZooError, match="bic expected a likelihood"):
        found.chosen_by("bic")


def test_where_nothing_can_choose_a_line_says_so(tmp_path):
    """A network has a bound, which folds compare; a memory has neither a likelihood nor a bound."""
    x = torch.tensor(TWO, dtype=torch.float32)
    network = zoo.select("vae", x, grid={"latent_dim": [1, 2]}, max_epochs=1, likelihood="gaussian")
    assert "nothing is chosen: no criterion without a likelihood. Ask for 5 folds" in " ".join(str(network).split())
    memory = zoo.select("hopfield_network", zoo.load_data("letters"), grid={"rule": ["hebbian", "storkey"]})
    line = "It has no bound of one either: compare its fits by what they are for."
    assert memory.notes == [f"nothing is chosen: no criterion without a likelihood. {line}"]
    with pytest.raises(ZooError, match=r"bic expected a likelihood, got none for hopfield_network\. It has no bound"):
        _ = memory.best
    memory.save(tmp_path / "m")
    assert not (tmp_path / "m" / "best").exists()


def test_what_is_saved_loads_and_says_the_same(selection, tmp_path):
    selection.save(tmp_path / "s")
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert names >= {"selection.json", "selection.csv", "selection.png", "report.html", "best", "components.png"}
    record = json.loads((tmp_path / "s" / "selection.json").read_text())
    assert record["best"]["bic"] == selection.chosen
    assert [row["bic"] for row in record["rows"]] == [row["bic"] for row in selection.rows]
    assert zoo.load(tmp_path / "s" / "best").score(TWO) == pytest.approx(selection.best.log_likelihood)
    page = (tmp_path / "s" / "report.html").read_text()
    assert page.count('<tr class="best">') == 1
    assert "<script" not in page


def test_the_table_names_what_is_best_by_which_criterion(selection):
    lines = str(selection).splitlines()
    assert lines[0].startswith("gaussian_mixture on two: 70 data; lower is better")
    for name in ("bic", "aic", "icl"):
        marked = [line.split()[:2] for line in lines[4:10] if name.upper() in line]
        assert marked == [[str(value) for value in selection.chosen_by(name).point.values()]]
    assert repr(selection).startswith("gaussian_mixture on two: 6 settings, best by bic: covariance_type=")


@pytest.mark.parametrize(
    ("arguments", "said"),
    {
        "no grid": ({"grid": {}}, "grid expected a dict of names and values"),
        "no values": ({"grid": {"num_components": []}}, "grid of num_components expected at least one value"),
        "a name it has not": ({"grid": {"num_states": [2]}}, "argument of GaussianMixture 'num_states' is not known"),
        "another package's name": ({"grid": {"n_components": [2]}}, "Did you mean 'num_components'?"),
        "too many": ({"grid": {"num_components": range(1, 50)}, "folds": 5}, "max_fits=294"),
        "one fold": ({"folds": 1}, "folds expected a whole number of at least 2"),
        "criterion": ({"criterion": "bics"}, "criterion 'bics' is not known. Did you mean 'bic'?"),
        "option": ({"tool": 1}, "option 'tool' is not known"),
        "weights": ({"weights": np.ones(70)}, "option 'weights' is not known"),
    }.values(),
)
def test_a_mistake_is_said_before_any_fit(monkeypatch, arguments, said):
    monkeypatch.setattr(zoo.runs.select, "fit", None)
    with pytest.raises(ZooError) as caught:
        zoo.select("gaussian_mixture", TWO, **{"grid": {"num_components": [1]}, **arguments})
    assert said in str(caught.value)


def test_mistakes_in_what_makes_the_models():
    with pytest.raises(ZooError, match="expected to be a function of k, got one of x"):
        zoo.select(poisson_program(2), COUNTS, grid={"k": [2]})
    with pytest.raises(ZooError, match="got a Linear"):
        zoo.select(torch.nn.Linear(2, 2), COUNTS, grid={"k": [2]})


def test_values_are_taken_once_and_one_alone_counts():
    assert points({"a": np.array([1, 2, 1]), "b": "word"}) == [{"a": 1, "b": "word"}, {"a": 2, "b": "word"}]
    assert points({"a": [1, True]}) == [{"a": 1}, {"a": True}]


def test_a_model_lends_its_class_arguments_and_names():
    import pandas

    frame = pandas.DataFrame(TWO, columns=["length", "width"])
    model = zoo.GaussianMixture(5, 2, covariance_type="diag")
    found = zoo.select(model, frame, grid={"num_components": [1]}, restarts=1)
    assert found.best.model.covariance_type == "diag"
    assert found.best.columns == ("length", "width")
    unsized = zoo.select(zoo.GaussianMixture(num_components=2), frame, grid={"covariance_type": ["tied"]}, restarts=1)
    assert unsized.best.model.num_components == 2


# --- published choices ------------------------------------------------------------------------------------------------


def test_iris_has_two_components(zoo_data):
    found = zoo.select("gaussian_mixture", zoo_data("iris"), grid={"num_components": [1, 2, 3]})
    assert found.chosen == {"num_components": 2}
    assert found.best.bic == pytest.approx(574.02, abs=0.005)


def test_earthquakes_have_three_states_where_the_chain_begins_stationary(zoo_data):
    """Zucchini, MacDonald & Langrock (2016), section 6.1, table 6.1: T = 107 is what BIC counts."""
    grid = {"initial": ["stationary", "free"], "num_states": [2, 3]}
    found = zoo.select("poisson_hmm", zoo_data("earthquakes"), grid=grid, restarts=1)
    assert found.chosen == {"initial": "stationary", "num_states": 3}
    assert found.chosen_by("aic") is found.chosen_by("bic")
    assert found.best.aic == pytest.approx(676.92, abs=0.005)
    assert found.best.bic == pytest.approx(700.98, abs=0.005)
    free = [row["bic"] for row in found.rows if row["initial"] == "free"]
    assert free == pytest.approx([707.12, 708.46], abs=0.005)
    assert not found.notes


@pytest.mark.slow
def test_faithful_has_three_tied_components_and_no_likelihood_falls(zoo_data):
    """mclust's best of these four families up to K = 6 is EEE, 3: BIC -2314.30 in its sign. 24 fits, over a minute.

    Beside it the choice for earthquakes by the usual starts, where the everyday test takes one.
    """
    states = zoo.select("poisson_hmm", zoo_data("earthquakes"), grid={"num_states": range(1, 5)}, initial="stationary")
    assert states.chosen == {"num_states": 3}
    grid = {"covariance_type": ["full", "tied", "diag", "spherical"], "num_components": range(1, 7)}
    found = zoo.select("gaussian_mixture", zoo_data("faithful"), grid=grid)
    assert found.chosen == {"covariance_type": "tied", "num_components": 3}
    assert found.best.bic == pytest.approx(2314.30, abs=0.005)
    for kind in grid["covariance_type"]:
        rising = [row["log_likelihood"] for row in found.rows if row["covariance_type"] == kind]
        assert all(later > before - 1e-3 for before, later in itertools.pairwise(rising))
