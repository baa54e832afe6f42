"""Plain Pyro functions are models too: parameters, networks, modules, saving, isolation."""

from __future__ import annotations

import contextlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import zoo
from zoo.errors import ZooError

X = torch.poisson(
    torch.cat([torch.full((30,), 3.0), torch.full((20,), 20.0)]).double(), generator=torch.Generator().manual_seed(0)
)


def model(x):
    weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
    rate = pyro.param("rate", torch.tensor([1.0, 15.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def guide(x):
    logits = pyro.param("logits", torch.zeros(len(x), 2))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Categorical(logits=logits))


def relaxable(x):
    rate = pyro.param("rate", torch.tensor([[1.0], [15.0]]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", zoo.Selected(dist.Poisson(rate[:, 0]), z), obs=x)


def by_hand(weights, rate):
    terms = torch.distributions.Poisson(rate).log_prob(X[:, None]) + weights.log()
    return float(terms.logsumexp(-1).sum())


def test_eg_needs_no_guide_and_reaches_what_em_reaches():
    fit = zoo.fit(model, X, estimator="eg", max_epochs=800)
    reference = zoo.fit(zoo.PoissonMixture(2, 1), X[:, None])
    assert fit.log_likelihood == pytest.approx(reference.log_likelihood, abs=1e-3)
    assert fit.num_parameters == 3  # two rates, one free weight


def test_parameters_are_the_program_s_and_take_the_dtype_of_the_data():
    fit = zoo.fit(model, X, estimator="eg", max_epochs=50)
    values = {name: p.detach() for name, p in fit.model.named_parameters()}
    assert set(values) == {"param/weights", "param/rate"}
    assert all(p.dtype == torch.float64 for p in values.values())
    weights = torch.softmax(values["param/weights"], -1)
    assert fit.log_likelihood == pytest.approx(by_hand(weights, values["param/rate"].exp()), abs=1e-9)


@pytest.mark.parametrize("estimator", ["svi", "reinforce", "iwae", "rws"])
def test_a_guide_of_functions_serves_guided_estimators(estimator):
    fit = zoo.fit(model, X, estimator=estimator, guide=guide, max_epochs=300, warmup=100)
    best = zoo.fit(model, X, estimator="eg", max_epochs=800).log_likelihood
    assert best - 2 < fit.log_likelihood <= best + 1e-6
    assert fit.elbo <= fit.log_likelihood + 1e-6
    assert fit.predict(X).shape == X.shape


def test_gumbel_takes_a_program_that_can_take_a_simplex():
    fit = zoo.fit(relaxable, X, estimator="gumbel", guide=guide, max_epochs=300, warmup=100)
    exact = zoo.fit(relaxable, X, estimator="eg", max_epochs=800)
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"estimator": "gumbel", "guide": guide}, "simplex at site 'z'.*Use .*eg"),
        ({"estimator": "em"}, "has no e_step.*Use .*eg"),
        ({"estimator": "gumble"}, "Did you mean .gumbel."),
        ({"estimator": "eg", "learning_rat": 0.1}, "Did you mean 'learning_rate'"),
        ({"estimator": "eg", "init": "kmeans++"}, "init 'kmeans"),
        ({"estimator": "eg", "learning_rate": "fast"}, "learning_rate expected a number"),
    ],
)
def test_refusals_name_the_reason_and_a_way_out(arguments, match):
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(model, X, **arguments)


