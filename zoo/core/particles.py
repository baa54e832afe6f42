"""Particles that go along sequences: the bound that they give, resampled where their weights have become uneven.

    p_hat = product over stretches between resamplings of the mean over particles of the weights in each
    weight of a step = p(x_t, z_t | x_<t, z_<t) / q(z_t | x, z_<t)

E p_hat = p(x), so that E ln p_hat is a bound on ln p(x). Maddison et al. (2017), "Filtering variational objectives",
algorithm 1; Naesseth et al. (2018); Le et al. (2018). Without resampling it is the importance-weighted bound, and with
one particle the ELBO; with q the prior, the bootstrap filter's (Gordon, Salmond & Smith 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, plain, take
from zoo.core.sequences import lengths_of

__all__ = ["PROPOSALS", "ParticleBound", "Particles", "by_length", "follow", "particle_bound"]

#: What particles are drawn from.
PROPOSALS: tuple[str, ...] = ("guide", "prior")


class Particles(Protocol):
    """S particles for each of N sequences, which stand in the order of their lengths, the longest first.

    Attributes:
        lengths: (N,), never rising.
        latents: (S, n, L): z_t, after ``step(t)``, of the n sequences that have a step t.
    """

    lengths: Tensor

    @property
    def latents(self) -> Tensor: ...

    def step(self, t: int) -> Tensor:
        """Draw z_t; the logarithm of each particle's weight for it, ln p(x_t, z_t | x_<t, z_<t) - ln q(z_t | x, z_<t),
        (S, n), nats, differentiable, of the first n sequences, those that have a step t. Asked for t = 0, 1, ..."""

    def resample(self, ancestors: Tensor) -> None:
        """Particle s of sequence i goes on from what ``ancestors[s, i]`` has come to, (S, n)."""


class ParticleBound(NamedTuple):
    """What particles say of each sequence.

    Attributes:
        bound: (N,) ln p_hat, nats. Its gradient leaves out how resampling depends on the parameters.
        surrogate: (N,) what has the whole gradient, where the score-function terms of resampling were asked for.
        log_weights: (S, N): normalised weights of the particles at the end of each sequence.
    """

    bound: Tensor
    surrogate: Tensor
    log_weights: Tensor


def follow(
    particles: Particles,
    threshold: float,
    score_terms: bool = False,
    watch: Callable[[int, Tensor], None] | None = None,
) -> ParticleBound:
    """Lead particles along their sequences.

    Args:
        threshold: they are resampled, sequence by sequence, where the effective sample size 1 / Σ w² of the normalised
            weights has fallen below this share of S: 0 never, 1 at every step.
        score_terms: whether ``surrogate`` has the terms for the choice of ancestors, which are noisy.
        watch: told each t and the normalised log-weights (S, n) after its step.
    """
    lengths = particles.lengths
    counts = [int((lengths > t).sum()) for t in range(int(lengths.max()))]
    ended: list[tuple[Tensor, Tensor]] = []  # totals and log-weights, the shortest sequences first
    choices: list[tuple[Tensor, Tensor, Tensor]] = []  # sequences, ln p(ancestors), the total until then
    total = log_weight = torch.zeros(())
    for t, n in enumerate(counts):
        step = particles.step(t)
        if t == 0:
            total, log_weight = torch.zeros_like(step[0]), torch.zeros_like(step)
        elif n < counts[t - 1]:
            ended.append((total[n:], log_weight[:, n:]))
            total, log_weight = total[:n], log_weight[:, :n]
        log_weight = log_weight + step
        if watch is not None:
            watch(t, log_weight.log_softmax(0))
        if threshold <= 0 or t + 1 == len(counts):
            continue
        weight = log_weight.detach().softmax(0)
        uneven = weight.square().sum(0).reciprocal() < threshold * len(weight)
        uneven[counts[t + 1] :] = False  # nothing follows that resampling would serve
        which = uneven.nonzero().flatten()
        if not len(which):
            continue
        ancestors = torch.arange(len(weight), device=which.device).unsqueeze(-1).repeat(1, n)
        ancestors[:, which] = torch.multinomial(weight[:, which].mT, len(weight), replacement=True).mT
        particles.resample(ancestors)
        if score_terms:
            chosen = log_weight[:, which].log_softmax(0).gather(0, ancestors[:, which]).sum(0)
        total = total.index_add(0, which, log_mean_exp(log_weight[:, which]))
        if score_terms:
            choices.append((which, chosen, total[which].detach()))
        log_weight = log_weight.masked_fill(uneven, 0.0)
    ended.append((total, log_weight))
    log_weight = torch.cat([weights for _, weights in ended[::-1]], 1)
    bound = torch.cat([totals for totals, _ in ended[::-1]]) + log_mean_exp(log_weight)
    surrogate = bound
    for which, chosen, until in choices:
        surrogate = surrogate.index_add(0, which, chosen * (bound.detach()[which] - until))
    return ParticleBound(bound, surrogate, log_weight.log_softmax(0))


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """ln of the mean over particles of weights (S, n)."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def particle_bound(
    model: LatentVariableModel,
    x: Data,
    num_particles: int,
    threshold: float = 0.5,
    proposal: str = "guide",
    score_terms: bool = False,
) -> ParticleBound:
    """The bound of a model's particles on each sequence of the data, which may come in any order.

    Args:
        proposal: what z_t is drawn from, "guide" or "prior".
        threshold, score_terms: see :func:`follow`.
    """
    order, back = by_length(x)
    hook: Any = model.particles
    particles = call(lambda *a, **k: hook(*a, **k, num_particles=num_particles, proposal=proposal), take(x, order))
    found = follow(particles, threshold, score_terms)
    return ParticleBound(found.bound[back], found.surrogate[back], found.log_weights[:, back])


def by_length(x: Data) -> tuple[Tensor, Tensor]:
    """Indices that put sequences ``x`` and ``lengths`` in order, the longest first, and those that put them back."""
    data = plain(x)
    order = lengths_of(data["x"], data.get("lengths")).argsort(descending=True, stable=True)
    return order, order.argsort()
