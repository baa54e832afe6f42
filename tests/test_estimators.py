"""Estimators against Pyro where Pyro is right, against exact enumeration elsewhere; how runs end."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI as PyroSVI
from pyro.infer import ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import kl_divergence

import zoo
from guides import AmortizedCategorical
from tests.printing import printed
from zoo.core.functions import as_model
from zoo.core.problem import Problem
from zoo.core.schedule import Schedule
from zoo.core.stage import Stage
from zoo.estimators import estimator_classes
from zoo.estimators.base import Run
from zoo.estimators.eg import EG
from zoo.estimators.gumbel import Gumbel, GumbelObjective, StraightThroughGumbel
from zoo.estimators.iwae import iwae_surrogate
from zoo.estimators.loop.train import train
from zoo.estimators.reinforce import reinforce_surrogate
from zoo.estimators.rws import rws_surrogate
from zoo.estimators.svi import SVI
from zoo.models.poisson_mixture import PoissonMixture, tiny
from zoo.scores.bounds import elbo_module

DRAWS = 600
Surrogate = Callable[..., tuple[Tensor, Tensor]]


# --- programs of a user's own -------------------------------------------------------------------------------------


def counts() -> Tensor:
    return tiny()[1][:, :1]


def discrete_model(x: Tensor) -> None:
    weights = pyro.param("weights", torch.tensor([0.4, 0.6], dtype=torch.float64), constraints.simplex)
    rates = pyro.param("rates", torch.tensor([1.0, 5.0], dtype=torch.float64), constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rates[z]), obs=x[..., 0])


def discrete_guide(x: Tensor) -> None:
    logits = pyro.param("q", torch.zeros(12, 2, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Categorical(logits=logits))


def continuous_model(x: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor(0.7, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.StudentT(5.0, x.new_zeros(()), x.new_ones(())))
        pyro.sample("x", dist.Normal(slope * z, x.new_tensor(0.5)), obs=x[..., 0])


def continuous_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(12, dtype=torch.float64))
    scale = pyro.param("scale", torch.ones(12, dtype=torch.float64), constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


def owned(model: Any, guide: Any, x: Tensor) -> Any:
    """The program as a model of ours, its parameters created."""
    built = as_model(model, guide)
    built.initialize(x, "current")
    return built


# --- the loop is Pyro's SVI -----------------------------------------------------------------------------------------


@pytest.fixture
def constant_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Schedule, "rate", lambda self, fraction: self.learning_rate)


@pytest.mark.usefixtures("constant_rate")
@pytest.mark.parametrize(
    ("model", "guide", "estimator", "loss"),
    [
        (discrete_model, discrete_guide, SVI(), TraceEnum_ELBO(max_plate_nesting=1)),
        (continuous_model, continuous_guide, SVI(), Trace_ELBO()),
        (discrete_model, None, EG(), TraceEnum_ELBO(max_plate_nesting=1)),
    ],
    ids=["svi-discrete", "svi-continuous", "eg"],
)
def test_the_path_is_that_of_pyros_svi(model: Any, guide: Any, estimator: Any, loss: Any) -> None:
    x, steps = counts(), 60
    ours = owned(model, guide, x)
    objective = estimator.objective(Problem(ours, x))
    run = Run()
    torch.manual_seed(11)
    train(Problem(ours, x), Stage("climb", objective, Schedule(steps, len(x), 0.02)), run)

    program, q = model, guide or (lambda x: None)
    if estimator.name == "eg":
        program = config_enumerate(model)
    elif model is discrete_model:
        q = config_enumerate(guide)
    per_datum = poutine.scale(scale=1 / len(x))
    with pyro.get_param_store().scope():
        torch.manual_seed(11)
        svi = PyroSVI(per_datum(program), per_datum(q), pyro.optim.Adam({"lr": 0.02}), loss)
        losses = [svi.step(x) for _ in range(steps)]
        theirs = {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}
    assert len(theirs) >= 2
    assert run.history["objective"] == pytest.approx([-value * len(x) for value in losses], rel=1e-10)
    assert losses[-1] != losses[0]
    for name, value in theirs.items():
        torch.testing.assert_close(ours.get_parameter(f"param/{name}").detach(), value, rtol=1e-9, atol=1e-10)


def test_the_rate_falls_to_a_hundredth() -> None:
    schedule = Schedule(learning_rate=0.5)
    assert schedule.rate(0.0) == pytest.approx(0.5)
    assert schedule.rate(1.0) == pytest.approx(0.005)
    rates = [schedule.rate(i / 50) for i in range(51)]
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert schedule.resolve(150) == (3000, 150)
    assert schedule.resolve(50_000) == (16, 256)


# --- surrogates -------------------------------------------------------------------------------------------------------


def untrained() -> tuple[PoissonMixture, Tensor]:
    """A mixture whose guide is neither the posterior nor the prior; few data, so that averages settle."""
    model, x = tiny()
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=p.dtype) * 0.3)
    return model, x[:4]


def trained_names(model: Any) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def gradient(scalar: Tensor, model: Any) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(
                model.parameters(),
                torch.autograd.grad(scalar, list(model.parameters()), allow_unused=True),
                strict=True,
            )
        ]
    )


def averaged(surrogate: Surrogate, model: Any, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and standard error of -∇ surrogate and of the bound, over many draws."""
    grads, bounds = [], []
    for _ in range(DRAWS):
        loss, bound, _ = surrogate(model, x, k, 1)
        grads.append(-gradient(loss, model))
        bounds.append(bound)
    g, b = torch.stack(grads), torch.stack(bounds)
    return g.mean(0), g.std(0) / DRAWS**0.5, b.mean(), b.std() / DRAWS**0.5