def test_a_continuous_latent_is_refused_for_exact_sums():
    def continuous(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(zoo.ZooError, match=r"site 'z' .* is a continuous latent"):
        zoo.fit(continuous, X, estimator="eg")


def test_networks_of_the_caller_are_left_as_they_are():
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}

    def amortized(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x[:, None] - 3)[:, 0], pyro.param("s", torch.tensor(0.5))))

    def gaussian(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.randn(60, generator=torch.Generator().manual_seed(1)).double() + 3
    fit = zoo.fit(gaussian, x, estimator="svi", guide=amortized, max_epochs=1500)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
    values = {name: p.detach() for name, p in fit.model.named_parameters()}
    assert values["param/m"].item() == pytest.approx(x.mean().item(), abs=0.1)
    # The exact posterior has slope 1 / (1 + 0.25); the fitted copy of the network has found it.
    assert values["param/net$$$weight"].item() == pytest.approx(0.8, abs=0.1)
    exact = dist.Normal(values["param/m"], math.sqrt(1.25)).log_prob(x).sum()
    assert zoo.evaluate(fit, x).importance_bound == pytest.approx(float(exact), abs=0.5)


def test_autoguides_and_pyro_modules_work_and_are_copied():
    class Gaussian(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = PyroParam(torch.tensor(0.0))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(self.loc, 1.0))
                pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    x = torch.randn(40, generator=torch.Generator().manual_seed(1)) + 2
    program = Gaussian()
    fit = zoo.fit(program, x, estimator="svi", guide=AutoNormal(program), max_epochs=800)
    assert program.loc.item() == 0.0
    assert any("loc" in name for name, _ in fit.model.named_parameters())
    assert fit.elbo > zoo.fit(program, x, estimator="svi", guide=AutoNormal(program), max_epochs=1, warmup=0).elbo


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_several_inputs_come_as_a_tuple_or_a_dict(kind):
    def regression(x, y):
        slope = pyro.param("slope", torch.zeros(2))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("y", dist.Normal(slope[z] * x, 0.1), obs=y)

    x = torch.linspace(1, 2, 20).double()
    y = torch.cat([2 * x[:10], -3 * x[10:]])
    start = {"slope": torch.tensor([1.0, -1.0])}

    def started(x, y):
        pyro.param("slope", start["slope"])
        return regression(x, y)

    data = (x, y) if kind == "tuple" else {"x": x, "y": y}
    fit = zoo.fit(started, data, estimator="eg", max_epochs=2000)
    slopes = sorted(fit.model.get_parameter("param/slope").tolist())
    assert slopes == pytest.approx([-3, 2], abs=0.05)
    assert fit.num_data == 20


def test_a_users_parameters_in_the_global_store_stay_unseen_and_untouched():
    pyro.param("rate", torch.tensor([7.0, 8.0]), constraint=constraints.positive)
    before = pyro.get_param_store().get_state()["params"]["rate"].detach().clone()
    fit = zoo.fit(model, X, estimator="eg", max_epochs=5)
    assert list(pyro.get_param_store().keys()) == ["rate"]
    assert torch.equal(pyro.get_param_store().get_state()["params"]["rate"], before)
    first = fit.history["log_likelihood"][0]
    assert first == pytest.approx(by_hand(torch.ones(2).double() / 2, torch.tensor([1.0, 15.0]).double()), abs=1e-6)
    pyro.clear_param_store()


def near_its_data(x):
    mean = pyro.param("mean", x.mean())
    scale = pyro.param("scale", x.std(), constraint=constraints.positive)
    low = pyro.param("low", x[:3].sort().values.float())
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("x", dist.StudentT(4.0, mean + low[z], scale), obs=x)


def test_a_program_that_starts_at_its_datas_spread_loads_where_there_are_no_data(tmp_path):
    fit = zoo.fit(near_its_data, X, max_iter=3)
    again = zoo.load(fit.save(tmp_path / "run"), model=near_its_data)
    assert again.score(X) == fit.score(X)


class Shifted(zoo.LatentVariableModel):
    def __init__(self, shift: float = 1.0) -> None:
        super().__init__()
        self.shift = shift
        self.loc = PyroParam(torch.tensor(0.5, dtype=self.dtype))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5, dtype=x.dtype)))
            pyro.sample("x", dist.Normal(self.loc + self.shift * z, 1.0), obs=x)


