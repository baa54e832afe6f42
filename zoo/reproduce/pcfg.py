"""Grammars induced from tags alone: unlabelled F1 on the short sentences of the treebank sample.

Sentences of up to ten tags, punctuation, currency signs and traces dropped. F1 is over all brackets of all sentences,
labels aside; a span counts once, those of one word and of whole sentences do not. Free probabilities by EM and by
expected gradient, both under a Dirichlet prior, a neural grammar, a compound one, each from several random starts. A
seed holds out a tenth of the sentences: training stops where their likelihood no longer rises; step sizes and the
prior's concentration were chosen by it, never by F1. F1 is of all sentences, as is usual where nothing but tags is
seen. Beside them trees that know nothing, and a grammar read off nine tenths of the trees and scored on the last.

The published figures are on the whole of the Wall Street Journal, of which the sample is a twelfth: they are context.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import load_data, load_trees
from zoo.data.parse_tree import ParseTree
from zoo.models.compound_pcfg import CompoundPCFG
from zoo.models.neural_pcfg import NeuralPCFG
from zoo.models.pcfg import PCFG
from zoo.reproduce._rows import each_by_itself, fit
from zoo.runs.result import Fit
from zoo.scores.bracketing import bracketing, left_branching, random_branching, right_branching

ABOUT = (
    "Grammars of the treebank sample's tags, up to 10 words, no punctuation: unlabelled F1 over all brackets but those "
    "of one word or a whole sentence"
)
ON_DEVICE = True

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
        held_out: the fraction of sentences that tells when to stop. iterations: of EM, at most. epochs: of gradients,
        at most; the rate falls over so many.
    """

    sentences: int | None = None
    nonterminals: int = 10
    preterminals: int = 20
    seeds: int = 5
    held_out: float = 0.1
    iterations: int = 200
    epochs: int = 30


SETTINGS = {"quick": Setting(seeds=2, epochs=15), "full": Setting()}
#: Of free probabilities: without it EM rules out what training sentences do without, and with it some held out.
PRIOR = {"concentration": 1.03}


def _methods(setting: Setting) -> dict[str, tuple[type[Any], dict[str, Any], str, dict[str, Any]]]:
    """By name, the class and its own arguments, the estimator and its options."""
    gradient = {
        "init": "random", "max_epochs": setting.epochs, "batch_size": 16, "learning_rate": 0.15, "patience": 6,
    }  # fmt: skip
    compound = {**gradient, "learning_rate": 0.06, "warmup": 0}
    iterations = {"init": "random", "max_iter": setting.iterations, "tol": 1e-5, "restarts": 1, "patience": 10}
    return {
        "PCFG by em": (PCFG, PRIOR, "em", iterations),
        "PCFG by eg": (PCFG, PRIOR, "eg", gradient),
        "NeuralPCFG by eg": (NeuralPCFG, {}, "eg", gradient),
        "CompoundPCFG by svi": (CompoundPCFG, {}, "svi", compound),
    }


def run(budget: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Fit every grammar from every seed; means and spreads of F1 and of nats a word, and every run."""
    setting = SETTINGS[budget]
    text: Any = load_data("treebank10", symbols=True)
    trees = load_trees("treebank10")[: setting.sentences]
    x = {"x": text["x"][: len(trees)], "lengths": text["lengths"][: len(trees)]}
    runs: list[dict[str, Any]] = []
    methods = _methods(setting)

    def parsed(run: tuple[str, int], say: Callable[[str], None]) -> dict[str, Any]:
        method, each = run
        cls, arguments, estimator, options = methods[method]
        began = time.process_time()
        sizes = {"num_nonterminals": setting.nonterminals, "num_preterminals": setting.preterminals}
        model = cls.from_data(x, **sizes, **arguments)
        found = fit(model, x, estimator=estimator, seed=each, validation=setting.held_out, **options)
        f1 = 100 * bracketing(found.model.parse(x), trees).f1
        row = {"method": method, "seed": each, "f1": f1, **_nats(found, x["lengths"])}
        row |= {"rounds": found.iterations, "cpu_seconds": time.process_time() - began}
        say(
            f"{method}, seed {each}: F1 {f1:.1f}, {row['nats']:.3f} nats a word trained on, "
            f"{row['held_out']:.3f} held out ({row['cpu_seconds']:.0f} s of CPU)"
        )
        return row

    every = [(method, each) for method in methods for each in range(seed, seed + setting.seeds)]
    runs += [row for _, row in each_by_itself(parsed, every, say)]
    rows = [_summary(runs, method, *column) for column in _COLUMNS.items() for method in _methods(setting)]
    return {"setting": vars(setting), "rows": [*rows, *_beside(trees, seed)], "runs": runs}


#: What is summed up of the runs, and what it is called.
_COLUMNS = {"f1": "F1", "held_out": "nats a word held out", "nats": "nats a word trained on"}


def _nats(found: Fit, lengths: Tensor) -> dict[str, float]:
    """Nats a word of the sentences that were trained on, and of those held out where they were served best."""
    possible = lengths[lengths > 1]
    score = found.log_likelihood if found.log_likelihood is not None else found.elbo
    assert score is not None
    best = max(value for value in found.history["validation"] if value is not None) * (len(possible) - found.num_data)
    return {"nats": -score / found.num_units, "held_out": -best / (int(possible.sum()) - found.num_units)}


def _summary(runs: Sequence[dict[str, Any]], method: str, name: str, title: str) -> dict[str, Any]:
    values = [r[name] for r in runs if r["method"] == method]
    note = f"mean; {min(values):.3g} to {max(values):.3g}, sd {statistics.pstdev(values):.2g}, {len(values)} seeds"
    bound = ", a bound" if name != "f1" and "svi" in method else ""
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
