"""Sentences of a small language that is known: a chain of hidden states emits words, one state after another.

Subject and verb agree in number over adjectives and relative clauses, where the words do not show it; a sentence as a
whole shows it, and so determines its path. The entropy of sentences is then that of paths and of the words along them,
which solves linear equations (Cover & Thomas, 2006, "Elements of information theory", section 4.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo.core.schema import END

__all__ = ["STATES", "WORDS", "known_sentences", "sentence_entropy", "tables"]

_START = {"the one": 0.4, "the many": 0.3, "it": 0.15, "they": 0.15}
#: By state: its words, and where it leads.
_CHAIN: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "the one": ({"the": 0.5, "a": 0.3, "every": 0.2}, {"old one": 0.3, "one": 0.7}),
    "the many": ({"the": 0.5, "some": 0.3, "all": 0.2}, {"old many": 0.3, "many": 0.7}),
    "old one": ({"old": 0.4, "small": 0.4, "grey": 0.2}, {"old one": 0.2, "one": 0.8}),
    "old many": ({"old": 0.4, "small": 0.4, "grey": 0.2}, {"old many": 0.2, "many": 0.8}),
    "one": ({"dog": 0.4, "child": 0.3, "sheep": 0.3}, {"sees": 0.5, "sleeps": 0.3, "that one": 0.2}),
    "many": ({"dogs": 0.4, "children": 0.3, "sheep": 0.3}, {"see": 0.5, "sleep": 0.3, "that many": 0.2}),
    "it": ({"she": 0.4, "he": 0.4, "it": 0.2}, {"sees": 0.6, "sleeps": 0.4}),
    "they": ({"we": 0.5, "they": 0.5}, {"see": 0.6, "sleep": 0.4}),
    "that one": ({"that": 1.0}, {"who sleeps": 1.0}),
    "that many": ({"that": 1.0}, {"who sleep": 1.0}),
    "who sleeps": ({"sleeps": 0.6, "waits": 0.4}, {"sees": 0.6, "sleeps": 0.4}),
    "who sleep": ({"sleep": 0.6, "wait": 0.4}, {"see": 0.6, "sleep": 0.4}),
    "sees": ({"sees": 0.5, "hears": 0.3, "follows": 0.2}, {"the river": 0.7, "her": 0.3}),
    "see": ({"see": 0.5, "hear": 0.3, "follow": 0.2}, {"the river": 0.7, "her": 0.3}),
    "sleeps": ({"sleeps": 0.6, "waits": 0.4}, {"often": 0.3, "end": 0.7}),
    "sleep": ({"sleep": 0.6, "wait": 0.4}, {"often": 0.3, "end": 0.7}),
    "the river": ({"the": 0.7, "a": 0.3}, {"river": 1.0}),
    "river": ({"river": 0.4, "house": 0.3, "tree": 0.3}, {"end": 1.0}),
    "her": ({"her": 0.5, "them": 0.5}, {"end": 1.0}),
    "often": ({"often": 0.5, "here": 0.5}, {"end": 1.0}),
    "end": ({END: 1.0}, {}),
}
STATES = tuple(_CHAIN)
#: In sorted order, as text is coded.
WORDS = tuple(sorted({word for words, _ in _CHAIN.values() for word in words}))
_NUMBER, _SEED = 1000, 20261

Array = NDArray[np.float64]


def tables() -> tuple[Array, Array, Array]:
    """Probabilities of the first state (K,), of the next (K, K) and of words (K, V); after the end comes the end."""
    index = {name: i for i, name in enumerate(STATES)}
    start, steps, words = np.zeros(len(STATES)), np.zeros((len(STATES),) * 2), np.zeros((len(STATES), len(WORDS)))
    for name, share in _START.items():
        start[index[name]] = share
    for i, (own, ways) in enumerate(_CHAIN.values()):
        for word, share in own.items():
            words[i, WORDS.index(word)] = share
        for name, share in (ways or {"end": 1.0}).items():
            steps[i, index[name]] = share
    return start, steps, words


def sentence_entropy() -> tuple[float, float]:
    """The entropy of a sentence in nats, and its expected number of words, its end among them."""
    start, steps, words = tables()
    steps[-1] = 0.0  # the end is the last word
    visits = np.linalg.solve(np.eye(len(STATES)) - steps.T, start)
    own = np.array([_entropy(row) for row in steps]) + np.array([_entropy(row) for row in words])
    return float(visits @ own + _entropy(start)), float(visits.sum())


def _entropy(probs: Array) -> float:
    seen = probs[probs > 0]
    return float(-(seen * np.log(seen)).sum())


def known_sentences(number: int = _NUMBER, seed: int = _SEED) -> list[list[str]]:
    """Sentences drawn from the chain, the same ones for the same seed; the last word of each is its end."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        state, sentence = _pick(rng, _START), list[str]()
        while True:
            words, ways = _CHAIN[state]
            sentence.append(_pick(rng, words))
            if not ways:
                break
            state = _pick(rng, ways)
        found.append(sentence)
    return found


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(edges / edges[-1], rng.random(), side="right"))]
