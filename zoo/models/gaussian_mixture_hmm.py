"""Hidden Markov model whose states emit from Gaussian mixtures.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    x_t | z_t ~ sum_m mixture_weights[z_t, m] MultivariateNormal(means[z_t, m], covariances[z_t, m])

Rabiner (1989), "A tutorial on hidden Markov models", section IV.A. The inner component is summed out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.components.clusters import partition
from zoo.components.gaussian_mixture import GaussianMixtureComponents
from zoo.core.checks import positive
from zoo.core.isolation import kept_generators
from zoo.models.shared.hidden_markov import HiddenMarkov

__all__ = ["GaussianMixtureHMM"]


class GaussianMixtureHMM(GaussianMixtureComponents, HiddenMarkov):
    """Hidden Markov model of K states, each a mixture of M Gaussians over D features.

    Args:
        num_states: K. num_mixtures: M, Gaussians in each state. num_features: D.
        concentration: of a Dirichlet prior on the start, on each row and on each state's mixture weights, at least 1.
        covariance_type, initial, topology, prior_strength, covariance_floor, hidden_dim: as for ``GaussianHMM``.

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D); NaN where missing. mixture_weights: (K, M).
        means: (K M, D) and covariances (K M, D, D), states outermost.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    reference = "Rabiner (1989), A tutorial on hidden Markov models"
    per_component = ("mixture_weights",)

    def __init__(
        self,
        num_states: int,
        num_mixtures: int,
        num_features: int,
        covariance_type: str = "diag",
        initial: str = "free",
        topology: str = "full",
        concentration: float = 1.0,
        prior_strength: float = 0.0,
        covariance_floor: float = 1e-6,
        hidden_dim: int = 32,
    ) -> None:
        HiddenMarkov.__init__(
            self, num_states, num_features, initial, topology, concentration, prior_strength, hidden_dim
        )
        m = positive(num_mixtures, "num_mixtures", type(self).__name__)
        self.add_mixtures(num_states, m, num_features, covariance_type, covariance_floor)
        self.add_prior()

    def weight_counts(self) -> float:
        return self.concentration - 1

    def log_prior(self) -> Tensor:
        """As for every chain, and the Dirichlet prior of the mixture weights."""
        total = super().log_prior()
        if self.concentration > 1:
            logs = self.log_mixture_weights
            total = total + (self.concentration - 1) * logs[logs > -math.inf].sum()
        return total

    def start_weight(self, complete: Tensor, weight: Tensor) -> Tensor:
        """Each state's rows, ``complete`` (R, D), are clustered once more, into its M components; states have the
        ``weight`` (R, K)."""
        inner = weight.new_zeros(len(complete), *self.mixture_weights.shape)
        for k in range(self.num_states):
            mine = (weight[:, k] > 0).nonzero().flatten()
            kinds = min(self.num_mixtures, len(torch.unique(complete[mine], dim=0)))
            if kinds:
                labels = partition(complete[mine], kinds, "kmeans++", lloyd=True)
                inner[mine, k, labels] = weight[mine, k]
        return inner.flatten(1)

    def permute_components(self, order: Tensor) -> None:
        """Relabel states; their components move with them."""
        super().permute_components(order)
        m = self.num_mixtures
        inner = (order.unsqueeze(-1) * m + torch.arange(m, device=order.device)).flatten()
        with torch.no_grad():
            for name in ("means",) if self.covariance_type == "tied" else ("means", "scale_tril"):
                value = self.get_parameter(f"{name}_unconstrained")
                value.copy_(value[inner].clone())


def tiny() -> tuple[GaussianMixtureHMM, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = GaussianMixtureHMM(num_states=2, num_mixtures=2, num_features=1)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    model.means = torch.tensor([[-2.0], [-1.0], [1.0], [2.5]])
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, {"x": x, "lengths": torch.tensor([4, 2, 1])}
