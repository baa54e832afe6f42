"""Do our draws agree with a reference? Three posteriors of posteriordb (Magnusson et al. 2024), sampled by ``nuts``.

    python examples/posteriordb.py [--smoke] [--out draws.png]

Each class is a model file of a user's own: the zoo's model for the likelihood, and a NumPyro program with the priors of
the reference posterior, written anew. Deterministic sites name the model's own parameters, so that a fit's model holds
their posterior means and ``fit.log_likelihood`` and the like work.

Prints, in about 60 seconds, with posteriordb's files at hand, each parameter's mean beside the reference's, with both
Monte-Carlo errors; without them (and with ``--smoke``) it samples a few draws of each posterior on made-up data.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo.core.contract import parameter
from zoo.structures import chain


class LowDimGaussMix(zoo.GaussianMixture):
    """y ~ theta N(mu_1, sigma_1) + (1 - theta) N(mu_2, sigma_2), mu_1 < mu_2."""

    def __init__(self) -> None:
        super().__init__(num_components=2, num_features=1, covariance_type="diag")

    def numpyro_model(self, x: Any) -> None:
        import jax
        import jax.numpy as jnp
        import numpyro
        from numpyro import distributions as nd

        mu = numpyro.sample("mu", nd.ImproperUniform(nd.constraints.ordered_vector, (), (2,)))
        numpyro.factor("mu_prior", nd.Normal(0, 2).log_prob(mu).sum())
        sigma = numpyro.sample("sigma", nd.HalfNormal(jnp.full(2, 2.0)).to_event(1))
        theta = numpyro.sample("theta", nd.Beta(5.0, 5.0))
        weights = numpyro.deterministic("weights", jnp.stack([theta, 1 - theta]))
        numpyro.deterministic("means", mu[:, None])
        numpyro.deterministic("scale_tril", sigma[:, None])
        each = nd.Normal(mu, sigma).log_prob(x) + jnp.log(weights)  # (N, 2)
        numpyro.factor("likelihood", jax.nn.logsumexp(each, -1).sum())


class HMMExample(zoo.GaussianHMM):
    """Two states with N(mu_k, 1), 0 < mu_1 < mu_2; the first step's states have weight 1 each: uniform, times 2."""

    def __init__(self) -> None:
        super().__init__(num_states=2, num_features=1, covariance_type="spherical", initial="uniform")

    def numpyro_model(self, x: Any, lengths: Any = None) -> None:
        import jax.numpy as jnp
        import numpyro
        from numpyro import distributions as nd

        from zoo.bayes.numpyro.hidden_markov import log_forward

        rows = numpyro.sample("theta", nd.Dirichlet(jnp.ones((2, 2))).to_event(1))
        mu = numpyro.sample("mu", nd.ImproperUniform(nd.constraints.positive_ordered_vector, (), (2,)))
        numpyro.factor("mu_prior", nd.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu).sum())
        numpyro.deterministic("transition_probs", rows)
        numpyro.deterministic("means", mu[:, None])
        numpyro.deterministic("scale_tril", jnp.ones(2))
        emission = nd.Normal(mu, 1).log_prob(x)  # (1, T, 2)
        numpyro.factor("likelihood", log_forward(jnp.zeros(2), jnp.log(rows), emission).sum())


class HMMDrive(zoo.LatentVariableModel):
    """Two states, of which each emits two exponential distances, with rates phi_k and lambda_k, each ordered.

    Shapes:
        x: (1, T, 2), positive. transition_probs: (2, 2). phi, rate: (2,).
    """

    def __init__(self) -> None:
        super().__init__()
        self.transition_probs = parameter(torch.full((2, 2), 0.5, dtype=self.dtype), constraints.simplex)
        self.phi = parameter(torch.tensor([1.0, 5.0], dtype=self.dtype), constraints.positive)
        self.rate = parameter(torch.tensor([0.03, 0.08], dtype=self.dtype), constraints.positive)

    def validate(self, x: Any) -> Any:
        return super().validate(x.unsqueeze(0) if x.dim() == 2 else x)

    def probe(self, x: Any) -> Any:
        return x[:, :4]

    def model(self, x: Tensor) -> None:
        rates = torch.stack([self.phi, self.rate], -1)  # (2, 2), by state
        with pyro.plate("data", len(x)):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                row = torch.full((2,), 0.5, dtype=x.dtype) if z is None else self.transition_probs[z]
                z = pyro.sample(f"z_{t}", dist.Categorical(row))
                pyro.sample(f"x_{t}", dist.Exponential(rates[z]).to_event(1), obs=x[:, t])

    def log_marginal(self, x: Tensor) -> Tensor:
        rates = torch.stack([self.phi, self.rate], -1)
        emission = dist.Exponential(rates).to_event(1).log_prob(x.unsqueeze(-2))  # (1, T, 2)
        initial = torch.full((2,), -math.log(2), dtype=x.dtype)
        return chain.log_partition(initial, self.transition_probs.log(), emission)

    def numpyro_model(self, x: Any) -> None:
        import jax.numpy as jnp
        import numpyro
        from numpyro import distributions as nd

        from zoo.bayes.numpyro.hidden_markov import log_forward

        ordered = nd.ImproperUniform(nd.constraints.positive_ordered_vector, (), (2,))
        rows = numpyro.sample("theta", nd.Dirichlet(jnp.array([[4.0, 2.0], [2.0, 4.0]])).to_event(1))
        phi, rate = numpyro.sample("phi", ordered), numpyro.sample("lambda", ordered)
        first_and_second = nd.Normal(jnp.array([0.0, 3.0]), 1)
        numpyro.factor("prior", first_and_second.log_prob(phi).sum() + first_and_second.log_prob(rate).sum())
        numpyro.deterministic("transition_probs", rows)
        numpyro.deterministic("rate", rate)
        emission = nd.Exponential(phi).log_prob(x[..., :1]) + nd.Exponential(rate).log_prob(x[..., 1:])
        numpyro.factor("likelihood", log_forward(jnp.zeros(2), jnp.log(rows), emission).sum())


