"""What a fitted model says of its latents: the exact posterior where it can be had, else a trained guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.automatic.posteriors import DiscretePosterior, enumerated_posterior
from zoo.core import program
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.isolation import isolated
from zoo.core.sites import sample_sites, unwrapped
from zoo.errors import ZooError

__all__ = ["Conditioned", "Latents", "centre", "latents", "most_probable", "value_probs"]


@dataclass(frozen=True)
class Latents:
    """Where the latents of some data are.

    Attributes:
        by_site: the distribution of each latent, by name; exact marginals for those that ``exact`` covers.
        exact: the joint posterior of the discrete latents by enumeration (at the guide's point, where continuous ones
            are under a guide); None where the guide stands for them.
    """

    by_site: dict[str, Any]
    exact: DiscretePosterior | None

    def most_probable(self) -> dict[str, Tensor]:
        """By site: where exact, the values that are jointly most probable, numbered in the order of the support; else
        the most probable value, or the mean, of each by itself."""
        labels = {name: most_probable(q) for name, q in self.by_site.items()}
        known = [] if self.exact is None else [name for name in self.exact.marginals if name in labels]
        if self.exact is not None and len(self.exact.marginals) > 1:  # of one alone the marginal tells
            mode = self.exact.mode()
            labels.update({name: _numbered(mode[name], self.exact.supports[name]) for name in known})
        return labels


def latents(model: LatentVariableModel, x: Data, *, trained: bool, estimator: str, seed: int = 0) -> Latents:
    """The latents of a program given data, at the program's present parameters.

    Discrete latents are enumerated wherever that can be done. Else the guide is asked, if it was trained; discrete
    latents that it leaves out are then enumerated at its point: the median, or mean, of its continuous draws. A
    continuous latent in no plate of the data is a parameter with a prior, and is named only where there is no other.

    Args:
        trained: whether ``estimator``, a name, trained the guide.

    Raises:
        ZooError: neither an exact sum nor a trained guide is to be had.
    """
    sites = program.latent_sites(model, x)
    if not sites:
        raise ZooError(f"posterior: expected a latent, got the program {model.name!r} without any.")
    trained = trained and model.has_guide
    nesting = program.plate_nesting(model, x, alone=True)
    missing = next(
        (f"site {s.name!r} ({s.family}) has no finite support to sum over" for s in sites if not s.discrete), ""
    )
    if not missing:
        try:
            whole = enumerated_posterior(model, x, nesting, seed)
            return Latents(dict(whole.marginals), whole)
        except ZooError as error:
            if not trained:
                raise
            missing = str(error)
    if not trained:
        guide = "its guide was not trained" if model.has_guide else "it has no guide"
        raise ZooError(
            f"posterior: {missing}, and {guide} by {estimator}. Fit by svi with a guide, or define posterior(x)."
        )
    with isolated(seed), torch.no_grad(), AtCentre():
        trace = poutine.trace(lambda: call(model.guide, x)).get_trace()
    drawn = {n: s for n, s in sample_sites(trace).items() if n in {site.name for site in sites}}
    by_site = {name: site["fn"] for name, site in drawn.items()}
    left = [site.name for site in sites if site.discrete and site.name not in drawn]
    exact: DiscretePosterior | None = None
    if left:
        values = {s.name: drawn[s.name]["value"] for s in sites if not s.discrete and s.name in drawn}
        exact = enumerated_posterior(Conditioned(model, values), x, nesting, seed)
        by_site.update({name: exact.marginals[name] for name in left})
    _, run = program.traced(model, x)
    stacks = {name: {f.name for f in site["cond_indep_stack"]} for name, site in sample_sites(run).items()}
    data_plates = set().union(*(stacks[name] for name, s in sample_sites(run).items() if s["is_observed"]))
    of_data = {s.name for s in sites if s.discrete or data_plates & stacks[s.name]}
    return Latents({name: q for name, q in by_site.items() if name in of_data or not of_data}, exact)


class Conditioned:
    """A program with some of its latents at given values, as enumeration takes it."""

    def __init__(self, model: LatentVariableModel, values: dict[str, Tensor]) -> None:
        self._whole, self.name = model, model.name
        self.model: Callable[..., Any] = poutine.condition(model.model, data=values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


class AtCentre(Messenger):
    """Continuous latents are at their distribution's :func:`centre` instead of drawn."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or type(msg["fn"]).__name__ == "_Subsample":
            return
        if not _discrete(msg["fn"]):
            msg["value"], msg["done"] = centre(msg["fn"]), True


def centre(fn: Any) -> Tensor:
    """The median of a distribution that is a transformed one, as far as its base's mean is its median; else the mean;
    else a draw."""
    inner = fn
    while type(inner).__name__ in ("Independent", "MaskedDistribution", "ExpandedDistribution"):
        inner = inner.base_dist
    if isinstance(inner, torch.distributions.TransformedDistribution):
        value = centre(inner.base_dist)
        for transform in inner.transforms:
            value = transform(value)
    else:
        try:
            value = inner.mean
        except (NotImplementedError, AttributeError):
            value = fn.sample()
    shape = fn.batch_shape + fn.event_shape
    value = torch.as_tensor(value)
    return value.expand(shape) if bool(value.isfinite().all()) else fn.sample()


def most_probable(q: Any) -> Tensor:
    """The most probable value of a discrete distribution, numbered in the order of its support; the centre of another.

    Several variables at one site (``to_event``) are taken one by one.
    """
    if not _discrete(q):
        return centre(q)
    q = unwrapped(q)
    if isinstance(q, torch.distributions.Bernoulli):
        return (q.logits > 0).long()
    if hasattr(q, "logits") and q.logits.dim() > len(q.batch_shape):
        labels: Tensor = q.logits.argmax(-1)
        return labels
    values = q.enumerate_support(expand=True)
    return q.log_prob(values).argmax(0)


def _discrete(fn: Any) -> bool:
    return bool(getattr(fn.support, "is_discrete", False))


def _numbered(value: Tensor, support: Tensor) -> Tensor:
    event = support.dim() - 1
    same = value.unsqueeze(-1 - event) == support
    return (same.flatten(-event).all(-1) if event else same).long().argmax(-1)


def value_probs(posterior: Any) -> Tensor:
    """Of a posterior, or of several by site, probabilities of the values of the one discrete latent, (N, K).

    Raises:
        ZooError: the latent is continuous, or there are several.
    """
    if isinstance(posterior, dict):
        labels = [q for q in posterior.values() if getattr(_base(q), "has_enumerate_support", False)]
        if len(labels) != 1:
            raise ZooError(
                f"predict_proba: expected one discrete latent, got {', '.join(posterior)}. Use posterior(x)."
            )
        posterior = labels[0]
    posterior = _base(posterior)
    if isinstance(posterior, torch.distributions.Bernoulli):
        return torch.stack([1 - posterior.probs, posterior.probs], -1)
    if not getattr(posterior, "has_enumerate_support", False):
        raise ZooError(
            f"predict_proba: expected a discrete latent, got a continuous one ({type(posterior).__name__}). "
            "Use posterior(x)."
        )
    probs: Tensor = posterior.probs
    return probs


def _base(q: Any) -> Any:
    while isinstance(q, torch.distributions.Independent):
        q = q.base_dist
    return q
