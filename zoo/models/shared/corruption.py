"""What an autoencoder's input is spoilt by, as a function of the input and of noise that is drawn beside it.

    masking          ⌊ν D⌋ of the D features, drawn at random, become 0
    salt_and_pepper  ⌊ν D⌋ of them become their least or greatest value, by a fair coin each
    gaussian         x + σ ε, ε ~ N(0, I)

Vincent, Larochelle, Lajoie, Bengio & Manzagol (2010), "Stacked denoising autoencoders", section 3.3. The noise is one
uniform number a feature (a standard normal one for the Gaussian kind), so that it can stand in a program as a site: the
features of the ⌊ν D⌋ smallest numbers are chosen, and a late digit of each is its coin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.errors import ZooError, unknown_name

__all__ = ["CORRUPTIONS", "Corruption"]

CORRUPTIONS: tuple[str, ...] = ("masking", "salt_and_pepper", "gaussian")
#: A single-precision uniform number has 24 digits: this one says nothing of its rank.
COIN = 2**20


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption of vectors.

    Attributes:
        kind: one of :data:`CORRUPTIONS`.
        amount: ν, the share of features, below 1; of the Gaussian kind σ, their standard deviation. 0 spoils nothing.
        num_features: D of what is spoilt.

    Raises:
        ZooError: an unknown kind; an amount out of range, or one that comes to no feature at all.
    """

    kind: str
    amount: float
    num_features: int

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS:
            raise unknown_name("corruption", str(self.kind), CORRUPTIONS)
        number = isinstance(self.amount, (int, float)) and not isinstance(self.amount, bool)
        if not number or not 0 <= self.amount < (math.inf if self.kind == "gaussian" else 1):
            what = "a standard deviation of at least 0" if self.kind == "gaussian" else "a share of at least 0, below 1"
            raise ZooError(f"noise expected {what}, got {self.amount!r}. Take 0.25; 0 corrupts nothing.")
        if self.amount and not self.active:
            raise ZooError(
                f"noise={self.amount:g} of {self.num_features} features comes to none of them. "
                f"Take at least {1 / self.num_features:.2g}, or 0 for a plain autoencoder."
            )

    @property
    def num_corrupted(self) -> int:
        """⌊ν D⌋; of the Gaussian kind D."""
        if self.kind == "gaussian":
            return self.num_features
        return math.floor(self.amount * self.num_features + 1e-9)  # 0.29 * 100 is 28.999999999999996

    @property
    def active(self) -> bool:
        """Whether anything is spoilt."""
        return self.amount > 0 and self.num_corrupted > 0

    def distribution(self, like: Tensor) -> dist.TorchDistribution:
        """Of the noise of one datum, event shape (D,)."""
        zero = like.new_zeros(self.num_features)
        if self.kind == "gaussian":
            return dist.Normal(zero, 1.0).to_event(1)
        return dist.Uniform(zero, zero + 1).to_event(1)

    def draw(self, like: Tensor, *shape: int) -> Tensor | None:
        """Noise (*shape, D) by torch's generator, in the dtype of ``like``; None, and nothing is drawn, where nothing
        is spoilt."""
        if not self.active:
            return None
        draw = torch.randn if self.kind == "gaussian" else torch.rand
        return draw(*shape, self.num_features, dtype=like.dtype, device=like.device)

    def __call__(
        self, x: Tensor, noise: Tensor | None, low: Tensor | float = 0.0, high: Tensor | float = 1.0
    ) -> Tensor:
        """x (N, D) spoilt by noise (..., N, D).

        Args:
            low, high: pepper and salt, numbers or (D,).
        """
        if noise is None or not self.active:
            return x
        if self.kind == "gaussian":
            return x + self.amount * noise
        chosen = noise.topk(self.num_corrupted, dim=-1, largest=False, sorted=False).indices
        if self.kind == "masking":
            return x.expand(noise.shape).scatter(-1, chosen, 0.0)
        tails = (noise.gather(-1, chosen) * COIN).floor() % 2 == 0
        ends = (torch.as_tensor(end, dtype=x.dtype, device=x.device).expand(noise.shape) for end in (low, high))
        pepper, salt = (end.gather(-1, chosen) for end in ends)
        return x.expand(noise.shape).scatter(-1, chosen, torch.where(tails, pepper, salt))
