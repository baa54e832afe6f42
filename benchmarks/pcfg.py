"""The inside algorithm and its gradient beside torch-struct's, on the CPU: ln p(x) of sentences and expected counts.

    zoo bench pcfg [--quick] [--out FILE]

A step is what training does: log-partitions of a batch of sentences, and the gradient of their sum in the grammar's
tables and in the words' scores, in float32. The systems take turns, and the least of all rounds counts, as a busy
machine only adds to it: seconds on the clock, and of the processor. Values, gradients, expected counts and best trees
are compared in the same run.
``efficiency`` is how near the dense products come to what the processor does in one large product of matrices: the
multiplications that the algorithm asks for, by the rate of a product of 1000 x 1000 measured beside it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from zoo.structures import Tree


class Shape(NamedTuple):
    """N sentences of T words, A nonterminals and P preterminals."""

    items: int
    words: int
    nonterminals: int
    preterminals: int


SHAPES = (Shape(16, 20, 30, 60), Shape(16, 40, 30, 60))
QUICK_SHAPES = (Shape(2, 6, 4, 5),)
ROUNDS, QUICK_ROUNDS = 5, 1

Tables = tuple[Tensor, Tensor, Tensor]
Step = Callable[[Tables], tuple[Tensor, list[Tensor]]]


def make_data(shape: Shape, seed: int = 0) -> Tables:
    """A random grammar's logarithms, root (A,), rules (A, S, S), and of words (N, T, P), float32."""
    generator = torch.Generator().manual_seed(seed)
    a, s = shape.nonterminals, shape.nonterminals + shape.preterminals
    root = torch.randn(a, generator=generator).log_softmax(-1)
    rules = torch.randn(a, s * s, generator=generator).log_softmax(-1).reshape(a, s, s)
    return root, rules, torch.randn(shape.items, shape.words, shape.preterminals, generator=generator) - 4


def ours(tables: Tables) -> tuple[Tensor, list[Tensor]]:
    """Values (N,) and the gradients of their sum."""
    leaves = [table.detach().requires_grad_() for table in tables]
    value = Tree(*leaves).log_partition()
    return value.detach(), list(torch.autograd.grad(value.sum(), leaves))


def theirs(tables: Tables) -> tuple[Tensor, list[Tensor]]:
    """The same by torch-struct's SentCFG, which wants a grammar for each sentence."""
    from torch_struct import SentCFG

    leaves = [table.detach().requires_grad_() for table in tables]
    root, rules, words = leaves
    n = len(words)
    value = SentCFG((words, rules.expand(n, *rules.shape), root.expand(n, -1))).partition
    return value.detach(), list(torch.autograd.grad(value.sum(), leaves))


def differences(tables: Tables) -> dict[str, float]:
    """By how much ours are off torch-struct's in float64.

    Of values relatively; of the gradient of their sum, and for the first two sentences of expected counts of all
    potentials, of the weights of the best trees, and of what these trees are made of.
    """
    from torch_struct import SentCFG

    root, rules, words = (table.double() for table in tables)
    (value, gradients), (value_, gradients_) = ours((root, rules, words)), theirs((root, rules, words))
    tree = Tree(root, rules, words[:2])
    peer = SentCFG((tree.preterminals, rules.expand(2, *rules.shape), root.expand(2, -1)))
    found = tree.expected(by_item=True)
    best, weight = tree.argmax()
    own = (found.preterminals, found.rules, found.root)
    counted, counted_ = tree.counts(best)[::-1], (peer.argmax[0], peer.argmax[1].sum(0), peer.argmax[2].sum(0))
    return {
        "value": float(((value - value_) / value_).abs().max()),
        "gradient": _furthest(gradients, gradients_),
        "marginals": _furthest(own, peer.marginals[:3]),
        "best_weight": float((weight - peer.max).abs().max()),
        "best_tree": _furthest(counted, counted_),
    }


def _furthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def multiplications(shape: Shape) -> float:
    """Of value and gradient: three products of matrices for each one of the inside pass."""
    n, t, a, p = shape
    spans = t * (t - 1) / 2 - (t - 1)
    cuts = sum((t - w + 1) * max(0, w - 3) for w in range(3, t + 1))
    inside = spans * (a**3 + 2 * a * a) + cuts * a * a + (t - 1) * a * p * p + 2 * t * a * a * p
    return 3.0 * n * inside


def rate() -> float:
    """Multiplications a second of processor time, in one product of 1000 x 1000 in float64."""
    x = torch.randn(1000, 1000, dtype=torch.float64)
    best = float("inf")
    for _ in range(4):
        begin = time.process_time()
        _ = x @ x
        best = min(best, time.process_time() - begin)
    return 1e9 / best


def timed(steps: dict[str, Step], tables: Tables, rounds: int) -> dict[str, float]:
    """The least milliseconds of a step by system, on the clock and of the processor, the first round left out."""
    spent: dict[str, list[float]] = {f"{name}_{kind}": [] for name in steps for kind in ("ms", "cpu_ms")}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            clock, processor = time.perf_counter(), time.process_time()
            step(tables)
            spent[f"{name}_cpu_ms"].append(1e3 * (time.process_time() - processor))
            spent[f"{name}_ms"].append(1e3 * (time.perf_counter() - clock))
    return {name: min(values[1:]) for name, values in spent.items()}


def run(quick: bool = False) -> dict[str, Any]:
    """Measures, prints and returns milliseconds, ratios and differences; ours alone without torch-struct.

    Args:
        quick: small shapes, one round.
    """
    steps: dict[str, Step] = {"zoo": ours}
    if importlib.util.find_spec("torch_struct") is not None:
        steps["torch_struct"] = theirs
    rows, fastest = [], rate()
    for shape in QUICK_SHAPES if quick else SHAPES:
        tables = make_data(shape)
        row: dict[str, Any] = {**shape._asdict(), **timed(steps, tables, QUICK_ROUNDS if quick else ROUNDS)}
        row["efficiency"] = multiplications(shape) / fastest / (row["zoo_cpu_ms"] / 1e3)
        if "torch_struct" in steps:
            row["times_faster"] = row["torch_struct_ms"] / row["zoo_ms"]
            row["times_faster_cpu"] = row["torch_struct_cpu_ms"] / row["zoo_cpu_ms"]
            row["off_by"] = differences(tables)
        rows.append(row)
    result = {"threads": torch.get_num_threads(), "rows": rows}
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    table = Table(
        "words",
        "A",
        "P",
        "zoo, ms",
        "torch-struct, ms",
        "times",
        "of the processor",
        "efficiency",
        "off by (value, all)",
    )
    for row in result["rows"]:
        beside = [
            f"{row[name]:.{digits}f}" if name in row else "-"
            for name, digits in (("torch_struct_ms", 0), ("times_faster", 1), ("times_faster_cpu", 1))
        ]
        off = f"{row['off_by']['value']:.0e}, {max(row['off_by'].values()):.0e}" if "off_by" in row else "-"
        table.add_row(
            str(row["words"]), str(row["nonterminals"]), str(row["preterminals"]), f"{row['zoo_ms']:.1f}", *beside,
            f"{row['efficiency']:.0%}", off,
        )  # fmt: skip
    Console(width=120).print(table)
