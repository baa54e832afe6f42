"""Hidden Markov model with Poisson counts.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    x_td | z_t ~ Poisson(rates[z_t, d])          t = 1..T, d = 1..D

Zucchini, MacDonald & Langrock (2016), Hidden Markov Models for Time Series, chapter 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.bayes import priors
from zoo.components import PoissonComponents
from zoo.core.isolation import kept_generators
from zoo.core.sequences import lengths_of
from zoo.models.shared.hidden_markov import HiddenMarkov
from zoo.models.shared.markov import chain_prior

__all__ = ["PoissonHMM"]


class PoissonHMM(PoissonComponents, HiddenMarkov):
    """Hidden Markov model of K states, each with D independent Poisson rates.

    Args:
        num_states: K. num_features: D.
        initial: "free", "stationary" or "uniform" distribution of z_1.
        topology: "full", or "left_right".
        concentration: of a Dirichlet prior on the start and on each row, at least 1; 1 is maximum likelihood.
        prior_strength: rows that a gamma prior centred on the data counts for, in each state; above 0 keeps a rate
            off 0, where any count is impossible.
        hidden_dim: units of the guide's recurrent network.

    Shapes:
        x: (N, T, D) with ``lengths`` (N,), or (T, D), whole numbers; NaN where missing. rates: (K, D).

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    default_data = "earthquakes"
    reference = "Zucchini, MacDonald & Langrock (2016), Hidden Markov Models for Time Series, ch. 2"

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

    def prior(self, x: Tensor, lengths: Tensor | None = None) -> priors.Prior:
        """Start, transitions: Dirichlet(``concentration``); the rest: :func:`zoo.bayes.priors.rates`.

        Raises:
            ZooError: a topology with zeros, which have no prior.
        """
        rows = self.rows({"x": x, "lengths": lengths_of(x, lengths)})
        return {**chain_prior(self), **priors.rates(rows, self.num_states)}

    def numpyro_model(self, x: Any, lengths: Any = None) -> None:
        """The NumPyro program of ``prior`` and likelihood; paths are summed out."""
        from zoo.bayes.numpyro.hidden_markov import poisson_hmm

        poisson_hmm(self, x, lengths)


def tiny() -> tuple[PoissonHMM, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = PoissonHMM(num_states=2, num_features=1)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    model.rates = torch.tensor([[1.0], [6.0]])
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, {"x": x, "lengths": torch.tensor([4, 2, 1])}
