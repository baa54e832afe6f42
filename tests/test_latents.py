"""What a fit says of its latents, and what is left of it where scoring fails."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from zoo.errors import ZooError
from zoo.reporting.seen import responsibilities
from zoo.runs.latents import centre, most_probable

X = torch.tensor([0.0, 1.0, 0.0, 2.0, 9.0, 11.0, 8.0], dtype=torch.float64)
TRUTH = [0, 0, 0, 0, 1, 1, 1]


def counts(x):
    rate = pyro.param("rate", torch.tensor([2.0, 6.0]), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def table_guide(x):
    """A user's guide, which an exact estimator never trains."""
    logits = pyro.param("logits", torch.zeros(len(x), 2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=logits))


def shares(fit):
    """p(z = 1 | x) by Bayes' rule at the fitted rates."""
    rate = fit.model.get_parameter("param/rate").detach().exp()
    return dist.Poisson(rate).log_prob(X[:, None]).softmax(-1)


def test_every_fit_of_a_comparison_has_the_exact_labels():
    """Also those that stand beside a guide that they did not train."""
    made = zoo.compare(counts, X, estimators=["auto_em", "eg", "svi"], max_epochs=40, warmup=20, gradients=False)
    for fit in made.fits:
        assert fit.guide_trained == (fit.estimator == "svi")
        assert fit.exact_q == (fit.estimator != "svi")
        assert torch.allclose(fit.posterior(X).probs, shares(fit), atol=1e-9)
        assert torch.equal(fit.predict(X), shares(fit).argmax(-1))
        assert responsibilities(fit, X) == pytest.approx(shares(fit).numpy())
    assert made.fits[0].predict(X).tolist() == TRUTH
    draws = made.to_inference_data(300).posterior["z"].values  # (fits, draws, data)
    for i in (0, 1):
        assert draws[i].mean(0) == pytest.approx(shares(made.fits[i])[:, 1].numpy(), abs=0.12)


@pytest.mark.parametrize("estimator", ["eg", "svi"])
def test_a_users_guide_is_not_asked_where_the_posterior_is_exact(estimator):
    fit = zoo.fit(counts, X, guide=table_guide, estimator=estimator, max_epochs=3)
    assert torch.allclose(fit.posterior(X).probs, shares(fit), atol=1e-9)
    assert fit.predict(X[:3]).shape == (3,)  # other data than the guide's table has


def test_exactness_comes_back_from_a_folder(tmp_path):
    fit = zoo.fit(counts, X, estimator="auto_em")
    assert zoo.load(fit.save(tmp_path / "fit"), counts).exact_q


