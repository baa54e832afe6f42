"""Structures by enumeration: every value of an item, one by one, and the potentials it uses. Shares no code with them.

A ``Kind`` describes a structure; all that is checked of it follows from that (``tests/test_structures.py``).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.structures import Alignment, Chain, Structure, Tree

__all__ = ["KINDS", "Item", "Kind", "enumerated", "random_potentials"]

#: A potential by name, and an index into that of one item.
Use = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Kind:
    """One kind of structure.

    Attributes:
        values: every value of item n, as nested tuples of integers, and what it uses, a use as often as it is made.
        variants: instances by name, small enough to be enumerated; NaN wherever nothing must be read.
        impossible: an instance whose item 1, and no other, has no possible value.
        alone: a structure of item n only, without padding.
        parts: one item's value out of parts (N, ...), as ``values`` has it.
        nonsense: parts (N, ...) that are no value of any item.
    """

    values: Callable[[Any, int], Iterator[tuple[Any, list[Use]]]]
    variants: Callable[[], dict[str, Any]]
    impossible: Callable[[], Any]
    alone: Callable[[Any, int], Any]
    parts: Callable[[Any, Any, int], Any]
    nonsense: Callable[[Any], Any]


@dataclass(frozen=True)
class Item:
    """One item of a structure: its values, their weights, and how often each uses each entry of each potential."""

    values: list[Any]
    weights: np.ndarray
    uses: dict[str, np.ndarray]  # (values, *shape of one item's potential)

    @property
    def value(self) -> float:
        top = self.weights.max(initial=-math.inf)
        return top + math.log(math.fsum(np.exp(self.weights - top))) if top > -math.inf else -math.inf

    @property
    def probs(self) -> np.ndarray:
        return np.exp(self.weights - self.value) if self.value > -math.inf else np.zeros(len(self.weights))

    @property
    def entropy(self) -> float:
        p = self.probs
        return -math.fsum(p[p > 0] * np.log(p[p > 0])) if self.value > -math.inf else math.nan

    def counts(self) -> dict[str, np.ndarray]:
        """Expected uses."""
        return {name: np.tensordot(self.probs, use, 1) for name, use in self.uses.items()}

    def covariances(self, score: np.ndarray) -> dict[str, np.ndarray]:
        """Of the uses with a score (values,) of the values."""
        p = self.probs
        score = np.where(p > 0, score, 0.0)
        return {name: np.tensordot(p * (score - p @ score), use, 1) for name, use in self.uses.items()}


def entry(potential: Tensor, n: int, index: tuple[int, ...]) -> tuple[int, ...]:
    """Where an entry of item n's potential stands in one that all items may share."""
    return index if potential.dim() == len(index) else (n, *index)


def enumerated(kind: Kind, structure: Structure[Any]) -> list[Item]:
    """Every item of a structure."""
    made = [list(kind.values(structure, n)) for n in range(structure.num_items)]
    rank = {name: len(index) for item in made for _, uses in item for name, index in uses}
    items = []
    for n, item in enumerate(made):
        weights = [
            sum(float(getattr(structure, name)[entry(getattr(structure, name), n, index)]) for name, index in uses)
            for _, uses in item
        ]
        arrays = {}
        for name in structure.potentials:
            shape = getattr(structure, name).shape
            array = np.zeros((len(item), *shape[len(shape) - rank.get(name, len(shape)) :]))
            for v, (_, uses) in enumerate(item):
                for other, index in uses:
                    if other == name:
                        array[(v, *index)] += 1
            arrays[name] = array
        items.append(Item([value for value, _ in item], np.array(weights), arrays))
    return items


def random_potentials(structure: Any, seed: int, scale: float = 1.0) -> Any:
    """The same structure with other potentials; what was -inf or NaN stays so."""
    rng = np.random.default_rng(seed)
    new = {}
    for name in structure.potentials:
        old = getattr(structure, name)
        drawn = scale * torch.as_tensor(rng.normal(size=tuple(old.shape)), dtype=old.dtype)
        new[name] = torch.where(old.isfinite(), drawn, old)
    return dataclasses.replace(structure, **new)


