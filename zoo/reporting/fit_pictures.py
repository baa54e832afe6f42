"""Which pictures there are of a fit: what a model offers decides, never which model it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.isolation import isolated
from zoo.data.speech import SPOKEN, smooth_spectrogram
from zoo.errors import ZooError
from zoo.reporting.alignments import has_alignments, plot_alignment
from zoo.reporting.chains import plot_chains
from zoo.reporting.codes import has_codes, plot_codes
from zoo.reporting.components import component_kind, owner_word, plot_components
from zoo.reporting.curves import plot_history
from zoo.reporting.dwells import plot_dwells
from zoo.reporting.filters import plot_filters, plot_mended
from zoo.reporting.html_page import Picture
from zoo.reporting.latents import plot_latents
from zoo.reporting.page import as_figure, write
from zoo.reporting.recalls import has_recalls, plot_recalls
from zoo.reporting.responsibilities import plot_responsibilities
from zoo.reporting.rolls import has_rolls, plot_roll
from zoo.reporting.states import has_states, plot_states
from zoo.reporting.subjects import Fitted
from zoo.reporting.tours import has_tours, plot_relaxation, plot_tours
from zoo.reporting.trees import has_trees, plot_trees
from zoo.reporting.units import has_units, plot_units
from zoo.reporting.words import has_words, plot_words

if TYPE_CHECKING:
    from zoo.reporting.page import Figure

__all__ = ["columns_of", "course_pictures", "main_figure", "model_pictures", "network_pictures"]

#: Columns that a caption calls by their names.
NAMED = 8
#: Captions, by file where a picture has several.
LATENTS = {
    "reconstructions": "Images of the data, each above the mean image given a draw of its code from the guide.",
    "samples": "Mean images given codes drawn from the prior; a row a cluster where there are clusters.",
    "manifold": "Mean images over the plane of two units of the code, by quantiles of the prior.",
    "traversals": "Mean images given the code of one datum with one unit varied in each row, the most active first.",
    "completions": "What is given of an image, the whole, and means of the rest given draws of the code.",
}
RECALLS = {
    "basins": "The share of states that lead back to a stored pattern, by the share of its units that were turned.",
    "recall": "What was stored, and beside it states with ever more units turned, each with what it leads to.",
}
WORDS = "Sentences with each word in the colour of its most probable state; and each state's most probable words."
TOUR = "The tour of the first problem; cities without coordinates lie where their distances are kept best."
ALIGNMENT = (
    "Frames of one sequence with the most probable place of each symbol above them; below, the posterior of each "
    "symbol frame by frame."
)


def model_pictures(fit: Fitted, x: Any, title: str = "The fit") -> Iterator[Picture]:
    """What the parameters of a model with states or components say beside the data it was fitted to."""
    yield from _states(fit, x)
    yield from _components(fit, x, title)
    yield _responsibilities(fit, x, title)


def _states(fit: Fitted, x: Any) -> Iterator[Picture]:
    if not has_states(fit.model):
        return
    yield Picture(
        "States over time",
        f"Values of {columns_of(fit)} over time, each step in the colour of its state in the most probable path; below "
        "the share of the steps spent in each state, and the probabilities to go from one to another: arrows as wide, "
        "or a matrix where there are more than ten.",
        lambda folder, dark: [plot_states(fit, x, folder / "states.png", dark=dark)],
    )  # fmt: skip
    yield Picture(
        "How long states last",
        "The share of stays in a state that last so many steps or more: in the most probable paths (filled), and by "
        "the fitted probability to stay (line). Stays that reach an end of their sequence are left out.",
        lambda folder, dark: [plot_dwells(fit, x, folder / "dwells.png", dark=dark)],
    )  # fmt: skip


def _components(fit: Fitted, x: Any, title: str) -> Iterator[Picture]:
    kind = component_kind(fit.model)
    if kind is None:
        return
    word = owner_word(fit.model)
    about = {
        "gaussian": f"Data of {columns_of(fit)}, each in the colours of the {word}s that it may be of, and the "
        f"Gaussian of each {word}.",
        "counts": f"Rates of {columns_of(fit)} in each {word}, and its share of the data.",
        "probs": f"Probabilities of {columns_of(fit)} in each {word}, and its share of the data where that is known.",
        "loadings": f"How {columns_of(fit)} hang on the factors, each loading in units of its feature's standard "
        "deviation; and data and features (arrows) in the plane of the first two factors.",
    }[kind]
    yield Picture(
        title, about, lambda folder, dark: [plot_components(fit, x, folder / "components.png", dark=dark)]
    )  # fmt: skip


def _responsibilities(fit: Fitted, x: Any, title: str) -> Picture:
    return Picture(
        "Responsibilities",
        f"For each datum, a column, the probability of each component in {title[0].lower()}{title[1:]}: dark and "
        "light where it is sure, in between where it is not.",
        lambda folder, dark: [plot_responsibilities(fit, x, folder / "responsibilities.png", dark=dark)],
    )  # fmt: skip


def columns_of(fit: Fitted) -> str:
    """The data's columns in words: by name where they have names and are few."""
    names = fit.model.entries("feature")
    if not names:
        return "the features" if fit.model.schema is None or fit.model.schema.symbols is None else "the symbols"
    few = list(map(str, names[:NAMED]))
    return ", ".join(few) if len(names) <= NAMED else f"{', '.join(few)} and {len(names) - NAMED} more"


