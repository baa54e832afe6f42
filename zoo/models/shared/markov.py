"""Arithmetic of Markov chains: stationary starts, counts of paths, densities along one."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from zoo.bayes import priors
from zoo.components.base import Components
from zoo.core.memory import rows_at_once
from zoo.core.statistics import wide
from zoo.densities.distributions import Selected
from zoo.errors import ZooError

__all__ = [
    "Marginal",
    "chain_prior",
    "finite",
    "follow",
    "go_on",
    "many_paths",
    "path_counts",
    "sample_path",
    "stationary",
    "stationary_m_step",
]


class Marginal(Selected):
    """p of the entries of x_t that are there, given z_t: the others are summed out."""

    def __init__(self, owner: Components, components: dist.TorchDistribution, z: Tensor, missing: Tensor) -> None:
        super().__init__(components, z, validate_args=False)
        self.owner, self.missing = owner, missing

    def expand(self, batch_shape: Any, _instance: Any = None) -> Marginal:
        return Marginal(self.owner, self.components, self.z.expand(torch.Size(batch_shape)), self.missing)

    def log_prob(self, value: Tensor) -> Tensor:
        holes = torch.where(self.missing, value.new_tensor(math.nan), value)
        each = self.owner.component_log_prob(holes)  # (N, K)
        if self._relaxed:
            return (self.z * each).sum(-1)
        shape = torch.broadcast_shapes(each.shape[:-1], self.z.shape)
        return each.expand(*shape, each.shape[-1]).gather(-1, self.z.expand(shape).unsqueeze(-1)).squeeze(-1)


def follow(log_rows: Tensor, z: Tensor) -> Tensor:
    """Row z of a table (K, K) or of one table a datum (N, K, K); for a z on the simplex, their average."""
    if z.is_floating_point():
        return (z.unsqueeze(-2) @ finite(log_rows)).squeeze(-2)
    if log_rows.dim() == 2:
        return log_rows[z]
    n = log_rows.shape[0]
    index = z.expand(torch.broadcast_shapes(z.shape, (n,)))
    return log_rows[torch.arange(n, device=z.device).expand_as(index), index]


def sample_path(first: Tensor, steps: Tensor, lengths: Tensor) -> None:
    """A chain of states for each datum, site by site, as a Pyro program: ``z_0``, ``z_1``, ... in the plate "data".

    Args:
        first: (N, K) and steps: (N, T - 1, K, K), logits of z_1, and of z_t given z_{t-1}. lengths: (N,).
    """
    with pyro.plate("data", len(first)):
        z = None
        for t in pyro.markov(range(steps.shape[1] + 1)):
            with poutine.mask(mask=cast(Any, t < lengths)):
                logits = first if z is None else follow(steps[:, t - 1], z)
                z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))


def finite(logs: Tensor) -> Tensor:
    """-inf as a large negative number, where a product with a zero weight must be zero."""
    return logs.clamp_min(-1e4)


def go_on(log_transition: Tensor, first: Tensor, num_steps: int) -> Tensor:
    """Paths (..., 1 + num_steps) from states (...), by torch's generator."""
    states = [first]
    for _ in range(num_steps):
        states.append(dist.Categorical(logits=log_transition[states[-1]]).sample())
    return torch.stack(states, -1)


def many_paths(log_initial: Tensor, log_transition: Tensor, num_data: int, num_steps: int) -> Tensor:
    """Paths (num_data, num_steps): a uniform number picks each next state from the cumulative transitions."""
    z = torch.multinomial(log_initial.exp(), num_data, replacement=True)
    edges = log_transition.exp().cumsum(-1)
    edges = edges / edges[:, -1:]  # exactly one at the end: a state that cannot be reached is never picked
    device = edges.device
    states, rows = z.new_empty(num_data, num_steps), torch.arange(num_data, device=device)
    states[:, 0] = z
    span = rows_at_once(num_data * len(log_initial))
    for begin in range(1, num_steps, span):
        uniform = torch.rand(num_data, min(span, num_steps - begin), dtype=edges.dtype, device=device)
        # Where each state would lead, all steps of the span at once: (steps, num_data, K).
        leads = torch.stack([torch.searchsorted(row, uniform, right=True) for row in edges], -1).movedim(1, 0)
        if num_data == 1:
            state, path = int(states[0, begin - 1]), []
            for step in leads[:, 0].numpy(force=True).tolist():
                state = step[state]
                path.append(state)
            states[0, begin : begin + len(path)] = torch.tensor(path, device=device)
            continue
        for t, step in enumerate(leads, begin):
            states[:, t] = step[rows, states[:, t - 1]]
    return states


def stationary(transition: Tensor) -> Tensor:
    """The distribution that a chain with this transition matrix keeps, (K,); differentiable."""
    k = transition.shape[0]
    system = torch.eye(k, dtype=transition.dtype, device=transition.device) - transition.mT
    system = torch.cat([system[:-1], torch.ones_like(system[:1])])
    right = torch.zeros(k, dtype=transition.dtype, device=transition.device)
    right[-1] = 1
    probs, info = torch.linalg.solve_ex(system, right)
    if int(info):  # but for rounding, the chain falls into parts
        probs = _by_elimination(transition)
    return probs.clamp_min(torch.finfo(transition.dtype).tiny)


