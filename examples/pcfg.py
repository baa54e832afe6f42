"""What grammar do sentences show that are seen without their trees?

A small English grammar makes the sentences of "known_grammar", each with one tree; its entropy, 1.6947 nats a word, is
what no model can do better than. A grammar with more symbols than it has is trained on the words alone by EM, from
several starts, and the likeliest is kept. Its trees are compared with those that the sentences were made by.

    python examples/pcfg.py [--out pcfg.png]

prints, in about 40 seconds, nats a word on new sentences beside the entropy, the F1 of unlabelled brackets beside
right-branching and random trees, a tree, and the rules that were found; --out draws some trees.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.known_grammar import known_trees, sentence_entropy
from zoo.reporting.trees import draw_trees
from zoo.scores.bracketing import random_branching, right_branching


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print a table and a tree, return the figures in the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--out", type=Path, help="draw some trees here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    console = Console(width=110)
    sentences, steps, starts = (60, 3, 1) if options.smoke else (1000, 150, options.starts)

    trees = zoo.load_trees("known_grammar")[:sentences]
    text = [list(tree.words()) for tree in trees]
    model = zoo.PCFG.from_data(text, num_nonterminals=10, num_preterminals=12)
    fit = zoo.fit(
        model, text, estimator="em", seed=options.seed, restarts=starts, max_iter=steps, tol=1e-6, progress=None
    )

    words = {word for sentence in text for word in sentence}
    drawn = known_trees(number=100 if options.smoke else 500, seed=options.seed + 1)
    new = [tree for tree in drawn if words.issuperset(tree.words())]
    unseen = [list(tree.words()) for tree in new]
    found = fit.model.parse(unseen)
    generator = torch.Generator().manual_seed(options.seed)
    entropy, length = sentence_entropy()
    possible = fit.score_samples(unseen)
    kept = possible.isfinite()
    lengths = torch.tensor([len(sentence) for sentence in unseen])
    metrics = {
        "nats": -float(possible[kept].sum()) / int(lengths[kept].sum()),
        "entropy": entropy / length,
        "f1": zoo.bracketing(found, new).f1,
        "f1_right": zoo.bracketing([right_branching(tree) for tree in new], new).f1,
        "f1_random": zoo.bracketing([random_branching(tree, generator) for tree in new], new).f1,
    }
    table = Table("new sentences", "nats a word", "F1 of brackets", title=f"{len(new)} sentences")
    table.add_row("the grammar itself", f"{metrics['entropy']:.4f}", "100.0%")
    table.add_row("em", f"{metrics['nats']:.4f}", f"{metrics['f1']:.1%}")
    table.add_row("right-branching trees", "", f"{metrics['f1_right']:.1%}")
    table.add_row("random trees", "", f"{metrics['f1_random']:.1%}")
    console.print(table)
    shown = [tree for tree in found if tree is not None][:4]
    console.print(shown[0].draw(), markup=False)
    console.print(fit.model.grammar(0.05), markup=False)
    if options.out is not None:
        draw_trees(shown, options.out)
    return metrics


if __name__ == "__main__":
    main()
