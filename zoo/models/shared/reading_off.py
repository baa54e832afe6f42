"""The rules that known trees use, counted: a grammar read off a treebank (Charniak, 1996, "Tree-bank grammars")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError, unknown_name

__all__ = ["Counts", "read_off"]


class Counts(NamedTuple):
    """How often trees use roots (A,), rules (A, S, S), words (P, V); names of the S symbols and of the V words."""

    root: Tensor
    rules: Tensor
    emissions: Tensor
    labels: tuple[str, ...]
    symbols: tuple[str, ...]


def read_off(trees: Sequence[ParseTree], symbols: Sequence[str] | None, leaves: str) -> Counts:
    """Counts of binary rules; see :meth:`zoo.models.pcfg.PCFG.from_treebank`."""
    if leaves not in ("tags", "words"):
        raise unknown_name("from_treebank: leaves", leaves, ("tags", "words"))
    trees = [tree for tree in trees if len(tree.tags()) > 1]
    if not trees:
        raise ZooError("from_treebank: expected trees of two words or more, got none. Read some by zoo.load_trees.")
    roots: Counter[str] = Counter()
    rules: Counter[tuple[str, str, str]] = Counter()
    words: Counter[tuple[str, str]] = Counter()
    for tree in trees:
        top: dict[int, str] = {}  # what a node is called once phrases of one part are one with it
        for node, _, _ in tree.nodes():
            if node.is_tag:
                top[id(node)] = f"{node.label}"
                words[node.label, node.label if leaves == "tags" else str(node.children[0])] += 1
                continue
            parts = [top[id(child)] for child in node.children if isinstance(child, ParseTree)]
            if len(parts) == 1:
                top[id(node)] = parts[0]
                continue
            top[id(node)] = node.label or "X"
            above = top[id(node)]
            for i, part in enumerate(parts[:-2]):
                rest = f"@{node.label}"
                rules[above, part, rest] += 1
                above = rest
                del i
            rules[above, parts[-2], parts[-1]] += 1
        roots[top[id(tree)]] += 1
    phrases = sorted({rule[0] for rule in rules})
    tags = sorted({tag for tag, _ in words})
    clash = set(phrases) & set(tags)
    if clash:
        raise ZooError(
            f"from_treebank: expected other labels of phrases than of tags, got {min(clash)!r} as both. Rename one."
        )
    known = tuple(sorted({word for _, word in words})) if symbols is None else tuple(symbols)
    strange = next((word for _, word in words if word not in set(known)), None)
    if strange is not None:
        raise ZooError(f"from_treebank: expected the symbols named, got {strange!r}. Add it to symbols.")
    index = {label: i for i, label in enumerate((*phrases, *tags))}
    code = {symbol: i for i, symbol in enumerate(known)}
    root = torch.zeros(len(phrases), dtype=torch.float64)
    for label, count in roots.items():
        root[index[label]] = count
    table = torch.zeros(len(phrases), len(index), len(index), dtype=torch.float64)
    for (above, left, right), count in rules.items():
        table[index[above], index[left], index[right]] = count
    emissions = torch.zeros(len(tags), len(known), dtype=torch.float64)
    for (tag, word), count in words.items():
        emissions[index[tag] - len(phrases), code[word]] = count
    return Counts(root, table, emissions, (*phrases, *tags), known)
