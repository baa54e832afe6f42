"""Which pictures there are of a fit: what a model offers decides, never which model it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.data.speech import SPOKEN, smooth_spectrogram
from zoo.reporting.alignments import has_alignments, plot_alignment
from zoo.reporting.chains import plot_chains
from zoo.reporting.components import component_kind, plot_components
from zoo.reporting.curves import plot_history
from zoo.reporting.filters import plot_filters, plot_mended
from zoo.reporting.html_page import Picture
from zoo.reporting.latents import plot_latents
from zoo.reporting.recalls import has_recalls, plot_recalls
from zoo.reporting.responsibilities import plot_responsibilities
from zoo.reporting.rolls import has_rolls, plot_roll
from zoo.reporting.states import has_states, plot_states
from zoo.reporting.subjects import Fitted
from zoo.reporting.tours import has_tours, plot_tours
from zoo.reporting.trees import has_trees, plot_trees
from zoo.reporting.units import has_units, plot_units
from zoo.reporting.words import has_words, plot_words

__all__ = ["course_pictures", "model_pictures", "network_pictures"]


def model_pictures(fit: Fitted, x: Any, title: str = "The fit") -> Iterator[Picture]:
    """What the parameters of a model with states or components say beside the data it was fitted to."""
    if has_states(fit.model):
        yield Picture(
            "States over time", "A sequence coloured by its most probable path; the transitions.",
            lambda folder, dark: [plot_states(fit, x, folder / "states.png", dark=dark)],
        )  # fmt: skip
    if component_kind(fit.model) is not None:
        yield Picture(
            title, "What the fitted parameters say, beside the data.",
            lambda folder, dark: [plot_components(fit, x, folder / "components.png", dark=dark)],
        )  # fmt: skip
    yield Picture(
        "Responsibilities", f"The posterior of the latent, datum by datum, in {title[0].lower()}{title[1:]}.",
        lambda folder, dark: [plot_responsibilities(fit, x, folder / "responsibilities.png", dark=dark)],
    )  # fmt: skip


def network_pictures(fit: Fitted, x: Any, name: str) -> Iterator[Picture]:
    """What networks, grammars and alignments make of some data.

    Args:
        x: data, held out where there are such.
        name: what the data are called.
    """
    model = fit.model
    if fit.status not in ("interrupted", "diverged"):
        yield Picture("", "", lambda folder, dark: plot_latents(fit, x, folder), themed=False)
    yield Picture(
        "Filters", "What units of the first layer look at.",
        lambda folder, dark: plot_filters(fit, folder / "filters.png", dark=dark),
    )  # fmt: skip
    yield Picture(
        "Chains", "Data, and the ends of chains of Gibbs sampling that begin there.",
        lambda folder, dark: plot_chains(fit, x, folder / "chains.png", dark=dark),
    )  # fmt: skip
    yield Picture(
        "Mended", "Data, the same spoilt, and what is made of that.",
        lambda folder, dark: plot_mended(fit, x, folder / "mended.png", dark=dark),
    )  # fmt: skip
    if has_units(model):
        seen = smooth_spectrogram if name in SPOKEN else None
        yield Picture(
            "Units", "Stretches of the data that one unit stands for.",
            lambda folder, dark: [plot_units(fit, x, folder / "units.png", image=seen)], themed=False,
        )  # fmt: skip
    if has_rolls(model):
        yield Picture(
            "A sequence and how it goes on",
            "",
            lambda folder, dark: [plot_roll(fit, x, folder / "roll.png", dark=dark)],
        )
    if has_words(model):
        yield Picture("Words", "", lambda folder, dark: plot_words(fit, x, folder, dark=dark))
    if has_trees(model):
        yield Picture("Trees", "The most probable parses.", lambda folder, dark: plot_trees(fit, x, folder, dark=dark))
    if has_recalls(model):
        yield Picture("", "", lambda folder, dark: plot_recalls(fit, x, folder), themed=False)
    if has_tours(model):
        yield Picture("", "", lambda folder, dark: plot_tours(fit, x, folder, name), themed=False)
    if has_alignments(model):
        yield Picture("An alignment", "", lambda folder, dark: [_alignment(fit, x, name, folder)], themed=False)


def _alignment(fit: Fitted, x: Any, name: str, folder: Path) -> Path:
    longest = int(x["target_lengths"].argmax()) if "target_lengths" in x else 0
    image = smooth_spectrogram(x["x"][longest].double().numpy()) if name in SPOKEN else None
    return plot_alignment(fit, x, folder / "alignment.png", item=longest, image=image)


def course_pictures(fit: Fitted) -> Iterator[Picture]:
    """How a fit came about: its learning curve, or the draws of its parameters."""
    if fit.draws is not None:
        yield Picture(
            "Draws of the parameters", "Each chain's draws, beside their densities.",
            lambda folder, dark: [fit.draws.plot(folder / "draws.png")], themed=False,
        )  # fmt: skip
    elif fit.iterations > 1:
        yield Picture(
            "Learning curve", "What was climbed, a datum.",
            lambda folder, dark: [plot_history(fit, folder / "learning_curve.png", dark=dark)],
        )  # fmt: skip