def test_a_class_of_a_users_own_is_built_as_it_was_saved(tmp_path):
    fit = zoo.fit(Shifted(shift=7.0), X, max_iter=3)
    fit.save(tmp_path / "run")
    with pytest.raises(ZooError, match=r"holds the class 'shifted' of a user; pass model=\.\.\."):
        zoo.load(tmp_path / "run")
    again = zoo.load(tmp_path / "run", model=Shifted)
    assert again.model.shift == 7.0
    assert again.score(X) == fit.score(X)
    with pytest.raises(ZooError, match="Silent cannot be built as it was saved"):
        zoo.load(tmp_path / "run", model=Silent)


class Silent(zoo.LatentVariableModel):
    def __init__(self) -> None:
        self.shift = 1.0

    model = Shifted.model


class Unborn(Shifted):
    def __init__(self) -> None:
        self.loc = nn.Parameter(torch.ones(1))


class Bare(zoo.LatentVariableModel):
    def model(self, x):
        near_its_data(x)


def test_classes_that_lack_something_say_what():
    for kind in (Silent, Unborn):
        with pytest.raises(ZooError, match=f"{kind.__name__}: __init__ expected to call super\\(\\).__init__\\(\\)"):
            kind()
    with pytest.raises(ZooError, match="Empty: expected a method model"):
        zoo.fit(type("Empty", (zoo.LatentVariableModel,), {})(), torch.zeros(3, 2))
    assert Bare().config == {}  # needs no constructor
    with pytest.raises(TypeError):
        Shifted(1.0, 2.0)


class Coded(zoo.LatentVariableModel):
    """A class of a user's own with networks: what is wrong with its data shows in the first run alone."""

    def __init__(self, num_features: int = 2) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(num_features, 2), nn.Linear(1, num_features)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(self.decoder(z).exp()).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(x.log1p()).split(1, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.ones(4, 3), r"in .*test_programs.py, line \d+ \(RuntimeError: mat1 and mat2 shapes .*\(4x3 and 2x2\)\)"),
        (torch.ones(4, 2) / 2, r"log_prob at site 'x': Expected value argument .* within the support"),
        (-2 * torch.ones(4, 2), "Expected parameter loc .* found invalid values:"),
    ],
)
def test_what_a_class_of_a_users_own_cannot_take_is_one_line(x, said):
    with pytest.raises(ZooError, match=f"the program 'Coded' failed on its data.*{said}.*Run it by itself") as caught:
        zoo.fit(Coded(), x)
    assert "\n" not in str(caught.value)


def regression(x, y):
    slope = pyro.param("slope", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(slope * x + z, 1.0), obs=y)


def test_data_that_are_not_the_arguments_of_a_program_are_refused_by_name():
    fit = zoo.fit(regression, (X, 2 * X), max_iter=2)
    with pytest.raises(ZooError, match=r"regression: data expected for its arguments x, y, got one array"):
        fit.predict(X)
    for data, got in ((X, "one array"), ((X, X, X), "3 of them"), ({"x": X, "t": X}, "x, t")):
        with pytest.raises(ZooError, match=rf"arguments x, y, got {got} .* Pass \(x, y\), or a dict"):
            zoo.fit(regression, data)
    with pytest.raises(ZooError, match=r"near_its_data: data expected for its arguments x, got 2 of them .* one array"):
        zoo.fit(near_its_data, (X, X))


def test_saved_programs_load_with_the_program_given(tmp_path):
    fit = zoo.fit(model, X, estimator="svi", guide=guide, max_epochs=50)
    fit.save(tmp_path / "run")
    with pytest.raises(zoo.ZooError, match="pass model="):
        zoo.load(tmp_path / "run")
    again = zoo.load(tmp_path / "run", model=model, guide=guide)
    assert again.log_likelihood == fit.log_likelihood
    assert again.history == fit.history
    assert again.score(X) == fit.score(X)
    assert torch.equal(again.sample(5), fit.sample(5))