def network_pictures(fit: Fitted, x: Any, name: str) -> Iterator[Picture]:
    """What networks, grammars and alignments make of some data.

    Args:
        x: data, held out where there are such.
        name: what the data are called.
    """
    model = fit.model
    if fit.status not in ("interrupted", "diverged"):
        yield Picture("", LATENTS, lambda folder, dark: plot_latents(fit, x, folder, dark=dark))
    if has_codes(model):
        yield Picture(
            "Codes and draws", "Posterior means of the code; and the data beside draws from the model.",
            lambda folder, dark: [plot_codes(fit, x, folder / "codes.png", dark=dark)],
        )  # fmt: skip
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
            lambda folder, dark: [plot_units(fit, x, folder / "units.png", image=seen, dark=dark)],
        )  # fmt: skip
    if has_rolls(model):
        yield Picture(
            "A sequence, what is made of it, and another",
            f"One sequence of {columns_of(fit)}, the means of its frames given latents of the guide, and a draw from "
            "the model as long.",
            lambda folder, dark: [plot_roll(fit, x, folder / "roll.png", dark=dark)],
        )
    if has_words(model):
        yield Picture("Words", WORDS, lambda folder, dark: plot_words(fit, x, folder, dark=dark))
    yield from _trees(fit, x)
    if has_recalls(model):
        yield Picture("", RECALLS, lambda folder, dark: plot_recalls(fit, x, folder, dark=dark))
    if has_tours(model):
        yield Picture("Tour", TOUR, lambda folder, dark: [plot_tours(fit, x, folder, name, dark=dark)])
        yield Picture("Relaxation", "", lambda folder, dark: [plot_relaxation(fit, x, folder, name)], themed=False)
    if has_alignments(model):
        yield Picture("An alignment", ALIGNMENT, lambda folder, dark: [_alignment(fit, x, name, folder, dark)])


def _trees(fit: Fitted, x: Any) -> Iterator[Picture]:
    if has_trees(fit.model):
        yield Picture("Trees", "The most probable parses.", lambda folder, dark: plot_trees(fit, x, folder, dark=dark))


def _alignment(fit: Fitted, x: Any, name: str, folder: Path, dark: bool) -> Path:
    longest = int(x["target_lengths"].argmax()) if "target_lengths" in x else 0
    image = smooth_spectrogram(x["x"][longest].double().cpu().numpy()) if name in SPOKEN else None
    return plot_alignment(fit, x, folder / "alignment.png", item=longest, image=image, dark=dark)


def main_figure(fit: Fitted, x: Any, path: str | Path | None = None, *, dark: bool = False) -> Figure:
    """The first picture that there is of a fit, as a Matplotlib figure; saved where there is a path.

    Raises:
        ZooError: there is none.
    """
    name = str((fit.data or {}).get("name") or "")
    for picture in [
        *_states(fit, x), *_trees(fit, x), *_components(fit, x, "The fit"), *network_pictures(fit, x, name),
        _responsibilities(fit, x, "The fit"), *course_pictures(fit),
    ]:  # fmt: skip
        with isolated(fit.seed):
            try:
                figure = as_figure(partial(_drawn, picture, dark))
            except ZooError:  # a posterior, or data, that do not lend themselves to the picture
                continue
        if path is not None:
            write(figure, path)
        return figure
    raise ZooError(
        f"plot: expected a model with a picture for these data, got {fit.model.label}. Read fit.parameters, or draw "
        "fit.sample(n)."
    )


def _drawn(picture: Picture, dark: bool, folder: Path) -> object:
    return picture.draw(folder, dark)


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
