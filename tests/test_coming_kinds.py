"""Models of kinds that the zoo does not have yet go through its contract: they live here and nowhere else."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import zoo
from zoo.core.contract import LatentVariableModel, lacks, parameter, prepared
from zoo.core.data import Fields
from zoo.core.problem import Problem
from zoo.core.program import look
from zoo.estimators.svi import SVI
from zoo.reporting.arviz import latent_draws
from zoo.runs.prepare import serving

# --- p(y | x) of sequences ------------------------------------------------------------------------------------------


class Labeller(LatentVariableModel):
    """A hidden chain driven by what is given: z_t | z_{t-1}, x_t, and labels y_t | z_t; y of fewer symbols than z."""

    fields = Fields(observed=("y",), given=("x",))

    def __init__(self, num_states: int = 2, num_symbols: int = 3) -> None:
        super().__init__()
        self.num_symbols = num_symbols
        self.drive = nn.Parameter(torch.tensor([1.0, -1.0], dtype=self.dtype)[:num_states])
        self.emission = parameter(
            torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=self.dtype), dist.constraints.simplex
        )

    def validate(self, x: Any) -> dict[str, Tensor]:
        named = self.fields.checked(x, "Labeller")
        if len(named) != 2:
            raise zoo.ZooError(f"Labeller: data expected x and y, got {', '.join(named)}. Pass (x, y).")
        return {"x": named["x"], "y": named["y"].long()}

    def transition(self, x: Tensor) -> Tensor:
        """ln p(z_t = j | z_{t-1} = i, x_t), (N, T, K, K)."""
        stay = torch.eye(2, dtype=x.dtype)
        return (stay + self.drive * x[..., None, None]).log_softmax(-1)

    def model(self, x: Tensor, y: Tensor) -> None:
        steps = self.transition(x).exp()
        with pyro.plate("data", len(x)):
            state: Any = 0
            for t in pyro.markov(range(x.shape[1])):
                rows = steps[:, t, 0] if t == 0 else steps[:, t][torch.arange(len(x)), state]
                state = pyro.sample(f"z_{t}", dist.Categorical(rows))
                pyro.sample(f"y_{t}", dist.Categorical(self.emission[state]), obs=y[:, t])

    def log_marginal(self, x: Tensor, y: Tensor) -> Tensor:
        steps, seen = self.transition(x), self.emission.log()[:, y].movedim(0, -1)  # (N, T, K)
        message = steps[:, 0, 0] + seen[:, 0]
        for t in range(1, x.shape[1]):
            message = (message.unsqueeze(-1) + steps[:, t]).logsumexp(1) + seen[:, t]
        return message.logsumexp(-1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable label of each step, (N, T), of what is given alone."""
        steps = self.transition(x).exp()
        state, labels = steps[:, 0, 0], []
        for t in range(x.shape[1]):
            state = state if t == 0 else (state.unsqueeze(1) @ steps[:, t]).squeeze(1)
            labels.append((state @ self.emission).argmax(-1))
        return torch.stack(labels, 1)


def pairs(rows: int = 30, steps: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, steps, generator=generator, dtype=torch.float64) * 2
    noise = torch.randn(rows, steps, generator=generator, dtype=torch.float64)
    return x, torch.where(x + 0.5 * noise > 0, 0, 2)


def test_a_model_of_sequences_given_others() -> None:
    model, (x, y) = Labeller(), pairs()
    with torch.no_grad():
        found = model.log_marginal(x[:3], y[:3])
        joint = torch.zeros(3, 2**4, dtype=torch.float64)
        for i, path in enumerate(itertools.product((0, 1), repeat=4)):
            values = {f"z_{t}": torch.full((3,), z) for t, z in enumerate(path)}
            trace = poutine.trace(poutine.condition(model.model, values)).get_trace(x[:3], y[:3])
            trace.compute_log_prob()
            joint[:, i] = sum(node["log_prob"] for node in trace.nodes.values() if node["type"] == "sample" and
                              node["name"] != "data")  # fmt: skip
        torch.testing.assert_close(found, joint.logsumexp(1), rtol=1e-12, atol=0)
    fit = zoo.fit(model, (x, y), estimator="eg", max_epochs=200)
    assert fit.log_likelihood > float(found.sum()) / 3 * len(x)
    labels = fit.predict(x)
    assert labels.shape == y.shape
    assert (labels == y).double().mean() > 0.8
    for whole in ((x, y), {"x": x, "y": y}, {"x": x}, x.numpy()):
        assert torch.equal(fit.predict(whole), labels)
    drawn = torch.stack(fit.sample(given=x.repeat(50, 1)), 1)
    assert (drawn.reshape(50, *y.shape) == labels).double().mean() > 0.5
    with pytest.raises(zoo.ZooError, match="data expected x and y, got x"):
        fit.score((x,))
    for wrong, got in ((x, "a Tensor"), ({"x": x, "z": y}, "x, z"), ((x, y, y), "a tuple")):
        with pytest.raises(zoo.ZooError, match=f"Labeller: data expected a dict of x, y, got {got}"):
            fit.score(wrong)


