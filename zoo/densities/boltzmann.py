"""The Boltzmann distribution of units of two values, for any Pyro program; and symmetric couplings as a support."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints, transform_to

from zoo.densities.ising import MOST_UNITS, Units, all_states, colours, draws, energy, log_partition, sweep
from zoo.errors import ZooError

__all__ = ["Boltzmann", "check_couplings", "hollow", "independent_log_partition"]

#: The most units whose states are listed for Pyro, and sweeps of a chain that stands for an exact draw.
LISTED_UNITS = 12
SWEEPS = 1000


class _Hollow(constraints.Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        diagonal = value.diagonal(dim1=-2, dim2=-1)
        return ((value - value.mT).abs().amax((-2, -1)) == 0) & (diagonal == 0).all(-1)


#: Symmetric matrices (..., n, n) with a zero diagonal.
hollow = _Hollow()


@transform_to.register(_Hollow)
class _Mirrored(Transform):
    """From the n (n - 1) / 2 numbers above a diagonal to the symmetric matrix."""

    domain, codomain = constraints.real_vector, hollow

    def __init__(self, _: Any = None) -> None:
        super().__init__()

    def _call(self, x: Tensor) -> Tensor:
        n = round((1 + (1 + 8 * x.shape[-1]) ** 0.5) / 2)
        rows, columns = torch.triu_indices(n, n, 1, device=x.device)
        upper = x.new_zeros(*x.shape[:-1], n, n)
        upper[..., rows, columns] = x
        return upper + upper.mT

    def _inverse(self, y: Tensor) -> Tensor:
        rows, columns = torch.triu_indices(y.shape[-1], y.shape[-1], 1, device=y.device)
        return y[..., rows, columns]


def independent_log_partition(units: Units) -> Tensor:
    """ln Z of units without couplings, nats, ()."""
    return torch.logaddexp(units.biases * units.low, units.biases * units.high).sum(-1)


def check_couplings(value: Any, num_units: int, who: str) -> None:
    """Say what is wrong with couplings of the right shape: not symmetric, or with a diagonal.

    Raises:
        ZooError: one of these.
    """
    w = torch.zeros(()) if isinstance(value, str) else torch.as_tensor(value)
    if w.shape != (num_units, num_units) or not bool(w.isfinite().all()):
        return
    expected = f"{who}.couplings expected a symmetric ({num_units}, {num_units}) matrix with a zero diagonal"
    away = (w - w.mT).abs()
    if bool(away.max() > 0):
        i, j = divmod(int(away.argmax()), num_units)
        raise ZooError(
            f"{expected}, got {float(w[i, j]):g} at ({i}, {j}) and {float(w[j, i]):g} at ({j}, {i}). "
            "Pass (w + w.T) / 2."
        )
    if bool(w.diagonal().any()):
        i = int(w.diagonal().abs().argmax())
        raise ZooError(f"{expected}, got {float(w[i, i]):g} at ({i}, {i}). Set the diagonal to zero.")


class Boltzmann(dist.TorchDistribution):
    """p(s) = exp(s' W s / 2 + b' s) / Z over n units of two values.

    Args:
        couplings: W (n, n), symmetric with a zero diagonal; None for independent units. biases: b (n,).
        values: the two values of a unit.

    Shapes:
        batch (), event (n,). Densities of coupled units are exact up to 24 of them, and so are draws; above, ``sample``
        gives the end of a Gibbs chain of 1000 sweeps from a start at random. Values can be enumerated up to 12 units.

    Raises:
        ZooError: couplings of another shape, not symmetric or with a diagonal; a density of more than 24 coupled units.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        couplings: Tensor | None,
        biases: Tensor,
        values: tuple[float, float] = (-1.0, 1.0),
        validate_args: bool | None = None,
    ) -> None:
        self.coupled = couplings is not None
        n = biases.shape[-1]
        if couplings is not None:
            if couplings.shape != (n, n):
                raise ZooError(
                    f"Boltzmann.couplings expected shape ({n}, {n}), got {tuple(couplings.shape)}. Match the biases."
                )
            check_couplings(couplings.detach(), n, "Boltzmann")
        self.units = Units(biases.new_zeros(n, n) if couplings is None else couplings, biases, *values)
        super().__init__(torch.Size(), torch.Size([n]), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(constraints.real, 1)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return len(self.units.biases) <= LISTED_UNITS

    def expand(self, batch_shape: Any, _instance: Any = None) -> Boltzmann:
        new = self._get_checked_instance(Boltzmann, _instance)
        new.coupled, new.units = self.coupled, self.units
        super(Boltzmann, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def log_partition(self) -> Tensor:
        """ln Z, nats, (), differentiable."""
        n = len(self.units.biases)
        if not self.coupled:
            return independent_log_partition(self.units)
        if n > MOST_UNITS:
            raise ZooError(
                f"Boltzmann: an exact density expected at most {MOST_UNITS} units, got {n}. Score it by pyro.factor of "
                "minus the energy, or anneal (zoo.BoltzmannMachine.annealed_log_partition)."
            )
        return log_partition(self.units)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.units.biases)
        low, high = self.units.low, self.units.high
        wrong = ((value != low) & (value != high)).any(-1)
        total = (-energy(value, self.units) - self.log_partition()).masked_fill(wrong, -torch.inf)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        units, num = Units(self.units.couplings.detach(), self.units.biases.detach(), *self.units[2:]), shape.numel()
        if not self.coupled or len(units.biases) > MOST_UNITS:
            p = ((units.high - units.low) * units.biases).sigmoid() if not self.coupled else torch.full_like(
                units.biases, 0.5
            )  # fmt: skip
            state = units.low + (units.high - units.low) * torch.bernoulli(p.expand(num, -1))
            blocks = colours(units.couplings) if self.coupled else []
            for _ in range(SWEEPS if self.coupled else 0):
                state = sweep(state, units, blocks=blocks)
        else:
            state = draws(units, num)
        return state.reshape(shape + self.event_shape)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        n, low, high = len(self.units.biases), self.units.low, self.units.high
        values = all_states(n, low, high, self.units.biases).reshape(-1, *[1] * len(self.batch_shape), n)
        return values.expand(-1, *self.batch_shape, n) if expand else values