class Gauge(zoo.LatentVariableModel):
    """A continuous latent with an exact E step of its own, and a guide that `em` does not train."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = zoo.core.contract.parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.25 * x, 0.5))

    def log_marginal(self, x):
        return dist.Normal(self.loc, 2.0**0.5).log_prob(x)


def test_an_untrained_guide_answers_nothing():
    fit = zoo.fit(Gauge(), X, estimator="eg", max_epochs=3)
    for ask in (fit.posterior, fit.predict):
        with pytest.raises(ZooError, match=r"site 'z' \(Normal\) has no finite support .* not trained by eg\. Fit"):
            ask(X)
    trained = zoo.fit(Gauge(), X, estimator="svi", max_epochs=3)
    assert torch.allclose(trained.predict(X).double(), 0.25 * X)


def chain(x):
    step = torch.tensor([[0.95, 0.05], [0.4, 0.6]])
    p = pyro.param("p", torch.tensor([0.3, 0.7]), constraint=constraints.unit_interval)
    z = torch.tensor(0)
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(step[z]))
            pyro.sample(f"y{t}", dist.Bernoulli(p[z]), obs=x[:, t])


def test_several_latents_are_decoded_together():
    """The most probable path, which the most probable state of each step is not."""
    x = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    fit = zoo.fit(chain, x, estimator="eg", max_epochs=1, learning_rate=1e-9)
    step = torch.tensor([[0.95, 0.05], [0.4, 0.6]])
    p = torch.tensor([0.3, 0.7])
    labels = fit.predict(x)
    for n in range(2):
        paths = {}
        for a, b, c in ((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)):
            chances = step[0, a] * step[a, b] * step[b, c]
            for z, y in zip((a, b, c), x[n], strict=True):
                chances = chances * (p[z] if y else 1 - p[z])
            paths[a, b, c] = float(chances)
        assert tuple(int(labels[f"z{t}"][n]) for t in range(3)) == max(paths, key=paths.__getitem__)
        total = sum(paths.values())
        for t in range(3):
            one = sum(w for path, w in paths.items() if path[t] == 1) / total
            assert float(fit.posterior(x)[f"z{t}"].probs[n, 1]) == pytest.approx(one, abs=1e-5)


def test_the_centre_of_a_distribution():
    assert centre(dist.LogNormal(torch.tensor([1.0, 2.0]), 3.0)).tolist() == pytest.approx([2.718282, 7.389056])
    assert centre(dist.Normal(0.0, 1.0).expand([3]).to_event(1)).shape == (3,)
    assert centre(dist.Delta(torch.tensor([1.0, 2.0]), event_dim=1)).tolist() == [1.0, 2.0]
    assert centre(dist.Beta(torch.tensor(1.0), 3.0)).item() == pytest.approx(0.25)
    torch.manual_seed(0)
    assert centre(dist.StudentT(torch.tensor(0.5), 0.0, 1.0)).isfinite()  # has no mean: a draw
    assert most_probable(dist.Bernoulli(torch.tensor([0.2, 0.9]))).tolist() == [0, 1]
    assert most_probable(dist.OneHotCategorical(torch.tensor([[0.2, 0.8], [0.7, 0.3]]))).tolist() == [1, 0]
    assert most_probable(dist.Binomial(3, torch.tensor([0.1, 0.9]))).tolist() == [0, 3]
    assert most_probable(dist.Bernoulli(torch.tensor([[0.2, 0.9]])).to_event(1)).tolist() == [[0, 1]]


# --- a failure in scoring ---


class Breaking:
    """A program that works until it is told to fail."""

    def __init__(self) -> None:
        self.broken = False

    def __call__(self, x):
        if self.broken:
            raise RuntimeError("out of memory\nmore of it")
        counts(x)


@pytest.mark.parametrize("estimator", ["auto_em", "eg", "svi"])
def test_a_fit_outlives_its_scores(estimator, monkeypatch, tmp_path):
    from zoo.runs.one_start import finish

    program = Breaking()

    def broken(*args, **kwargs):
        program.broken = True
        try:
            return finish(*args, **kwargs)
        finally:
            program.broken = False

    monkeypatch.setattr("zoo.runs.one_start.finish", broken)
    options = {"max_iter": 3} if estimator == "auto_em" else {"max_epochs": 3}
    fit = zoo.fit(program, X, estimator=estimator, **options)
    assert fit.log_likelihood is None
    assert fit.elbo is None
    assert fit.elbo_se is None
    assert "no log-likelihood: RuntimeError: out of memory" in fit.notes
    assert fit.iterations > 0
    assert fit.predict(X).shape == X.shape
    fit.save(tmp_path / "fit")
    assert "no log-likelihood" in str(fit)


def test_ctrl_c_while_scoring_keeps_the_fit(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.runs.one_start.total_log_likelihood", interrupted)
    fit = zoo.fit(counts, X, estimator="auto_em", max_iter=3)
    assert fit.status == "interrupted"
    assert "no log-likelihood: interrupted" in fit.notes


def test_a_comparison_outlives_its_pictures_and_gradients(monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("no room left")

    monkeypatch.setattr("zoo.runs.compare.gradient_quality", broken)
    monkeypatch.setattr("zoo.reporting.fit_pictures.plot_responsibilities", broken)
    made = zoo.compare(counts, X, estimators=["auto_em", "reinforce"], options={"reinforce": {"max_epochs": 3}})
    assert len(made.fits) == 2
    assert made.notes == ["no gradient quality: RuntimeError: no room left"]
    assert "no gradient quality" in str(made)
    page = (made.save(tmp_path / "made") / "report.html").read_text()
    assert "no picture &#x27;Responsibilities&#x27;: RuntimeError: no room left" in page
    assert (tmp_path / "made" / "comparison.png").is_file()
    assert not list((tmp_path / "made").glob("*responsibilities*"))
