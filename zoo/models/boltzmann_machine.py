"""Boltzmann machine: units of two values, any of which may be hidden, under symmetric couplings.

    p(s) = exp(-β E(s)) / Z,   E(s) = -(s' W s / 2 + b' s),   s = (x, z)

Ackley, Hinton & Sejnowski (1985), "A learning algorithm for Boltzmann machines". β acts on the biases too. The gradient
of ln p(x) is what data say of pairs of units less what the model says of them: of all states one by one up to 24 units
(``eg``), of Gibbs chains above (``pcd`` and its kin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.core.annealing import AnnealingPath
from zoo.core.checks import positive
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data
from zoo.core.isolation import kept_generators
from zoo.densities.boltzmann import check_couplings, hollow, independent_log_partition
from zoo.densities.ising import (
    MOST_UNITS,
    Units,
    all_states,
    colours,
    draws,
    energy,
    log_partition,
    mean_field,
    sweep,
)
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.energy import EnergyModel

__all__ = ["BoltzmannMachine"]

STATES = {"signs": (-1.0, 1.0), "bits": (0.0, 1.0)}
#: The most hidden units that are summed one by one, a table of so many states a datum; and, above, sweeps of the hidden
#: units of a chain that starts from data.
MOST_HIDDEN = 10
CLAMPED_SWEEPS = 10


class BoltzmannMachine(EnergyModel):
    """Boltzmann machine over D visible and H hidden units.

    Args:
        num_features: D. num_hidden: H.
        inverse_temperature: β, a factor of the whole energy.
        states: "signs", each unit is -1 or 1; "bits", 0 or 1.

    Shapes:
        x: (N, D). couplings: (n, n), symmetric with a zero diagonal, n = D + H, visible units first. biases: (n,).
        log_marginal(x): (N,) nats, exact; for at most 24 units in all.

    Raises:
        ZooError: x of other values or another size; couplings that are not symmetric, or have a diagonal; an exact ln Z
            of more than 24 units.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    reference = "Ackley, Hinton & Sejnowski (1985), A learning algorithm for Boltzmann machines"
    default_data = "spins"
    axes: ClassVar[Axes] = {"couplings": ("unit", "other unit"), "biases": ("unit",)}

    def __init__(
        self, num_features: int, num_hidden: int = 0, inverse_temperature: float = 1.0, states: str = "signs"
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if states not in STATES:
            raise unknown_name(f"{who}: states", str(states), list(STATES))
        if not inverse_temperature > 0:
            raise ZooError(f"{who}: inverse_temperature expected a positive number, got {inverse_temperature}.")
        self.num_features = positive(num_features, "num_features", who)
        self.num_hidden = 0 if num_hidden == 0 else positive(num_hidden, "num_hidden", who)
        self.inverse_temperature, self.states, self.values = float(inverse_temperature), states, STATES[states]
        n = self.num_features + self.num_hidden
        noise = 0.01 * torch.randn(n, n, dtype=self.dtype)
        self.couplings = parameter((noise + noise.mT).fill_diagonal_(0.0), hollow)
        self.biases = parameter(torch.zeros(n, dtype=self.dtype), constraints.real)
        self.register_buffer("base_biases", torch.zeros(n, dtype=self.dtype))

    def entries(self, axis: str) -> Sequence[str] | None:
        visible = super().entries("feature")
        if visible is None or not axis.endswith("unit"):
            return super().entries(axis)
        return [*visible, *(f"hidden {j}" for j in range(self.num_hidden))]

    # The energy -------------------------------------------------------------------------------------------------------

    @property
    def units(self) -> Units:
        """β W, β b and the two values."""
        beta, (low, high) = self.inverse_temperature, STATES[self.states]
        return Units(beta * self.couplings, beta * self.biases, low, high)

    def energy(self, states: Tensor) -> Tensor:
        """-(s' W s / 2 + b' s) of states (..., n), (...,): without β."""
        return energy(states, Units(self.couplings, self.biases))

    def joint_energy(self, x: Tensor, hidden: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(x.shape[:-1], hidden.shape[:-1])
        both = torch.cat([x.expand(*shape, -1), hidden.to(x.dtype).expand(*shape, -1)], -1)
        return energy(both, self.units)

    def free_energy(self, x: Tensor) -> Tensor:
        units, d = self.units, self.num_features
        among = energy(x, Units(units.couplings[:d, :d], units.biases[:d]))
        if not self.num_hidden:
            return among
        hidden = all_states(self.num_hidden, *STATES[self.states], x)
        alone = -energy(hidden, Units(units.couplings[d:, d:], units.biases[d:]))
        return among - (alone + (x @ units.couplings[:d, d:]) @ hidden.mT).logsumexp(-1)

    def log_partition(self) -> Tensor:
        """ln Z, nats, (); exact, differentiable once.

        Raises:
            ZooError: too many units to sum over.
        """
        if (reason := self.too_many()) is not None:
            raise ZooError(f"{self.name}: {reason}. Use annealed_log_partition(), or log_partition_bound().")
        return log_partition(self.units)

    def too_many(self) -> str | None:
        n = self.num_features + self.num_hidden
        return None if n <= MOST_UNITS else f"its ln Z is a sum over 2^{n} states, and at most 2^{MOST_UNITS} are taken"

    def withholds(self) -> dict[str, str]:
        if self.num_hidden <= MOST_HIDDEN:
            return super().withholds()
        reason = f"its sum over 2^{self.num_hidden} states of hidden units is taken up to 2^{MOST_HIDDEN}"
        return dict.fromkeys(("free_energy", "log_marginal", "pseudo_log_likelihood"), reason)

    def log_partition_bound(self, num_starts: int = 20, seed: int = 0) -> Tensor:
        """The variational free energy of the best factorised q that ``num_starts`` find: at most ln Z, nats, ().

        With it ln p(x) is bounded from above, so it is no evidence bound.
        """
        with kept_generators(), torch.no_grad():
            torch.manual_seed(seed)
            return mean_field(self.units, num_starts)[1]

    def annealing_path(self) -> AnnealingPath:
        return _Path(self)

    def exact_draws(self, num: int) -> Tensor | None:
        return None if self.too_many() else draws(self.units, num)[:, : self.num_features]

    # Data -------------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Tensor:
        return self.checked_states(x)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> Any:
        """Sizes read off the data; whether units are signs or bits, too."""
        if isinstance(x, Tensor) and "states" not in arguments and bool(((x == 0) | (x == 1)).all()):
            arguments["states"] = "bits"
        return super().from_data(x, **arguments)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Small couplings, biases as if visible units were independent: from there annealing starts, too."""
        if init == "current":
            return
        n, (low, high) = self.num_features + self.num_hidden, STATES[self.states]
        share = ((x - low) / (high - low)).mean(0) if len(x) else x.new_full((self.num_features,), 0.5)
        odds = ((share * len(x) + 0.5) / (len(x) + 1)).logit() / (high - low)
        with torch.no_grad():
            noise = torch.randn(n, n, dtype=self.dtype) * (0.1 if self.num_hidden else 0.01) / n**0.5
            self.couplings = (noise + noise.mT).fill_diagonal_(0.0)
            self.biases = torch.cat([odds / self.inverse_temperature, odds.new_zeros(self.num_hidden)])
            self.base_biases = torch.cat([odds, odds.new_zeros(self.num_hidden)])

    def _checked(self, name: str, value: Any, shown: str | None = None) -> Tensor:
        if name == "couplings":
            check_couplings(value, self.num_features + self.num_hidden, type(self).__name__)
        return super()._checked(name, value, shown)


class _Path(AnnealingPath):
    """Couplings grow with t, biases move from those of independent units."""

    def __init__(self, model: BoltzmannMachine) -> None:
        self.units, self.base = model.units, model.base_biases
        self.num_features = model.num_features
        self.log_base = independent_log_partition(self.at(0.0))
        sparse = bool(((self.units.couplings == 0).sum(1) > len(self.base) // 2).all())
        self.blocks = colours(self.units.couplings) if sparse else None
        self.hidden = torch.arange(model.num_features, len(self.base), device=self.base.device)

    def at(self, t: float) -> Units:
        w, b, low, high = self.units
        return self.units if t == 1 else Units(t * w, (1 - t) * self.base + t * b, low, high)

    def start(self, num_chains: int) -> Tensor:
        low, high = self.units.low, self.units.high
        p = ((high - low) * self.base).sigmoid()
        return low + (high - low) * torch.bernoulli(p.expand(num_chains, -1))

    def at_data(self, x: Tensor) -> Tensor:
        state = torch.cat([x, self.start(len(x))[:, self.num_features :].to(x.dtype)], 1)
        for _ in range(CLAMPED_SWEEPS if len(self.hidden) else 0):
            state = sweep(state, self.units, self.hidden, self.blocks)
        return state

    def move(self, state: Tensor, t: float = 1.0) -> Tensor:
        return sweep(state, self.at(t), blocks=self.blocks)

    def log_density(self, state: Tensor, t: float = 1.0) -> Tensor:
        return -energy(state, self.at(t))

    def log_ratio(self, state: Tensor, new: float, old: float) -> Tensor:
        return (old - new) * energy(state, Units(self.units.couplings, self.units.biases - self.base))


def tiny() -> tuple[BoltzmannMachine, Tensor]:
    """The smallest honest instance, with a hidden unit, and data."""
    model = BoltzmannMachine(num_features=3, num_hidden=1)
    model.couplings = [[0.0, 0.5, -0.2, 0.7], [0.5, 0.0, 0.1, -0.4], [-0.2, 0.1, 0.0, 0.3], [0.7, -0.4, 0.3, 0.0]]
    model.biases = [0.1, -0.2, 0.3, 0.0]
    x = all_states(3, -1.0, 1.0, model.biases.detach())
    return model, torch.cat([x, x[[1, 5, 6, 6]]])
