"""The travelling salesman as a mean field: tours by their lengths, p(tour) proportional to exp(-β length).

    z_a ~ any position, evenly                               a = 1..n, each city in a position
    factor exp(-β energy(z)) n^n                             length + a penalty on positions taken twice
    q(z) = product over a of Categorical(z_a; probs[a])

Hopfield & Tank (1985) let a circuit relax to a tour; Peterson & Söderberg (1989) cool Potts neurons, one a city. What
these lower is the variational free energy E_q[energy] - H(q) / β. A factorised q always has mass on positions that
hold two cities, so that p cannot be the tours' alone, and is relaxed: all n^n assignments count, those that are no
tour by exp(-β penalty ...). The bound is on the ln Z of these, which is at least that of the tours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.core.checks import positive, rows
from zoo.core.contract import LatentVariableModel, parameter
from zoo.core.data import Data, Fields, as_data, tensors
from zoo.core.isolation import isolated
from zoo.core.rows import Known, restricted
from zoo.densities.tour_dynamics import DYNAMICS
from zoo.densities.tours import assigned, log_partition, mean_energy, relaxed_log_partition, tour_lengths
from zoo.errors import ZooError, unknown_name

__all__ = ["HopfieldTSP", "Solution"]


class Solution(NamedTuple):
    """What many starts came to.

    Attributes:
        tours: cities in the order of the visit, (S, n); -1 where no tour was reached.
        lengths: in the units of the distances, (S,); NaN there.
        valid: whether the most probable positions of the cities are a tour, (S,).
    """

    tours: Tensor
    lengths: Tensor
    valid: Tensor


class HopfieldTSP(LatentVariableModel):
    """Tours of cities by their lengths, relaxed to a mean field over the position of each city.

    Nothing is learned: a fit finds q for one matrix of distances. ``mean_field`` takes the best of many starts.

    Args:
        num_cities: n, at least 3.
        inverse_temperature: β, per longest distance: p is proportional to exp(-β length / longest distance).
        penalty: of an energy, in longest distances, for each pair of cities in one position; None takes
            0.31 sqrt(n), or three mean distances if these are more (few cities).

    Shapes:
        data: distances (n, n), symmetric, not negative, zero diagonal; or (1, n, n), or a dict of ``distances``.
        distances: the same, of every method; inside of the class (1, n, n).
        logits: (n, n), of q(city a is in position i). elbo: (1,), nats, on ``relaxed_log_partition``.

    Raises:
        ZooError: distances that are no such matrix (which entry), or all zero.

    Example:
        >>> model, distances = tiny()
        >>> model.solve(distances, starts=5).valid.tolist()
        [True, True, True, True, True]
    """

    reference = 'Hopfield & Tank (1985), "Neural" computation of decisions; Peterson & Söderberg (1989)'
    inits = ("random", "current")
    normalized = False
    fields = Fields(observed=("distances",))
    default_data = "burma14"

    def __init__(self, num_cities: int, inverse_temperature: float = 100.0, penalty: float | None = None) -> None:
        super().__init__()
        who = type(self).__name__
        if positive(num_cities, "num_cities", who) < 3:
            raise ZooError(f"{who}: num_cities expected at least 3, got {num_cities}. Fewer have one tour.")
        self.num_cities = num_cities
        self.penalty, self.inverse_temperature = penalty, inverse_temperature
        for name in ("inverse_temperature", "penalty"):
            value = getattr(self, name)
            if name == "penalty" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ZooError(f"{who}: {name} expected a finite number above 0, got {value!r}.")
        self.logits = parameter(torch.zeros(num_cities, num_cities, dtype=self.dtype))

    # Programs ---------------------------------------------------------------------------------------------------------

    def model(self, distances: Tensor) -> None:
        n = self.num_cities
        with pyro.plate("data", len(distances)):
            even = dist.Categorical(logits=distances.new_zeros(len(distances), n, n)).to_event(1)
            z = pyro.sample("z", even)
            d = self.scaled(distances)
            cost = mean_energy(one_hot(z, n).to(d.dtype), d, self.penalty_of(d))
            pyro.factor("energy", n * math.log(n) - self.inverse_temperature * cost)

    def guide(self, distances: Tensor) -> None:
        with pyro.plate("data", len(distances)):
            pyro.sample("z", dist.Categorical(logits=self.logits.expand(len(distances), -1, -1)).to_event(1))

    def elbo(self, distances: Tensor, known: Known | None = None) -> Tensor:
        """-β E_q[energy] + H(q), (1,), nats: at most ``relaxed_log_partition``.

        Args:
            known: ``{"z": (1, n)}``, positions of cities that are known, -1 elsewhere.
        """
        logits = restricted(self.logits.expand(len(distances), -1, -1), known)
        return self._bound(logits, self.scaled(distances))

    def _bound(self, logits: Tensor, scaled: Tensor) -> Tensor:
        """The bound of q (..., n, n), (...,)."""
        q = dist.Categorical(logits=logits)
        cost = mean_energy(q.probs, scaled, self.penalty_of(scaled))
        return q.entropy().sum(-1) - self.inverse_temperature * cost

    def scaled(self, distances: Tensor) -> Tensor:
        """Distances in units of the longest, (n, n)."""
        return distances / distances.amax((-2, -1), keepdim=True)

    def penalty_of(self, scaled: Tensor) -> float:
        """The penalty for these distances, in units of the longest, as ``scaled`` (n, n).

        Below 2 / 3 of three mean distances the even q would first give way to one with half of the positions empty.
        """
        if self.penalty is not None:
            return self.penalty
        n = self.num_cities
        return max(0.31 * math.sqrt(n), 3 * float(scaled.sum()) / (n * (n - 1)))

    # The mean field ---------------------------------------------------------------------------------------------------

    def relax(self, distances: Tensor, starts: int, dynamics: str, seen: Callable[[float, float], bool]) -> list[str]:
        """Set q to that of the best of many starts: of the least energy at its most probable positions.

        Args:
            starts: S, side by side.
            dynamics: "potts" or "hopfield_tank", see :mod:`zoo.densities.tour_dynamics`.
            seen: told on the way the highest bound of a start and the fraction done; False stops.

        Returns:
            Notes: how many starts came to a tour, and its length.

        Raises:
            ZooError: dynamics that are not known.
        """
        d, probs = self.scaled(distances)[0], torch.empty(0)
        penalty = self.penalty_of(d)
        try:
            for i, state in enumerate(self._dynamics(dynamics)(d, starts, self.inverse_temperature, penalty)):
                probs = state.probs
                if i % 10 == 0 or state.fraction == 1:
                    bounds = self._bound(probs.clamp_min(torch.finfo(d.dtype).tiny).log(), d)
                    if not seen(float(bounds.max()), state.fraction):
                        break
        finally:  # also where it is interrupted
            if len(probs):
                decided = one_hot(probs.argmax(-1), self.num_cities).to(d.dtype)
                best = probs[int(mean_energy(decided, d, penalty).argmin())]
                with torch.no_grad():
                    self.logits = best.clamp_min(torch.finfo(d.dtype).tiny).log()
        found = self._solution(probs, distances[0])
        if not bool(found.valid.any()):
            return [f"none of {starts} starts came to a tour"]
        lengths = found.lengths[found.valid]
        return [
            f"{len(lengths)} of {starts} starts came to a tour; shortest {float(lengths.min()):g}, "
            f"median {float(lengths.median()):g}"
        ]

    def solve(self, distances: Any, starts: int = 100, dynamics: str = "potts", seed: int = 0) -> Solution:
        """Tours from many starts, as they are reached: no tour is repaired, and none improved.

        Args:
            distances: (n, n). starts: S. dynamics: "potts" or "hopfield_tank". seed: where the starts come from.

        Raises:
            ZooError: distances that are no such matrix, dynamics that are not known.
        """
        positive(starts, "starts", type(self).__name__)
        relaxed = self._dynamics(dynamics)
        x: Any = self.prepare(distances)
        with isolated(seed), torch.no_grad():
            d = self.scaled(x)[0]
            *_, state = relaxed(d, starts, self.inverse_temperature, self.penalty_of(d))
            return self._solution(state.probs, x[0])

    def steps(self, distances: Any, num_steps: int = 40, dynamics: str = "potts", seed: int = 0) -> Tensor:
        """q on the way of one start, of ten the one that ends best, (F, n, n), F at most ``num_steps``: to be drawn.

        Args:
            dynamics: as for :meth:`solve`.

        Raises:
            ZooError: as there.
        """
        relaxed, x = self._dynamics(dynamics), self.prepare(distances)
        with isolated(seed), torch.no_grad():
            d: Tensor = self.scaled(x)[0]
            penalty = self.penalty_of(d)
            way = torch.stack([s.probs.clone() for s in relaxed(d, 10, self.inverse_temperature, penalty)])
            best = int(mean_energy(way[-1], d, penalty).argmin())
            # After the last change there is nothing to see.
            last = int(((way[:, best] - way[-1, best]).abs().amax((1, 2)) > 0.01).sum())
            kept = torch.linspace(0, min(last, len(way) - 1), num_steps).round().long().unique()
            return way[kept, best]

    def _dynamics(self, name: str) -> Any:
        if name not in DYNAMICS:
            raise unknown_name(f"{type(self).__name__}: dynamics", name, DYNAMICS)
        return DYNAMICS[name]

    @staticmethod
    def _solution(probs: Tensor, distances: Tensor) -> Solution:
        tours, valid = assigned(probs)
        return Solution(tours, torch.where(valid, tour_lengths(tours, distances), torch.nan), valid)

    def predict(self, distances: Tensor) -> Tensor:
        """The tour (1, n) of each city's most probable position under q; -1 where that is no tour."""
        return assigned(self.logits.detach())[0].expand(len(distances), -1)

    # Exact answers about the tours themselves -------------------------------------------------------------------------

    def log_prob(self, tours: Tensor, distances: Any) -> Tensor:
        """ln p of tours (..., n) among the n! assignments that are tours, (...,), nats; up to 16 cities.

        A tour counted without its beginning and direction has ln 2n more.
        """
        x: Any = self.prepare(distances)
        costs = self.inverse_temperature * self.scaled(x)[0]
        return -tour_lengths(tours, costs) - log_partition(costs)

    def log_partition(self, distances: Any) -> Tensor:
        """ln of the sum of exp(-β length) over the n! assignments that are tours, nats, (); up to 16 cities."""
        x: Any = self.prepare(distances)
        return log_partition(self.inverse_temperature * self.scaled(x)[0])

    def relaxed_log_partition(self, distances: Any) -> Tensor:
        """ln of the sum over all n^n assignments, nats, (): what ``elbo`` bounds; up to 7 cities."""
        x: Any = self.prepare(distances)
        d, beta = self.scaled(x)[0], self.inverse_temperature
        return relaxed_log_partition(beta * d, beta * self.penalty_of(d))

    # Data -------------------------------------------------------------------------------------------------------------

    def validate(self, x: Data) -> Tensor:
        who, n = type(self).__name__, self.num_cities
        x = self.fields.checked(x, who)["distances"] if isinstance(x, (dict, tuple)) else x
        if not isinstance(x, Tensor):
            raise ZooError(f"{who}: distances expected a matrix ({n}, {n}), got a {type(x).__name__}. Pass an array.")
        if x.dim() == 3 and len(x) != 1:
            raise ZooError(f"{who}: distances expected one matrix, got {len(x)}. Fit each by itself.")
        d = x[0] if x.dim() == 3 else x
        if d.shape != (n, n):
            fix = f"Pass num_cities={len(d)}." if d.dim() == 2 and len(d) == d.shape[1] else "Pass all distances."
            raise ZooError(f"{who}: distances expected shape ({n}, {n}), got {tuple(d.shape)}. {fix}")
        super().validate(d)
        where = f"{who}: distances expected"
        if bool((d < 0).any()):
            raise ZooError(f"{where} no negative ones, got {float(d[d < 0][0]):g} in {rows(d < 0)}. Shift them.")
        if bool(d.diagonal().any()):
            away = d.diagonal() != 0
            raise ZooError(
                f"{where} 0 from a city to itself, got {float(d.diagonal()[away][0]):g} in {rows(away)}. "
                "Set the diagonal to zero."
            )
        if bool((d != d.mT).any()):
            i, j = (d != d.mT).nonzero()[0].tolist()
            raise ZooError(
                f"{where} a symmetric matrix, got {float(d[i, j]):g} at ({i}, {j}) and {float(d[j, i]):g} at "
                f"({j}, {i}). Pass (d + d.T) / 2, if one way is as good as the other."
            )
        if not bool(d.any()):
            raise ZooError(f"{where} some above 0, got none. Check what made them.")
        return d.unsqueeze(0)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """The number of cities read off the distances."""
        first = tensors(as_data(x))[:1]
        if first and first[0].dim() >= 2:
            arguments.setdefault("num_cities", first[0].shape[-1])
        return super().from_data(x, **arguments)

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        if init == "random":
            self.logits = torch.randn(self.num_cities, self.num_cities, dtype=self.dtype)


def tiny() -> tuple[HopfieldTSP, Tensor]:
    """The smallest honest instance, at a temperature where q is no single tour, and distances of four points."""
    points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    return HopfieldTSP(num_cities=4, inverse_temperature=10.0), torch.cdist(points, points)
