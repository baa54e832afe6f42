"""Exact sums over chains by compiled kernels: how the work is laid out, and what is put together afterwards.

Each step is scaled to sum to one (Rabiner, 1989, section V.A). What scaling can lose is an underflowing message that
later turns out to matter. The kernels bound that loss by the message of the other direction, and a sequence where it is
not negligible is done again by logarithms. Four layouts of the same recursion:

- few states, many sequences: sequences side by side, so that vector instructions run over sequences;
- few states, one long sequence: cut into blocks, whose transfer matrices give the messages at the cuts (Sarkka &
  Garcia-Fernandez, 2021, "Temporal parallelization of Bayesian smoothers", the associative form); then as above;
- many states, or transitions that change with time: vector instructions run over states;
- very many states and many sequences: ``chain_products.py``.

The kernels start either from log-densities, and write marginals (``run``); or from the data and a family of densities,
and add up what EM needs (``totals``): the same passes, but no (N, T, K) array is read or written.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.core.isolation import available_threads
from zoo.core.parallel import in_parallel
from zoo.structures import chain_forgetting, chain_lanes, chain_logs, chain_states, chain_transfers
from zoo.structures.chain_blocks import Room, blocks_of, groups_of, leave, take
from zoo.structures.chain_products import CountsByItem, products

__all__ = ["Layouts"]

# Scaled messages may lose what is below 1e-308. They are used while normalisers stay above _SAFE and messages of the
# other direction below 1 / _SAFE: then the loss is below K * 1e-108 of the total, far under rounding.
_SAFE = 1e-100
_LANES = 32  # sequences side by side: four vectors of eight
_MANY_LANES = 64  # if there are many rows of few states: the loops' overhead is halved, and they still fit the cache
_FEW_STATES = 16  # up to here, side by side is faster (16: 1.3 times, 5: over 3 times)
_VERY_MANY_STATES = 64  # from here, products of matrices are faster (64: about even, 512: over 3 times)
_FEW_SEQUENCES = 8  # below, there is too little to put side by side
_BLOCK = 200  # steps, for few states: three such arrays of 64 lanes about fit the second-level cache
_DENSE = 1e-10  # transitions all above this: no message can die between cuts
_KEPT = 2**21  # numbers that the first pass over blocks keeps for the second, 16 MB; more are computed again
_MOST_JOBS = 16  # a fixed number, so that sums are the same whatever the number of threads


def _split(cost: Any, parts: int) -> list[tuple[int, int]]:
    """At most so many ranges of indices, of about equal total cost and none empty."""
    if len(cost) <= parts:
        return [(i, i + 1) for i in range(len(cost))]
    total = np.cumsum(cost)
    edges = np.searchsorted(total, np.linspace(0, total[-1], parts + 1)[1:-1], side="left") + 1
    edges = np.unique(np.clip(np.concatenate(([0], edges, [len(total)])), 0, len(total)))
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


class Arrays(Protocol):
    """A checked chain of N sequences, T steps and K states; see ``zoo.structures.chain``."""

    n: int
    t: int
    k: int
    shared: bool  # whether one transition matrix serves all steps
    full: bool  # whether every sequence has all T steps
    lengths: Tensor
    initial: Tensor
    transition: Tensor
    emission: Tensor
    family: Tensor | None


class Layouts:
    """Arrays as the kernels want them, and how the work is divided."""

    def __init__(self, chain: Arrays) -> None:
        for module in (chain_forgetting, chain_states, chain_logs):
            module.compile_kernels()
        self.chain = chain
        k = chain.k
        self.lengths = chain.lengths.numpy()
        self.emission = chain.emission.contiguous().numpy()
        self.family = np.zeros((0, k)) if chain.family is None else chain.family.contiguous().numpy()
        self.log_initial = chain.initial.reshape(-1, k).contiguous().numpy()
        transition = chain.transition.reshape(1, 1, k, k) if chain.shared else chain.transition
        self.log_transition = transition.contiguous().numpy()
        if transition.shape[1]:
            peak = transition.amax((-2, -1), keepdim=True)
            peak = peak.masked_fill(peak.isinf(), 0.0)
            self.transition = (transition - peak).exp_().contiguous().numpy()
            self.shift = peak[..., 0, 0].contiguous().numpy()
        else:  # a single step
            rows = transition.shape[0]
            self.transition, self.shift = np.zeros((rows, 1, k, k)), np.zeros((rows, 1))
        self.back = np.ascontiguousarray(self.transition[0, 0].T)
        peak = chain.initial.reshape(-1, k).amax(-1, keepdim=True)
        peak = peak.masked_fill(peak.isinf(), 0.0)
        self.initial = (chain.initial.reshape(-1, k) - peak).exp_().contiguous().numpy()
        self.initial_shift = peak[:, 0].contiguous().numpy()
        # What the layouts fill in:
        self.value, self.bad = np.zeros(chain.n), np.zeros(chain.n, dtype=np.bool_)
        self.opening = np.zeros((chain.n, k))  # p(z_1 | x); by side and by blocks, and with a family
        self.sums = np.zeros(self.family.shape)
        self.smooth = np.zeros((0, 0, k))

    def each(self, kernel: Callable[..., None], *more: Any) -> None:
        """``kernel`` on every sequence, by logarithms."""
        common = (self.log_initial, self.log_transition, self.transition, self.shift, self.emission, self.lengths)
        ranges = _split(self.lengths, _MOST_JOBS)
        in_parallel([functools.partial(kernel, *common, start, stop, *more) for start, stop in ranges])

    def run(self, marginals: Tensor | None, per_sequence: bool = False) -> tuple[Tensor, Tensor | CountsByItem]:
        """Value (N,) and expected transitions (as ``chain.solve``); fills the marginals (N, T, K).

        Without marginals the value alone is computed.
        """
        chain = self.chain
        n, t, k = chain.n, chain.t, chain.k
        full = marginals is not None
        if marginals is not None:
            self.smooth = marginals.numpy()
        pairs: Any = self._pass(full, per_sequence)
        if self.bad.any():
            self._by_logarithms(np.nonzero(self.bad)[0], full, pairs, per_sequence)
        if full and not chain.full:
            chain_logs.clear_kernel(self.smooth, self.lengths)
            if not chain.shared and t > 1:
                chain_logs.clear_kernel(pairs.reshape(n, t - 1, k * k), self.lengths - 1)
        return torch.from_numpy(self.value), pairs if isinstance(pairs, CountsByItem) else torch.from_numpy(pairs)

    def totals(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None:
        """Sums of the value (), p(z_1 | x) (K,), transitions (K, K), the family's sums (1 + 2 D, K), failures (M,).

        A sequence that failed is in none of the sums. None if there are too few sequences, and no blocks of them.
        """
        if self.chain.n < _FEW_SEQUENCES and not self._has_blocks:
            return None
        pairs = self._pass(True, False)
        failed = np.flatnonzero(self.bad)
        self.opening[failed], self.value[failed] = 0.0, 0.0
        # By torch, whose sum of many is another in its last bit.
        value, opening = torch.from_numpy(self.value).sum(), torch.from_numpy(self.opening).sum(0)
        return value, opening, torch.from_numpy(pairs), torch.from_numpy(self.sums), torch.from_numpy(failed)

    def smoothed(self, marginals: Tensor) -> Tensor | None:
        """Fills marginals (N, T, K) from the data and a family; which failed, (N,). None as :meth:`totals`."""
        if self.chain.n < _FEW_SEQUENCES and not self._has_blocks:
            return None
        self.smooth, self.sums = marginals.numpy(), self.sums[:0]
        self._pass(True, False)
        if not self.chain.full:
            chain_logs.clear_kernel(self.smooth, self.lengths)
        return torch.from_numpy(self.bad)

    @functools.cached_property
    def _has_blocks(self) -> bool:
        chain = self.chain
        few = chain.shared and chain.k <= _FEW_STATES and chain.n < 2 * _LANES
        return few and int(self.lengths.max()) >= 8 * _BLOCK and float(self.transition.min()) > _DENSE

    def _pass(self, write: bool, per_sequence: bool) -> Any:
        """The layout that fits, scaled; expected transitions."""
        chain = self.chain
        checked = not chain.shared or float(self.transition.min()) < _SAFE  # the value needs the backward pass too
        if self._has_blocks:
            found = self._by_forgetting(write, per_sequence)
            pairs = self._by_blocks(write, per_sequence) if found is None else found
        elif self._suits_products():
            return self._by_products(write, checked, per_sequence)
        elif chain.shared and chain.k <= _FEW_STATES and chain.n >= _FEW_SEQUENCES:
            pairs = self._side_by_side(write, write or checked, per_sequence)
        else:
            pairs = self._by_states(write, write or checked, per_sequence)
        if chain.shared:
            pairs *= self.transition[0, 0]
        return pairs

    def _side_by_side(self, write: bool, full: bool, per_sequence: bool) -> Any:
        """Sequences in the lanes of vectors, the longest first."""
        n, k = self.chain.n, self.chain.k
        rows = np.argsort(-self.lengths, kind="stable")
        start = np.zeros(n, dtype=np.int64)
        enter = np.broadcast_to(self.initial, (n, k))[rows]
        result, failed, opening, pairs = self._lanes(
            rows, start, self.lengths[rows], enter, np.ones((n, k)), write, full, per_sequence
        )
        self.value[rows] = result
        self.value += np.broadcast_to(self.initial_shift, n) + (self.lengths - 1) * self.shift[0, 0]
        self.bad[rows], self.opening[rows] = failed, opening
        if per_sequence:
            ordered = np.empty_like(pairs)
            ordered[rows] = pairs
            return ordered
        return pairs.sum(0)

    def _lanes(
        self, rows: Any, start: Any, length: Any, enter: Any, leave: Any, write: bool, full: bool, per_row: bool,
        kept: Sequence[Room] = (),
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """Value, failure and p(z | x) at the first step of each row; the pairs of each row or of each job."""
        k = self.chain.k
        count, lanes = len(rows), self._width(len(rows))
        groups = -(-count // lanes)
        ranges = _split(length[::lanes], len(kept) or min(groups, _MOST_JOBS))

        def one(low: int, high: int, kept: Room) -> tuple[Any, ...]:
            size = high - low
            part = (rows[low:high], start[low:high], length[low:high], enter[low:high], leave[low:high])
            found = (
                np.zeros(size), np.zeros(size, dtype=np.bool_), np.zeros((size, k)),
                np.zeros((size if per_row else 1, k, k)),
            )  # fmt: skip
            sums = np.zeros(self.sums.shape)
            chain_lanes.lanes_kernel(
                self.transition[0, 0], self.back, self.emission, self.family, *part, 0, size, lanes,
                -1 if per_row else 0, write, full, *found, self.smooth, sums, *kept,
            )  # fmt: skip
            return *found, sums

        rooms = kept or [take((0, k, lanes), (0, lanes), (0, 0, lanes))] * len(ranges)
        jobs = zip(ranges, rooms, strict=True)
        calls = [functools.partial(one, a * lanes, min(b * lanes, count), room) for (a, b), room in jobs]
        parts = in_parallel(calls, pure=not len(self.smooth))
        self.sums = sum(part[4] for part in parts)
        value, failed, opening, pairs = (np.concatenate([part[i] for part in parts]) for i in range(4))
        return value, failed, opening, pairs

    def _width(self, rows: int) -> int:
        """How many of so many rows to put side by side."""
        return _MANY_LANES if rows >= 4 * _MANY_LANES and self.chain.k <= 8 else _LANES

    def _by_forgetting(self, write: bool, per_sequence: bool) -> Any:
        """Long sequences cut into blocks in one pass, as they forget; None where they do not within a block."""
        n, k = self.chain.n, self.chain.k
        if int(self.lengths.min()) < _BLOCK // 2:
            return None
        steps = max(_BLOCK, 25 * k)
        groups = groups_of(self.lengths, steps, self._width(int(self.lengths.sum()) // steps))
        initial = np.broadcast_to(self.initial, (n, k)).copy()
        found = chain_forgetting.one_pass(
            self.transition[0, 0], self.back, initial, self.emission, self.family, groups, write, per_sequence,
            self.smooth, len(self.sums),
        )  # fmt: skip
        if found is None:
            return None
        value, self.opening, pairs, self.sums = found
        self.value = value + self.initial_shift + (self.lengths - 1) * self.shift[0, 0]
        return pairs if per_sequence else pairs[0]

    def _by_blocks(self, full: bool, per_sequence: bool) -> Any:
        """Long sequences cut into blocks; transfer matrices give the messages at the cuts."""
        n, k = self.chain.n, self.chain.k
        # So that transfer matrices hold K / 25 numbers a step.
        first, number, rows, index, order, ordered = blocks_of(self.lengths, max(_BLOCK, 25 * k))
        lanes = self._width(len(rows))
        features = len(self.family) // 2
        keeps = full and int(self.lengths.sum()) * (k + 1 + features) <= _KEPT
        a = self.transition[0, 0]

        def across(low: int) -> Any:
            each, begin, steps = (values[low : low + lanes] for values in ordered)
            found, place = np.empty((len(each), k, k)), np.arange(len(each))
            many = int(steps[0]) if keeps else 0
            room = take((many, k, lanes), (many, lanes), (many, features, lanes))
            chain_transfers.transfer_kernel(
                a, self.emission, self.family, each, begin, steps, place, 0, len(each), lanes, found, *room
            )
            return found, room

        calls = [functools.partial(across, low) for low in range(0, len(rows), lanes)]
        transfer, found = np.empty((len(rows), k, k)), in_parallel(calls, pure=True)
        transfer[order] = np.concatenate([part[0] for part in found])
        kept = [part[1] for part in found] if keeps else []
        enter, ends, behind = np.empty((len(rows), k)), np.empty((len(rows), k)), np.empty((len(rows), k))
        chain_transfers.cuts_kernel(
            a, np.broadcast_to(self.initial, (n, k)).copy(), transfer, first, number, enter, ends, behind
        )
        result, failed, opening, pairs = self._lanes(
            *ordered, enter[order], behind[order], full, full, per_sequence, kept
        )
        leave(*kept)
        self.value += np.bincount(ordered[0], result, n)
        self.value += np.broadcast_to(self.initial_shift, n) + (self.lengths - 1) * self.shift[0, 0]
        self.bad[ordered[0][failed]] = True
        if not full:
            return pairs.sum(0)
        starts = np.empty_like(opening)
        starts[order] = opening
        self.opening[:] = starts[first]
        later = np.nonzero((index > 0) & ~self.bad[rows])[0]
        ratio = starts[later] / enter[later]  # (M, K); p(z_t | x) / p(z_t | x_1..x_{t-1})
        if per_sequence:
            each = np.zeros((n, k, k))
            np.add.at(each, ordered[0], pairs)
            np.add.at(each, rows[later], ends[later - 1][:, :, None] * ratio[:, None, :])
            each[self.bad] = 0.0
            return each
        if self.bad.any():  # blocks of a failed sequence may have added to the sums
            if len(self.family):
                self.bad[:], self.sums[:] = True, 0.0
                return np.zeros((k, k))
            return self._side_by_side(full, full, per_sequence)
        return pairs.sum(0) + ends[later - 1].T @ ratio

    def _by_states(self, write: bool, full: bool, per_sequence: bool) -> Any:
        """One sequence after the other, the states in the lanes of vectors."""
        chain = self.chain
        n, t, k = chain.n, chain.t, chain.k
        varying = not chain.shared
        ranges = _split(self.lengths, _MOST_JOBS)
        if full and n < available_threads() and not len(self.family):
            pairs = np.zeros((n, t - 1, k, k) if varying and write else (n if per_sequence else 1, 1, k, k))
            for row in range(n):
                own, which = row if len(self.initial) > 1 else 0, row if varying else 0
                target = self.smooth[row] if write else np.empty((int(self.lengths[row]), k))
                self.value[row], self.bad[row] = chain_states.both_ends(
                    self.initial[own], self.initial_shift[own], self.transition[which], self.back, self.shift[which],
                    varying, self.emission[row], self.family, int(self.lengths[row]), write, target,
                    pairs[row if varying or per_sequence else 0] if write else pairs[0],
                )  # fmt: skip
        else:
            steps = np.zeros((n, t - 1, k, k) if varying and write else (0, 1, k, k))

            def one(a: int, b: int) -> tuple[Any, ...]:
                size = b - a
                own = slice(a, b) if len(self.initial) > 1 else slice(0, 1)
                which = slice(a, b) if varying else slice(0, 1)
                found = np.zeros(size), np.zeros(size, dtype=np.bool_), np.zeros((size, k))
                pairs = steps[a:b] if len(steps) else np.zeros((size if per_sequence else 1, 1, k, k))
                sums = np.zeros(self.sums.shape)
                chain_states.states_kernel(
                    self.initial[own], self.initial_shift[own], self.transition[which], self.back, self.shift[which],
                    self.emission[a:b], self.family, self.lengths[a:b], 0, size, -1 if varying or per_sequence else 0,
                    varying, write, full, *found, pairs, self.smooth[a:b], sums,
                )  # fmt: skip
                return *found, pairs, sums

            calls = [functools.partial(one, *each) for each in ranges]
            parts = in_parallel(calls, pure=not len(steps) and not len(self.smooth))
            self.sums = sum(part[4] for part in parts)
            self.value[:], self.bad[:], self.opening[:] = (
                np.concatenate([part[i] for part in parts]) for i in range(3)
            )
            pairs = steps if varying else np.concatenate([part[3] for part in parts])
        if varying:
            return pairs
        return pairs[:, 0] if per_sequence else pairs.sum((0, 1))

    def _suits_products(self) -> bool:
        chain = self.chain
        many = chain.k >= _VERY_MANY_STATES and chain.n >= _FEW_SEQUENCES
        return many and chain.shared and not len(self.family)

    def _by_products(self, write: bool, checked: bool, per_sequence: bool) -> Any:
        """Each step of all sequences a product of matrices; pairs with the factor of the transition."""
        chain, value, bad = self.chain, torch.from_numpy(self.value), torch.from_numpy(self.bad)
        smooth = torch.from_numpy(self.smooth) if write else None
        initial, step = torch.from_numpy(self.initial), torch.from_numpy(self.transition[0, 0])
        counts = products(initial, step, chain.emission, chain.lengths, _SAFE, value, bad, smooth, checked)
        self.value += np.broadcast_to(self.initial_shift, chain.n) + (self.lengths - 1) * self.shift[0, 0]
        if counts is None:
            return np.zeros((chain.k, chain.k))
        return counts if per_sequence else counts.weighted(torch.ones(chain.n)).numpy()

    def _by_logarithms(self, rows: Any, write: bool, pairs: Any, per_sequence: bool) -> None:
        """Sequences again in which scaling may have lost something; also impossible ones and those with NaN."""
        chain = self.chain
        common = (self.log_initial, self.log_transition, self.transition, self.shift, self.emission, self.lengths)
        k = chain.k
        size = (chain.t - 1, k, k) if not chain.shared else (1, k, k)

        def one(row: int) -> Any:
            both = np.zeros(size)
            smooth = self.smooth[row] if write else np.empty((1, k))
            chain_logs.logs_kernel(*common, row, write, self.value, smooth, both)
            return both

        for start in range(0, len(rows), _MOST_JOBS):  # in pieces, so that few results are held
            piece = [int(row) for row in rows[start : start + _MOST_JOBS]]
            results = in_parallel([functools.partial(one, row) for row in piece])
            if not write:
                continue
            for row, both in zip(piece, results, strict=True):
                if not chain.shared:
                    pairs[row] = both
                elif isinstance(pairs, CountsByItem):
                    pairs.add(row, torch.from_numpy(both[0]))
                elif per_sequence:
                    pairs[row] = both[0]
                else:
                    pairs += both[0]
