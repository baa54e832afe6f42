"""p(x | z) of a network: what its outputs mean."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.densities.continuous_bernoulli import ContinuousBernoulli, log_normalizer
from zoo.errors import unknown_name

__all__ = ["LIKELIHOODS", "Likelihood"]


#: The families of p(x | z); those of vectors leave out the mixture.
LIKELIHOODS: tuple[str, ...] = ("bernoulli", "continuous_bernoulli", "gaussian", "categorical", "gaussian_mixture")


#: A learned standard deviation stays above this share of the data's own: without it the likelihood has no maximum.
NOISE_FLOOR = 0.01


class Likelihood(nn.Module):
    """p(x | z) from what a network puts out; features independent, in a mixture given its component.

    Args:
        kind: one of :data:`LIKELIHOODS`. num_features: D. num_values: V, of the categorical.
        num_components: M, of the mixture. Its weights, means and standard deviations all come from the network.
        noise: the Gaussian's standard deviation, in units of each feature's own, where it is given; None: learned.

    Shapes:
        outputs: (..., D), categorical (..., D V) with a feature's V logits side by side, mixture (..., M + 2 M D):
        logits, means, what deviations are the softplus of; the means and deviations in units of the data's own.
        forward(outputs): a distribution of batch shape (...) and event shape (D,).
        log_prob(outputs, x): (...), nats, x (N, D) and outputs (..., N, D): the same number without the distribution.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        kind: str,
        num_features: int,
        num_values: int = 2,
        num_components: int = 1,
        noise: float | None = None,
    ) -> None:
        super().__init__()
        if kind not in LIKELIHOODS:
            raise unknown_name("likelihood", str(kind), LIKELIHOODS)
        self.kind, self.num_features, self.num_values = kind, num_features, num_values
        self.num_components = num_components
        if self.in_units:
            self.register_buffer("loc", torch.zeros(num_features))
            self.register_buffer("scale", torch.ones(num_features))
        self.given_noise = noise
        if kind == "gaussian" and noise is None:
            self.raw_noise = nn.Parameter(torch.zeros(num_features))

    @property
    def of_pixels(self) -> bool:
        """Whether data are pixels, measured in units of white."""
        return self.kind in ("bernoulli", "continuous_bernoulli")

    @property
    def in_units(self) -> bool:
        """Whether data have a location and a scale, which the outputs are measured by."""
        return self.kind in ("gaussian", "gaussian_mixture")

    @property
    def num_outputs(self) -> int:
        """Numbers that the network puts out a datum."""
        if self.kind == "gaussian_mixture":
            return self.num_components * (1 + 2 * self.num_features)
        return self.num_features * (self.num_values if self.kind == "categorical" else 1)

    def reset_parameters(self) -> None:
        """Noise of about 0.7 of the data's standard deviation."""
        if self.kind == "gaussian" and self.given_noise is None:
            nn.init.zeros_(self.raw_noise)

    def set_from(self, x: Tensor) -> None:
        """Measure a Gaussian in units of the data (N, D): its mean and standard deviation, feature by feature."""
        if self.in_units:
            loc, scale = x.mean(0), x.std(0, correction=0)
            constant = scale <= 4 * torch.finfo(x.dtype).eps * loc.abs()
            self.loc.copy_(loc)
            self.scale.copy_(scale.masked_fill(constant, 1.0))

    def start(self, x: Tensor) -> Tensor:
        """The outputs of a network without inputs that suit the data (N, D) best: a start for its last bias."""
        if self.in_units:
            return x.new_zeros(self.num_outputs)
        if self.kind == "categorical":
            counts = torch.nn.functional.one_hot(x.long(), self.num_values).sum(0) + 1.0
            return (counts / counts.sum(-1, keepdim=True)).log().flatten().to(x)
        return x.mean(0).clamp(0.01, 0.99).logit()

    def noise(self) -> Tensor:
        """Standard deviation of a Gaussian's features, (D,)."""
        if self.given_noise is not None:
            return self.scale * self.given_noise
        return self.scale * (NOISE_FLOOR + softplus(self.raw_noise))

    @torch.no_grad()
    def set_noise(self, noise: Tensor) -> None:
        """The standard deviation (D,) that is learned starts at this, in units of each feature's own."""
        if self.given_noise is None:
            self.raw_noise.copy_((noise - NOISE_FLOOR).clamp_min(1e-3).expm1().log())

    def mixture(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights (..., M), means and standard deviations (..., M, D) of a mixture, in units of the data's own."""
        logits, parameters = outputs.split([self.num_components, outputs.shape[-1] - self.num_components], -1)
        loc, raw = parameters.unflatten(-1, (2, self.num_components, self.num_features)).unbind(-3)
        return logits.log_softmax(-1), loc, NOISE_FLOOR + softplus(raw)

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        if self.kind == "bernoulli":
            return dist.Bernoulli(logits=outputs).to_event(1)
        if self.kind == "continuous_bernoulli":
            return ContinuousBernoulli(logits=outputs).to_event(1)
        if self.kind == "gaussian":
            return dist.Normal(self.loc + self.scale * outputs, self.noise()).to_event(1)
        if self.kind == "gaussian_mixture":
            logits, loc, scale = self.mixture(outputs)
            components = dist.Normal(self.loc + self.scale * loc, self.scale * scale).to_event(1)
            return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
        return dist.Categorical(logits=outputs.unflatten(-1, (self.num_features, self.num_values))).to_event(1)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        if self.kind == "gaussian":
            noise = self.noise()
            scaled = (x - self.loc - self.scale * outputs) / noise
            constant = noise.log().sum() + 0.5 * self.num_features * math.log(2 * math.pi)
            return -0.5 * scaled.square().sum(-1) - constant
        if self.kind == "categorical":
            table = outputs.unflatten(-1, (self.num_features, self.num_values)).log_softmax(-1)
            shape = torch.broadcast_shapes(table.shape[:-1], x.shape)
            index = x.long().expand(shape).unsqueeze(-1)
            return table.expand(*shape, self.num_values).gather(-1, index).squeeze(-1).sum(-1)
        if self.kind == "gaussian_mixture":
            logits, loc, scale = self.mixture(outputs)
            scaled = (((x - self.loc) / self.scale).unsqueeze(-2) - loc) / scale
            constant = self.scale.log().sum() + 0.5 * self.num_features * math.log(2 * math.pi)
            each = logits - 0.5 * scaled.square().sum(-1) - scale.log().sum(-1)
            return each.logsumexp(-1) - constant
        value = torch.linalg.vecdot(outputs, x) - softplus(outputs).sum(-1)
        return value + log_normalizer(outputs).sum(-1) if self.kind == "continuous_bernoulli" else value

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], (..., D); the most probable value for a categorical."""
        if self.kind == "gaussian":
            return self.loc + self.scale * outputs
        if self.kind == "gaussian_mixture":
            logits, loc, _ = self.mixture(outputs)
            return self.loc + self.scale * (logits.exp().unsqueeze(-1) * loc).sum(-2)
        if self.kind == "categorical":
            return outputs.unflatten(-1, (self.num_features, self.num_values)).argmax(-1).to(outputs)
        if self.kind == "bernoulli":
            return outputs.sigmoid()
        return ContinuousBernoulli(logits=outputs).mean
