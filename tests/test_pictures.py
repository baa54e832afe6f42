"""What pictures of fits show, read off the figures' own data; and that every model has one or says that it has none."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import zoo
from zoo.estimators import estimator_classes
from zoo.models import hopfield_network, model_classes, poisson_hmm
from zoo.reporting.dwells import dwell_times, plot_dwells
from zoo.reporting.fit_pictures import model_pictures, network_pictures
from zoo.reporting.html_page import in_figures
from zoo.reporting.page import PALETTE, WIDTH, Page, figures
from zoo.runs.fit import usual_estimators
from zoo.runs.prepare import as_model

ONCE = {"max_iter": 1, "max_epochs": 2, "warmup": 1}


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_every_model_has_a_picture(name: str) -> None:
    model, x = importlib.import_module(model_classes()[name].__module__).tiny()
    estimator = usual_estimators(as_model(model), x, for_fit=True)[0]
    known = {field.name for field in dataclasses.fields(estimator_classes()[estimator])}
    options = {key: value for key, value in ONCE.items() if key in known}
    fit = zoo.fit(model, x, estimator=estimator, restarts=1, **options)
    state = torch.get_rng_state()
    figure = fit.plot()
    assert isinstance(figure, Figure)
    assert any(ax.has_data() or ax.texts for ax in figure.findobj(Axes))
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(sizes) / 72 / figure.get_figwidth() * 400 > 6.9  # pixels, where the picture is 400 wide
    assert torch.equal(torch.get_rng_state(), state)


def test_plot_saves_takes_other_data_and_has_a_dark_theme(tmp_path: Path) -> None:
    model, x = poisson_hmm.tiny()
    fit = zoo.fit(model, x, max_iter=1)
    figure = fit.plot(path=tmp_path / "a" / "light.svg")
    assert (tmp_path / "a" / "light.svg").stat().st_size > 1000
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    picture, size = figure._repr_png_()  # what a notebook asks for
    assert picture.startswith(b"\x89PNG")
    assert size == {"width": round(100 * figure.get_figwidth())}
    assert to_hex(fit.plot(dark=True).get_facecolor()) == "#171b21"
    with pytest.raises(zoo.ZooError, match=r"ending in \.png"):
        fit.plot(path=tmp_path / "a.doc")
    fit.save(tmp_path / "fit")
    loaded = zoo.load(tmp_path / "fit")
    with pytest.raises(zoo.ZooError, match="Pass x="):
        loaded.plot()
    assert isinstance(loaded.plot(x), Figure)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "fit"]


def test_a_wide_page_is_small_with_as_many_dots_and_titles_keep_to_their_room() -> None:
    page = Page(3 * WIDTH, 6.0, False)
    assert page.figure.get_figwidth() == pytest.approx(WIDTH)
    assert page.figure.get_figheight() == pytest.approx(2.0)
    np.testing.assert_allclose(page.figure.get_size_inches() * page.figure.dpi, [3 * WIDTH * 150, 6.0 * 150])
    left, right = page.axes(1, 2)
    said = "A title that is far too long to stand over one of two pictures in one line"
    for ax in (left, right):
        page.label(ax, said, "x", "y")
    with figures() as drawn:
        page.save("never.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    ends = [ax._left_title.get_window_extent().x1 for ax in (left, right)]
    assert ends[0] < right.get_window_extent().x0
    assert ends[1] <= figure.bbox.x1
    assert [ax.get_title(loc="left").replace("\n", " ") for ax in (left, right)] == [said, said]


def titled(figure: Figure, begin: str) -> Any:
    (ax,) = [ax for ax in figure.findobj(Axes) if ax.get_title(loc="left").startswith(begin)]
    return ax


def chain() -> Any:
    """A chain of counts whose two states cannot be mistaken, with its paths."""
    model = zoo.PoissonHMM(2, 1)
    model.rates = torch.tensor([[1.0], [50.0]])
    model.transition_probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    route = [0, 0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0]
    x = torch.tensor([50.0 if state else 1.0 for state in route]).double().reshape(1, -1, 1)
    return zoo.fit(model, x, init="current", max_iter=0), np.array(route), x


def test_a_series_has_the_colours_of_its_states() -> None:
    fit, route, x = chain()
    figure = fit.plot()
    series, graph = titled(figure, "The first sequence"), titled(figure, "Transition")
    dots = [c for c in series.collections if isinstance(c, PathCollection)]
    assert len(dots) == 2
    for state, found in enumerate(dots):
        steps = np.flatnonzero(route == state)
        np.testing.assert_array_equal(found.get_offsets(), np.stack([steps, x[0, steps, 0].numpy()], 1))
        assert to_hex(found.get_facecolor()[0]) == PALETTE[state].lower()
    told = [text.get_text() for text in graph.texts]
    assert told == [".25", ".50", "state 0, 54%\nstays 0.75", "state 1, 46%\nstays 0.50"]


def test_dwell_times_are_those_of_whole_stays_beside_the_geometric_law() -> None:
    fit, route, x = chain()
    assert dwell_times(route) == [(1, 3), (0, 1), (1, 1), (0, 3), (1, 2)]
    assert dwell_times(np.array([0, 0, 1])) == []
    with figures() as drawn:
        plot_dwells(fit, x, "never.png")
    assert not Path("never.png").exists()
    stay = {0: 0.75, 1: 0.5}
    stays = {0: [1, 3], 1: [3, 1, 2]}
    for state, ax in enumerate(drawn[0].axes):
        (law,) = ax.lines
        length = law.get_xdata()
        np.testing.assert_array_equal(length, np.arange(1, len(length) + 1))
        beyond = [1 - sum(stay[state] ** (d - 1) * (1 - stay[state]) for d in range(1, n)) for n in length]
        np.testing.assert_allclose(law.get_ydata(), beyond, atol=1e-12)
        (area,) = ax.collections
        corners = area.get_paths()[0].vertices
        for n in length:
            top = corners[np.abs(corners[:, 0] - n) < 0.51][:, 1]
            assert np.any(np.isclose(top, np.mean(np.array(stays[state]) >= n)))
        assert f"mean {np.mean(stays[state]):.3g}" in ax.get_title(loc="left")


def test_profiles_are_the_probabilities_by_name() -> None:
    probs = torch.tensor([[0.9, 0.2, 0.4], [0.1, 0.7, 0.5]])
    model = zoo.BernoulliMixture(2, 3)
    model.probs, model.weights = probs, torch.tensor([0.25, 0.75])
    rows = torch.bernoulli(probs.repeat(10, 1), generator=torch.Generator().manual_seed(0)).numpy()
    fit = zoo.fit(model, pd.DataFrame(rows, columns=["smokes", "cycles", "votes"]), init="current", max_iter=0)
    (ax,) = fit.plot().axes
    mean, *lines = ax.lines
    np.testing.assert_allclose([line.get_ydata() for line in lines], probs, atol=1e-6)
    np.testing.assert_allclose(mean.get_ydata(), 0.25 * probs[0] + 0.75 * probs[1], atol=1e-6)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["smokes", "cycles", "votes"]
    assert [line.get_label() for line in lines] == ["component 0: 25%", "component 1: 75%"]


def test_loadings_are_in_units_of_their_features_and_features_are_arrows() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1.0, 10.0, 1e3, 1e-3])
    fit = zoo.fit(zoo.FactorAnalysis(2, 4), x, max_iter=5)
    figure = fit.plot()
    table, plane = titled(figure, "Loadings"), titled(figure, "Biplot")
    wanted = fit.parameters["loadings"] / x.numpy().std(0)[:, None]
    np.testing.assert_allclose(table.images[0].get_array(), wanted, rtol=1e-6)
    arrows = np.array([note.xy for note in plane.texts if not note.get_text()])
    order = np.argsort(-np.hypot(*wanted.T), kind="stable")
    scale = arrows[0, 0] / wanted[order[0], 0]
    assert scale > 0
    np.testing.assert_allclose(arrows, scale * wanted[order], rtol=1e-6)
    (dots,) = plane.collections
    np.testing.assert_allclose(dots.get_offsets(), fit.posterior(x).mean.detach(), rtol=1e-6)
    assert {note.get_text() for note in plane.texts} == {"", "0", "1", "2", "3"}


def test_captions_say_what_is_shown_and_of_which_columns(tmp_path: Path) -> None:
    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    rows = pd.DataFrame(x[:, :2].numpy(), columns=["height_cm", "weight_kg"])
    fits = [
        zoo.fit(zoo.VAE(64, 2, (4,)), (x > 0).float(), max_epochs=1),
        zoo.fit(zoo.GaussianMixture(2, 2), rows, max_iter=2),
        zoo.fit(*hopfield_network.tiny()),
    ]
    for place, fit in enumerate(fits):
        (tmp_path / str(place)).mkdir()
        pictures = [*model_pictures(fit, fit.x), *network_pictures(fit, fit.x, "")]
        drawn, files, missing = in_figures(pictures, tmp_path / str(place))
        assert missing == []
        assert len(drawn) == len(files) > 0
        captions = [figure.split("<figcaption>")[1].split("</figcaption>")[0] for figure in drawn]
        assert all(caption.endswith(".") and len(caption) > 40 for caption in captions)
        assert all("prefers-color-scheme: dark" in figure for figure in drawn)
        if fit.model.label == "gaussian_mixture":
            assert "height_cm, weight_kg" in captions[0]


def test_a_legend_has_as_many_columns_as_the_page_is_wide_enough_for() -> None:
    """Every estimator and both kinds of line below one frame: more than go side by side."""
    from matplotlib.lines import Line2D

    page = Page(9.0, 4.0, False)
    (ax,) = page.axes()
    handles = [Line2D([], [], label=f"an estimator of some name, {i}") for i in range(6)]
    page.legend(ax, handles, below=True, ncols=6)
    (legend,) = page.figure.legends
    page.figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= page.figure.bbox.width
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) > 1


def test_codes_of_a_table_are_drawn_beside_data_and_draws() -> None:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])
    rows = pd.DataFrame(x.numpy(), columns=["height_cm", "weight_kg"])
    fit = zoo.fit(zoo.VAE(2, 3, (4,), likelihood="gaussian"), rows, max_epochs=2)
    codes, data = fit.plot().axes
    (dots,) = codes.collections
    found = fit.transform(rows)
    most = sorted(np.argsort(-found.var(0).numpy(), kind="stable")[:2])
    np.testing.assert_allclose(dots.get_offsets(), found[:, most], rtol=1e-5)
    assert (codes.get_xlabel(), codes.get_ylabel()) == (f"unit {most[0]}", f"unit {most[1]}")
    assert (data.get_xlabel(), data.get_ylabel()) == ("height_cm", "weight_kg")
    ours, drawn = data.collections
    np.testing.assert_allclose(ours.get_offsets(), rows.to_numpy(), rtol=1e-6)
    assert drawn.get_offsets().shape == (40, 2)