# Chains ----------------------------------------------------------------------------------------------------------


def chain_values(chain: Chain, n: int) -> Iterator[tuple[Any, list[Use]]]:
    """All K^T paths."""
    steps, states = chain.emission.shape[1:]
    length = steps if chain.lengths is None else int(chain.lengths[n])
    varying = chain.transition.dim() == 4
    for path in itertools.product(range(states), repeat=length):
        uses: list[Use] = [("initial", (path[0],))]
        uses += [("emission", (t, z)) for t, z in enumerate(path)]
        uses += [("transition", (t, *pair) if varying else pair) for t, pair in enumerate(itertools.pairwise(path))]
        yield path, uses


def make_chain(
    n: int, t: int, k: int, *, varying: bool = False, own: bool = False, ragged: bool = False, forbidden: float = 0.0
) -> Chain:
    rng = np.random.default_rng(n + 10 * t + 100 * k)
    initial = rng.normal(size=(n, k) if own else k)
    transition = rng.normal(size=(n, t - 1, k, k) if varying else (k, k))
    emission = rng.normal(size=(n, t, k)) - 1
    for values in (transition, emission):
        values[rng.random(values.shape) < forbidden] = -np.inf
    lengths = np.array([t, 1, max(1, t - 1), 2, t][:n]).clip(1, t) if ragged else np.full(n, t)
    for i, length in enumerate(lengths):
        emission[i, length:] = np.nan
        if varying:
            transition[i, length - 1 :] = np.nan
    return Chain(*map(torch.as_tensor, (initial, transition, emission, lengths)))


def chain_variants() -> dict[str, Chain]:
    plain = {
        "one step": make_chain(3, 1, 3),
        "one step, changing": make_chain(3, 1, 2, varying=True),
        "two steps, changing": make_chain(2, 2, 2, varying=True, ragged=True),
        "one state": make_chain(2, 4, 1, ragged=True),
        "ragged": make_chain(5, 5, 3, ragged=True),
        "changing": make_chain(4, 4, 3, varying=True, own=True, ragged=True),
        "forbidden": make_chain(4, 5, 3, own=True, ragged=True, forbidden=0.15),
    }
    return {
        f"{name}, {backend}": dataclasses.replace(chain, _backend=backend)
        for name, chain in plain.items()
        for backend in ("numba", "torch")
    }


def impossible_chain() -> Chain:
    chain = make_chain(3, 4, 2, ragged=False)
    chain.emission[1, 2] = -math.inf
    return chain


def chain_alone(chain: Chain, n: int) -> Chain:
    length = chain.emission.shape[1] if chain.lengths is None else int(chain.lengths[n])
    return Chain(
        chain.initial if chain.initial.dim() == 1 else chain.initial[n],
        chain.transition if chain.transition.dim() == 2 else chain.transition[n : n + 1, : length - 1],
        chain.emission[n : n + 1, :length],
        None,
        chain._backend,
    )


def path_of(chain: Chain, parts: Tensor, n: int) -> tuple[int, ...]:
    length = chain.emission.shape[1] if chain.lengths is None else int(chain.lengths[n])
    assert (parts[n, length:] == -1).all()
    return tuple(parts[n, :length].tolist())


def no_path(chain: Chain) -> Tensor:
    return torch.full(chain.emission.shape[:2], chain.emission.shape[2])


# Alignments -------------------------------------------------------------------------------------------------------


def size_of(structure: Alignment, n: int) -> tuple[int, list[int]]:
    """Frames and target of item n."""
    length = structure.log_probs.shape[1] if structure.lengths is None else int(structure.lengths[n])
    size = structure.targets.shape[1] if structure.target_lengths is None else int(structure.target_lengths[n])
    return length, structure.targets[n, :size].tolist()


def alignment_values(structure: Alignment, n: int) -> Iterator[tuple[Any, list[Use]]]:
    """Of all strings with a symbol a frame those that spell the target."""
    length, target = size_of(structure, n)
    for path in itertools.product(range(structure.log_probs.shape[2]), repeat=length):
        merged = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in merged if symbol != structure.blank] == target:
            yield path, [("log_probs", (t, symbol)) for t, symbol in enumerate(path)]