def test_a_program_that_fails_is_named_in_one_line():
    def broken(x):
        return x.no_such_method()

    with pytest.raises(zoo.ZooError, match="'broken' failed on its data") as caught:
        zoo.fit(broken, X, estimator="eg")
    assert "\n" not in str(caught.value)


def test_evaluate_agrees_with_the_exact_evidence_and_grades_the_guide():
    def gaussian(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def good(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, math.sqrt(0.2)))

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x + 1, 0.1))

    x = torch.randn(20, generator=torch.Generator().manual_seed(1)).double()
    exact = float(dist.Normal(x.new_tensor(0.0), x.new_tensor(1.25).sqrt()).log_prob(x).sum())
    best = zoo.evaluate(gaussian, x, guide=good)
    assert best.importance_bound == pytest.approx(exact, abs=1e-9)
    assert best.elbo == pytest.approx(exact, abs=1e-9)
    assert bool((best.khat == -math.inf).all())
    poor = zoo.evaluate(gaussian, x, guide=narrow)
    assert poor.elbo < exact - 10
    assert (poor.khat > 0.7).double().mean() > 0.9
    assert zoo.evaluate(gaussian, x, guide=good).log_likelihood is None


def test_the_tensor_a_parameter_starts_from_stays_the_caller_s():
    start = torch.tensor([1.0, 15.0], dtype=torch.float64)

    def program(x):
        loc = pyro.param("loc", start)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(loc[z], 3.0), obs=x)

    zoo.fit(program, X, estimator="auto_em", max_iter=2)
    assert not start.requires_grad
    assert start.tolist() == [1.0, 15.0]


def test_a_program_without_a_guide_gets_one_of_tables():
    """One latent a datum: the table holds the exact posterior, so the bound comes close to the evidence."""
    fit = zoo.fit(model, X, estimator="svi", max_epochs=1500)
    exact = zoo.fit(model, X, estimator="auto_em")
    assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=0.1)
    assert fit.elbo <= fit.log_likelihood
    assert fit.elbo == pytest.approx(fit.log_likelihood, abs=0.5)


@pytest.mark.parametrize("estimator", ["svi", "eg", "iwae", "reinforce"])
def test_a_program_of_functions_is_followed_on_held_out_data(estimator):
    """Scores of held-out data take no gradient, which Pyro's enumeration has to be told."""

    def amortized(x):
        slope = pyro.param("slope", torch.tensor([0.1, -0.1]))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Categorical(logits=x[:, None] * slope))

    fit = zoo.fit(model, X, estimator=estimator, guide=amortized, validation=0.2, max_epochs=5)
    assert fit.status != "diverged"
    assert len(fit.history["validation"]) == 5
    assert all(math.isfinite(value) for value in fit.history["validation"])


# --- a guide that does not fit its program ----------------------------------------------------------------------------


def _own_model(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def _guide_of(name, event_dims=1):
    def guide(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", x.shape[0]) if event_dims == 1 else contextlib.nullcontext():
            shape = (2,) if event_dims == 1 else (x.shape[0], 2)
            if name is not None:
                pyro.sample(name, dist.Normal(loc, 1.0).expand(shape).to_event(event_dims))

    return guide


@pytest.mark.parametrize(
    ("guide", "says"),
    [
        (_guide_of("w"), r"expected to draw the latents of the program '_own_model', 'z', got 'w'\. Give it the name"),
        (_guide_of(None), r"got none for 'z'\. Sample 'z' in it\."),
        (
            _guide_of("z", 2),
            r"site 'z' expected as many event dimensions in the guide as in the program, got 2 and 1\.",
        ),
    ],
)
@pytest.mark.parametrize("estimator", ["svi", "iwae"])
def test_a_guide_draws_the_programs_latents(guide, says, estimator):
    with pytest.raises(ZooError, match=says):
        zoo.fit(_own_model, torch.randn(8), guide=guide, estimator=estimator, max_epochs=2)
    assert zoo.fit(_own_model, torch.randn(8), guide=_guide_of("z"), estimator=estimator, max_epochs=2).iterations == 2
