"""Bernoulli mixture model, also known as latent class analysis: binary answers from one of K classes.

    z ~ Categorical(weights)
    x_d | z ~ Bernoulli(probs[z, d])      d = 1..D, independent given z

Lazarsfeld & Henry (1968), Latent Structure Analysis, chapter 2; EM: McLachlan & Peel (2000), Finite Mixture Models,
chapter 5; Bishop (2006), Pattern Recognition and Machine Learning, section 9.3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.components import BernoulliComponents
from zoo.models.shared.mixture import Mixture

__all__ = ["BernoulliMixture"]


class BernoulliMixture(BernoulliComponents, Mixture):
    """Mixture of K classes of D independent binary features.

    Probabilities of exactly 0 and 1 are kept: they are the maximum likelihood of a feature that is constant in a
    class, and what they forbid scores -inf.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        hidden_dims: widths of the encoder's hidden layers; none by default, as the exact posterior's logits are
            linear in x.

    Shapes:
        x: (N, D), entries 0 or 1.
        weights: (K,). probs: (K, D), p(x_d = 1 | z = k). logits: (K, D), ln probs / (1 - probs), may be infinite.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), K outcomes.
        e_step(x): ``counts`` (K,), ``ones`` and ``zeros`` (K, D), how often each feature is 1 and 0 by class.

    Raises:
        ZooError: x of another shape, or with entries other than 0 and 1.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    reference = "Lazarsfeld & Henry (1968), Latent Structure Analysis; McLachlan & Peel (2000), ch. 5"

    def __init__(self, num_components: int, num_features: int, hidden_dims: Sequence[int] = ()) -> None:
        Mixture.__init__(self, num_components, num_features, hidden_dims)
        self.add_components(num_components, num_features)


def tiny() -> tuple[BernoulliMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = BernoulliMixture(num_components=2, num_features=3)
    model.weights = torch.tensor([0.4, 0.6])
    model.probs = torch.tensor([[0.9, 0.8, 0.3], [0.2, 0.1, 0.6]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, torch.bernoulli(model.probs.detach()[z], generator=generator)