def make_alignment(
    targets: list[list[int]], lengths: list[int], symbols: int, *, blank: int = 0, forbidden: float = 0.0
) -> Alignment:
    rng = np.random.default_rng(len(targets) + 10 * sum(lengths))
    log_probs = 1.5 * rng.normal(size=(len(targets), max(lengths), symbols))
    log_probs[rng.random(log_probs.shape) < forbidden] = -np.inf
    for n, length in enumerate(lengths):
        log_probs[n, length:] = np.nan
    padded = torch.full((len(targets), max(len(t) for t in targets)), -7)
    for n, target in enumerate(targets):
        padded[n, : len(target)] = torch.tensor(target, dtype=torch.int64)
    sizes = torch.tensor([len(t) for t in targets])
    return Alignment(torch.as_tensor(log_probs), padded, torch.tensor(lengths), sizes, blank)


def alignment_variants() -> dict[str, Alignment]:
    plain = {
        "ragged": make_alignment([[1, 2], [2], [1, 2, 1], []], [5, 3, 4, 2], 3),
        "repeated": make_alignment([[1, 1], [2, 2, 1], [1, 1]], [5, 5, 3], 3),
        "another blank": make_alignment([[1, 0], [0, 0], [3]], [4, 4, 2], 4, blank=2),
        "one frame, one state": make_alignment([[1], [], [2]], [1, 1, 1], 3),
        "one state": make_alignment([[], []], [3, 1], 1),
        "just as long as it must be, one state": make_alignment([[1, 2, 1], [1, 1]], [3, 3], 3),
        "forbidden": make_alignment([[1, 2], [2], [1]], [5, 4, 3], 3, forbidden=0.15),
        "all alike": Alignment(torch.zeros(2, 4, 3).double(), torch.tensor([[1, 2], [2, 2]])),
    }
    return {
        f"{name}, {backend}": dataclasses.replace(alignment, _backend=backend)
        for name, alignment in plain.items()
        for backend in ("numba", "torch")
    }


def impossible_alignment() -> Alignment:
    alignment = make_alignment([[1, 2], [2, 1], [1]], [4, 4, 3], 3)
    alignment.log_probs[1, 2] = -math.inf
    return alignment


def alignment_alone(structure: Alignment, n: int) -> Alignment:
    length, target = size_of(structure, n)
    own = torch.tensor([target], dtype=torch.int64)
    return Alignment(structure.log_probs[n : n + 1, :length], own, blank=structure.blank, _backend=structure._backend)


def symbols_of(structure: Alignment, parts: Tensor, n: int) -> tuple[int, ...]:
    length, _ = size_of(structure, n)
    assert (parts[n, length:] == -1).all()
    return tuple(parts[n, :length].tolist())


def no_symbols(structure: Alignment) -> Tensor:
    return torch.full(structure.log_probs.shape[:2], structure.log_probs.shape[2])


# Trees ------------------------------------------------------------------------------------------------------------

#: A node: its symbol alone above a word, or with its two children.
Node = tuple[Any, ...]


def nodes_over(tree: Tree, begin: int, end: int) -> Iterator[tuple[Node, list[Use]]]:
    """Every way to hang the words from begin to end, end not among them, below one symbol, whatever it is."""
    a, s = tree.rules.shape[-3], tree.rules.shape[-1]
    if end - begin == 1:
        for symbol in range(a, s):
            yield (symbol,), [("preterminals", (begin, symbol - a))]
        return
    for cut in range(begin + 1, end):
        rights = list(nodes_over(tree, cut, end))
        for left, left_uses in nodes_over(tree, begin, cut):
            for right, right_uses in rights:
                for symbol in range(a):
                    rule: Use = ("rules", (symbol, left[0], right[0]))
                    yield (symbol, left, right), [rule, *left_uses, *right_uses]


