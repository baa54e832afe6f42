"""Discrete latents as tables: one of K a datum, or a chain of states (:class:`zoo.core.choices.Choices`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guides.relaxed import RelaxedCategorical
from zoo.models.shared.markov import finite, follow
from zoo.structures import Chain

__all__ = ["OneOfMany", "StatePaths"]


@dataclass(frozen=True, eq=False)
class OneOfMany:
    """z picks one of K, for each of N data.

    Attributes:
        log_prior: ln p(z), (K,).
        log_likelihood: ln p(x | z), (N, K).
        log_guide: ln q(z | x), (N, K), normalised.
    """

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor

    def bound(self) -> Tensor:
        q = self.log_guide.exp()
        gain = self.log_likelihood + self.log_prior - self.log_guide
        return (q * gain.masked_fill(q == 0, 0.0)).sum(-1)  # what q rules out counts nothing, not 0 * -inf

    def outcomes(self) -> Tensor:
        return self.log_guide

    def draw(self, num_particles: int) -> tuple[Tensor, Tensor]:
        shape = (num_particles, *self.log_guide.shape)
        z = pick(self.log_guide.detach().expand(shape)).unsqueeze(-1)
        log_joint = self.log_likelihood + self.log_prior
        return log_joint.expand(shape).gather(-1, z).squeeze(-1), self.log_guide.expand(shape).gather(-1, z).squeeze(-1)

    def relax(self, num_particles: int, temperature: float | Tensor, straight_through: bool) -> Tensor:
        shape = (num_particles, *self.log_guide.shape)
        z = RelaxedCategorical(temperature, self.log_guide.expand(shape), straight_through).rsample()
        return (z * self.log_likelihood).sum(-1) - divergence(self.log_guide, self.log_prior)


@dataclass(frozen=True, eq=False)
class StatePaths:
    """z_1..z_T walk through K states, for each of N sequences; what lies beyond a length counts nothing.

    Attributes:
        log_initial: ln p(z_1), (K,). log_transition: ln p(z_t | z_{t-1}), (K, K).
        emission: ln p(x_t | z_t), (N, T, K).
        first: ln q(z_1 | x), (N, K). steps: ln q(z_t | z_{t-1}, x), (N, T - 1, K, K).
        lengths: (N,).
    """

    log_initial: Tensor
    log_transition: Tensor
    emission: Tensor
    first: Tensor
    steps: Tensor
    lengths: Tensor

    def _guide(self) -> Chain:
        return Chain(self.first, self.steps, torch.zeros_like(self.emission), self.lengths)

    def bound(self) -> Tensor:
        q = self._guide()
        p = Chain(finite(self.log_initial), finite(self.log_transition), self.emission, self.lengths)
        return q.expect(p) + q.entropy()

    def outcomes(self) -> None:
        return None

    def draw(self, num_particles: int) -> tuple[Tensor, Tensor]:
        first, steps = self.first.detach(), self.steps.detach().unbind(1)
        states = [pick(first.expand(num_particles, *first.shape))]
        for rows in steps:
            states.append(pick(follow(rows, states[-1])))
        paths = torch.stack(states, -1)  # (S, N, T)
        p = Chain(self.log_initial, self.log_transition, self.emission, self.lengths)
        return p.score(paths), self._guide().score(paths)

    def relax(self, num_particles: int, temperature: float | Tensor, straight_through: bool) -> Tensor:
        logits, states = [self.first.expand(num_particles, *self.first.shape)], list[Tensor]()
        for rows in finite(self.steps).unbind(1):
            states.append(RelaxedCategorical(temperature, logits[-1], straight_through).rsample())
            logits.append((states[-1].unsqueeze(-2) @ rows).squeeze(-2))
        states.append(RelaxedCategorical(temperature, logits[-1], straight_through).rsample())
        z = torch.stack(states, -2)  # (S, N, T, K)
        expected = torch.log_softmax(z[..., :-1, :] @ finite(self.log_transition), -1)
        expected = torch.cat([self.log_initial.expand_as(z[..., :1, :]), expected], -2)
        gain = (z * self.emission).sum(-1) - divergence(torch.stack(logits, -2).log_softmax(-1), expected)
        inside = torch.arange(z.shape[-2], device=z.device) < self.lengths.unsqueeze(-1)
        return torch.where(inside, gain, 0.0).sum(-1)


def pick(log_probs: Tensor) -> Tensor:
    """One of K for every row of log-probabilities (..., K), by torch's generator, as ``multinomial`` picks one."""
    probs = log_probs.exp()
    return (probs / torch.empty_like(probs, memory_format=torch.contiguous_format).exponential_()).argmax(-1)


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) of categorical variables from their log-probabilities (..., K), (...), nats."""
    q = log_q.exp()
    return (q * (log_q - log_p).masked_fill(q == 0, 0.0)).sum(-1)
