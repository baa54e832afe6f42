"""Factor analysis: the factors are integrated out."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import jax.scipy.linalg
import numpyro
import torch

from zoo.bayes.numpyro import sample

__all__ = ["factor_analysis"]


def factor_analysis(model: Any, x: Any) -> None:
    """Parameters under ``model.prior(x)``, then ln p(x) = sum_n ln N(x_n; mean, loadings loadings^T + diag(noise)).

    By Woodbury's identity with M = I + loadings^T diag(noise)^-1 loadings, q x q: no D x D matrix is formed.

    Args:
        x: (N, D), a numpy array.
    """
    values = sample(model.prior(torch.as_tensor(x)))
    loadings, noise = values["loadings"], values["noise_variance"]
    n, d = x.shape
    root = jnp.linalg.cholesky(jnp.eye(loadings.shape[-1]) + loadings.T @ (loadings / noise[:, None]))
    shift = x - values["mean"]
    projected = jax.scipy.linalg.solve_triangular(root, loadings.T @ (shift / noise).T, lower=True)  # (q, N)
    log_det = 2 * jnp.log(jnp.diagonal(root)).sum() + jnp.log(noise).sum()
    distance = (shift**2 / noise).sum() - (projected**2).sum()
    numpyro.factor("log_likelihood", -0.5 * (distance + n * (log_det + d * math.log(2 * math.pi))))
