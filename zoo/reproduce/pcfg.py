"""Grammars induced from tags alone: unlabelled F1 on the short sentences of the treebank sample.

Sentences of up to ten tags, punctuation and traces dropped; brackets of one word and of whole sentences do not count,
F1 is over all brackets. Free probabilities by EM and by expected gradient, a neural grammar, a compound one, each from
several seeds, all trained and scored on all sentences, as is usual where nothing but tags is seen. Beside them trees
that know nothing, and a grammar read off nine tenths of the trees and scored on the last.

The published figures are on the whole of the Wall Street Journal, of which the sample is a twelfth: they are context.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.data import load_data, load_trees
from zoo.data.parse_tree import ParseTree
from zoo.models.compound_pcfg import CompoundPCFG
from zoo.models.neural_pcfg import NeuralPCFG
from zoo.models.pcfg import PCFG
from zoo.runs.fit import fit
from zoo.scores.bracketing import bracketing, left_branching, random_branching, right_branching

ABOUT = "Grammars of the treebank sample's tags, up to 10 words: unlabelled F1 without brackets of whole sentences"

_READ = "on WSJ10, other convention, read"
PUBLISHED: list[dict[str, Any]] = [
    {"name": "F1, left-branching", "value": 28.7, "source": _READ},
    {"name": "F1, random", "value": 34.7, "source": _READ},
    {"name": "F1, right-branching", "value": 61.7, "source": _READ},
    {"name": "F1, NeuralPCFG by eg", "value": 50.8, "source": "all lengths of the treebank, read"},
    {"name": "F1, CompoundPCFG by svi", "value": 55.2, "source": "all lengths of the treebank, read"},
]


@dataclass(frozen=True)
class Setting:
    """What a budget allows.

    Attributes:
        sentences: the first so many; None takes all. nonterminals, preterminals: of every grammar. seeds: how many.
        iterations: of EM. epochs: of gradients.
    """

    sentences: int | None = None
    nonterminals: int = 10
    preterminals: int = 20
    seeds: int = 5
    iterations: int = 300
    epochs: int = 60


SETTINGS = {"quick": Setting(60, 4, 8, 2, 10, 2), "full": Setting()}


def _methods(setting: Setting) -> dict[str, tuple[type[Any], str, dict[str, Any]]]:
    gradient = {"max_epochs": setting.epochs, "batch_size": 16}
    return {
        "PCFG by em": (PCFG, "em", {"max_iter": setting.iterations, "tol": 1e-6, "restarts": 1}),
        "PCFG by eg": (PCFG, "eg", gradient),
        "NeuralPCFG by eg": (NeuralPCFG, "eg", gradient),
        "CompoundPCFG by svi": (CompoundPCFG, "svi", {**gradient, "warmup": 0}),
    }


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fit every grammar from every seed; means and spreads of F1 and of nats a word, and every run."""
    setting = SETTINGS[budget]
    text: Any = load_data("treebank10", symbols=True)
    trees = load_trees("treebank10")[: setting.sentences]
    x = {"x": text["x"][: len(trees)], "lengths": text["lengths"][: len(trees)]}
    runs: list[dict[str, Any]] = []
    for method, (cls, estimator, options) in _methods(setting).items():
        for each in range(seed, seed + setting.seeds):
            began = time.perf_counter()
            model = cls.from_data(x, num_nonterminals=setting.nonterminals, num_preterminals=setting.preterminals)
            found = fit(model, x, estimator=estimator, seed=each, **options)
            score = found.log_likelihood if found.log_likelihood is not None else found.elbo
            assert score is not None
            f1 = 100 * bracketing(found.model.parse(x), trees).f1
            nats = -score / found.num_units
            seconds = time.perf_counter() - began
            runs.append({"method": method, "seed": each, "f1": f1, "nats": nats, "seconds": seconds})
            say(f"{method}, seed {each}: F1 {f1:.1f}, {nats:.3f} nats a word ({seconds:.0f} s)")
    rows = [_summary(runs, method, "f1", "F1") for method in _methods(setting)]
    rows += [_summary(runs, method, "nats", "nats a word") for method in _methods(setting)]
    return {"setting": vars(setting), "rows": [*rows, *_beside(trees, seed)], "runs": runs}


def _summary(runs: Sequence[dict[str, Any]], method: str, name: str, title: str) -> dict[str, Any]:
    values = [r[name] for r in runs if r["method"] == method]
    note = f"mean; {min(values):.3g} to {max(values):.3g}, sd {statistics.pstdev(values):.2g}, {len(values)} seeds"
    bound = ", a bound" if name == "nats" and "svi" in method else ""
    return {"name": f"{title}, {method}", "value": statistics.fmean(values), "note": note + bound}


def _beside(trees: Sequence[ParseTree], seed: int) -> list[dict[str, Any]]:
    """Trees that know nothing, and the grammar of known trees."""
    generator = torch.Generator().manual_seed(seed)
    long = [tree for tree in trees if len(tree.tags()) > 1]
    baselines: dict[str, list[ParseTree | None]] = {
        "left-branching": [left_branching(tree) for tree in long],
        "random": [random_branching(tree, generator) for tree in long],
        "right-branching": [right_branching(tree) for tree in long],
    }
    rows = [
        {"name": f"F1, {name}", "value": 100 * bracketing(found, long).f1, "note": f"{len(long)} sentences"}
        for name, found in baselines.items()
    ]
    order = torch.randperm(len(long), generator=generator).tolist()
    cut = len(long) * 9 // 10
    known, new = [long[i] for i in order[:cut]], [long[i] for i in order[cut:]]
    symbols = sorted({tag for tree in long for tag in tree.tags()})
    model = PCFG.from_treebank(known, symbols=symbols)
    for name, minimum_risk in (("supervised", False), ("supervised, least risk", True)):
        score = bracketing(model.parse([list(tree.tags()) for tree in new], minimum_risk=minimum_risk), new)
        note = f"read off {len(known)} trees, scored on {score.num_sentences} others"
        rows.append({"name": f"F1, {name}", "value": 100 * score.f1, "note": note})
    upper = bracketing([_binarized(tree) for tree in long], long)
    rows.append({"name": "F1, best of binary trees", "value": 100 * upper.f1, "note": "no binary tree does better"})
    return rows


def _binarized(tree: ParseTree) -> ParseTree:
    """A binary tree with all the brackets of a tree: phrases of many parts are cut from the left."""
    done: dict[int, ParseTree] = {}
    for node, _, _ in tree.nodes():
        if node.is_tag:
            done[id(node)] = node
            continue
        parts = [done[id(child)] for child in node.children]
        whole = parts.pop()
        while parts:
            whole = ParseTree(node.label, (parts.pop(), whole))
        done[id(node)] = whole
    return done[id(tree)]