def draws_of_k(model: PoissonMixture, x: Tensor, k: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Every combination of k draws, per datum: its probability (N,), ln p and ln q of each draw, (k, N)."""
    log_joint, log_q = model.log_joint(x), model.encoder(x).logits
    found = []
    for combination in itertools.product(range(model.num_components), repeat=k):
        index = list(combination)
        found.append((log_q[:, index].sum(-1).exp(), log_joint[:, index].T, log_q[:, index].T))
    return found


def exact_bound(model: PoissonMixture, x: Tensor, k: int) -> Tensor:
    """E ln mean_k p(x, z_k) / q(z_k | x), mean over data, summed over every combination of draws."""
    parts = [share * ((p - q).logsumexp(0) - math.log(k)) for share, p, q in draws_of_k(model, x, k)]
    return torch.stack(parts).sum(0).mean()


def within(ours: Tensor, exact: Tensor, error: Tensor, sigmas: float = 4.0) -> None:
    # Fixed seeds: this either holds or does not, always.
    assert ((ours - exact).abs() <= sigmas * error + 1e-12).all(), (ours - exact, error)


def test_reinforce_is_unbiased_in_model_and_guide() -> None:
    model, x = untrained()
    exact = exact_bound(model, x, 1)
    expected = gradient(exact, model)
    grad, error, bound, bound_error = averaged(reinforce_surrogate, model, x, 3)
    within(grad, expected, error)
    within(bound, exact.detach(), bound_error)
    assert ((expected.abs() > 8 * error).sum()) >= 5, "errors so wide that anything would pass"


@pytest.mark.parametrize("k", [2, 3])
def test_vimco_is_unbiased_in_model_and_guide(k: int) -> None:
    model, x = untrained()
    exact = exact_bound(model, x, k)
    expected = gradient(exact, model)
    grad, error, bound, bound_error = averaged(iwae_surrogate, model, x, k)
    within(grad, expected, error)
    within(bound, exact.detach(), bound_error)
    assert ((expected.abs() > 8 * error).sum()) >= 5, "errors so wide that anything would pass"


def test_the_importance_bound_rises_towards_the_evidence() -> None:
    model, x = untrained()
    with torch.no_grad():
        evidence = float(model.log_marginal(x).mean())
        exact = [float(exact_bound(model, x, k)) for k in (1, 2, 4)]
        assert exact[0] < exact[1] - 1e-3 < exact[2] - 2e-3 < evidence
        ours = [torch.stack([iwae_surrogate(model, x, k, 1)[1] for _ in range(DRAWS)]) for k in (2, 4, 64)]
    within(ours[0].mean(), torch.tensor(exact[1]), ours[0].std() / DRAWS**0.5)
    within(ours[1].mean(), torch.tensor(exact[2]), ours[1].std() / DRAWS**0.5)
    assert ours[0].mean() < ours[1].mean() < ours[2].mean() < evidence + 1e-3
    assert float(ours[2].mean()) == pytest.approx(evidence, abs=0.02)


def test_rws_follows_the_self_normalised_weights() -> None:
    model, x = untrained()
    k = 3
    climbed = torch.stack(
        [share.detach() * ((p - q).detach().softmax(0) * (p + q)).sum(0) for share, p, q in draws_of_k(model, x, k)]
    )
    expected = gradient(climbed.sum(0).mean(), model)
    grad, error, bound, bound_error = averaged(rws_surrogate, model, x, k)
    within(grad, expected, error)
    within(bound, exact_bound(model, x, k).detach(), bound_error)
    assert ((expected.abs() > 8 * error).sum()) >= 5, "errors so wide that anything would pass"


@pytest.mark.parametrize("k", [2, 5])
def test_rws_is_pyros_for_a_single_datum(k: int) -> None:
    """Pyro weights a batch jointly, which is the same thing for a batch of one."""
    model, x = untrained()
    x = x[:1]
    for seed in range(3):
        torch.manual_seed(seed)
        loss, bound, _ = rws_surrogate(model, x, k, 1)
        ours = gradient(loss, model)
        for p in model.parameters():
            p.grad = None
        torch.manual_seed(seed)
        pyros = ReweightedWakeSleep(num_particles=k, vectorize_particles=True, max_plate_nesting=1)
        wake_theta, _ = pyros.loss_and_grads(model.model, model.guide, x)
        assert -float(bound) == pytest.approx(float(wake_theta), rel=1e-12)
        theirs = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("surrogate", [iwae_surrogate, reinforce_surrogate])
def test_continuous_surrogates_are_the_elbos_gradient(surrogate: Surrogate) -> None:
    """One importance sample is the ELBO; without discrete sites the score function has nothing to do."""
    x = counts()
    model = owned(continuous_model, continuous_guide, x)
    k = 1 if surrogate is iwae_surrogate else 4
    torch.manual_seed(2)
    loss, bound, _ = surrogate(model, x, k, 1)
    ours = gradient(loss, model)
    torch.manual_seed(2)
    pyros = Trace_ELBO(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)
    value = pyros.differentiable_loss(model.model, model.guide, x) / len(x)
    torch.testing.assert_close(ours, gradient(value, model), rtol=1e-9, atol=1e-12)
    assert float(bound) == pytest.approx(-float(value.detach()), rel=1e-12)
    assert ours.abs().max() > 0.01


def test_particles_lie_left_of_the_data() -> None:
    """More particles, the same expectation: the bound of many draws is the exact ELBO up to its error."""
    model, x = untrained()
    with torch.no_grad():
        log_weight = zoo.core.weighing.log_weights(model, x, 4000)
        exact = (model.encoder(x).probs * (model.log_joint(x) - model.encoder(x).logits)).sum(-1)
    assert log_weight.shape == (4000, len(x))
    within(log_weight.mean(0), exact, log_weight.std(0) / 4000**0.5)


# --- relaxations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [Gumbel(), StraightThroughGumbel()], ids=["gumbel", "st_gumbel"])
def test_gumbel_at_the_corners_is_the_discrete_bound(options: Gumbel) -> None:
    model, x = tiny()
    corner = torch.nn.functional.one_hot(model.predict(x), 2) * 1000.0

    class Certain(AmortizedCategorical):
        def forward(self, x: Tensor) -> dist.Categorical:
            return dist.Categorical(logits=corner.to(x))

    model.encoder = Certain(2, 2).double()
    objective = GumbelObjective(Problem(model, x), 1, options)
    objective.at(1.0)
    expected = -float(elbo_module(Problem(model, x))(x).detach()) / len(x)
    for seed in range(3):
        torch.manual_seed(seed)
        assert float(objective(x)[1]) == pytest.approx(expected, rel=1e-12)


def test_gumbel_without_temperature_is_the_discrete_bound_on_average() -> None:
    model, x = untrained()
    exact = exact_bound(model, x, 1).detach()
    for options in (Gumbel(temperature=1e-4), StraightThroughGumbel(temperature=1e-4), StraightThroughGumbel()):
        values = torch.stack([GumbelObjective(Problem(model, x), 3, options)(x)[1] for _ in range(DRAWS // 2)])
        within(values.mean(), exact, values.std() / len(values) ** 0.5)
        assert float(values.std()) > 1e-3


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_gumbels_kl_is_that_of_the_categoricals(temperature: float) -> None:
    """With equal components the likelihood does not depend on z: no draw, no temperature may show."""
    model, x = untrained()
    model.rates = torch.tensor([[2.0, 3.0], [2.0, 3.0]])
    kl = kl_divergence(model.encoder(x), dist.Categorical(model.weights)).detach()
    expected = (model.log_marginal(x).detach() - kl).mean()
    for seed in range(3):
        torch.manual_seed(seed)
        bound = GumbelObjective(Problem(model, x), 2, Gumbel(temperature=temperature))(x)[1]
        assert float(bound) == pytest.approx(float(expected), rel=1e-12)
    assert float(kl.mean()) > 1e-3


def test_annealing_is_geometric() -> None:
    model, x = tiny()
    objective = GumbelObjective(Problem(model, x), 1, Gumbel(temperature=2.0, final_temperature=0.5))
    seen = []
    for fraction in (0.0, 0.5, 1.0):
        objective.at(fraction)
        seen.append(objective.temperature)
    assert seen == pytest.approx([2.0, 1.0, 0.5])


@pytest.mark.parametrize("estimator", ["gumbel", "st_gumbel"])
def test_a_program_that_indexes_with_z_is_refused_by_site(estimator: str) -> None:
    with pytest.raises(zoo.ZooError, match=r"cannot fit this model: .* site 'z' .*zoo\.Selected"):
        zoo.fit(discrete_model, counts(), guide=discrete_guide, estimator=estimator)


def test_an_untrained_guide_does_not_move_the_model_while_it_warms_up() -> None:
    model, x = untrained()
    before, bound = copy.deepcopy(model), exact_bound(model, x, 1)
    SVI(warmup=200).warm_up(Problem(model, x), Run())
    assert torch.equal(model.rates, before.rates)
    assert torch.equal(model.weights, before.weights)
    assert float((exact_bound(model, x, 1) - bound).detach()) > 0.05


@pytest.mark.parametrize(
    ("estimator", "options", "beta", "column"),
    [
        ("svi", {}, 1.0, "elbo"),
        ("svi", {"anneal_epochs": 1}, 1.0, "elbo"),
        ("svi", {}, 4.0, "bound"),
        ("reinforce", {}, 1.0, "elbo"),
        ("reinforce", {}, 4.0, "bound"),
        ("iwae", {"num_particles": 1}, 4.0, "elbo"),
        ("iwae", {"num_particles": 5}, 1.0, "bound"),
        ("rws", {}, 1.0, "bound"),
    ],
)
def test_only_an_elbo_is_called_one(estimator: str, options: dict[str, Any], beta: float, column: str) -> None:
    model = zoo.VAE(6, 2, (5,), beta=beta)
    x = torch.bernoulli(torch.full((8, 6), 0.4))
    fit = zoo.fit(model, x, estimator=estimator, max_epochs=2, **options)
    assert fit.history[column] == fit.history["objective"]
    assert {"elbo", "bound"} & {name for name, values in fit.history.items() if values[0] is not None} == {column}


@pytest.mark.parametrize(("estimator", "column"), [("gumbel", "bound"), ("st_gumbel", "elbo")])
def test_a_relaxed_bound_is_no_elbo(estimator: str, column: str) -> None:
    model, x = tiny()
    fit = zoo.fit(model, x, estimator=estimator, max_epochs=2, warmup=0)
    assert fit.history[column] == fit.history["objective"]
    assert (fit.history["elbo"][0] is None) == (column == "bound")


def test_alternating_phases() -> None:
    model, x = untrained()
    moves = SVI(schedule="alternating", phase_steps=3).moving(Problem(model, x))
    assert moves is not None
    kinds = ["guide" if any("encoder" in n for n in moves(step)) else "model" for step in range(9)]
    assert kinds == ["guide"] * 3 + ["model"] * 3 + ["guide"] * 3
    fit = zoo.fit(
        model, x, estimator="svi", schedule="alternating", init="current", phase_steps=5, max_epochs=5, warmup=0
    )
    assert torch.equal(fit.model.rates, model.rates)
    assert not torch.equal(fit.model.get_parameter("encoder.1.weight"), model.get_parameter("encoder.1.weight"))
    fit = zoo.fit(
        model, x, estimator="svi", schedule="alternating", init="current", phase_steps=5, max_epochs=10, warmup=0
    )
    assert not torch.equal(fit.model.rates, model.rates)


# --- how runs end -----------------------------------------------------------------------------------------------------


def sample(rows: int = 400) -> Tensor:
    truth, _ = tiny()
    generator = torch.Generator().manual_seed(4)
    z = torch.bernoulli(torch.full((rows,), 0.6, dtype=torch.float64), generator=generator).long()
    return torch.poisson(truth.rates.detach()[z], generator=generator)


class Lowering(PoissonMixture):
    """An M step that goes wrong the third time."""

    def m_step(self, statistics: zoo.Statistics) -> list[str]:
        notes = super().m_step(statistics)
        self.done = getattr(self, "done", 0) + 1
        if self.done == 3:
            self.rates = self.rates.detach() * 1.5
        return notes


def test_a_falling_likelihood_is_an_error_with_the_fit_inside() -> None:
    x = sample()
    start = tiny()[0].config
    model = Lowering(**start)
    sound = PoissonMixture(**start)
    reached = zoo.fit(sound, x, estimator="em", init="current", tol=0.0, max_iter=3)
    with pytest.raises(zoo.LikelihoodDecreased, match="at iteration 4") as caught:
        zoo.fit(model, x, estimator="em", init="current", tol=0.0, max_iter=20)
    assert caught.value.iteration == 4
    assert caught.value.decrease > 1
    fit = caught.value.fit
    assert fit is not None
    assert fit.status == "diverged"
    assert fit.iterations == 3
    assert fit.log_likelihood == pytest.approx(reached.history["log_likelihood"][2], rel=1e-13)


def test_em_ends_as_it_says() -> None:
    model, x = tiny()[0], sample()
    exactly = zoo.fit(model, x, estimator="em", tol=0.0, max_iter=7)
    assert (exactly.status, exactly.iterations) == ("max_iter", 7)
    converged = zoo.fit(model, x, estimator="em")
    gains = [b - a for a, b in itertools.pairwise(converged.history["objective"])]
    assert converged.status == "converged"
    assert gains[-1] < 1e-9 * len(x) <= gains[-2]
    assert min(gains) > -1e-9
    assert converged.log_likelihood == pytest.approx(converged.history["log_likelihood"][-1], rel=1e-14)
    stalled = zoo.fit(model, x, estimator="em", tol=1e-18)
    assert stalled.status == "stalled"
    assert zoo.fit(model, x, estimator="em", max_seconds=0.0).iterations == 1


@pytest.mark.parametrize("estimator", ["em", "online_em", "eg", "svi"])
def test_an_interrupt_keeps_what_was_reached(estimator: str) -> None:
    def callback(row: dict[str, Any], fraction: float | None) -> None:
        rows.append(row)
        if len(rows) == 3:
            raise KeyboardInterrupt

    rows: list[dict[str, Any]] = []
    options: dict[str, Any] = {"warmup": 5} if estimator == "svi" else {}
    fit = zoo.fit(tiny()[0], sample(), estimator=estimator, progress=callback, restarts=3, **options)
    assert fit.status == "interrupted"
    assert fit.iterations == 3
    assert len(fit.restarts) == 1
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)
    if estimator == "em":
        assert fit.log_likelihood >= rows[-1]["log_likelihood"] - 1e-9


def test_a_divergence_keeps_the_last_good_parameters() -> None:
    fit = zoo.fit(tiny()[0], sample(), estimator="eg", learning_rate=1e4, max_epochs=200)
    assert fit.status == "diverged"
    # Restored by the loop itself: the fallback for parameters that are NaN at the end adds a note of its own.
    assert len(fit.notes) == 1
    assert "last good" in fit.notes[0]
    start = zoo.fit(tiny()[0], sample(), estimator="em", tol=0.0, max_iter=1).history["log_likelihood"][0]
    assert fit.log_likelihood == pytest.approx(start, rel=1e-12)


def test_em_at_impossible_parameters_makes_no_nan() -> None:
    model = PoissonMixture(2, 2)
    model.rates = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    fit = zoo.fit(model, sample(50), estimator="em", init="current", max_iter=5)
    assert fit.status in ("diverged", "max_iter")
    assert fit.log_likelihood == -math.inf
    assert not any(v.isnan().any() for v in fit.model.state_dict().values())


def test_squarem_reaches_the_same_optimum_sooner() -> None:
    model, x = tiny()[0], sample()
    x = torch.cat([x, x + torch.tensor([2.0, 2.0])])  # overlapping: plain EM is slow
    plain = zoo.fit(model, x, estimator="em", tol=1e-13)
    fast = zoo.fit(model, x, estimator="em", accelerate="squarem", tol=1e-13)
    assert fast.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-6)
    climbed = fast.history["objective"]
    assert all(b >= a - 1e-8 for a, b in itertools.pairwise(climbed))
    assert fast.iterations < plain.iterations / 3
    torch.testing.assert_close(fast.model.rates, plain.model.rates, rtol=1e-3, atol=1e-3)


def test_online_em_comes_close() -> None:
    model, x = tiny()[0], sample(2000)
    em, online = (zoo.fit(model, x, estimator=name) for name in ("em", "online_em"))
    assert online.log_likelihood is not None
    assert em.log_likelihood is not None
    assert 0 <= (em.log_likelihood - online.log_likelihood) / len(x) < 0.002
    start = zoo.fit(model, x, estimator="em", tol=0.0, max_iter=1)
    assert online.log_likelihood > start.history["log_likelihood"][0] + 1


def test_hard_em_climbs_the_complete_likelihood() -> None:
    model, x = tiny()[0], sample()
    fit = zoo.fit(model, x, estimator="hard_em", init="random")
    climbed = fit.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(climbed))
    best = fit.model.log_joint(x).max(-1).values.sum().detach()
    assert climbed[-1] == pytest.approx(float(best), rel=1e-12)
    assert fit.elbo == pytest.approx(float(best), rel=1e-12)
    assert fit.log_likelihood is not None
    assert fit.elbo is not None
    assert fit.log_likelihood > fit.elbo


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"estimator": "emm"}, r"estimator 'emm' is not known\. Did you mean 'em'\?"),
        ({"estimator": "em", "max_iters": 9}, r"option of em 'max_iters' is not known\. Did you mean 'max_iter'\?"),
        ({"estimator": "em", "tol": -1.0}, r"tol expected a finite number of at least 0, got -1"),
        ({"estimator": "em", "max_iter": 2.5}, r"max_iter expected a whole number, got 2\.5"),
        ({"estimator": "em", "max_iter": "many"}, r"max_iter expected a number such as 100000, got 'many'"),
        ({"estimator": "em", "accelerate": "squaren"}, r"Did you mean 'squarem'\?"),
        ({"estimator": "online_em", "step_power": 0.5}, r"step_power expected a number in \(0\.5, 1\]"),
        ({"estimator": "svi", "schedule": "join"}, r"Did you mean 'joint'\?"),
        ({"estimator": "iwae", "num_particles": 1}, r"num_particles expected at least 2"),
        ({"estimator": "reinforce", "num_particles": 1}, r"num_particles expected at least 2"),
        ({"estimator": "rws", "num_particles": 1}, r"num_particles expected at least 2"),
        ({"estimator": "em", "init": "kmeans"}, r"init 'kmeans' is not known\. Did you mean 'kmeans\+\+'\?"),
        ({"estimator": "em", "restarts": 0}, r"restarts expected a whole number of at least 1, got 0"),
        ({"estimator": "em", "seed": -1}, r"seed expected a whole number from 0"),
        ({"estimator": "em", "device": "abacus"}, r"device expected one this torch can use, got 'abacus'"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(tiny()[0], sample(20), **options)


def test_the_table_of_e_and_m_steps_is_printed_from_the_estimators() -> None:
    table = printed("estimators")
    text = table.TARGET.read_text(encoding="utf-8")
    assert text == table.page(), "run: python docs/estimators.py"
    for name in estimator_classes():
        assert f"\n| `{name}` | " in text
