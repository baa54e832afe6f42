"""The Gaussian mixture: z is summed out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import torch

from zoo.bayes.numpyro import sample
from zoo.bayes.numpyro.emissions import gaussian, gaussian_parameters

__all__ = ["gaussian_mixture"]


def gaussian_mixture(model: Any, x: Any) -> None:
    """Parameters under ``model.prior(x)``, then ln p(x) = sum_n ln sum_k weights_k N(x_n; means_k, covariances_k).

    Args:
        x: (N, D), a numpy array.
    """
    values = gaussian_parameters(sample(model.prior(torch.as_tensor(x))))
    each = gaussian(x, values["means"], values["scale_tril"], model.covariance_type)
    log_weights = jnp.log(values.get("weights", jnp.ones(1)))
    numpyro.factor("log_likelihood", jax.nn.logsumexp(each + log_weights, -1).sum())
