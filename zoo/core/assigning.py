"""Parameters that an M step sets: an assignment by a user is looked at first, and that takes longer than small sums."""

from __future__ import annotations

from typing import Any

from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import transform_to

__all__ = ["put"]


def put(model: PyroModule, name: str, value: Tensor) -> None:
    """Set a parameter to a value of the right shape and in its support."""
    free: Any = model._parameters[f"{name}_unconstrained"]
    free.data = transform_to(model._pyro_params[name][0]).inv(value.detach().to(free.dtype))