#: By the posterior's name: the model, the zoo's data set, and the stem of posteriordb's files.
POSTERIORS: dict[str, tuple[type[zoo.LatentVariableModel], str, str]] = {
    "low_dim_gauss_mix": (LowDimGaussMix, "low_dim_gauss_mix", "low_dim_gauss_mix-low_dim_gauss_mix"),
    "hmm_example": (HMMExample, "hmm_example", "hmm_example-hmm_example"),
    "hmm_drive_0": (HMMDrive, "bball_drive", "bball_drive_event_0-hmm_drive_0"),
}


def reference(name: str) -> dict[str, tuple[float, float]] | None:
    """By posteriordb's name of a parameter: the reference draws' mean and its Monte-Carlo error. None without files."""
    file = Path(os.environ.get("ZOO_DATA", "")) / "posteriordb" / "mean_value" / f"{POSTERIORS[name][2]}.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text())
    return dict(zip(found["names"], zip(found["mean_value"], found["mcse_mean"], strict=True), strict=True))


def estimates(fit: zoo.Fit) -> dict[str, tuple[float, float]]:
    """By posteriordb's name: our draws' mean and its Monte-Carlo error."""
    table = fit.draws.summary()  # type: ignore[union-attr]
    found = {}
    for label, mean, error in zip(table.index, table["mean"], table["mcse_mean"], strict=True):
        name, _, index = label.rstrip("]").partition("[")
        places = [int(i) + 1 for i in index.split(",")] if index else []
        if len(places) == 2 and name == "theta":
            name, places = f"theta{places[0]}", places[1:]
        found[name + (f"[{','.join(map(str, places))}]" if places else "")] = (float(mean), float(error))
    return found


def made_up(name: str) -> Tensor:
    """Thirty steps with the support of the posterior's data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 1, generator=generator, dtype=torch.float64) + 6 * (torch.arange(30) % 10 > 4).unsqueeze(-1)
    return x if name != "hmm_drive_0" else x.abs().repeat(1, 2) + 0.1


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Sample each posterior; by posterior, how many combined Monte-Carlo errors the worst mean is off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", help="draw the draws of the last here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few draws from made-up data, to see that it runs")
    options = parser.parse_args(args)
    worst: dict[str, Any] = {}
    for name, (cls, data, _) in POSTERIORS.items():
        known = None if options.smoke else reference(name)
        few = {"num_warmup": 20, "num_samples": 20, "num_chains": 1} if options.smoke else {}
        fit = zoo.fit(cls(), zoo.load_data(data) if known else made_up(name), estimator="nuts", progress=None, **few)
        print(f"{name}\n{fit}")
        ours = estimates(fit)
        worst[name] = float(fit.log_likelihood or 0.0) if known is None else 0.0
        for parameter_name, (mean, error) in (known or {}).items():
            own_mean, own_error = ours[parameter_name]
            sigmas = abs(own_mean - mean) / math.hypot(error, own_error)
            worst[name] = max(worst[name], sigmas)
            print(
                f"  {parameter_name:10s} {own_mean:9.5f} ± {own_error:.5f}   "
                f"reference {mean:9.5f} ± {error:.5f}   {sigmas:.1f} errors apart"
            )
    if options.out:
        fit.draws.plot(options.out)
    return worst


if __name__ == "__main__":
    main()
