"""Hidden Markov model with symbols of a finite alphabet.

    z_1 ~ Categorical(initial_probs);  z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])
    x_t | z_t ~ Categorical(emission_probs[z_t])          t = 1..T

Rabiner (1989), "A tutorial on hidden Markov models", section II.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.components import CategoricalComponents
from zoo.components.questions import Starting
from zoo.core.checks import positive
from zoo.core.data import Data, as_data
from zoo.core.isolation import kept_generators
from zoo.core.offers import follows
from zoo.core.schema import Schema
from zoo.core.sequences import inside, lengths_of
from zoo.errors import ZooError
from zoo.models.shared.hidden_markov import HiddenMarkov
from zoo.models.shared.state_splitting import start_by_splitting

__all__ = ["CategoricalHMM"]


class CategoricalHMM(CategoricalComponents, HiddenMarkov):
    """Hidden Markov model of K states, each with a distribution over V symbols.

    Args:
        num_states: K. num_symbols: V, symbols are 0 to V - 1.
        initial: "free", "stationary" or "uniform" distribution of z_1.
        topology: "full", or "left_right".
        concentration: of a Dirichlet prior on the start and on each row, at least 1; 1 is maximum likelihood.
        prior_strength: symbols that a Dirichlet prior centred on the data counts for, in each state (pseudo-counts:
            the mode of likelihood times prior is taken); above 0 keeps a symbol that training has not seen possible.
        hidden_dim: units of the guide's recurrent network.

    Shapes:
        x: (T,) one sequence, or (N, T) with ``lengths`` (N,); (N, T, 1) too; NaN where missing. Text is coded, its
            symbols in sorted order, or in that of a pandas Categorical.
        emission_probs: (K, V).

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(**x).shape
        torch.Size([3])
    """

    reference = "Rabiner (1989), A tutorial on hidden Markov models"
    inits = (*HiddenMarkov.inits[:-1], "split", "current")

    def __init__(
        self,
        num_states: int,
        num_symbols: int,
        initial: str = "free",
        topology: str = "full",
        concentration: float = 1.0,
        prior_strength: float = 0.0,
        hidden_dim: int = 32,
    ) -> None:
        HiddenMarkov.__init__(self, num_states, 1, initial, topology, concentration, prior_strength, hidden_dim)
        self.add_components(num_states, positive(num_symbols, "num_symbols", type(self).__name__))
        self.add_prior()

    @follows("model", "initialize")
    def starting(self, x: Data, init: str, restart: int = 0) -> Starting:
        """As any hidden Markov model; "split": a few states, fitted and split until there are K, for many states."""
        yield from super().starting(x, "current" if init == "split" else init, restart)
        if init == "split":
            start_by_splitting(self, x)

    def _row_log_prob(self, rows: Tensor) -> Tensor:
        return self.component_log_prob(rows)  # looked up in one table: cut into pieces it would be made for each

    def continuation_probs(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int = 1) -> Tensor:
        """Exact p(x_{T+h} = v | x_1..x_T) for h = 1..num_steps, (N, num_steps, V)."""
        states = self.forecast({"x": x, "lengths": lengths_of(x, lengths)}, num_steps)
        return states @ self.emission_probs.detach()

    @classmethod
    def from_data(cls, x: Data, **arguments: object) -> CategoricalHMM:
        schema = Schema()
        data = as_data(x, schema, symbols=True)
        if "num_symbols" not in arguments:
            values = within_lengths(data)
            top = float(values.nan_to_num(0).max()) if values.numel() else 0.0
            if not top < 100 + 10 * values.numel():  # a table of so many would be filled for nothing
                raise ZooError(f"{cls.__name__}: x expected symbols 0, 1, 2, ..., got {top:g}. Recode the symbols.")
            arguments["num_symbols"] = max(int(top) + 1, 1, len(schema.symbols or ()))
        return super().from_data(data, **arguments)  # type: ignore[return-value]


def within_lengths(x: Data) -> Tensor:
    """The symbols of sequences that are not beyond a length, where the data have lengths that fit."""
    parts = list(x) if isinstance(x, tuple) else [x.get("x"), x.get("lengths")] if isinstance(x, dict) else [x]
    values, lengths = (*(part for part in parts if isinstance(part, Tensor)), None, None)[:2]
    if values is None or lengths is None or values.dim() < 2 or lengths.shape != values.shape[:1]:
        return torch.zeros(0) if values is None else values
    return values[inside(values, lengths)]


def tiny() -> tuple[CategoricalHMM, dict[str, Tensor]]:
    """The smallest honest instance, and data from it."""
    model = CategoricalHMM(num_states=2, num_symbols=3)
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    model.emission_probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    with kept_generators():
        torch.manual_seed(0)
        x = model.sample(3, 4)
    return model, {"x": x, "lengths": torch.tensor([4, 2, 1])}
