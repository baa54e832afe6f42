"""Modern Hopfield network: patterns are kept themselves, and a state goes to those that resemble it most.

    z ~ Categorical(weights)
    x | z ~ Normal(patterns[z], 1 / sqrt(β))        in each of D features

Ramsauer et al. (2021), "Hopfield networks is all you need": a state s becomes the sum of patterns, each by its softmax
of β patterns s, which takes down -ln(sum of exp(β patterns s)) / β + s's / 2. For patterns of one length that energy is
-ln p(s) / β up to a constant, and the step is from s to E[patterns[z] | x = s]: the memory is a mixture, and retrieval
its mean shift (Cheng 1995, "Mean shift, mode seeking, and clustering"). Patterns of several lengths are told apart by
distance here, as the mixture has it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.core.checks import matrix, positive
from zoo.core.contract import Axes, LatentVariableModel, parameter
from zoo.core.data import Data
from zoo.errors import ZooError

__all__ = ["ModernHopfieldNetwork"]


class ModernHopfieldNetwork(LatentVariableModel):
    """Modern Hopfield network: M patterns over D features, recalled by the softmax of what resembles a state.

    Args:
        num_features: D.
        num_patterns: M, at most so many are stored; None, from data, takes as many as there are data.
        inverse_temperature: β. What is nearer by 1 / sqrt(β) or less is not told apart, but averaged.

    Shapes:
        x: (N, D), the patterns to store, finite numbers. patterns: (M, D). weights: (M,), how often each was stored.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), over patterns. recall(x): (N, D).

    Raises:
        ZooError: x of another size; more patterns than M.

    Example:
        >>> model, x = tiny()
        >>> notes = model.closed_form(x)
        >>> bool((model.recall(x) - x).abs().max() < 1e-3)
        True
    """

    reference = "Ramsauer et al. (2021), Hopfield networks is all you need"
    default_data = "letters"
    inits = ("random", "current")
    in_pieces = ("log_marginal", "posterior", "predict")
    axes: ClassVar[Axes] = {"patterns": ("pattern", "feature"), "weights": ("pattern",)}

    def __init__(self, num_features: int, num_patterns: int, inverse_temperature: float = 1.0) -> None:
        super().__init__()
        who = type(self).__name__
        if not inverse_temperature > 0:
            raise ZooError(f"{who}: inverse_temperature expected a positive number, got {inverse_temperature}.")
        self.num_features, self.num_patterns = (
            positive(num_features, "num_features", who),
            positive(num_patterns, "num_patterns", who),
        )
        self.inverse_temperature = float(inverse_temperature)
        self.patterns = parameter(torch.zeros(num_patterns, num_features, dtype=self.dtype))
        even = torch.full((num_patterns,), 1 / num_patterns, dtype=self.dtype)
        self.weights = parameter(even, constraints.simplex)

    def model(self, x: Tensor) -> None:
        scale = x.new_tensor(self.inverse_temperature**-0.5)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(self.weights))
            pyro.sample("x", dist.Normal(self.patterns[z], scale).to_event(1), obs=x)

    # Exact answers ----------------------------------------------------------------------------------------------------

    def log_joint(self, x: Tensor) -> Tensor:
        """ln p(x, z) of each pattern, (N, M), nats."""
        beta, d = self.inverse_temperature, self.num_features
        apart = x.square().sum(-1, keepdim=True) - 2 * x @ self.patterns.mT + self.patterns.square().sum(-1)
        constant = 0.5 * d * torch.log(x.new_tensor(beta / (2 * torch.pi)))
        return self.weights.log() - 0.5 * beta * apart + constant

    def log_marginal(self, x: Tensor) -> Tensor:
        """Exact ln p(x), (N,), nats."""
        return self.log_joint(x).logsumexp(-1)

    def posterior(self, x: Tensor) -> Any:
        """The softmax over patterns, batch (N,)."""
        return dist.Categorical(logits=self.log_joint(x))

    def predict(self, x: Tensor) -> Tensor:
        """The number of the pattern that each state resembles most, (N,)."""
        return self.log_joint(x).argmax(-1)

    # Storing and recalling --------------------------------------------------------------------------------------------

    def closed_form(self, x: Tensor, weights: Tensor | None = None) -> list[str]:
        """Keep the patterns (N, D) as they are, each of several alike once; gives no notes.

        Args:
            weights: how often each counts, (N,).

        Raises:
            ZooError: there are more of them than M.
        """
        counts = x.new_ones(len(x)) if weights is None else weights.to(x)
        x, counts = x[counts > 0], counts[counts > 0]
        _, which = x.unique(dim=0, return_inverse=True)
        first = torch.full((int(which.max()) + 1,), len(x), device=x.device)
        first = first.scatter_reduce(0, which, torch.arange(len(x), device=x.device), "amin")
        order = first.argsort()
        if len(first) > self.num_patterns:
            raise ZooError(
                f"{self.name}: expected at most num_patterns={self.num_patterns} patterns, got {len(first)}. "
                f"Pass num_patterns={len(first)}."
            )
        with torch.no_grad():
            patterns, share = torch.zeros_like(self.patterns), torch.zeros_like(self.weights)
            patterns[: len(order)] = x[first[order]]
            share[: len(order)] = torch.zeros_like(counts[: len(first)]).index_add(0, which, counts)[order]
            self.patterns, self.weights = patterns, share / share.sum()
        return []

    def recall(self, x: Any, max_steps: int = 100) -> Tensor:
        """The states that states (N, D) lead to, (N, D): each step to the mean of patterns by their softmax, until one
        moves no feature by more than a millionth of 1 / sqrt(β), or after ``max_steps``."""
        state, still = self.prepare(x), 1e-6 * self.inverse_temperature**-0.5
        with torch.no_grad():
            for _ in range(max_steps):
                before, state = state, self.log_joint(state).softmax(-1) @ self.patterns
                if bool((state - before).abs().max() <= still):
                    break
        return state

    def energy(self, states: Tensor) -> Tensor:
        """-ln p / β of states (N, D), (N,): what a step of recall never raises."""
        return -self.log_marginal(states) / self.inverse_temperature

    # Data -------------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Tensor:
        return matrix(x, self.num_features, self.name)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> Any:
        """Sizes read off the data: room for all of them."""
        if isinstance(x, Tensor):
            arguments.setdefault("num_patterns", len(x))
        return super().from_data(x, **arguments)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Rows of the data, drawn, as patterns for what learns them; near them, not on them."""
        if init == "random":
            with torch.no_grad():
                rows = torch.randint(len(x), (self.num_patterns,), device=x.device)
                noise = torch.randn_like(x[rows]) * self.inverse_temperature**-0.5
                self.patterns = x[rows] + 0.1 * noise

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        """Patterns go by what is told apart."""
        return {"patterns": torch.tensor(self.inverse_temperature**-0.5, dtype=self.dtype)}


def tiny() -> tuple[ModernHopfieldNetwork, Tensor]:
    """The smallest honest instance, and patterns; a state lies between two of them."""
    model = ModernHopfieldNetwork(num_features=2, num_patterns=4, inverse_temperature=2.0)
    model.patterns = [[2.0, 0.0], [0.0, 3.0], [-2.0, -1.0], [0.0, 0.0]]
    model.weights = [0.4, 0.3, 0.2, 0.1]
    x = torch.tensor([[6.0, 0.3], [-0.2, 5.0], [-5.0, -1.4], [0.3, -4.2]], dtype=model.dtype)
    return model, x
