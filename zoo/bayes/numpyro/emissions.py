"""ln p(x | component k) in jax, feature by feature or with full covariances."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from scipy.special import gammaln

from zoo.errors import ZooError

__all__ = ["gaussian", "gaussian_parameters", "poisson"]


def gaussian_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the ``scale_tril`` that ``scales`` and ``correlations`` make, told as a deterministic site."""
    if "scales" not in values:
        return values
    scales = values["scales"][..., None]
    factor = numpyro.deterministic("scale_tril", scales * values.get("correlations", jnp.ones_like(scales)))
    return {**values, "scale_tril": factor}


def gaussian(x: Any, means: Any, scale_tril: Any, covariance_type: str) -> Any:
    """(M, K), nats, of rows (M, D); NaN entries are summed out where covariances are diagonal.

    Raises:
        ZooError: missing entries under full covariances.
    """
    missing = np.isnan(x)
    shift = np.where(missing, 0.0, x)[:, None] - means  # (M, K, D)
    if covariance_type in ("diag", "spherical"):
        scale = scale_tril if covariance_type == "diag" else scale_tril[:, None]
        each = -0.5 * (shift / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)
        return jnp.where(missing[:, None], 0.0, each).sum(-1)
    if missing.any():
        raise ZooError(
            "nuts: data expected no missing entries under full covariances, got NaN. Use covariance_type='diag'."
        )
    k, d = means.shape
    factor = jnp.broadcast_to(scale_tril, (k, d, d))
    # Forward substitution, unrolled: a triangular solve of many tiny systems is slow on the CPU.
    white: list[Any] = []
    for i in range(d):
        rest = sum((factor[:, i, j] * white[j] for j in range(i)), jnp.zeros(()))
        white.append((shift[..., i] - rest) / factor[:, i, i])
    log_det = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * sum(w**2 for w in white) - log_det - 0.5 * d * math.log(2 * math.pi)


def poisson(x: Any, rates: Any) -> Any:
    """(M, K), nats, of rows of counts (M, D); NaN entries are summed out."""
    missing = np.isnan(x)
    counts = np.where(missing, 0.0, x)[:, None]
    each = jax.scipy.special.xlogy(counts, rates) - rates - gammaln(counts + 1)
    return jnp.where(missing[:, None], 0.0, each).sum(-1)
