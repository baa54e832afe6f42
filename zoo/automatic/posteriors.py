"""Posteriors of the discrete latents of any enumerable program: marginals, the most probable values, draws, entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import config_enumerate, infer_discrete
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.automatic.enumerated import Enumerated
from zoo.automatic.enumeration import first_enumeration
from zoo.core import program, traces
from zoo.core.contract import prepared
from zoo.core.data import Data, call
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.turns import exclusive
from zoo.errors import ZooError

__all__ = ["DiscretePosterior", "discrete_posterior"]


#: What errors say that come of one more dimension on the left.
_SHAPES = ("size", "shape", "dimension", "broadcast", "expand", "index", "Indices", "indices")


@dataclass
class DiscretePosterior:
    """p(z | x) of every discrete latent of a program, exact.

    Attributes:
        log_evidence: ln p(x), total, nats.
        marginals: by site, p(z | x): a Categorical over the site's values, in the order of its support; its batch shape
            is that of the site's plates.
        supports: by site, the values, (K,) or (K, event).
        entropy: by site, the entropy of each marginal, nats, of the plates' shape.
        joint_entropy: of all latents together, total, nats.

    A latent that is masked out is not there: its marginal is uniform, its entropy zero, its mode and draws arbitrary.
    """

    log_evidence: float
    marginals: dict[str, dist.Categorical]
    supports: dict[str, Tensor]
    entropy: dict[str, Tensor]
    joint_entropy: float
    _model: Any
    _data: Data
    _nesting: int

    def mode(self) -> dict[str, Tensor]:
        """The jointly most probable values, by site, each in the shape of its plates, (N,) or (N, ...); Viterbi's path
        for a chain.

        Raises:
            ZooError: the data have probability zero; a site whose values are vectors that enumeration cannot decode.
        """
        return {name: value[0] for name, value in self._infer(0, 1, 0).items()}

    def sample(self, num_samples: int = 1, seed: int = 0) -> dict[str, Tensor]:
        """Joint draws by site, (num_samples, plates); the caller's random numbers are untouched.

        Args:
            num_samples: at least 1. seed: of the random numbers.

        Raises:
            ZooError: ``num_samples`` is no whole number of at least 1; and as :meth:`mode`.
        """
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ZooError(f"sample: num_samples expected a whole number of at least 1, got {num_samples!r}.")
        return self._infer(1, num_samples, seed)

    def _infer(self, temperature: int, number: int, seed: int) -> dict[str, Tensor]:
        if self.log_evidence == -math.inf:
            raise ZooError(f"{self._model.name}: the data have probability zero: there is no posterior.")
        try:
            return self._run(temperature, number, seed)
        except (RuntimeError, ValueError, IndexError) as error:
            if number == 1 or not any(word in str(error) for word in _SHAPES):
                vectors = [name for name, values in self.supports.items() if values.dim() > 1]
                if vectors and any(word in str(error) for word in _SHAPES):
                    raise ZooError(
                        f"{self._model.name}: joint values of site {vectors[0]!r}, a vector, are not to be had "
                        "by enumeration. Take its marginals."
                    ) from error
                raise
            # A program that does not broadcast over draws is run once a draw.
            draws = [self._infer(temperature, 1, seed + i) for i in range(number)]
            return {name: torch.cat([d[name] for d in draws]) for name in draws[0]}

    def _run(self, temperature: int, number: int, seed: int) -> dict[str, Tensor]:
        once = _Unscaled()(traces.repeated(self._model.model, number, self._nesting))
        run = config_enumerate(once, default="parallel")
        dim = -1 - self._nesting - (number > 1)
        decoded = infer_discrete(run, first_available_dim=dim, temperature=temperature)
        with isolated(seed), torch.no_grad(), self._model.in_its_dtype(self._data):
            trace: Any = poutine.trace(lambda: call(decoded, self._data)).get_trace()
        found = {}
        for name in self.marginals:
            value, plates = trace.nodes[name]["value"], self.marginals[name].batch_shape
            event = trace.nodes[name]["fn"].event_shape
            found[name] = value.reshape(-1, *_aligned(value, plates, event)).expand(number, *plates, *event)
        return found


class _Unscaled(Messenger):
    """A datum that counts several times has the posterior of one that counts once."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def _aligned(value: Tensor, plates: torch.Size, event: torch.Size) -> tuple[int, ...]:
    """The right part of a value's shape that belongs to plates and event, at size one where it lacks a plate."""
    right = len(plates) + len(event)
    tail = tuple(value.shape[max(0, value.dim() - right) :])
    return (1,) * (right - len(tail)) + tail