def tree_values(tree: Tree, n: int) -> Iterator[tuple[Any, list[Use]]]:
    """All binary trees with all symbols."""
    length = tree.preterminals.shape[1] if tree.lengths is None else int(tree.lengths[n])
    for node, uses in nodes_over(tree, 0, length):
        if len(node) == 3:
            yield node, [("root", (node[0],)), *uses]


def make_tree(
    lengths: list[int], nonterminals: int, preterminals: int, *, own: bool = False, forbidden: float = 0.0
) -> Tree:
    n, a, s = len(lengths), nonterminals, nonterminals + preterminals
    rng = np.random.default_rng(n + 10 * sum(lengths) + 100 * s)
    root, rules = rng.normal(size=(n, a) if own else a), rng.normal(size=(n, a, s, s) if own else (a, s, s))
    words = rng.normal(size=(n, max(lengths), preterminals))
    for potential in (root, rules, words):
        potential[rng.random(potential.shape) < forbidden] = -np.inf
    for i, length in enumerate(lengths):
        words[i, length:] = np.nan
    return Tree(torch.as_tensor(root), torch.as_tensor(rules), torch.as_tensor(words), torch.tensor(lengths))


def tree_variants() -> dict[str, Tree]:
    plain = {
        "ragged": make_tree([2, 5, 4, 3], 2, 1),
        "two words": make_tree([2, 2], 3, 2),
        "own": make_tree([3, 4, 2], 2, 2, own=True),
        "one of each": make_tree([6, 3], 1, 1),
        "forbidden": make_tree([4, 3, 4], 2, 2, own=True, forbidden=0.1),
        "all alike": Tree(torch.zeros(1).double(), torch.zeros(1, 2, 2).double(), torch.zeros(2, 5, 1).double()),
        "by logarithms": hidden_tree(),
    }
    return {
        f"{name}, {backend}": dataclasses.replace(tree, _backend=backend)
        for name, tree in plain.items()
        for backend in ("numba", "torch", *(("sparse",) if tree.rules.dim() == 3 else ()))
    }


def hidden_tree() -> Tree:
    """One whose only preterminal that any rule uses is far less likely, at one word, than one that none uses."""
    tree = make_tree([4, 3], 2, 2)
    tree.rules[:, 2, :] = tree.rules[:, :, 2] = -math.inf
    tree.preterminals[0, 1, 0] += 800.0
    return tree


def impossible_tree() -> Tree:
    tree = make_tree([4, 3, 2], 2, 2)
    tree.preterminals[1, 1] = -math.inf
    return tree


def tree_alone(tree: Tree, n: int) -> Tree:
    length = tree.preterminals.shape[1] if tree.lengths is None else int(tree.lengths[n])
    return Tree(
        tree.root if tree.root.dim() == 1 else tree.root[n],
        tree.rules if tree.rules.dim() == 3 else tree.rules[n],
        tree.preterminals[n : n + 1, :length],
    )


def nodes_of(tree: Tree, parts: Tensor, n: int) -> Node:
    """The nested nodes of a chart, found from the top by trying every cut."""
    chart = parts[n].tolist()
    length = len(chart) if tree.lengths is None else int(tree.lengths[n])

    def below(begin: int, end: int) -> Node:
        if begin == end:
            return (chart[begin][end],)
        (cut,) = [c for c in range(begin, end) if chart[begin][c] >= 0 and chart[c + 1][end] >= 0]
        return chart[begin][end], below(begin, cut), below(cut + 1, end)

    assert sum(symbol >= 0 for row in chart for symbol in row) == 2 * length - 1
    return below(0, length - 1)


def no_tree(tree: Tree) -> Tensor:
    return torch.full((tree.num_items, *tree.part_shape), 0)


#: By the structure's name.
KINDS: dict[str, Kind] = {
    "Alignment": Kind(
        alignment_values, alignment_variants, impossible_alignment, alignment_alone, symbols_of, no_symbols
    ),
    "Tree": Kind(tree_values, tree_variants, impossible_tree, tree_alone, nodes_of, no_tree),
    "Chain": Kind(chain_values, chain_variants, impossible_chain, chain_alone, path_of, no_path),
}
