"""Interpolated Kneser-Ney n-grams: what is known of tokens by counting, to hold language models against.

    p_n(w | h) = max(c(h w) - D, 0) / c(h .) + lambda(h) p_{n-1}(w | h'),      h' is h without its first token

c counts h w at the highest order; below, how many different tokens come before h w, as a token that follows few others
says little where these are not; what begins a sentence has nothing before it and is counted itself. Below unigrams
stands the uniform distribution. D is one discount an order (Kneser & Ney, 1995), or one each for counts of one, two and
more, "modified" (Chen & Goodman, 1998, "An empirical study of smoothing techniques for language modeling", section 3),
estimated from how many n-grams were counted once, twice, three and four times. lambda makes all sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.sequences import inside
from zoo.errors import ZooError

__all__ = ["KneserNey"]

#: Discounts of counts of one, two and more where too few n-grams were counted once, twice or three times to say.
FALLBACK = (0.5, 1.0, 1.5)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """n-grams of one length, by number.

    Attributes:
        keys: (M,), sorted: number of the history times (V + 1), plus the last token.
        discounted: (M,), what is left of each one's count, over the count of its history.
        weight: by history, what of its probability goes to the order below; 1 where nothing follows it.
    """

    keys: Integers
    discounted: Floats
    weight: Floats

    def find(self, keys: Integers) -> Integers:
        """The numbers of n-grams, -1 where one was not seen."""
        place = np.searchsorted(self.keys, keys).clip(max=max(0, len(self.keys) - 1))
        return np.where(self.keys[place] == keys, place, -1) if len(self.keys) else np.full(len(keys), -1)


class KneserNey:
    """n-grams of sequences of tokens 0 to V - 1, each sequence with a start of its own.

    Args:
        x: (N, T) integers. lengths: (N,), what lies beyond is never read. num_symbols: V.
        order: n, tokens that an n-gram has at most.
        modified: whether counts of one, two and more have discounts of their own.

    Raises:
        ZooError: an order below 1.
    """

    def __init__(self, x: Tensor, lengths: Tensor, num_symbols: int, order: int = 5, modified: bool = True) -> None:
        if order < 1:
            raise ZooError(f"KneserNey: order expected at least 1, got {order}. Take 5.")
        self.num_symbols, self.order, self.modified = num_symbols, order, modified
        tokens, place = self._flat(x, lengths)
        numbers = [tokens]  # by order, that of the n-gram that ends here
        firsts: list[Integers] = []  # by order from 2, where each n-gram is first seen
        keys: list[Integers] = [np.arange(num_symbols, dtype=np.int64)]
        for n in range(2, order + 1):
            at = np.flatnonzero(place >= n - 1)
            key, first, number = np.unique(self._key(numbers[-1], tokens, at), return_index=True, return_inverse=True)
            numbers.append(np.full(len(tokens), -1, dtype=np.int64))
            numbers[-1][at] = number.reshape(-1)
            keys.append(key)
            firsts.append(at[first])
        self.orders: list[_Order] = []
        for n in range(1, order + 1):
            here = place > 0 if n == 1 else numbers[n - 1] >= 0
            counts = np.bincount(numbers[n - 1][here], minlength=len(keys[n - 1]))
            if n < order:
                before = np.bincount(numbers[n - 1][firsts[n - 1]], minlength=len(counts))
                if n > 1:  # what begins a sequence keeps its count
                    begins = place[firsts[n - 2]] == n - 1
                    before[begins] = counts[begins]
                counts = before
            histories = 1 if n == 1 else num_symbols + 1 if n == 2 else len(keys[n - 2])
            history = np.zeros(len(counts), dtype=np.int64) if n == 1 else keys[n - 1] // (num_symbols + 1)
            self.orders.append(self._discounted(keys[n - 1], counts, history, histories, n))

    def _flat(self, x: Tensor, lengths: Tensor) -> tuple[Integers, Integers]:
        """All tokens one after the other, each sequence behind a start V; and their places, 0 for the start."""
        rows = torch.cat([torch.full((len(x), 1), self.num_symbols), x.long()], 1)
        there = inside(rows, lengths + 1)
        place = torch.arange(rows.shape[1]).expand(rows.shape)
        return rows[there].numpy(), place[there].numpy()

    def _key(self, histories: Integers, tokens: Integers, at: Integers) -> Any:
        return histories[at - 1] * (self.num_symbols + 1) + tokens[at]

    def _discounted(self, keys: Integers, counts: Integers, history: Integers, histories: int, n: int) -> _Order:
        often = np.bincount(counts.clip(max=5), minlength=6).astype(np.float64)
        y = often[1] / max(1.0, often[1] + 2 * often[2])
        discounts = np.array([0.0, y, y, y])
        if self.modified and often[1:4].all():
            discounts[1:] = [max(0.0, i - (i + 1) * y * often[i + 1] / often[i]) for i in (1, 2, 3)]
        elif self.modified or not often[1]:
            discounts[1:] = FALLBACK if self.modified else FALLBACK[0]
        taken = np.minimum(discounts[counts.clip(max=3)], counts)
        total = np.bincount(history, counts, minlength=histories)
        freed = np.bincount(history, taken, minlength=histories)
        safe = np.where(total > 0, total, 1.0)
        weight = np.where(total > 0, freed / safe, 1.0)
        return _Order(keys, (counts - taken) / safe[history], weight)

    def log_prob(self, x: Tensor, lengths: Tensor) -> Tensor:
        """ln p(x) of sequences (N, T), (N,), nats, each token after all that its order sees."""
        tokens, place = self._flat(x, lengths)
        numbers, prob = tokens, np.full(len(tokens), 1.0 / self.num_symbols)
        unigrams = self.orders[0]
        prob = unigrams.discounted[tokens.clip(max=self.num_symbols - 1)] + unigrams.weight[0] * prob
        for n, order in enumerate(self.orders[1:], 2):
            at = np.flatnonzero((place >= n - 1) & (np.concatenate([[-1], numbers[:-1]]) >= 0))
            history = numbers[at - 1]
            number = order.find(self._key(numbers, tokens, at))
            own = np.where(number >= 0, order.discounted[number], 0.0)
            prob[at] = own + order.weight[history] * prob[at]
            numbers = np.full(len(tokens), -1, dtype=np.int64)
            numbers[at] = number
        nats = np.where(place > 0, np.log(prob), 0.0)
        return torch.from_numpy(np.add.reduceat(nats, np.flatnonzero(place == 0)))

    def perplexity(self, x: Tensor, lengths: Tensor) -> float:
        """exp(-ln p(x) / tokens)."""
        return float(torch.exp(-self.log_prob(x, lengths).sum() / lengths.sum()))
