"""Counts that switch between three rates, as a plain Pyro program: ``zoo fit examples/data/my_model.py --data ...``."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


def model(x: Tensor) -> None:
    """A hidden Markov model of counts (T,)."""
    rate = pyro.param("rate", torch.tensor([2.0, 10.0, 20.0]), constraint=constraints.positive)
    rows = pyro.param("rows", 0.1 + 0.7 * torch.eye(3), constraint=constraints.simplex)
    z: int | Tensor = 0
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.Categorical(rows[z]))
        pyro.sample(f"x_{t}", dist.Poisson(rate[z]), obs=x[t])