# --- An energy whose ln Z is known for few units alone ----------------------------------------------------------------


class Boltzmann(LatentVariableModel):
    """p(x) = exp(-energy(x)) / Z over D bits, energy(x) = -x' W x / 2 - b' x; Z is a sum over 2^D."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.couplings = nn.Parameter(torch.zeros(num_features, num_features, dtype=self.dtype))
        self.bias = nn.Parameter(torch.full((num_features,), 0.1, dtype=self.dtype))

    @property
    def normalized(self) -> bool:  # type: ignore[override]
        return not self.withholds()

    def withholds(self) -> dict[str, str]:
        if self.num_features <= 10:
            return {}
        return {"log_marginal": f"its ln Z is a sum over 2^{self.num_features} states"}

    def energy(self, x: Tensor) -> Tensor:
        """Nats, (...,)."""
        pull = self.couplings.triu(1)
        return -((x @ pull) * x).sum(-1) - x @ self.bias

    def sweep(self, state: Tensor) -> Tensor:
        """A step of Gibbs sampling of every bit in turn, which leaves p in place."""
        pull = self.couplings.triu(1)
        pull = pull + pull.T
        state = state.clone()
        for d in range(self.num_features):
            state[:, d] = torch.bernoulli((state @ pull[:, d] + self.bias[d]).sigmoid())
        return state

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.factor("energy", self.log_marginal(x) if self.normalized else -self.energy(x))

    def log_marginal(self, x: Tensor) -> Tensor:
        states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=x.dtype)] * self.num_features)
        return -self.energy(x) - (-self.energy(states)).logsumexp(0)


def bits(rows: int, features: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.bernoulli(torch.full((rows, features), 0.4, dtype=torch.float64), generator=generator)
    x[:, 1] = torch.where(torch.rand(rows, generator=generator) < 0.9, x[:, 0], 1 - x[:, 0])
    return x


def test_an_energy_is_refused_where_its_constant_is_not_known() -> None:
    large, x = Boltzmann(20), bits(40, 20)
    assert lacks(large, "log_marginal") == "its ln Z is a sum over 2^20 states"
    assert serving(Problem(large, x)) == []
    for name, reason in (("eg", r"its ln Z is a sum over 2\^20 states"), ("svi", r"it has no guide\(x\)"),
                         ("em", r"it has no e_step\(")):  # fmt: skip
        with pytest.raises(zoo.ZooError, match=f"{name} cannot fit this model: {reason}.*No estimator can"):
            zoo.fit(large, x, estimator=name)
    with pytest.raises(zoo.ZooError, match=r"evaluate: its ln Z is a sum over 2\^20 states"):
        zoo.evaluate(large, x)
    assert large.sweep(x).shape == x.shape


def test_an_energy_of_few_units_is_fitted_exactly_and_its_sweep_leaves_it_in_place() -> None:
    x = bits(400, 3)
    fit = zoo.fit(Boltzmann(3), x, estimator="eg", max_epochs=2000)
    # At the maximum of an exponential family moments agree: E[x x'] of the model is that of the data.
    states = torch.tensor([*itertools.product((0.0, 1.0), repeat=3)], dtype=torch.float64)
    with torch.no_grad():
        probs = fit.model.log_marginal(states).exp()
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-12)
    moments = torch.einsum("s,sd,se->de", probs, states, states)
    torch.testing.assert_close(moments, x.T @ x / len(x), atol=2e-3, rtol=0)
    assert fit.log_likelihood == pytest.approx(zoo.evaluate(fit, x).log_likelihood)
    assert serving(Problem(fit.model, x)) == ["auto_em", "eg"]
    torch.manual_seed(0)
    start = states[torch.multinomial(probs, 40_000, replacement=True)]
    with torch.no_grad():
        after = fit.model.sweep(start)
    codes = (after @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
    shares = torch.bincount(codes, minlength=8) / len(codes)
    torch.testing.assert_close(shares, probs.float(), atol=4 * math.sqrt(0.25 / 40_000), rtol=0)


class Guided(Boltzmann):
    """An energy with a guide that it does not keep: a bound on its unnormalised sum is none on a likelihood."""

    def withholds(self) -> dict[str, str]:
        reason = "its joint is not normalised, and a bound on its sum would grow without end"
        return {"guide": reason, "log_marginal": reason}

    def guide(self, x: Tensor) -> None: ...


def test_a_guide_that_is_withheld_serves_nobody() -> None:
    model, x = Guided(4), bits(20, 4)
    assert not model.has_guide
    for name in ("svi", "iwae", "rws", "eg"):
        with pytest.raises(zoo.ZooError, match=f"{name} cannot fit this model: its joint is not normalised"):
            zoo.fit(model, x, estimator=name)


# --- Noise beside the latents -----------------------------------------------------------------------------------------


def corrupted(kind: str, both: bool) -> tuple[Any, Any]:
    """A denoising autoencoder: the encoder sees x with noise that counts nowhere; in the guide alone or in both."""
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 4)
    infer = {} if both else {"is_auxiliary": True}

    def noise(x: Tensor) -> Tensor:
        with poutine.mask(mask=False):
            if kind == "normal":
                return pyro.sample("noise", dist.Normal(x, 0.3).to_event(1), infer=infer)
            return x * pyro.sample("noise", dist.Bernoulli(torch.full_like(x, 0.8)).to_event(1), infer=infer)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            if both:
                noise(x)
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(noise(x)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return model, guide


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("kind", ["normal", "dropout"])
def test_noise_is_no_latent(kind: str, both: bool) -> None:
    torch.manual_seed(0)
    model, guide = corrupted(kind, both)
    x = torch.randn(40, 2) @ torch.randn(2, 5) + 0.1 * torch.randn(40, 5)
    fit = zoo.fit(model, x, guide=guide, estimator="svi", max_epochs=60, warmup=0)
    assert fit.history["objective"][-1] > fit.history["objective"][0] + 50
    assert (fit.log_likelihood, fit.elbo) == (None, None)
    assert fit.history["denoising"] == fit.history["objective"]
    assert zoo.evaluate(fit, x, num_samples=10).denoising == pytest.approx(fit.history["objective"][-1], rel=0.2)
    assert any("'noise' is noise beside the latents" in note for note in fit.notes)
    assert fit.posterior(x).batch_shape == (40,)
    seen = look(fit.model, x)
    assert seen.noise == {"noise"}
    assert {site.name: site.role for site in seen.sites}.get("noise", "noise") == "noise"
    assert [site.name for site in seen.latents] == ["z"]
    assert not seen.scored
    assert not seen.summed
    assert set(latent_draws(fit, x, 3)) == {"z"}
    with pytest.raises(zoo.ZooError, match=r"gumbel cannot fit this model: it has no discrete latent to relax"):
        zoo.fit(model, x, guide=guide, estimator="gumbel")


def test_the_bound_of_a_program_with_noise_is_that_at_its_draws() -> None:
    """At fixed noise the bound is the Gaussian autoencoder's, whose KL has a formula; over the noise it is the mean."""
    torch.manual_seed(0)
    model, guide = corrupted("dropout", True)
    x = torch.randn(6, 5)
    fit = zoo.fit(model, x, guide=guide, estimator="svi", max_epochs=3, warmup=0)
    values = {name: torch.as_tensor(value) for name, value in fit.parameters.items()}
    objective = SVI(num_particles=4000).objective(Problem(fit.model, x))
    found = float(objective(x)[1])
    total = torch.zeros(())
    for kept in itertools.product((0.0, 1.0), repeat=5):
        mask = torch.tensor(kept)
        weight = (0.8**mask * 0.2 ** (1 - mask)).prod()
        loc, raw = ((x * mask) @ values["encoder.weight"].T + values["encoder.bias"]).chunk(2, -1)
        kl = 0.5 * (loc.square() + (2 * raw).exp() - 1 - 2 * raw).sum(-1)
        mean = loc @ values["decoder.weight"].T + values["decoder.bias"]
        spread = (raw.exp().unsqueeze(1) * values["decoder.weight"]).square().sum(-1)  # of the decoder's outputs
        error = (x - mean).square() + spread
        fitness = (-0.5 * error / values["scale"] ** 2 - values["scale"].log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        total = total + weight * (fitness - kl).mean()
    assert found == pytest.approx(float(total), abs=0.15)


def test_a_program_with_noise_may_say_that_it_is_normalised() -> None:
    model, guide = corrupted("normal", True)
    model.normalized = True
    fit = zoo.fit(model, torch.randn(20, 5), guide=guide, estimator="svi", max_epochs=2, warmup=0)
    assert not any("noise beside" in note for note in fit.notes)


def test_prepared_takes_the_given_part() -> None:
    x, y = pairs(3)
    assert set(prepared(Labeller(), (x, y), given_alone=True)) == {"x"}
    assert Fields().named(x) == {"x": x}
    assert Fields(("y", "n"), ("x",)).named((x, y)) == {"x": x, "y": y}
