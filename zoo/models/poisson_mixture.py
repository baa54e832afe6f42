"""Poisson mixture model: counts from one of K groups.

    z ~ Categorical(weights)
    x_d | z ~ Poisson(rates[z, d])        d = 1..D, independent given z

McLachlan & Peel (2000), Finite Mixture Models, section 1.14 and chapter 5; EM for one feature: Hasselblad (1969),
"Estimation of finite mixtures of distributions from the exponential family", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.components import PoissonComponents
from zoo.models.shared.mixture import Mixture

__all__ = ["PoissonMixture"]


class PoissonMixture(PoissonComponents, Mixture):
    """Mixture of K groups of D independent Poisson counts.

    A rate may be exactly zero (a feature that never occurs in a component): a count of 0 then scores 0 nats and any
    other -inf.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        hidden_dims: widths of the encoder's hidden layers; none by default, as the exact posterior's logits are
            linear in x.

    Shapes:
        x: (N, D), whole numbers from 0.
        weights: (K,). rates: (K, D), at least 0.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), K outcomes.
        e_step(x): ``counts`` (K,) and ``sums`` (K, D), the data's sum by component.

    Raises:
        ZooError: x of another shape, not finite, negative or fractional.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    default_data = "earthquakes"
    reference = "McLachlan & Peel (2000), Finite Mixture Models, ch. 5"

    def __init__(self, num_components: int, num_features: int, hidden_dims: Sequence[int] = ()) -> None:
        Mixture.__init__(self, num_components, num_features, hidden_dims)
        self.add_components(num_components, num_features)


def tiny() -> tuple[PoissonMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = PoissonMixture(num_components=2, num_features=2)
    model.weights = torch.tensor([0.4, 0.6])
    model.rates = torch.tensor([[1.0, 6.0], [4.0, 2.0]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, torch.poisson(model.rates.detach()[z], generator=generator)
