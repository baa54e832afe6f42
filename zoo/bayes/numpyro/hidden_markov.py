"""Hidden Markov models: paths are summed out by the forward algorithm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import torch

from zoo.bayes.numpyro import sample
from zoo.bayes.numpyro.emissions import gaussian, gaussian_parameters, poisson

__all__ = ["gaussian_hmm", "log_forward", "poisson_hmm"]


def gaussian_hmm(model: Any, x: Any, lengths: Any = None) -> None:
    """Parameters under ``model.prior(x)``, then ln p(x) of sequences (N, T, D), numpy arrays."""
    values = gaussian_parameters(_sampled(model, x, lengths))
    rows = _rows(x, lengths)
    _factor(model, values, x, lengths, gaussian(rows, values["means"], values["scale_tril"], model.covariance_type))


def poisson_hmm(model: Any, x: Any, lengths: Any = None) -> None:
    """Parameters under ``model.prior(x)``, then ln p(x) of sequences of counts (N, T, D), numpy arrays."""
    values = _sampled(model, x, lengths)
    _factor(model, values, x, lengths, poisson(_rows(x, lengths), values["rates"]))


def log_forward(log_initial: Any, log_transition: Any, emission: Any, lengths: Any = None) -> Any:
    """ln p(x_{1:T}) of each sequence, (N,), nats; z_1 already emits x_1.

    Args:
        log_initial: (K,). log_transition: (K, K), [i, j] from i to j.
        emission: ln p(x_t | z_t), (N, T, K). lengths: (N,); what lies beyond is not read.
    """
    n, t, _ = emission.shape
    lengths = jnp.full((n,), t) if lengths is None else jnp.asarray(lengths)

    def step(alpha: Any, now: tuple[Any, Any]) -> tuple[Any, None]:
        each, time = now
        following = jax.nn.logsumexp(alpha[:, :, None] + log_transition, 1) + each
        return jnp.where((time < lengths)[:, None], following, alpha), None

    rest = jnp.moveaxis(emission[:, 1:], 1, 0), jnp.arange(1, t)
    alpha, _ = jax.lax.scan(step, log_initial + emission[:, 0], rest)
    return jax.nn.logsumexp(alpha, -1)


def _sampled(model: Any, x: Any, lengths: Any) -> dict[str, Any]:
    given = None if lengths is None else torch.as_tensor(lengths)
    return sample(model.prior(torch.as_tensor(x), given))


def _rows(x: Any, lengths: Any) -> Any:
    """All time steps, (N T, D); zeros beyond the lengths, whatever lies there."""
    n, t, d = x.shape
    inside = np.arange(t) < (np.full((n, 1), t) if lengths is None else np.asarray(lengths)[:, None])
    return np.where(inside[..., None], x, 0.0).reshape(n * t, d)


def _factor(model: Any, values: dict[str, Any], x: Any, lengths: Any, each: Any) -> None:
    k = model.num_states
    steps = values.get("transition_probs", jnp.ones((1, 1)))
    if model.initial == "free":
        initial = values.get("start_probs", jnp.ones(1))
    elif model.initial == "uniform":
        initial = jnp.full(k, 1 / k)
    else:
        system = jnp.concatenate([(jnp.eye(k) - steps.T)[:-1], jnp.ones((1, k))])
        initial = jnp.linalg.solve(system, jnp.eye(k)[-1])
    emission = each.reshape(*x.shape[:2], k)
    log_marginal = log_forward(jnp.log(initial), jnp.log(steps), emission, lengths)
    numpyro.factor("log_likelihood", log_marginal.sum())
