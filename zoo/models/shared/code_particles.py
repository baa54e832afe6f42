"""Particles of codes above which a chain of states is summed exactly: a Rao-Blackwellised particle filter.

    weight of a step = p(x_t | c_t) sum_k p(z_t = k | c_<t) N(c_t; k) / q(c_t)

Each particle has a code a frame and carries p(z_t | c_1..c_t) where a plain one would carry a state. Doucet, de
Freitas, Murphy & Russell (2000), "Rao-Blackwellised particle filtering for dynamic Bayesian networks", section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guides import Packing
from zoo.densities.distributions import Selected
from zoo.densities.log_product import log_product
from zoo.models.shared.markov import finite

__all__ = ["CodeParticles"]


class CodeParticles:
    """Particles of an ``HMMVAE``: :class:`zoo.core.particles.Particles`.

    From the prior a code is drawn of p(c_t | c_<t), a mixture; which of its parts has no gradient, and the proposal
    counts as fixed: the gradient is that of the model's densities at the draws.
    """

    def __init__(self, model: Any, x: Tensor, lengths: Tensor, num_particles: int, from_prior: bool) -> None:
        self.model, self.lengths, self.from_prior = model, lengths, from_prior
        packing = Packing(lengths)
        self.frames = packing.pack(x).split(packing.sizes)
        self.loc, self.factor = (v.split(packing.sizes) for v in model.encoder.moments(torch.cat(self.frames)))
        self.noise_shape = (num_particles, len(x), model.latent_dim)
        self.log_transition = finite(model.log_transition).mT
        #: ln p(z_t | c_1..c_t), (S, n, K).
        self.belief = finite(model.log_initial)
        self.latents = x.new_zeros(self.noise_shape)

    def step(self, t: int) -> Tensor:
        model, x = self.model, self.frames[t]
        shape = (self.noise_shape[0], len(x))
        if t:
            before = self.belief[:, : len(x)].flatten(0, 1)
            expected = log_product(before, self.log_transition).unflatten(0, shape)
        else:
            expected = self.belief.expand(*shape, -1)
        if self.from_prior:
            with torch.no_grad():
                states = torch.multinomial(expected.flatten(0, 1).softmax(-1), 1).reshape(shape)
                codes = Selected(model.components(), states).sample()
        else:
            # Drawn for all sequences, as the other bounds do.
            noise = torch.randn(self.noise_shape, dtype=x.dtype, device=x.device)[:, : len(x)]
            codes, log_q = model.encoder.draw(self.loc[t], self.factor[t], noise)
        joint = expected + model.code_log_prob(codes)
        log_prior = joint.logsumexp(-1)
        self.latents, self.belief = codes, joint - log_prior.unsqueeze(-1)
        if self.from_prior:
            log_q = log_prior.detach()
        log_likelihood: Tensor = model.likelihood.log_prob(model.decoder(codes), x)
        return log_likelihood + log_prior - log_q

    def resample(self, ancestors: Tensor) -> None:
        self.belief = self.belief.gather(0, ancestors.unsqueeze(-1).expand_as(self.belief))
