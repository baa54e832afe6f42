"""Hopfield network: patterns of signs are stored in couplings, and a state recalls the one that it leads to.

    E(s) = -(s' W s / 2 + b' s)        W symmetric with a zero diagonal, each s_i is -1 or 1

Hopfield (1982), "Neural networks and physical systems with emergent collective computational abilities". It is the
Boltzmann machine of the same energy at temperature zero: units move to the value of the lower energy. There is no
density of data then, and nothing to climb: a rule says W, a formula of the patterns.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.core.checks import positive
from zoo.core.contract import Axes, LatentVariableModel, parameter
from zoo.core.data import Data
from zoo.densities.boltzmann import check_couplings, hollow
from zoo.densities.descent import Descent, descend, move_at_once
from zoo.densities.ising import Units, energy, sweep
from zoo.errors import ZooError, unknown_name
from zoo.models.boltzmann_machine import BoltzmannMachine
from zoo.models.shared.memory import RULES, capacity, law, unstable
from zoo.models.shared.units import checked_states

__all__ = ["HopfieldNetwork"]

#: Sweeps of Gibbs sampling while a state is cooled.
SWEEPS = 200
UPDATES = ("asynchronous", "synchronous")


class HopfieldNetwork(LatentVariableModel):
    """Hopfield network over D units, an associative memory of patterns of signs.

    Args:
        num_features: D.
        rule: how patterns become couplings. "hebbian": the sum of their products over D, which recalls up to 0.138 D
            patterns drawn evenly; "storkey": one after another, each less what is known of it; up to D / sqrt(2 ln D);
            "pseudo_inverse": the projection on their span, which holds D - 1 of any kind that are independent.

    Shapes:
        x: (M, D) of -1 and 1, the patterns. couplings: (D, D), symmetric with a zero diagonal. biases: (D,), which the
        rules leave at zero. energy(x): (M,). recall(x): (M, D).

    Raises:
        ZooError: x of other values or another size; couplings that are not symmetric, or have a diagonal.

    Example:
        >>> model, x = tiny()
        >>> notes = model.closed_form(x)
        >>> bool((model.recall(x) == x).all())
        True
    """

    reference = "Hopfield (1982), Neural networks and physical systems with emergent collective computational abilities"
    default_data = "letters"
    normalized = False
    values = (-1.0, 1.0)
    axes: ClassVar[Axes] = {"couplings": ("feature", "other feature"), "biases": ("feature",)}

    def __init__(self, num_features: int, rule: str = "hebbian") -> None:
        super().__init__()
        if rule not in RULES:
            raise unknown_name(f"{type(self).__name__}: rule", str(rule), list(RULES))
        self.num_features, self.rule = positive(num_features, "num_features", type(self).__name__), rule
        self.couplings = parameter(torch.zeros(num_features, num_features, dtype=self.dtype), hollow)
        self.biases = parameter(torch.zeros(num_features, dtype=self.dtype), constraints.real)

    def model(self, x: Tensor) -> None:
        """No more than what the energy says of states: which of two is the better one."""
        with pyro.plate("data", len(x)):
            pyro.factor("energy", -self.energy(x))

    def withholds(self) -> dict[str, str]:
        return {"log_marginal": "at temperature zero it has no density of data (thermal(temperature) is one)"}

    # The energy -------------------------------------------------------------------------------------------------------

    @property
    def units(self) -> Units:
        """W, b and the two values."""
        return Units(self.couplings, self.biases, *self.values)

    def energy(self, states: Tensor) -> Tensor:
        """-(s' W s / 2 + b' s) of states (..., D), (...,)."""
        return energy(states, self.units)

    def thermal(self, temperature: float) -> BoltzmannMachine:
        """The Boltzmann machine of the same couplings at a temperature above zero: a density, with draws of it.

        Raises:
            ZooError: a temperature that is not positive.
        """
        if not temperature > 0:
            raise ZooError(f"{self.name}: temperature expected a positive number, got {temperature}.")
        machine = BoltzmannMachine(self.num_features, inverse_temperature=1 / temperature)
        machine.couplings, machine.biases = self.couplings.detach(), self.biases.detach()
        return machine

    # Storing ----------------------------------------------------------------------------------------------------------

    def closed_form(self, x: Tensor, weights: Tensor | None = None) -> list[str]:
        """Store patterns (M, D) by the rule, in the place of what was stored; biases become zero.

        Args:
            weights: how often each pattern is stored, (M,); by "storkey" whole numbers.

        Returns:
            A note where there are more patterns than the rule holds, or some are no stable states: what is to be
            expected, and what is so.

        Raises:
            ZooError: the rule "storkey" with weights that are no whole numbers.
        """
        if self.rule == "storkey" and weights is not None and bool((weights != weights.round()).any()):
            raise ZooError(f"{self.name}: storkey expected weights that are whole numbers. Take rule='hebbian'.")
        with torch.no_grad():
            self.couplings = RULES[self.rule](x, weights)
            self.biases = torch.zeros_like(self.biases)
            stored = x if weights is None else x[weights > 0]
            return self._notes(stored) if len(stored) else []

    def _notes(self, x: Tensor) -> list[str]:
        d, most = self.num_features, capacity(self.rule, self.num_features)
        count = len((x * x[:, :1]).unique(dim=0))  # a pattern and its negative are one memory
        moved = float((x * (x @ self.couplings) < 0).double().mean())
        fix = "Take more units" if self.rule == "pseudo_inverse" else "Take rule='pseudo_inverse', which holds D - 1"
        if count <= most:
            alike = f"{moved:.2%} of the units of what is stored are not stable: patterns that resemble each other"
            return [f"{alike}. {fix}."] if moved else []
        if self.rule == "pseudo_inverse":
            what = "a state recalls itself, whatever it is"
        else:
            expected = unstable(self.rule, d, count)
            what = f"{expected:.2%} of units are expected to move at once, and more after them; of these {moved:.2%} do"
        return [
            f"{count} patterns are more than the {most:.1f} ({law(self.rule)}) that the {self.rule} rule holds of "
            f"patterns drawn evenly over {d} units: {what}. {fix}."
        ]

    # Recalling --------------------------------------------------------------------------------------------------------

    def recall(self, x: Any, updates: str = "asynchronous", seed: int | None = None, max_sweeps: int = 1000) -> Tensor:
        """The states that states (N, D) lead to, (N, D).

        Args:
            updates: "asynchronous", one unit after another until none moves, which never raises the energy;
                "synchronous", all at once, until a state comes back: stable, or one of two that alternate.
            seed: where the order of units comes from; None goes from the first to the last.

        Raises:
            ZooError: updates of another kind, states of another size.
        """
        return self.descent(self.prepare(x), updates, seed, max_sweeps).state

    def descent(
        self, x: Tensor, updates: str = "asynchronous", seed: int | None = None, max_sweeps: int = 1000
    ) -> Descent:
        """As :meth:`recall`, of states as the model takes them; with them, which ones are stable, (N,).

        Args:
            updates: as for :meth:`recall`.

        Raises:
            ZooError: updates of another kind.
        """
        with torch.no_grad():
            if _known(updates, self.name) == "synchronous":
                return move_at_once(x, self.units, max_sweeps)
            return descend(x, self.units, None if seed is None else self._order(seed), max_sweeps)

    def _order(self, seed: int) -> Tensor:
        return torch.randperm(self.num_features, generator=torch.Generator().manual_seed(seed))

    def steps(self, x: Any, updates: str = "asynchronous", seed: int | None = 0) -> Tensor:
        """What one state (D,) goes through on its way, (S, D), itself first: a row a move, or a step of all units.

        Args:
            updates: as for :meth:`recall`.

        Raises:
            ZooError: updates of another kind, more than one state.
        """
        made = [self.prepare(torch.as_tensor(x).reshape(1, -1))]
        order = torch.arange(self.num_features) if seed is None else self._order(seed)
        with torch.no_grad():
            if _known(updates, self.name) == "synchronous":
                while len(made) < 3 or not torch.equal(made[-1], made[-3]):
                    made.append(move_at_once(made[-1], self.units, 1).state)
                while len(made) > 1 and torch.equal(made[-1], made[-2]):
                    made.pop()
                return torch.cat(made)
            known = 0
            while known < len(made):
                known = len(made)
                for unit in order:
                    now = descend(made[-1], self.units, unit.reshape(1), 1).state
                    if not torch.equal(now, made[-1]):
                        made.append(now)
        return torch.cat(made)

    def predict(self, x: Tensor) -> Tensor:
        """What each state recalls, (N, D)."""
        return self.descent(x).state

    def sample_like(self, x: Tensor, num: int) -> Tensor:
        """Stable states of low energy, (num, D): drawn evenly, cooled by Gibbs sampling from above the temperature at
        which order begins to zero, and let go down. What is stored, its negatives, and mixtures."""
        with torch.no_grad():
            w, b, low, high = self.units
            state = torch.where(torch.rand(num, self.num_features, dtype=w.dtype) < 0.5, low, high).to(w.device)
            hottest = 1.5 * float(torch.linalg.eigvalsh(w)[-1]) + float(b.abs().max())
            for k in range(SWEEPS if hottest > 0 else 0):
                beta = 1 / (hottest * (1 - k / SWEEPS))
                state = sweep(state, Units(beta * w, beta * b, low, high))
            return descend(state, self.units).state.to(x.dtype)

    # Data -------------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Tensor:
        return checked_states(x, self.num_features, self.values, self.name)

    def _checked(self, name: str, value: Any, shown: str | None = None) -> Tensor:
        if name == "couplings":
            check_couplings(value, self.num_features, type(self).__name__)
        return super()._checked(name, value, shown)


def _known(updates: str, who: str) -> str:
    if updates not in UPDATES:
        raise unknown_name(f"{who}: updates", str(updates), list(UPDATES))
    return updates


def tiny() -> tuple[HopfieldNetwork, Tensor]:
    """The smallest honest instance, and two patterns."""
    model = HopfieldNetwork(num_features=6)
    return model, torch.tensor([[1, 1, 1, -1, -1, -1], [1, -1, 1, -1, 1, -1]], dtype=model.dtype)
