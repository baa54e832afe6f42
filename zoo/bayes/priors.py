"""Weakly informative priors over a model's parameters, stated once, in Pyro's distributions.

A model's ``prior(x)`` puts them together: a dict from site to distribution, read off the data's mean and spread, so
that data in millimetres and in metres get the same posterior up to units. ``advi`` samples these distributions
themselves; a NumPyro program takes them through :func:`zoo.bayes.numpyro.sample`.

A site bears the name of the parameter it is. One pair does not: ``scales`` and ``correlations`` make up a
``scale_tril`` of full rank (:func:`zoo.bayes.joint.parameters`), because the prior of a covariance is best stated for
standard deviations and correlations apart (Barnard, McCulloch & Meng 2000; Lewandowski, Kurowicka & Joe 2009).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.core.statistics import varying

__all__ = ["Prior", "dirichlet", "factors", "gaussians", "rates"]

#: Site to distribution; each without batch dimensions, so that its log-probability is one number.
Prior: TypeAlias = dict[str, Any]


def dirichlet(name: str, like: Tensor, concentration: float) -> Prior:
    """A Dirichlet of equal concentrations for each row of ``like``, (..., K); none where K = 1 leaves no choice.

    Args:
        name: the parameter's. like: a value of it. concentration: of every outcome; 1 is uniform.

    Example:
        >>> dirichlet("weights", torch.ones(3) / 3, 1.0)
        {'weights': Dirichlet(concentration: torch.Size([3]))}
    """
    if like.shape[-1] == 1:
        return {}
    made = dist.Dirichlet(torch.full_like(like.detach(), concentration))
    return {name: made.to_event(like.dim() - 1)}


def gaussians(x: Tensor, num_components: int, covariance_type: str) -> Prior:
    """Means and covariances of K Gaussians.

    Means are normal about the data's mean with twice the data's standard deviation s; standard deviations are
    log-normal with median s / 2, a factor e either way one deviation, which keeps components off single points;
    correlations are LKJ(2).

    Args:
        x: complete rows, (M, D).
        num_components: K. covariance_type: "full", "tied", "diag" or "spherical".

    Example:
        >>> prior = gaussians(torch.randn(20, 2), 3, "full")
        >>> {name: tuple(d.event_shape) for name, d in prior.items()}
        {'means': (3, 2), 'scales': (3, 2), 'correlations': (3, 2, 2)}
    """
    k, d = num_components, x.shape[-1]
    mean, spread = x.mean(0), _spread(x)
    prior: Prior = {"means": dist.Normal(mean.expand(k, d), 2 * spread).to_event(2)}
    if covariance_type == "spherical":
        spread = spread.square().mean().sqrt().expand(k)
    elif covariance_type != "tied":
        spread = spread.expand(k, d)
    scales = dist.LogNormal((spread / 2).log(), torch.ones_like(spread)).to_event(spread.dim())
    if covariance_type in ("diag", "spherical"):
        return {**prior, "scale_tril": scales}
    prior["scales"] = scales
    if d > 1:
        concentration = x.new_full(() if covariance_type == "tied" else (k,), 2.0)
        prior["correlations"] = dist.LKJCholesky(d, concentration).to_event(concentration.dim())
    return prior


def rates(x: Tensor, num_components: int) -> Prior:
    """Poisson rates of K components: gamma of shape 2 with the data's mean, feature by feature.

    Args:
        x: complete rows of counts, (M, D).
        num_components: K.

    Example:
        >>> {name: tuple(d.event_shape) for name, d in rates(torch.ones(20, 2), 3).items()}
        {'rates': (3, 2)}
    """
    mean = (x.sum(0) + 0.5) / (len(x) + 0.5)  # positive
    shape = torch.full((num_components, x.shape[-1]), 2.0, dtype=x.dtype, device=x.device)
    return {"rates": dist.Gamma(shape, 2 / mean.expand_as(shape)).to_event(2)}


def factors(x: Tensor, num_factors: int) -> Prior:
    """Factor analysis: with s a feature's standard deviation, its mean is normal about the data's with deviation s,
    its loadings are N(0, s^2), which no rotation of the factors changes, and its noise variance is log-normal with
    median s^2 / 2, a factor e one deviation: off zero, where Heywood cases lie.

    Args:
        x: (N, D).
        num_factors: L.

    Example:
        >>> {name: tuple(d.event_shape) for name, d in factors(torch.randn(20, 4), 2).items()}
        {'mean': (4,), 'loadings': (4, 2), 'noise_variance': (4,)}
    """
    spread = _spread(x)
    loadings = torch.zeros(len(spread), num_factors, dtype=x.dtype, device=x.device)
    return {
        "mean": dist.Normal(x.mean(0), spread).to_event(1),
        "loadings": dist.Normal(loadings, spread.unsqueeze(-1).expand_as(loadings)).to_event(2),
        "noise_variance": dist.LogNormal(2 * spread.log() - math.log(2), torch.ones_like(spread)).to_event(1),
    }


def _spread(x: Tensor) -> Tensor:
    """Each feature's standard deviation, (D,), never zero."""
    return varying(x.var(0, correction=0), x.mean(0)).sqrt()
