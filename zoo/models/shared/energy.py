"""What energies share: p(x) = sum over h of exp(-energy(x, h)) / Z, where Z is a sum over all states of all units.

Two models that differ in an energy's form share all else: what can be said exactly while one of the sums is small, and
chains of Gibbs sampling and annealing where none is.
"""

from __future__ import annotations

import abc
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from zoo.core.annealing import AnnealingPath
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.isolation import isolated
from zoo.densities.boltzmann import Boltzmann
from zoo.models.shared.units import checked_states
from zoo.scores.annealing import Estimate, annealed, reverse_annealed

__all__ = ["EnergyModel"]

#: Sweeps from a data point, or a start at random, after which a chain is taken for a draw.
SWEEPS = 1000


class EnergyModel(LatentVariableModel):
    """Base class: a subclass says its energy, its sum over hidden units, its ln Z and its path."""

    inits = ("random", "current")
    batch_size = 100
    in_pieces = ("log_marginal",)

    num_features: int
    num_hidden: int
    #: The two values of a visible unit; None where it is any real number.
    values: tuple[float, float] | None
    #: What the greater value of a visible unit reads in the data, where it is not that value.
    white: float = 1.0
    #: What independent visible units are like, (D,): where annealing starts.
    base_biases: Tensor

    # What a subclass says ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def joint_energy(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Of visible units (..., D) and hidden ones (..., H): what exp of its negative is proportional to, nats."""

    @abc.abstractmethod
    def free_energy(self, x: Tensor) -> Tensor:
        """-ln of the sum of exp(-energy) over the hidden units, (N,), nats, of data (N, D)."""

    @abc.abstractmethod
    def log_partition(self) -> Tensor:
        """ln Z, nats, (), exact and differentiable.

        Raises:
            ZooError: too many units.
        """

    @abc.abstractmethod
    def annealing_path(self) -> AnnealingPath:
        """From independent units to this energy."""

    @abc.abstractmethod
    def too_many(self) -> str | None:
        """Why ln Z is no affordable sum, a phrase to follow "because"; None where it is one."""

    @abc.abstractmethod
    def exact_draws(self, num: int) -> Tensor | None:
        """Independent draws of data, (num, D), where they can be had."""

    # What follows -----------------------------------------------------------------------------------------------------

    def withholds(self) -> dict[str, str]:
        reason = self.too_many()
        real = {} if self.values is not None else {"pseudo_log_likelihood": "its visible units are real numbers"}
        return real if reason is None else {**real, "log_marginal": reason}

    @property
    def normalized(self) -> bool:  # type: ignore[override]
        return self.too_many() is None

    def model(self, x: Tensor) -> None:
        """Hidden units are drawn evenly, and the energy tells which of them count: by a factor."""
        with pyro.plate("data", len(x)):
            known = self.log_partition() if self.normalized else torch.zeros((), dtype=x.dtype)
            if not self.num_hidden:
                pyro.factor("energy", -self.free_energy(x) - known)
                return
            even = Boltzmann(None, x.new_zeros(self.num_hidden), self.hidden_values)
            hidden = pyro.sample("z", even)
            pyro.factor("energy", -self.joint_energy(x, hidden) - even.log_prob(hidden) - known)

    @property
    def hidden_values(self) -> tuple[float, float]:
        """The two values of a hidden unit."""
        return self.values or (0.0, 1.0)

    def log_marginal(self, x: Tensor) -> Tensor:
        """Exact ln p(x), (N,), nats."""
        return -self.free_energy(x) - self.log_partition()

    def pseudo_log_likelihood(self, x: Tensor) -> Tensor:
        """Σ_d ln p(x_d | all other visible units), (N,), nats: no likelihood, and no ln Z is in it (Besag 1975)."""
        low, high = self.values or (0.0, 0.0)
        here, found = self.free_energy(x), x.new_zeros(len(x))
        for d in range(self.num_features):
            flipped = x.clone()
            flipped[:, d] = (low + high) * self.white - x[:, d]
            found = found + logsigmoid(self.free_energy(flipped) - here)
        return found

    def annealed_log_partition(
        self, num_chains: int = 100, num_temperatures: int = 1000, seed: int = 0, reverse: bool = False
    ) -> Estimate:
        """ln Z by annealed importance sampling, nats: a named tuple of value and standard error; too low on average.

        Args:
            num_chains: independent chains. num_temperatures: steps from independent units to this energy.
            reverse: by chains from the model to independent units: too high on average. They start from exact draws
                where these can be had, else from the ends of chains of 1000 sweeps, which may not have forgotten where
                they began.
        """
        with isolated(seed), torch.no_grad():
            path = self.annealing_path()
            if not reverse:
                return annealed(path, num_chains, num_temperatures, seed)
            drawn = self.exact_draws(num_chains)
            state = self._chains(path, num_chains, SWEEPS) if drawn is None else path.at_data(drawn)
            return reverse_annealed(path, state, num_temperatures, seed)

    def gibbs(self, num_samples: int, num_sweeps: int = SWEEPS, seed: int = 0, start: Any = None) -> Tensor:
        """The ends of chains of Gibbs sampling, side by side, (num_samples, D).

        Args:
            start: data (num_samples, D) to start from; None starts from independent units.
        """
        with isolated(seed), torch.no_grad():
            path = self.annealing_path()
            if start is None:
                return self.units_of(path, self._chains(path, num_samples, num_sweeps))
            state = path.at_data(self.prepare(start))
            for _ in range(num_sweeps):
                state = path.move(state)
            return self.units_of(path, state)

    def _chains(self, path: AnnealingPath, num_chains: int, num_sweeps: int) -> Tensor:
        state = path.start(num_chains)
        for k in range(num_sweeps):  # warmed up from independent units, which are easy to move
            state = path.move(state, min(1.0, 2 * (k + 1) / num_sweeps))
        return state

    def units_of(self, path: AnnealingPath, state: Tensor) -> Tensor:
        """The visible units, as data (S, D), of states (S, ...) that ``path``, the model's annealing path, moves."""
        return state[:, : self.num_features]

    @torch.no_grad()
    def sample_like(self, x: Tensor, num: int) -> Tensor:
        """New data (num, D): exact draws where they can be had, else the ends of Gibbs chains of 1000 sweeps."""
        drawn = self.exact_draws(num)
        if drawn is not None:
            return drawn.to(x.dtype)
        path = self.annealing_path()
        return self.units_of(path, self._chains(path, num, SWEEPS)).to(x.dtype)

    def checked_states(self, x: Data) -> Tensor:
        """x (N, D) as one of the two values in each entry.

        Raises:
            ZooError: another shape, or an entry that is neither.
        """
        return checked_states(x, self.num_features, self.values, self.name)

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        """A unit works through all units that are coupled to one."""
        step = (self.num_features + self.num_hidden) ** -0.5
        return {name: torch.tensor(step, dtype=p.dtype) for name, p in self.named_parameters()}
