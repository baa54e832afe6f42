"""Do shared embeddings make a grammar easier to learn than free probabilities?

Both are trained on the words of "known_grammar" by expected gradient for as many passes over the sentences: a grammar
whose probabilities are free parameters, and one whose probabilities a network makes of its symbols' embeddings. The
likelihood of each is exact.

    python examples/neural_pcfg.py [--out neural_pcfg.png]

prints, in about 30 seconds, nats a word beside the entropy of the grammar that made the sentences, and the F1 of
unlabelled brackets.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.known_grammar import sentence_entropy


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit both, print a table, return its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", help="draw some trees here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    sentences, epochs = (30, 1) if options.smoke else (1000, options.epochs)

    trees = zoo.load_trees("known_grammar")[:sentences]
    text = [list(tree.words()) for tree in trees]
    entropy, length = sentence_entropy()
    table = Table("grammar", "nats a word", "F1 of brackets", title=f"{len(text)} sentences, {epochs} epochs of eg")
    table.add_row("the one that made them", f"{entropy / length:.4f}", "100.0%")
    metrics: dict[str, float] = {}
    for cls in (zoo.PCFG, zoo.NeuralPCFG):
        model = cls.from_data(text, num_nonterminals=6, num_preterminals=9)
        fit = zoo.fit(model, text, estimator="eg", seed=options.seed, max_epochs=epochs, batch_size=16, progress=None)
        assert fit.log_likelihood is not None
        nats, f1 = -fit.log_likelihood / fit.num_units, zoo.bracketing(fit.model.parse(text), trees).f1
        table.add_row(fit.model.label, f"{nats:.4f}", f"{f1:.1%}")
        metrics |= {f"nats_{fit.model.label}": nats, f"f1_{fit.model.label}": f1}
    Console(width=110).print(table)
    if options.out:
        fit.plot(path=options.out)
    return metrics


if __name__ == "__main__":
    main()