def _by_elimination(transition: Tensor) -> Tensor:
    """The same by eliminating states one by one, without a subtraction (Grassmann, Taksar & Heyman 1985), (K,).

    Where a state is never left for those before it, rounding decides between the parts.
    """
    tiny = torch.finfo(transition.dtype).tiny
    matrix, shares = transition, list[Tensor]()
    for last in range(transition.shape[0] - 1, 0, -1):
        out = matrix[last, :last]
        share = matrix[:last, last] / out.sum().clamp_min(tiny)
        matrix = matrix[:last, :last] + share[:, None] * out
        shares.append(share)
    probs = torch.ones_like(transition[0, :1])
    for share in reversed(shares):
        probs = torch.cat([probs, (probs * share).sum().reshape(1)])
        probs = probs / probs.sum()
    return probs


@np.errstate(all="ignore")  # a way that leads nowhere scores NaN and is not taken
def stationary_m_step(current: Tensor, closed: Tensor, steps: Tensor, starts: Tensor) -> Tensor:
    """Climb sum steps ln A + sum starts ln stationary(A) over transition matrices; never below ``current``.

    A stationary distribution p moves with A as dp = p dA Z, Z = (I - A + 1 p)^-1 (Schweitzer, 1968, "Perturbation
    theory and finite Markov chains"), so the second sum's slope in A_ij is p_i g_j, g = Z (starts / p). Each iteration
    goes towards the maximum of the first sum and that tangent, A_ij = steps_ij / (lambda_i - p_i g_j), a way that
    rises, as far as the whole does. Where sequences are long a few are enough. A row without steps stays.
    """
    device = current.device
    current, closed, steps, starts = (wide(v.detach()).cpu() for v in (current, closed, steps, starts))
    counts, firsts, units = steps.numpy(), starts.numpy(), np.eye(len(steps))
    taken = counts > 0
    left = taken.any(1, keepdims=True)

    def scored(matrix: Any) -> tuple[float, Any]:
        """The score, and the distribution that the matrix keeps."""
        probs = stationary(torch.from_numpy(matrix)).numpy()
        return float((counts[taken] * np.log(matrix[taken])).sum() + (firsts * np.log(probs)).sum()), probs

    matrix = closed.numpy()
    score, probs = scored(matrix)
    for _ in range(100):
        try:
            slope = np.linalg.solve(units - matrix + probs, firsts / probs)
        except np.linalg.LinAlgError:  # it falls into parts
            break
        towards = np.where(left, _rows_with_slope(counts, probs[:, None] * slope), matrix)
        for halvings in range(10):
            there = matrix + 0.5**halvings * (towards - matrix)
            score_there, probs_there = scored(there)
            if score_there > score:
                break
        else:
            break
        gain, matrix, score, probs = score_there - score, there, score_there, probs_there
        if gain <= 1e-13 * abs(score):
            break
    return (torch.from_numpy(matrix) if score >= scored(current.numpy())[0] else current).to(device)


def _rows_with_slope(counts: Any, slope: Any) -> Any:
    """The rows A_i of sum one at the maximum of sum_j counts_ij ln A_ij + slope_ij A_ij, (K, K).

    The multiplier of each row is sought from below, where the inverse of the sum, concave, leads to it without a leap
    too far.
    """
    slope = np.where(counts > 0, slope, -np.inf)
    multiplier = (slope + counts).max(1, keepdims=True)
    for _ in range(50):
        row = counts / (multiplier - slope)
        total = row.sum(1, keepdims=True)
        if (abs(total - 1) <= 1e-14).all():
            break
        multiplier = multiplier + total * (total - 1) / (row / (multiplier - slope)).sum(1, keepdims=True)
    return row / total


def path_counts(
    paths: Tensor, k: int, dtype: torch.dtype, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (K,), steps (K, K) and one-hot states (N, T, K) of paths (N, T) with -1 where there is none; each counted
    ``weights`` (N,) times."""
    states = torch.zeros(*paths.shape, k, dtype=dtype, device=paths.device)
    inside = paths >= 0
    states[inside] = torch.nn.functional.one_hot(paths[inside], k).to(dtype)
    counted = states if weights is None else states * weights.to(dtype).reshape(-1, 1, 1)
    steps = states[:, :-1].reshape(-1, k).mT @ counted[:, 1:].reshape(-1, k)
    return counted[:, 0].sum(0), steps, counted


def chain_prior(model: Any) -> priors.Prior:
    """Dirichlet(``concentration``) on a free start of a hidden Markov model and on each row of its transitions.

    Raises:
        ZooError: a topology with zeros, which have no prior.
    """
    if model.topology != "full":
        raise ZooError(
            f"{type(model).__name__}.prior: topology expected 'full', got {model.topology!r}, whose zeros have no "
            "prior. Use topology='full'."
        )
    start = priors.dirichlet("start_probs", model.start_probs, model.concentration) if model.initial == "free" else {}
    return {**start, **priors.dirichlet("transition_probs", model.transition_probs, model.concentration)}
