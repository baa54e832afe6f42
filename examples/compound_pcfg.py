"""What is gained when every sentence has a grammar of its own?

A compound grammar draws a Gaussian z for each sentence, of which a network makes the rules; given z the sum over trees
is exact, z itself is averaged over by a guide. The bound is compared with the exact likelihood of one neural grammar.

    python examples/compound_pcfg.py [--out compound_pcfg.png]

prints, in about 40 seconds, the bound in nats a word, the share of it that is the divergence of z, and the F1 of
unlabelled brackets.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

import zoo


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit by two estimators, print a table, return its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", help="draw some trees here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    sentences, epochs = (20, 1) if options.smoke else (1000, options.epochs)

    trees = zoo.load_trees("known_grammar")[:sentences]
    text = [list(tree.words()) for tree in trees]
    table = Table("estimator", "bound, nats a word", "F1 of brackets", title=f"{len(text)} sentences, {epochs} epochs")
    metrics: dict[str, float] = {}
    for name in ("svi", "iwae"):
        model = zoo.CompoundPCFG.from_data(text, num_nonterminals=6, num_preterminals=9, latent_dim=4)
        draws = {"num_particles": 4} if name == "iwae" else {}
        fit = zoo.fit(
            model, text, estimator=name, seed=options.seed, max_epochs=epochs, warmup=0, progress=None, **draws
        )
        assert fit.elbo is not None
        bound, f1 = -fit.elbo / fit.num_units, zoo.bracketing(fit.model.parse(text), trees).f1
        table.add_row(name, f"{bound:.4f}", f"{f1:.1%}")
        metrics |= {f"bound_{name}": bound, f"f1_{name}": f1}
    Console(width=110).print(table)
    if options.out:
        fit.plot(path=options.out)
    return metrics


if __name__ == "__main__":
    main()
