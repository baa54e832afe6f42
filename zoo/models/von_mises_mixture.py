"""Von Mises mixture model: angles from one of K groups.

    z ~ Categorical(weights)
    x_d | z ~ VonMises(loc[z, d], concentration[z, d])        d = 1..D, independent given z

Mardia & Jupp (2000), Directional Statistics, section 5.3; EM: Banerjee et al. (2005), JMLR 6, section 3.
"""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.core.checks import angles
from zoo.core.contract import Axes, parameter
from zoo.core.statistics import Statistics, wide
from zoo.densities.von_mises import VonMises, circular, most_likely, wrapped
from zoo.models.shared.mixture import Mixture

__all__ = ["VonMisesMixture"]


class VonMisesMixture(Mixture):
    """Mixture of K groups of D independent angles in radians. The guide, linear in cos x and sin x, can be exact.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        max_concentration: where the M step stops, as angles all alike have no maximum; a start beyond it is let be.

    Shapes:
        x: (N, D), radians, at most 2π in size. weights: (K,). loc: (K, D), in [-π, π). concentration: (K, D), positive.
        e_step(x): ``counts`` (K,), and ``cosines`` and ``sines`` (K, D), the sums of cos x and sin x by component.

    Raises:
        ZooError: x of another shape, not finite, or beyond 2π.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([6])
    """

    default_data = "turtles"
    reference = "Banerjee et al. (2005), Clustering on the unit hypersphere using von Mises-Fisher distributions"
    axes: ClassVar[Axes] = {
        "loc": ("component", "feature"),
        "concentration": ("component", "feature"),
    }
    per_component = ("loc", "concentration")
    independent = True

    def __init__(self, num_components: int, num_features: int, max_concentration: float = 1e4) -> None:
        super().__init__(num_components, num_features, hidden_dims=(), num_coordinates=2 * num_features)
        self.max_concentration = max_concentration
        self.loc = parameter(wrapped(6 * torch.rand(num_components, num_features, dtype=self.dtype)), circular)
        self.concentration = parameter(torch.ones_like(self.loc), constraints.positive)

    def components(self) -> dist.TorchDistribution:
        return VonMises(self.loc, self.concentration).to_event(1)

    def coordinates(self, x: Tensor) -> Tensor:
        return torch.cat([x.cos(), x.sin()], -1)

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
        return {"cosines": wide(weight).mT @ wide(x).cos(), "sines": wide(weight).mT @ wide(x).sin()}

    def update_components(self, statistics: Statistics) -> list[str]:
        count, old = statistics["counts"].unsqueeze(-1), self.concentration.detach()
        sums, largest = (statistics["cosines"], statistics["sines"]), old.clamp_min(self.max_concentration)
        loc, kappa = most_likely(*sums, count, largest)
        self.loc, self.concentration = loc.where(count > 0, self.loc.detach()), kappa.where(count > 0, old)
        acts = bool(((count > 0) & (kappa >= self.max_concentration)).any())
        return ["max_concentration acts: the angles of a component are all but equal"] * acts

    def check_rows(self, x: Tensor) -> Tensor:
        return angles(super().check_rows(x), "VonMisesMixture")

    def align_features(self) -> Tensor:
        return self.coordinates(self.loc.detach())


def tiny() -> tuple[VonMisesMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = VonMisesMixture(2, 2)
    model.loc, model.concentration = torch.tensor([[0.5, 3.1], [-2.0, 1.0]]), torch.tensor([[4.0, 2.0], [3.0, 5.0]])
    return model, torch.tensor([[0.3, -3.0], [1.1, 2.2], [-1.8, 0.7], [-2.9, 1.2], [0.2, 2.9], [-2.1, 1.4]])
