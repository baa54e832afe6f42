"""Hidden Markov model with binary features: piano rolls, presence and absence.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    x_td | z_t ~ Bernoulli(probs[z_t, d])          t = 1..T, d = 1..D

Rabiner (1989), "A tutorial on hidden Markov models", section III, with independent binary emissions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.components import BernoulliComponents
from zoo.core.isolation import kept_generators
from zoo.models.shared.hidden_markov import HiddenMarkov

__all__ = ["BernoulliHMM"]


class BernoulliHMM(BernoulliComponents, HiddenMarkov):
    """Hidden Markov model of K states, each with D independent binary features.

    Args:
        num_states: K. num_features: D.
        initial: "free", "stationary" or "uniform" distribution of z_1.
        topology: "full", or "left_right".
        concentration: of a Dirichlet prior on the start and on each row, at least 1; 1 is maximum likelihood.
        prior_strength: rows that a beta prior centred on the data counts for, in each state; above 0 keeps what a
            state has not yet seen possible.
        hidden_dim: units of the guide's recurrent network.

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D), entries 0 or 1; NaN where missing. probs: (K, D).

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    default_data = "jsb"
    reference = "Rabiner (1989), A tutorial on hidden Markov models"

    def __init__(
        self,
        num_states: int,
        num_features: int,
        initial: str = "free",
        topology: str = "full",
        concentration: float = 1.0,
        prior_strength: float = 0.0,
        hidden_dim: int = 32,
    ) -> None:
        HiddenMarkov.__init__(
            self, num_states, num_features, initial, topology, concentration, prior_strength, hidden_dim
        )
        self.add_components(num_states, num_features)
        self.add_prior()


def tiny() -> tuple[BernoulliHMM, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = BernoulliHMM(num_states=2, num_features=2)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    model.probs = torch.tensor([[0.9, 0.3], [0.2, 0.6]])
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, {"x": x, "lengths": torch.tensor([4, 2, 1])}
