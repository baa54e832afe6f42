"""States that lie on curved sheets: an HMM whose Gaussians live behind a decoder, beside one whose do not.

By default the data are drawn from a known chain of three states, whose codes in the plane a fixed map bends into six
features. The states then lie on parabolas above each other. A GaussianHMM of three states cuts across them, though EM
finds its best; an HMMVAE starts from just such a model, on principal coordinates, and unbends. Its bound is comparable
with the other's exact likelihood. ``information`` is the normalised mutual information of frames' states and the true
ones.

With --data spoken_digits (ZOO_DATA) states are units of speech, information is that with the digit that is said, and
the picture is a spectrogram: see ``zoo reproduce hmm_vae`` for seeds and baselines.

    python examples/hmm_vae.py --out units.png

prints, in about 15 seconds:

    ┏━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┓
    ┃ model       ┃ nats a frame ┃ information ┃ accuracy ┃ seconds ┃
    ┡━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━┩
    │ GaussianHMM │ -0.156       │ 0.001       │ 0.351    │ 1       │
    │ HMMVAE      │ 0.528        │ 0.914       │ 0.982    │ 15      │
    └─────────────┴──────────────┴─────────────┴──────────┴─────────┘
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.data.speech import smooth_spectrogram
from zoo.reporting.units import plot_units
from zoo.scores.clustering import hungarian_accuracy, normalized_mutual_information


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fit both, print a table, draw a picture if asked; return the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=("known_chain", "spoken_digits"), default="known_chain")
    parser.add_argument("--states", type=int, default=3)
    parser.add_argument("--latent", type=int, default=2)
    parser.add_argument("--hidden", type=int, nargs="*", default=[32, 32])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", "--picture", help="where to draw a sequence by its states")
    parser.add_argument("--smoke", action="store_true", help="a few sequences and steps")
    options = parser.parse_args(args)

    x, labels = zoo.load_data(options.data, labels=True)
    assert isinstance(x, dict)
    if options.smoke:
        x, labels = {name: value[:20] for name, value in x.items()}, labels[:20]
        options.epochs, options.hidden = 2, [4]
    features, there = x["x"].shape[-1], torch.arange(x["x"].shape[1]) < x["lengths"].unsqueeze(-1)
    true = (labels if labels.dim() == 2 else labels.unsqueeze(-1).expand_as(there))[there]
    hmm = zoo.GaussianHMM(options.states, features, "full" if options.data == "known_chain" else "diag")
    deep = zoo.HMMVAE(options.states, features, options.latent, options.hidden)
    fits: dict[str, Any] = {
        "GaussianHMM": zoo.fit(hmm, x, estimator="em", seed=options.seed, max_iter=200, progress=None),
        "HMMVAE": zoo.fit(
            deep, x, estimator="svi", seed=options.seed, max_epochs=options.epochs, learning_rate=0.1, progress=None
        ),
    }
    table, metrics = Table("model", "nats a frame", "information", "accuracy", "seconds"), dict[str, float]()
    for name, fit in fits.items():
        found = fit.predict(x)[there]
        scores = [normalized_mutual_information(found, true), hungarian_accuracy(found, true)]
        nats = (fit.elbo if fit.log_likelihood is None else fit.log_likelihood) / len(true)
        table.add_row(name, f"{nats:.3f}", *(f"{score:.3f}" for score in scores), f"{fit.seconds:.0f}")
        metrics |= {f"{name}: nats a frame": nats, f"{name}: information": scores[0]}
    Console(width=100).print(table)
    if options.out:
        of_speech = smooth_spectrogram if options.data == "spoken_digits" else None
        plot_units(fits["HMMVAE"], x, options.out, image=of_speech)
    return metrics


if __name__ == "__main__":
    main()