@exclusive
def discrete_posterior(
    model: Any, x: Any, *, guide: Callable[..., Any] | None = None, seed: int = 0
) -> DiscretePosterior:
    """The exact posterior of a program's discrete latents at its present parameters.

    One gradient of ln p(x) gives all marginals: with respect to a site's log-probability it is the posterior.

    Args:
        model: a zoo model, a fitted one (``fit.model``), or a Pyro program ``model(x)``.
        x: data as the model takes them.
        guide: ignored by the exact sum; for programs that are given with one.
        seed: of the random numbers that a program's first run draws.

    Raises:
        ZooError: a latent that cannot be enumerated, too large a sum, data of probability zero.

    Example:
        >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
        >>> posterior = zoo.discrete_posterior(fit.model, zoo.load_data("iris"))
        >>> posterior.marginals["z"].probs[77].round(decimals=3)
        tensor([0.0000, 0.3290, 0.6710], dtype=torch.float64)
    """
    owner = as_model(model, guide)
    with isolated(seed), torch.enable_grad():
        data = prepared(owner, x)
        owner.create(data)
        nesting = program.plate_nesting(owner, data, alone=True)
    return enumerated_posterior(owner, data, nesting, seed)


def enumerated_posterior(owner: Any, data: Data, nesting: int, seed: int = 0) -> DiscretePosterior:
    """:func:`discrete_posterior` of whatever has a ``model`` to run, on data it takes, with ``nesting`` plates."""
    with isolated(seed), torch.enable_grad():
        run, _, _ = first_enumeration(owner, data, nesting)
        evidence = float(run.log_evidence.detach())
        if not math.isfinite(evidence):
            raise ZooError(
                f"{owner.name}: data expected a positive probability under the program, got ln p(x) = "
                f"{evidence}. Look for values outside its support."
            )
        weights = run.weights()
    return _read_off(owner, data, nesting, run, evidence, weights)


def _read_off(
    owner: Any,
    data: Data,
    nesting: int,
    run: Enumerated,
    evidence: float,
    weights: dict[str, Tensor],
) -> DiscretePosterior:
    marginals, supports, entropy = {}, {}, {}
    expected = 0.0
    for name, site in run.sites.items():
        log_prob, weight = site["unscaled_log_prob"].detach(), weights[name]
        expected += float(torch.where(weight == 0, torch.zeros_like(weight), weight * log_prob).sum())
        dim = site["infer"].get("_enumerate_dim")
        if dim is None or site["is_observed"]:
            continue
        plates = log_prob.shape[max(0, log_prob.dim() - nesting) :]
        own = weight.movedim(dim, -1)  # (other latents, plates, K)
        lead = own.dim() - 1 - min(nesting, own.dim() - 1)
        probs = own.sum(list(range(lead))) if lead else own
        frames = {f.dim for f in site["cond_indep_stack"] if f.vectorized}
        keep = [i for i in range(-len(plates), 0) if i in frames]
        probs = probs.reshape(*[plates[i] for i in keep], -1)
        total = probs.sum(-1, keepdim=True)
        flat = torch.full_like(probs, 1.0 / probs.shape[-1])
        marginals[name] = dist.Categorical(probs=torch.where(total > 0, probs / total.clamp_min(1e-300), flat))
        supports[name] = site["fn"].enumerate_support(expand=False).reshape(-1, *site["fn"].event_shape)
        entropy[name] = marginals[name].entropy() * (total > 0).squeeze(-1)
    if not marginals:
        raise ZooError(f"{owner.name}: expected a discrete latent, got a program without any.")
    return DiscretePosterior(
        evidence, marginals, supports, entropy, max(0.0, evidence - expected), owner, data, nesting
    )
