"""Do classes found without labels look like digits?

The data are scikit-learn's 1797 handwritten digits, 8 x 8 pixels, black where the grey value is above 7 of 16. A
mixture of Bernoullis (latent class analysis) with ten classes never sees a label; afterwards its classes are matched
with the digits one to one (Hungarian method), and we count how often they agree. Chance would give 0.10.

    python examples/bernoulli_mixture.py [--out bernoulli_mixture.png]

prints, in about 80 seconds (nats per image; seed 0):

    estimator   log p(x)   ELBO       gap      agreement   steps
    em          -19.2204   -19.2204   0.0000   0.698       59
    eg          -19.2191   -19.2191   0.0000   0.701       160
    svi         -19.2191   -19.2191   0.0000   0.701       1479
    gumbel      -19.2249   -19.2287   0.0039   0.708       1500

and the ten classes as pictures.

The linear guide contains this model's exact posterior, which is why the gap of svi is small. Better likelihood is
not better agreement: classes split a digit written in two ways and merge digits that look alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo

ESTIMATORS = ("em", "eg", "svi", "gumbel")


def main(args: Sequence[str] | None = None) -> dict[str, float | None]:
    """Fit, print a table and the classes of the first estimator, return the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-components", type=int, default=10)
    parser.add_argument("--max-epochs", type=int, default=1500, help="steps of the gradient estimators")
    parser.add_argument("--out", help="draw the classes here, a .png")
    parser.add_argument("--smoke", action="store_true", help="a few seconds' worth of steps")
    options = parser.parse_args(args)
    console = Console(width=110)
    metrics: dict[str, float | None] = {}

    pixels, digit = zoo.load_data("digits", labels=True)
    assert isinstance(pixels, torch.Tensor)
    x = (pixels > 7).double()
    model = zoo.BernoulliMixture(options.num_components, x.shape[1])

    table = Table("estimator", "log p(x)", "ELBO", "gap", "agreement", "steps", title="Ten classes of binarised digits")
    shown = None
    for name in ESTIMATORS:
        epochs = 60 if options.smoke else options.max_epochs
        quick: dict[str, Any] = {} if name == "em" else {"max_epochs": epochs}
        if name in ("svi", "gumbel"):
            quick["warmup"] = epochs // 4
        fit = zoo.align(zoo.fit(model, x, estimator=name, seed=options.seed, progress=None, **quick), digit, x)
        agreement = float((fit.predict(x) == digit).double().mean())
        scores = (fit.log_likelihood, fit.elbo, fit.evidence_gap)
        per_image = [value / fit.num_data for value in scores if value is not None]
        table.add_row(name, *(f"{v:.4f}" for v in per_image), f"{agreement:.3f}", str(fit.iterations))
        metrics[name], metrics[f"{name}_agreement"] = per_image[0], agreement
        shown = shown or fit
    console.print(table)
    assert shown is not None
    draw(shown, console)
    if options.out:
        shown.plot(path=options.out)
    return metrics


def draw(fit: zoo.Fit, console: Console) -> None:
    """Each class as its 8 x 8 probabilities, four shades."""
    images = fit.model.probs.detach().reshape(-1, 8, 8)
    for first in range(0, len(images), 5):
        for line in range(8):
            rows = ("".join(" .+#"[min(3, int(4 * p))] * 2 for p in image[line]) for image in images[first : first + 5])
            console.print("  ".join(rows), highlight=False, markup=False)


if __name__ == "__main__":
    main()
