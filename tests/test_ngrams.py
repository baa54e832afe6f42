"""Kneser-Ney against the formulas written out over dictionaries of tuples, and sums over the vocabulary."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.scores.ngrams import KneserNey

V, START = 5, -1


def corpus(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.multinomial(torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]), n * 8, True, generator=generator).reshape(n, 8)
    return x, torch.randint(1, 9, (n,), generator=generator)


class Plain:
    """The same by the book."""

    def __init__(self, sentences: list[list[int]], order: int, modified: bool) -> None:
        self.order, self.estimated = order, 0
        seen = [Counter[tuple[int, ...]]() for _ in range(order + 1)]
        for sentence in sentences:
            row = (START, *sentence)
            for i in range(1, len(row)):
                for n in range(1, order + 1):
                    if i - n + 1 >= 0:
                        seen[n][row[i - n + 1 : i + 1]] += 1
        self.counts = [Counter[tuple[int, ...]]() for _ in range(order + 1)]
        self.counts[order] = seen[order]
        for n in range(1, order):
            left = defaultdict(set)
            for gram in seen[n + 1]:
                left[gram[1:]].add(gram[0])
            for gram, count in seen[n].items():
                self.counts[n][gram] = count if gram[0] == START else len(left[gram])
        self.discounts = []
        for n in range(1, order + 1):
            often = Counter(self.counts[n].values())
            y = often[1] / (often[1] + 2 * often[2]) if often[1] else 0.5
            one, two, three = y, y, y
            if modified and all(often[i] for i in (1, 2, 3)):
                one, two, three = (i - (i + 1) * y * often[i + 1] / often[i] for i in (1, 2, 3))
                self.estimated += 1
            elif modified:
                one, two, three = 0.5, 1.0, 1.5
            self.discounts.append({1: one, 2: two, 3: three})

    def prob(self, word: int, history: tuple[int, ...]) -> float:
        n = len(history) + 1
        lower = 1 / V if n == 1 else self.prob(word, history[1:])
        followers = {g[-1]: c for g, c in self.counts[n].items() if g[:-1] == history}
        total = sum(followers.values())
        if not total:
            return lower
        discount = {w: self.discounts[n - 1][min(c, 3)] for w, c in followers.items()}
        own = (followers[word] - discount[word]) / total if word in followers else 0.0
        return own + sum(discount.values()) / total * lower


@pytest.mark.parametrize("modified", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_are_those_by_the_book_and_sum_to_one(order: int, modified: bool) -> None:
    x, lengths = corpus(60)
    sentences = [row[:n] for row, n in zip(x.tolist(), lengths.tolist(), strict=True)]
    ours, theirs = KneserNey(x, lengths, V, order, modified), Plain(sentences, order, modified)
    assert theirs.estimated > 0 or order < 3 or not modified, "all discounts would be the fallback's"
    new, sizes = corpus(12, seed=1)
    expected = []
    for row, size in zip(new.tolist(), sizes.tolist(), strict=True):
        past = (START, *row)
        expected.append(sum(math.log(theirs.prob(row[i], past[max(0, i + 2 - order) : i + 1])) for i in range(size)))
    torch.testing.assert_close(
        ours.log_prob(new, sizes), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )
    assert ours.perplexity(new, sizes) == pytest.approx(math.exp(-sum(expected) / int(sizes.sum())), rel=1e-12)
    every = torch.tensor(list(itertools.product(range(V), repeat=3)))
    total = ours.log_prob(every, torch.full((len(every),), 3)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)


def test_padding_is_never_read() -> None:
    x, lengths = corpus()
    other = x.clone()
    other[torch.arange(8) >= lengths.unsqueeze(-1)] = 3
    a, b = KneserNey(x, lengths, V, 3), KneserNey(other, lengths, V, 3)
    assert torch.equal(a.log_prob(x, lengths), b.log_prob(other, lengths))


def test_an_order_below_one_is_refused() -> None:
    with pytest.raises(ZooError, match="order expected at least 1, got 0"):
        KneserNey(torch.zeros(1, 2), torch.tensor([2]), 2, 0)


def test_penn_treebank(zoo_data: Callable[..., Any]) -> None:
    """The whole corpus: Mikolov's figure for a modified 5-gram is 141.2."""
    train, test = (zoo_data("ptb_lm", split=split) for split in ("train", "test"))
    found = KneserNey(train["x"], train["lengths"], 10_000).perplexity(test["x"], test["lengths"])
    assert found == pytest.approx(141.2, abs=0.05)
