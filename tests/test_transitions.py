"""The graph of a chain's states: what circles, arrows and names say is read back off the drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.transforms import Bbox

import zoo
from zoo.reporting.page import Page, colour, figures
from zoo.reporting.states import plot_states
from zoo.reporting.transitions import draw_transitions

PROBS = np.array([[0.9, 0.095, 0.005], [0.3, 0.3, 0.4], [0.0, 0.5, 0.5]])
SHARE = np.array([0.6, 0.25, 0.15])
NAMES = ["calm", "between", "rough"]


def drawn(probs: np.ndarray, share: np.ndarray, names: list[str], dark: bool = False) -> tuple[Page, list, list]:
    page = Page(6.4, 3.9, dark)
    ax = page.axes()[0]
    draw_transitions(page, ax, probs, share, names)
    page.figure.draw_without_rendering()
    kinds = ([p for p in ax.patches if isinstance(p, kind)] for kind in (Circle, FancyArrowPatch))
    return page, *kinds


@pytest.mark.parametrize("dark", [False, True])
def test_areas_are_shares_and_widths_grow_with_probabilities(dark: bool) -> None:
    page, circles, arrows = drawn(PROBS, SHARE, NAMES, dark)
    areas = np.array([circle.radius**2 for circle in circles])
    np.testing.assert_allclose(areas / areas.sum(), SHARE, rtol=1e-6)
    likely = [(i, j) for i in range(3) for j in range(3) if PROBS[i, j] >= 0.01]
    assert len(arrows) == len(likely) == 7, "what happens next to never has no arrow"
    order = sorted(range(7), key=lambda n: PROBS[likely[n]])
    widths = [arrows[n].get_linewidth() for n in order]
    assert widths == sorted(widths)
    assert widths[-1] > 3 * widths[0]
    for arrow, (i, j) in zip(
        arrows, likely, strict=True
    ):  # from one circle's edge to the other's, in the first's colour
        begin, end = arrow._path_original.vertices[[0, -1]]
        assert math.dist(begin, circles[i].center) == pytest.approx(circles[i].radius)
        assert math.dist(end, circles[j].center) == pytest.approx(circles[j].radius, abs=0.03)
        assert to_hex(arrow.get_edgecolor()) == colour(i).lower()
    texts = [text.get_text() for text in page.figure.axes[0].texts]
    assert [text for text in texts if "\n" in text] == [
        "calm, 60%\nstays 0.90", "between, 25%\nstays 0.30", "rough, 15%\nstays 0.50",
    ]  # fmt: skip
    assert [text for text in texts if "\n" not in text] == [".10", ".30", ".40", ".50"]


@pytest.mark.parametrize("states", [1, 2, 8, 10])
def test_names_are_on_the_page_and_clear_of_each_other(states: int) -> None:
    probs = np.full((states, states), 0.5 / states) + 0.5 * np.eye(states)
    page, circles, _ = drawn(probs, np.full(states, 1 / states), [f"state {i}" for i in range(states)])
    boxes = [text.get_window_extent() for text in page.figure.axes[0].texts if "\n" in text.get_text()]
    assert len(boxes) == len(circles) == states
    whole = page.figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in boxes)
    assert not any(Bbox.intersection(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(("states", "graph"), [(10, True), (11, False)])
def test_many_states_are_a_matrix(states: int, graph: bool) -> None:
    x = torch.poisson(torch.full((1, 200, 1), 4.0, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(zoo.PoissonHMM(states, 1), x, max_iter=1)
    with figures() as kept:
        plot_states(fit, x, "states.png")
    below = kept[0].axes[1]
    assert bool(below.images) is not graph
    assert len([p for p in below.patches if isinstance(p, Circle)]) == states * graph
