"""How near does a chain of hidden states come to the language that made the sentences, and by which gradient?

"known_sentences" are of a language of 21 hidden states whose entropy is known exactly, and so the best perplexity. The
neural hidden Markov model climbs ln p(x) by the exact gradient (eg), and the bound of its amortized guide with the path
summed exactly (svi). Then fewer states whose words see the word before them, or all before.

    python examples/discrete_sequence_vae.py [--out FOLDER]

prints, in about 40 seconds, perplexities and sentences that the model makes; with --out a picture of sentences and
their states.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.known_sentences import known_sentences, sentence_entropy
from zoo.reporting.words import plot_words

#: Rows: states, context, estimator.
ROWS = ((8, "none", "eg"), (32, "none", "eg"), (32, "none", "svi"), (8, "embedding", "eg"), (8, "recurrent", "eg"))


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, print a table and sentences, return the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", help="a folder for the picture")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    number, epochs = (60, 2) if options.smoke else (1000, options.epochs)
    rows = ROWS[:2] if options.smoke else ROWS
    console = Console(width=110)

    text, unseen = known_sentences(number), known_sentences(number, seed=1)
    entropy, length = sentence_entropy()
    best = math.exp(entropy / length)
    table = Table("states", "context", "estimator", "perplexity", "of new sentences", "seconds")
    table.add_row("21", "none", "the language itself", "", f"{best:.3f}", "")
    metrics: dict[str, float] = {"best": best}
    fits: list[Any] = []
    for states, context, estimator in rows:
        model = zoo.DiscreteSequenceVAE.from_data(text, num_states=states, context=context)
        fit: Any = zoo.fit(model, text, estimator=estimator, seed=options.seed, max_epochs=epochs, progress=None)
        seen, new = fit.model.perplexity(text), fit.model.perplexity(_known(fit, unseen))
        table.add_row(str(states), context, estimator, f"{seen:.3f}", f"{new:.3f}", f"{fit.seconds:.1f}")
        metrics[f"{context}_{states}_{estimator}"] = new
        fits.append(fit)
    console.print(table)
    drawn: Any = fits[1].sample(5, seed=options.seed)
    for row, size in zip(drawn["x"].tolist(), drawn["lengths"].tolist(), strict=True):
        console.print("  " + " ".join(fits[1].model.schema.symbols[v] for v in row[:size]))
    if options.out:
        for path in plot_words(fits[1], text, Path(options.out)):
            console.print(f"wrote {path}")
    return metrics


def _known(fit: Any, text: list[list[str]]) -> list[list[str]]:
    """Sentences of words that the fit has seen: all of them, but for a few that were trained on."""
    words = set(fit.model.schema.symbols)
    return [sentence for sentence in text if words.issuperset(sentence)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
