"""NumPyro programs of the zoo's models, for ``nuts``: parameters are sampled, local latents are summed out.

Importing jax takes seconds, so nothing here is imported before a model's ``numpyro_model(x)`` is called. Each program
takes its model (for the prior and the options) and the data as numpy arrays; sites, or deterministic sites, that bear a
parameter's name are what the fitted model is set from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch

from zoo.bayes.priors import Prior

__all__ = ["double_precision", "sample", "translated"]

#: Pyro's families with the names that NumPyro has for their arguments.
FAMILIES: dict[str, dict[str, str]] = {
    "Beta": {"concentration1": "concentration1", "concentration0": "concentration0"},
    "Dirichlet": {"concentration": "concentration"},
    "Exponential": {"rate": "rate"},
    "Gamma": {"concentration": "concentration", "rate": "rate"},
    "HalfNormal": {"scale": "scale"},
    "LKJCholesky": {"dim": "dimension", "concentration": "concentration"},
    "LogNormal": {"loc": "loc", "scale": "scale"},
    "Normal": {"loc": "loc", "scale": "scale"},
}


@contextmanager
def double_precision() -> Iterator[None]:
    """jax computes in float64 inside; the caller's setting is as it was outside."""
    # In older releases it lives in jax.experimental.
    home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    with home.enable_x64(True):
        yield


def sample(prior: Prior) -> dict[str, Any]:
    """Sample every site of a prior stated in Pyro's distributions."""
    return {name: numpyro.sample(name, translated(fn)) for name, fn in prior.items()}


def translated(fn: Any) -> Any:
    """NumPyro's distribution for Pyro's.

    Raises:
        TypeError: a family that is not in the table.
    """
    if hasattr(fn, "reinterpreted_batch_ndims"):
        return translated(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    name = type(fn).__name__
    if name not in FAMILIES:
        raise TypeError(f"no NumPyro family is known for {name}; there are {', '.join(FAMILIES)}")
    arguments = {ours: getattr(fn, theirs) for theirs, ours in FAMILIES[name].items()}
    return getattr(dist, name)(**{k: array(v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()})


def array(value: torch.Tensor) -> Any:
    """A torch tensor as jax's array, in its own precision."""
    return jnp.asarray(np.asarray(value.detach().cpu()))
