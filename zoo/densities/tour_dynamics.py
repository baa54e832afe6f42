"""Two ways from many starts to a mean field over tours: Potts neurons that are cooled, and Hopfield and Tank's circuit.

Distances are in units of the longest. All starts are worked on at once; each state is (S, n, n), starts, cities,
positions. Random numbers come from torch's generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.densities.tours import critical_temperature

__all__ = ["DYNAMICS", "Relaxed", "hopfield_tank", "potts"]

#: Where cooling starts, in critical temperatures; what a sweep takes off the temperature, times the number of cities;
#: the share of the penalty that is lacking at the start. One setting for all: found on problems of 14 to 52 cities.
START, COOLING, LACKING = 0.78, 0.07, 1 / 3
#: A start is decided where each city is in one position with at least this probability.
DECIDED = 0.999
#: Sweeps at the last temperature, at most; they end where no probability moves by more.
LAST_SWEEPS, STILL = 100, 1e-9


class Relaxed(NamedTuple):
    """A state on the way.

    Attributes:
        probs: q of every start, (S, n, n); rows sum to one.
        fraction: how far it has come, 0 to 1.
    """

    probs: Tensor
    fraction: float


def potts(distances: Tensor, starts: int, inverse_temperature: float, penalty: float) -> Iterator[Relaxed]:
    """Coordinate descent in the free energy E_q[energy] - T H(q), a city at a time, while T falls to its last value.

    A city's q is set to the best given the others, exp(-field / T) over the positions, so that at a fixed T the free
    energy never rises. The field is the energy of a position given the other cities, without the city's own: Peterson &
    Söderberg (1989), A new method for mapping optimization problems onto neural networks, whose neurons of n states
    these are. T starts at 0.78 of where the even q gives way, and falls by a share of 0.07 / n a sweep; the penalty
    starts at two thirds of its value and grows to it as T falls. A start that is decided waits for the others. Each
    start takes the cities in an order of its own, drawn anew each sweep.

    Yields:
        the state after each sweep, the last one a mean field at T = 1 / inverse_temperature.
    """
    n, last = len(distances), 1 / inverse_temperature
    whole = torch.randn(starts, n, n, dtype=distances.dtype, device=distances.device).softmax(-1)
    first = max(START * critical_temperature(distances, (1 - LACKING) * penalty), last)
    temperature, factor, steps = first, 1 - COOLING / n, 0
    count = max(1, math.ceil(math.log(last / temperature) / math.log(factor)))
    going = torch.arange(starts, device=distances.device)
    q = whole.clone()
    while len(going) and temperature > last:
        _sweep(q, distances, penalty * (1 - LACKING * temperature / first), temperature)
        whole[going] = q
        temperature *= factor
        steps += 1
        undecided = q.amax(-1).amin(-1) <= DECIDED
        if not bool(undecided.all()):
            going, q = going[undecided], q[undecided]
        yield Relaxed(whole, min(0.99, steps / count))
    for _ in range(LAST_SWEEPS):
        before = whole.clone()
        _sweep(whole, distances, penalty, last)
        if float((whole - before).abs().max()) < STILL:
            break
    yield Relaxed(whole, 1.0)


def _sweep(q: Tensor, distances: Tensor, penalty: float, temperature: float) -> None:
    """Set the q (S, n, n) of each city in turn, in an order of each start's own, to the best given the others."""
    orders = torch.rand(q.shape[:2], device=q.device).argsort(-1)
    starts, used = torch.arange(len(q), device=q.device), q.sum(1)  # (S, n): cities in each position
    for cities in orders.T:
        used -= q[starts, cities]
        near = torch.bmm(distances[cities].unsqueeze(1), q).squeeze(1)
        field = near.roll(1, -1) + near.roll(-1, -1) + penalty * used
        new = (field / -temperature).softmax(-1)
        q[starts, cities] = new
        used += new


# Hopfield and Tank's circuit -----------------------------------------------------------------------------------------

#: The constants of 1985, for ten cities in the unit square: a city in two positions, a position with two cities, the
#: number of neurons that are on, the length; the number of neurons aimed at, for each city; the gain.
A, B, C, D, AIM, GAIN = 500.0, 500.0, 200.0, 500.0, 1.5, 0.02
#: The mean distance of two points of the unit square: what distances are scaled to.
MEAN_DISTANCE = 0.5214
#: Euler steps of this share of the time constant; they end where no output moves by more.
STEP, STEPS, AT_REST = 1e-5, 3000, 1e-7


def hopfield_tank(distances: Tensor, starts: int, inverse_temperature: float, penalty: float) -> Iterator[Relaxed]:
    """The analog circuit of Hopfield & Tank (1985), "Neural" computation of decisions in optimization problems.

        du_ai/dt = -u_ai - A (other positions of a) - B (other cities in i) - C (all neurons - 1.5 n)
                   - D sum over b of d_ab (V_b,i+1 + V_b,i-1),        V = (1 + tanh(u / 0.02)) / 2

    with A = B = D = 500, C = 200 and the 15 neurons that they aim at for 10 cities; u starts where all outputs sum to
    n, with noise of a tenth of the gain. Distances are scaled to the mean of points in the unit square. Nothing of the
    temperature and penalty enters: the constants are its own. What is given as q are the outputs, each city's divided
    by their sum.

    Yields:
        the state after every tenth of 3000 Euler steps, or where it comes to rest.
    """
    n = len(distances)
    apart = ~torch.eye(n, dtype=torch.bool, device=distances.device)
    d = distances * (MEAN_DISTANCE / distances[apart].mean())
    noise = torch.rand(starts, n, n, dtype=distances.dtype, device=distances.device)
    u = -GAIN / 2 * math.log(n - 1) + GAIN * 0.1 * (2 * noise - 1)
    v = torch.sigmoid(2 * u / GAIN)
    for step in range(1, STEPS + 1):
        row, column = v.sum(-1, keepdim=True), v.sum(-2, keepdim=True)
        whole = row.sum(-2, keepdim=True)
        near = d @ v
        slope = -u - A * (row - v) - B * (column - v) - C * (whole - AIM * n)
        slope -= D * (near.roll(1, -1) + near.roll(-1, -1))
        u = u + STEP * slope
        before, v = v, torch.sigmoid(2 * u / GAIN)
        rest = step % 100 == 0 and float((v - before).abs().max()) < AT_REST
        if rest or step % (STEPS // 10) == 0:
            done = rest or step == STEPS
            yield Relaxed(_shares(v), 1.0 if done else step / STEPS)
            if done:
                return


def _shares(outputs: Tensor) -> Tensor:
    """Outputs divided by each city's sum."""
    outputs = outputs + torch.finfo(outputs.dtype).tiny
    return outputs / outputs.sum(-1, keepdim=True)


DYNAMICS = {"potts": potts, "hopfield_tank": hopfield_tank}
