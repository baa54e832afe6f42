"""Sentences of a small English grammar that is known: each has one tree, so that their entropy is known exactly.

Each nonterminal becomes two symbols and each tag one word. A word belongs to one tag, relative clauses and complements
are opened by words of their own, and no phrase can hang in two places: a sentence determines its tree. The entropy of
sentences is then that of derivations, which solves linear equations (Grenander, 1967, "Syntax-controlled
probabilities"; Chi, 1999, "Statistical properties of probabilistic context-free grammars").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.parse_tree import ParseTree

__all__ = ["NONTERMINALS", "TAGS", "WORDS", "known_trees", "sentence_entropy", "tables"]

_RULES: dict[str, dict[tuple[str, str], float]] = {
    "S": {("NP", "VP"): 0.45, ("NP", "VI"): 0.2, ("PRP", "VP"): 0.25, ("PRP", "VI"): 0.1},
    "NP": {("DT", "NN"): 0.65, ("DT", "NBAR"): 0.35},
    "NBAR": {("JJ", "NN"): 0.6, ("JJ", "NBAR"): 0.2, ("NN", "RC"): 0.2},
    "RC": {("WDT", "VP"): 0.6, ("WDT", "VI"): 0.4},
    "VP": {("VT", "NP"): 0.75, ("VT", "PRP"): 0.1, ("VS", "SBAR"): 0.15},
    "SBAR": {("IN", "S"): 1.0},
}
_WORDS: dict[str, dict[str, float]] = {
    "DT": {"the": 0.5, "a": 0.3, "every": 0.2},
    "NN": {"dog": 0.3, "cat": 0.3, "child": 0.2, "river": 0.2},
    "PRP": {"she": 0.5, "he": 0.5},
    "JJ": {"old": 0.4, "small": 0.4, "grey": 0.2},
    "WDT": {"that": 1.0},
    "IN": {"whether": 1.0},
    "VI": {"sleeps": 0.6, "waits": 0.4},
    "VT": {"sees": 0.5, "hears": 0.3, "follows": 0.2},
    "VS": {"asks": 0.5, "wonders": 0.5},
}
NONTERMINALS = tuple(_RULES)
TAGS = tuple(_WORDS)
#: In sorted order, as text is coded.
WORDS = tuple(sorted(word for words in _WORDS.values() for word in words))
_NUMBER, _SEED = 1000, 20260


def tables() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The grammar's probabilities: of the root (A,), of rules (A, S, S), nonterminals first, of words (P, V)."""
    symbols = (*NONTERMINALS, *TAGS)
    root = np.eye(len(NONTERMINALS))[0]
    rules = np.zeros((len(NONTERMINALS), len(symbols), len(symbols)))
    for i, name in enumerate(NONTERMINALS):
        for (left, right), share in _RULES[name].items():
            rules[i, symbols.index(left), symbols.index(right)] = share
    words = np.zeros((len(TAGS), len(WORDS)))
    for i, tag in enumerate(TAGS):
        for word, share in _WORDS[tag].items():
            words[i, WORDS.index(word)] = share
    return root, rules, words


def sentence_entropy() -> tuple[float, float]:
    """The entropy of a sentence in nats, and its expected number of words.

    What a symbol's derivations hold is what its own choice holds, and what its children's do: x = own + M x, with
    M[i, j] the expected number of children j of i.
    """
    root, rules, words = tables()
    a, p = len(rules), len(words)
    children = np.zeros((a + p, a + p))
    children[:a] = rules.sum(2) + rules.sum(1)
    own = np.zeros((a + p, 2))
    own[:a, 0] = [_entropy(row.ravel()) for row in rules]
    own[a:, 0] = [_entropy(row) for row in words]
    own[a:, 1] = 1.0
    entropy, length = (np.concatenate([root, np.zeros(p)]) @ np.linalg.solve(np.eye(a + p) - children, own)).tolist()
    return entropy + _entropy(root), length


def _entropy(probs: NDArray[np.float64]) -> float:
    seen = probs[probs > 0]
    return float(-(seen * np.log(seen)).sum())


def known_trees(_: Mapping[str, Path] | None = None, number: int = _NUMBER, seed: int = _SEED) -> list[ParseTree]:
    """Trees drawn from the grammar, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    return [_drawn(rng, "S") for _ in range(number)]


def _drawn(rng: np.random.Generator, symbol: str) -> ParseTree:
    if symbol in _WORDS:
        words = _WORDS[symbol]
        return ParseTree(symbol, (list(words)[_pick(rng, list(words.values()))],))
    rules = _RULES[symbol]
    left, right = list(rules)[_pick(rng, list(rules.values()))]
    return ParseTree(symbol, (_drawn(rng, left), _drawn(rng, right)))


def _pick(rng: np.random.Generator, shares: list[float]) -> int:
    edges = np.cumsum(shares)
    return int(np.searchsorted(edges / edges[-1], rng.random(), side="right"))
