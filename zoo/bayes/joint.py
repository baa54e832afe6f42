"""A model with a prior, as one joint over parameters and data: local latents are summed out, parameters are latent.

    ln p(θ, x) = sum over sites of ln prior(θ_site) + sum_n ln p(x_n | θ)

From ``prior(x)`` and ``log_marginal(x)`` alone, :func:`joint` makes a Pyro program of which every parameter is a sample
site: what ``advi`` fits, and what a NumPyro program is held against. :class:`Draws` is what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.func import functional_call

from zoo.bayes.priors import Prior
from zoo.core.as_module import AsModule
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.errors import ZooError

__all__ = ["joint", "log_joint", "log_likelihood", "parameters", "set_means", "site_values"]

Values = dict[str, Tensor]


def parameters(values: Values) -> Values:
    """The model's parameters that a point of the prior's space stands for.

    Sites bear their parameters' names, but ``scales`` (..., D) and ``correlations`` (..., D, D) make
    ``scale_tril`` = diag(scales) correlations.
    """
    values = dict(values)
    if "scales" in values:
        scales = values.pop("scales").unsqueeze(-1)
        values["scale_tril"] = scales * values.pop("correlations", torch.ones_like(scales))
    return values


def site_values(model: LatentVariableModel, sites: Prior) -> Values:
    """Where the model's present parameters lie in the prior's space; sites it has no value for are left out.

    The inverse of :func:`parameters`.
    """
    values = {}
    for name in sites:
        if name in ("scales", "correlations"):
            factor = model.scale_tril.detach()
            scales = factor.norm(dim=-1)
            values[name] = scales if name == "scales" else factor / scales.unsqueeze(-1)
        elif (value := model.quantity(name)) is not None:
            values[name] = value.detach()
    return values


def log_likelihood(model: LatentVariableModel, values: Values, x: Data) -> Tensor:
    """ln p(x_n | θ), (N,), nats, at parameters by name in place of the model's own; differentiable in them."""
    own = {name for name, _ in model.named_parameters()}
    replaced = {}
    for name, value in values.items():
        key = name if name in own else f"{name}_unconstrained"
        if key not in own:
            raise ZooError(
                f"{type(model).__name__}: prior expected the names of parameters, got {name!r}. "
                f"Use some of {', '.join(sorted(n.removesuffix('_unconstrained') for n in own if '.' not in n))}."
            )
        constraint = model.constraint_of(key)
        replaced[f"owner.{key}"] = value if constraint is None else transform_to(constraint).inv(value)
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
    out: Tensor = functional_call(AsModule(model, "log_marginal"), replaced, args, kwargs)
    return out


def log_joint(model: LatentVariableModel, values: Values, x: Data) -> Tensor:
    """ln p(θ, x), nats, at a point of the prior's space, in constrained space: no Jacobian."""
    prior = sum(fn.log_prob(values[name]) for name, fn in call(model.prior, x).items())
    return torch.as_tensor(prior) + log_likelihood(model, parameters(values), x).sum()


def joint(model: LatentVariableModel, x: Data, wrap: Callable[..., Any] | None = None) -> Callable[..., None]:
    """The Pyro program whose latent sites are the parameters, one for each site of ``model.prior(x)``.

    Args:
        wrap: an effect handler for the prior's part, such as a reparametrisation.
    """
    sites: Prior = call(model.prior, x)

    def prior() -> Values:
        return {name: pyro.sample(name, fn) for name, fn in sites.items()}

    drawn = wrap(prior) if wrap else prior

    def program(*args: Any, **kwargs: Any) -> None:
        pyro.factor("log_likelihood", log_likelihood(model, parameters(drawn()), x).sum())

    return program


def set_means(model: LatentVariableModel, values: Values) -> None:
    """Set each parameter that draws (S, ...) bear the name of to their mean.

    Cholesky factors are averaged as the covariances they stand for: their own mean depends on the order of features.
    """
    own = {name for name, _ in model.named_parameters()}
    for name, draws in values.items():
        key = f"{name}_unconstrained"
        if name not in own and key not in own:
            continue
        constraint = model.constraint_of(key) if key in own else None
        if isinstance(constraint, type(constraints.lower_cholesky)):
            mean = torch.linalg.cholesky((draws @ draws.mT).mean(0))
        else:
            mean = draws.mean(0)
        if isinstance(constraint, type(constraints.simplex)):
            mean = mean / mean.sum(-1, keepdim=True)
        if constraint is None:
            with torch.no_grad():
                model.get_parameter(name).copy_(mean)
        else:
            setattr(model, name, mean)
