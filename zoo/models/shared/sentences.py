"""Sentences of symbols as grammars take them, (N, T) integers with lengths, and how they are drawn from a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.core.checks import rows
from zoo.core.data import Data, as_data, stacked
from zoo.core.schema import Schema
from zoo.core.sequences import inside, lengths_of
from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError
from zoo.structures.tree_parts import children

__all__ = ["MAX_WORDS", "checked_sentences", "coded_sentences", "drawn_sentences", "readable"]

#: Longer sentences are drawn anew.
MAX_WORDS = 200
_ROUNDS = 50


def coded_sentences(x: Data, arguments: dict[str, Any], least: int = 0) -> Data:
    """Sentences with their words coded 0, 1, ...; a missing ``num_symbols`` of a model's arguments is read off them: so
    many that the highest is one, or all of a text, and at least ``least``."""
    schema = Schema()
    data = as_data(x, schema, symbols=True)
    if "num_symbols" not in arguments:
        values = data["x"] if isinstance(data, dict) else data[0] if isinstance(data, tuple) else data
        arguments["num_symbols"] = max(int(values.nan_to_num(0).max()) + 1, len(schema.symbols or ()), least)
    return data


def checked_sentences(x: Data, num_symbols: int, who: str) -> dict[str, Tensor]:
    """``x`` (N, T) as integers, 0 beyond a length, and ``lengths`` (N,); (T,) is one sentence, or with lengths that add
    up to T the sentences one after the other.

    Raises:
        ZooError: other names or shapes, an empty sentence, a symbol that is none of 0 to V - 1; which.
    """
    named: dict[str, Any] = (
        x if isinstance(x, dict) else dict(zip(("x", "lengths"), x if isinstance(x, tuple) else (x,), strict=False))
    )
    if "x" not in named or set(named) - {"x", "lengths"}:
        raise ZooError(f"{who}: data expected the names x and lengths, got {', '.join(map(str, named))}.")
    values, lengths = named["x"], named.get("lengths")
    if values.dim() == 3 and values.shape[-1] == 1:
        values = values.squeeze(-1)
    if values.dim() == 1 and isinstance(lengths, Tensor) and lengths.dim() == 1 and len(lengths) != 1:
        if int(lengths.sum()) != len(values):
            raise ZooError(
                f"{who}: lengths add up to {int(lengths.sum())}, expected the {len(values)} symbols of x. Correct them."
            )
        if bool((lengths < 1).any()):
            empty = int((lengths < 1).nonzero()[0])
            raise ZooError(f"{who}: sentence {empty} has length {int(lengths[empty])}, expected 1 or more. Drop it.")
        values = stacked(values, lengths, 1).squeeze(-1)
    values = values.unsqueeze(0) if values.dim() == 1 else values
    if values.dim() != 2 or 0 in values.shape:
        raise ZooError(
            f"{who}: x expected sentences (N, T) of at least one symbol, got shape {tuple(values.shape)}. "
            "Pad them to one length, and pass lengths."
        )
    n, t = values.shape
    if lengths is not None and (lengths.shape != (n,) or bool((lengths != lengths.round()).any())):
        raise ZooError(
            f"{who}: lengths expected {n} whole numbers, one a sentence, got {tuple(lengths.shape)} of them."
        )
    lengths = lengths_of(values, lengths)
    bad = (lengths < 1) | (lengths > t)
    if bad.any():
        which = int(bad.nonzero()[0])
        what = "is empty" if lengths[which] == 0 else f"has length {int(lengths[which])}"
        raise ZooError(f"{who}: sentence {which} {what}, expected from 1 to {t} symbols. Drop it.")
    values = values.masked_fill(~inside(values, lengths), 0)
    bad = ~((values >= 0) & (values < num_symbols) & (values == values.round()))
    if bad.any():
        raise ZooError(
            f"{who}: x expected symbols from 0 to {num_symbols - 1}, got {float(values[bad][0]):g} in {rows(bad)}. "
            "Pass num_symbols to match, or recode them."
        )
    return {"x": values.long(), "lengths": lengths}


def drawn_sentences(root: Tensor, rules: Tensor, emissions: Tensor, num_data: int) -> dict[str, Tensor]:
    """New sentences of a grammar, by torch's generator; one of more than :data:`MAX_WORDS` words is drawn anew.

    Args:
        root: (A,), rules: (A, S, S), emissions: (P, V), probabilities; each with a dimension of ``num_data`` before
            them where every sentence has a grammar of its own.

    Raises:
        ZooError: hardly any of the grammar's sentences ends.
    """
    a, s = rules.shape[-3], rules.shape[-1]
    table = rules.flatten(-2)
    found: list[list[int] | None] = [None] * num_data
    for _ in range(_ROUNDS):
        open_ones = [i for i, sentence in enumerate(found) if sentence is None]
        if not open_ones:
            break
        index = torch.tensor(open_ones)
        first = torch.multinomial(root[index] if root.dim() == 2 else root.expand(len(index), -1), 1).flatten().tolist()
        growing = {i: [symbol] for i, symbol in zip(open_ones, first, strict=True)}
        while growing:
            places = [(i, at, symbol) for i, row in growing.items() for at, symbol in enumerate(row) if symbol < a]
            if not places:
                break
            which, _, parents = (torch.tensor(column) for column in zip(*places, strict=True))
            probs = table[which, parents] if table.dim() == 3 else table[parents]
            pairs = iter(torch.multinomial(probs, 1).flatten().tolist())
            for i, row in list(growing.items()):
                grown: list[int] = []
                for symbol in row:
                    grown += divmod(next(pairs), s) if symbol < a else (symbol,)
                if len(grown) > MAX_WORDS:
                    del growing[i]
                else:
                    growing[i] = grown
        for i, row in growing.items():
            tags = torch.tensor(row) - a
            found[i] = (
                torch.multinomial(emissions[i, tags] if emissions.dim() == 3 else emissions[tags], 1).flatten().tolist()
            )
    done = [sentence for sentence in found if sentence is not None]
    if len(done) < num_data:
        raise ZooError(
            f"sample: expected a grammar whose sentences end, got {num_data - len(done)} of {num_data} that reached "
            f"{MAX_WORDS} words each time. Fit it to data first."
        )
    lengths = torch.tensor([len(sentence) for sentence in done])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(sentence) for sentence in done], batch_first=True)
    return {"x": padded, "lengths": lengths}


def readable(
    trees: Tensor, x: Tensor, lengths: Tensor, names: Sequence[str], words: Sequence[str]
) -> list[ParseTree | None]:
    """Charts of symbols (N, T, T) as trees of labels over words; None where there is none.

    A phrase whose label begins with "@" is a part of the one above it.
    """
    cuts = children(trees)[0].tolist()
    found: list[ParseTree | None] = []
    for chart, cut, row, length in zip(trees.tolist(), cuts, x.long().tolist(), lengths.tolist(), strict=True):
        if chart[0][length - 1] < 0:
            found.append(None)
            continue
        nodes: dict[tuple[int, int], ParseTree] = {
            (i, i): ParseTree(names[chart[i][i]], (words[row[i]],)) for i in range(length)
        }
        for w in range(1, length):
            for i in range(length - w):
                if (symbol := chart[i][i + w]) >= 0:
                    middle = i + cut[i][i + w]
                    both = (nodes[i, middle - 1], nodes[middle, i + w])
                    parts = [p for node in both for p in (node.children if node.label.startswith("@") else (node,))]
                    nodes[i, i + w] = ParseTree(names[symbol], tuple(parts))
        found.append(nodes[0, length - 1])
    return found
