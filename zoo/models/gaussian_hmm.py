"""Hidden Markov model with Gaussian emissions.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    x_t | z_t ~ MultivariateNormal(means[z_t], covariances[z_t])          t = 1..T

Rabiner (1989), "A tutorial on hidden Markov models", section IV.A.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.bayes import priors
from zoo.components import GaussianComponents
from zoo.core.isolation import kept_generators
from zoo.core.sequences import lengths_of
from zoo.models.shared.hidden_markov import HiddenMarkov
from zoo.models.shared.markov import chain_prior

__all__ = ["GaussianHMM"]


class GaussianHMM(GaussianComponents, HiddenMarkov):
    """Hidden Markov model of K states, each with a Gaussian over D features.

    Args:
        num_states: K. num_features: D.
        covariance_type: "diag", "full", "tied" or "spherical".
        initial: "free", "stationary" or "uniform" distribution of z_1.
        topology: "full", or "left_right" (stay or step to the next state).
        concentration: of a Dirichlet prior on the start and on each row, at least 1; 1 is maximum likelihood.
        prior_strength: rows that a normal-inverse-Wishart prior centred on the data counts for, in each state.
        covariance_floor: as for ``GaussianMixture``.
        hidden_dim: units of the guide's recurrent network.

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D); NaN where missing. means: (K, D). covariances: (K, D, D).

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    reference = "Rabiner (1989), A tutorial on hidden Markov models"

    def __init__(
        self,
        num_states: int,
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
        self.add_components(num_states, num_features, covariance_type, covariance_floor)
        self.add_prior()

    def prior(self, x: Tensor, lengths: Tensor | None = None) -> priors.Prior:
        """Start, transitions: Dirichlet(``concentration``); the rest: :func:`zoo.bayes.priors.gaussians`.

        Raises:
            ZooError: a topology with zeros, which have no prior.
        """
        rows = self.rows({"x": x, "lengths": lengths_of(x, lengths)})
        return {**chain_prior(self), **priors.gaussians(rows, self.num_states, self.covariance_type)}

    def numpyro_model(self, x: Any, lengths: Any = None) -> None:
        """The NumPyro program of ``prior`` and likelihood; paths are summed out."""
        from zoo.bayes.numpyro.hidden_markov import gaussian_hmm

        gaussian_hmm(self, x, lengths)


def tiny() -> tuple[GaussianHMM, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = GaussianHMM(num_states=2, num_features=2)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    model.means = torch.tensor([[-1.0, 0.5], [1.5, -0.5]])
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, {"x": x, "lengths": torch.tensor([4, 2, 1])}
