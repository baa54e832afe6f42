"""The text table, the HTML page, and the pictures."""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import html.parser
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

import zoo
from zoo.reporting import components as plots
from zoo.reporting import curves, gradients, page, responsibilities, samples, seen
from zoo.reporting.fit_report import write_fit_report
from zoo.reporting.latent_tables import latent_table
from zoo.reporting.parameter_tables import parameter_tables
from zoo.reporting.parameters import parameters_of
from zoo.reporting.report import write_report
from zoo.reporting.text import shortfalls, text_table
from zoo.runs.compare import Comparison
from zoo.runs.gradients import GradientQuality

HOSTILE = '<script src="https://example.org/a.js">$x^{2</script>&"'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""


def points(rows: int = 60) -> torch.Tensor:
    """Two groups in three dimensions; the last one says nothing of the groups."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=generator)
    x[: rows // 2, :2] += 4.0
    return x


@pytest.fixture(scope="module")
def made() -> Comparison:
    """EM and an SVI that stops far too early, two seeds, on data with a hostile name."""
    few = functools.partial(zoo.runs.compare.gradient_quality, num_draws=10, warmup=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.runs.compare.gradient_quality", few)
        return zoo.compare(
            zoo.GaussianMixture(num_components=2, num_features=3),
            points(),
            estimators=["em", "eg", "svi"],
            seeds=2,
            options={"svi": {"max_epochs": 30, "warmup": 2, "optimizer": "adam"}, "eg": {"max_epochs": 30}},
            data_name=HOSTILE,
        )


def fitted(model: Any, x: torch.Tensor) -> Any:
    return zoo.fit(model, x, max_iter=5)


# --- text -------------------------------------------------------------------------------------------------------------


def test_table_says_what_the_fits_say(made: Comparison) -> None:
    text = text_table(made)
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    best = made.best
    (row,) = (line.split() for line in text.splitlines() if line.split()[:2] == ["em", "2"])
    em = [fit for fit in made.fits if fit.estimator == "em"]
    assert row[2] == "converged"
    assert float(row[3]) == pytest.approx(max(fit.log_likelihood for fit in em), abs=1e-4)
    assert float(row[4]) == pytest.approx(np.median([fit.log_likelihood for fit in em]), abs=1e-4)
    assert float(row[6]) == 0
    svi = [fit for fit in made.fits if fit.estimator == "svi"]
    gap = max(svi, key=lambda fit: fit.log_likelihood).evidence_gap
    assert f"{gap:.4f}" in text
    assert "exact norm, start" in text
    assert "exact norm, optimum" in text
    below = best.log_likelihood - min(fit.log_likelihood for fit in svi)
    assert below > 1
    assert f"{below:.2f} nats below the best" in " ".join(text.split())


def test_median_is_over_the_seeds(made: Comparison) -> None:
    best = made.fits[0]
    low = dataclasses.replace(made.fits[1], log_likelihood=best.log_likelihood - 10)
    assert f"{best.log_likelihood - 5:.4f}" in text_table(dataclasses.replace(made, fits=[best, low]))


def test_table_of_one_seed_has_no_median(made: Comparison) -> None:
    one = dataclasses.replace(made, fits=[fit for fit in made.fits if fit.seed == 0])
    assert "median" in text_table(made)
    assert "median" not in text_table(one)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "max_iter"}, "max_epochs"),
        ({"status": "diverged"}, "learning_rate"),
        ({"status": "stalled"}, "rounding"),
        ({"status": "converged", "gap": 0.0}, "another optimum"),
        ({"status": "converged", "gap": 3.0}, "climbs a bound"),
        ({"status": "converged", "degenerate": True}, "constraint"),
    ],
)
def test_a_fit_below_the_best_is_explained(made: Comparison, change: dict[str, Any], said: str) -> None:
    best, svi = made.fits[0], made.fits[-1]
    score = best.log_likelihood - 7.25
    gap = change.pop("gap", 0.0)
    low = dataclasses.replace(svi, log_likelihood=score, elbo=score - gap, **change)
    (line,) = shortfalls(dataclasses.replace(made, fits=[best, low]))
    assert line.startswith("svi, seed 1: ends 7.25 nats below")
    assert said in line
    near = dataclasses.replace(low, log_likelihood=best.log_likelihood - 0.99)
    assert shortfalls(dataclasses.replace(made, fits=[best, near])) == []


def test_what_is_not_tractable_is_a_dash(made: Comparison) -> None:
    bounds = [dataclasses.replace(fit, log_likelihood=None) for fit in made.fits]
    text = text_table(dataclasses.replace(made, fits=bounds, gradients=[]))
    assert "nan" not in text.lower()
    assert "-" in text.split("svi", 1)[1].split()
    assert "best bound" in text


def test_notes_are_listed_once(made: Comparison) -> None:
    noted = [dataclasses.replace(fit, notes=["a floor acts"]) for fit in made.fits[:2]]
    assert "em, seeds 0, 1: a floor acts" in text_table(dataclasses.replace(made, fits=noted))


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Tags that are open at the end, attributes that fetch something, pictures, and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img", "source", "link", "br"):
            self.open.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data", "poster")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("report")
    write_report(made, folder)
    return folder


def test_page_is_self_contained_and_escaped(folder: Path) -> None:
    source = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == []
    assert page.fetched
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    style = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import", style.group(1))
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert HOSTILE in page.text
    assert "prefers-color-scheme: dark" in style.group(1)
    assert 'name="viewport"' in source


def test_page_says_what_the_table_says(made: Comparison, folder: Path) -> None:
    text = " ".join(Page((folder / "report.html").read_text(encoding="utf-8")).text.split())
    for fit in made.fits:
        assert f"{fit.log_likelihood:.4f}" in text
        assert f"{fit.bic:.4f}" in text
    for line in shortfalls(made):
        assert line in text
    for word in ("torch", "covariance_type=full", "max_epochs=30", "60 x 3", "seeds 0, 1"):
        assert word in text


def test_page_lists_restarts(made: Comparison, folder: Path, tmp_path: Path) -> None:
    fit = zoo.fit(zoo.GaussianMixture(2, 3), points(), restarts=3, max_iter=4)
    assert ">Restarts<" not in (folder / "report.html").read_text(encoding="utf-8")
    write_report(dataclasses.replace(made, fits=[fit], gradients=[], x=None), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">Restarts<" in text
    assert all(f'<td class="n">{start["seed"]}</td>' in text for start in fit.restarts)
    assert f"{fit.restarts[2]['objective']:.4f}" in text


def test_inlined_pictures_are_the_files_beside_them(folder: Path) -> None:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    images = [base64.b64decode(value.split(",", 1)[1]) for value in page.fetched]
    names = {"comparison", "gradients", "components", "responsibilities"}
    assert {path.stem for path in folder.iterdir()} == {*names, "report"}
    assert len(images) == 2 * len(names)
    for image in images:
        assert_drawn(image)
    assert {(folder / f"{name}.png").read_bytes() for name in names} <= set(images)


def in_a_browser(page: Path, tmp_path: Path, width: int) -> dict[str, Any]:
    """What Chromium says of a page in a window so wide: pictures, how much wider than the window it is, complaints."""
    probe = (
        "<script>const said = []; addEventListener('error', e => said.push(e.message), true);"
        "addEventListener('load', () => { document.title = JSON.stringify({"
        "loaded: [...document.images].every(i => i.complete && i.naturalWidth > 100), images: document.images.length,"
        "wide: document.documentElement.scrollWidth - document.documentElement.clientWidth, said: said,"
        "empty: [...document.querySelectorAll('h1, h2, h3')].filter(h => !h.nextElementSibling).length,"
        "small: Math.min(...[...document.querySelectorAll('td, li, p, figcaption')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))}); });</script>"
    )
    source = page.read_text(encoding="utf-8")
    # A headless window has a smallest width; a frame has none.
    (tmp_path / "inner.html").write_text(source.replace("<style>", probe + "<style>", 1), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f'<iframe src="inner.html" width="{width}" height="800"></iframe><pre id="said"></pre><script>'
        "addEventListener('load', () => setTimeout(() => { document.getElementById('said').textContent ="
        "document.querySelector('iframe').contentDocument.title; }, 300));</script>"
    )
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout)
    assert said is not None, done.stderr[-500:]
    found: dict[str, Any] = json.loads(html.unescape(said.group(1)))
    return found


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [400, 1280])
def test_pages_in_a_browser(folder: Path, tmp_path: Path, width: int) -> None:
    """All pictures load, and nothing but a table's own scroller is wider than the window: a comparison, a fit whose
    columns have long names, a fit of a program of one's own."""
    found = in_a_browser(folder / "report.html", tmp_path, width)
    small = found.pop("small")
    assert found == {"loaded": True, "images": 4, "wide": 0, "said": [], "empty": 0}
    assert small >= 13
    x = torch.randn(30, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    names = [f"a_column_with_a_name_that_is_far_too_long_to_be_of_any_use_{i}" for i in range(9)]
    rows = pd.DataFrame(x.numpy(), columns=names)
    fits = {"mixture": zoo.fit("gaussian_mixture", rows, num_components=2, max_iter=3), "program": program()}
    for name, fit in fits.items():
        (tmp_path / name).mkdir()
        page, *pictures = write_fit_report(fit, fit.x, tmp_path / name, name="x" * 90)[0]
        found = in_a_browser(page, tmp_path, width)
        small = found.pop("small")
        assert found == {"loaded": True, "images": len(pictures), "wide": 0, "said": [], "empty": 0}
        assert small >= 13


def program() -> Any:
    """A fit of a chain that a user wrote, its latents in no plate."""

    def chain(x: torch.Tensor) -> None:
        rows = pyro.param("rows", torch.tensor([[0.6, 0.4], [0.3, 0.7]]), constraint=dist.constraints.simplex)
        rate = pyro.param("rate", torch.tensor([1.0, 9.0]), constraint=dist.constraints.positive)
        z: Any = 0
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(rows[z]))
            pyro.sample(f"x_{t}", dist.Poisson(rate[z]), obs=x[t])

    return zoo.fit(chain, torch.tensor([1.0, 0, 2, 9, 8, 11, 10, 0, 1]), estimator="auto_em", max_iter=5)


def test_latents_in_no_plate_have_a_row_each() -> None:
    fit = program()
    table = latent_table(fit, fit.x)
    assert list(table) == ["step", "z", "p_0", "p_1"]
    assert table["step"].tolist() == list(range(9))
    assert table["z"].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert ((table["p_1"] > 0.5) == (table["z"] == 1)).all()
    tables = {each.title: each for each in parameter_tables(parameters_of(fit))}
    assert [name for name, _ in tables["rows"].columns] == ["", "0", "1"]


# --- pictures ---------------------------------------------------------------------------------------------------------


def assert_drawn(content: bytes, colours: int = 40) -> Image.Image:
    """A picture with something in it: not one colour, and ink away from its border."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert image.width > 300
    pixels = np.asarray(image)
    assert len(np.unique(pixels.astype(int) @ (65536, 256, 1))) > colours
    h, w, _ = pixels.shape
    inside = pixels[h // 8 : 7 * h // 8, w // 8 : 7 * w // 8].reshape(-1, 3)
    assert (inside != inside[0]).any()
    return image


def has_colour(image: Image.Image, colour: str, at_least: int = 20) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(np.asarray(image).astype(int) - wanted).max(-1) <= 6).sum() >= at_least)


NAMED = {
    "ellipses": lambda: (zoo.GaussianMixture(2, 3), points()),
    "density": lambda: (zoo.GaussianMixture(2, 1), points()[:, :1]),
    "counts": lambda: (zoo.PoissonMixture(2, 1), points()[:, :1].exp().round()),
    "probs": lambda: (zoo.BernoulliMixture(2, 3), (points() > 1).double()),
    "loadings": lambda: (zoo.PPCA(2, 3), points()),
    "states": lambda: (zoo.GaussianHMM(2, 3), points()),
}


@pytest.mark.parametrize("case", NAMED)
def test_pictures_call_columns_by_their_names(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.text import Text

    from zoo.reporting.page import Page as Figure
    from zoo.reporting.samples import plot_samples
    from zoo.reporting.states import plot_states

    model, x = NAMED[case]()
    names = ["height_$cm$", "weight", "age"][: x.shape[1]]
    fit = zoo.fit(model, pd.DataFrame(x.numpy(), columns=names), max_iter=2)
    words = set[str]()

    def save(self: Figure, path: Path) -> Path:
        words.update(text.get_text() for text in self.figure.findobj(Text))
        return path

    monkeypatch.setattr(Figure, "save", save)
    (plot_states if case == "states" else plots.plot_components)(fit, x, tmp_path / "c.png")
    shown = [name for name in names if any(name in word for word in words)]
    assert len(shown) == (2 if case in ("ellipses", "states") else len(names))
    assert not any(word.startswith("feature ") for word in words)
    words.clear()
    plot_samples(fit.sample(5), tmp_path / "s.png", names=fit.columns)
    assert words & set(names)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], torch.Tensor]]] = {
    "ellipses": (lambda: zoo.GaussianMixture(2, 3), points),
    "ellipses, tied": (lambda: zoo.GaussianMixture(2, 3, covariance_type="tied"), points),
    "densities": (lambda: zoo.GaussianMixture(2, 1), lambda: points()[:, :1]),
    "counts": (lambda: zoo.PoissonMixture(2, 1), lambda: points()[:, :1].exp().round()),
    "rates": (lambda: zoo.PoissonMixture(2, 3), lambda: points().exp().round()),
    "probs": (lambda: zoo.BernoulliMixture(2, 3), lambda: (points() > 1).double()),
    "images": (lambda: zoo.BernoulliMixture(2, 64), lambda: (points(1280).reshape(60, 64) > 1).double()),
    "loadings": (lambda: zoo.PPCA(2, 3), points),
    "one factor": (lambda: zoo.FactorAnalysis(1, 3), points),
    "loadings as images": (lambda: zoo.PPCA(2, 64), lambda: points(1280).reshape(60, 64)),
}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_components(case: str, dark: bool, tmp_path: Path) -> None:
    build, data = CASES[case]
    fit = fitted(build(), data())
    path = plots.plot_components(fit, data(), tmp_path / "c.png", dark=dark)
    corner = assert_drawn(path.read_bytes()).getpixel((1, 1))
    assert isinstance(corner, tuple)
    assert (sum(corner) < 200) == dark


def test_ellipses_are_the_covariances_of_the_two_features_that_tell_groups_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import patches

    drawn: list[tuple[Any, ...]] = []
    original = patches.Ellipse

    def recording(xy: Any, width: float, height: float, **kwargs: Any) -> Any:
        drawn.append((xy, width, height, kwargs["angle"]))
        return original(xy, width, height, **kwargs)

    monkeypatch.setattr(patches, "Ellipse", recording)
    fit = fitted(zoo.GaussianMixture(2, 3), points())
    plots.plot_components(fit, points(), tmp_path / "c.png")
    assert len(drawn) == 4
    for (xy, width, height, angle), sigmas, k in zip(drawn, (1, 2, 1, 2), (0, 0, 1, 1), strict=True):
        turn = math.radians(angle)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        shape = rotation @ np.diag([(width / 2) ** 2, (height / 2) ** 2]) @ rotation.T
        assert np.allclose(xy, fit.model.means[k, :2].detach())
        assert np.allclose(shape, sigmas**2 * fit.model.covariances[k, :2, :2].detach())


def test_comparison_shows_every_estimator(made: Comparison, tmp_path: Path) -> None:
    image = assert_drawn(curves.plot_comparison(made, tmp_path / "a.png").read_bytes())
    for i in range(3):
        assert has_colour(image, page.PALETTE[i])
    one = dataclasses.replace(made, fits=made.fits[:2])
    assert not has_colour(assert_drawn(curves.plot_comparison(one, tmp_path / "b.png").read_bytes()), page.PALETTE[1])


def test_frame_leaves_out_far_starts_but_no_end() -> None:
    seconds = np.geomspace(1e-3, 1, 200)
    climb = -100 - 1e6 * np.exp(-np.arange(200.0))
    low, high, cut = curves._frame(None, [("svi", "elbo", seconds, climb)], [-100.0, -104.0])  # type: ignore[arg-type]
    assert -120 < low < -104
    assert -100 < high < -90
    assert cut


def test_comparison_of_nothing_finite_is_still_a_picture(made: Comparison, tmp_path: Path) -> None:
    """A run that diverged at once has no scores and a history of NaN."""
    history = {name: [math.nan] for name in made.fits[0].history}
    lost = dataclasses.replace(made.fits[0], log_likelihood=None, elbo=None, history=history, status="diverged")
    path = curves.plot_comparison(dataclasses.replace(made, fits=[lost]), tmp_path / "a.png")
    assert_drawn(path.read_bytes(), colours=5)


def test_gradients_show_biases_and_zeros(made: Comparison, tmp_path: Path) -> None:
    rows = [
        GradientQuality(name, point, 0.3, bias, 0.01, sd, 100)
        for point in ("start", "optimum")
        for name, bias, sd in (("eg", 0.0, 0.0), ("svi", 0.2, 0.1))
    ]
    image = assert_drawn(
        gradients.plot_gradients(dataclasses.replace(made, gradients=rows), tmp_path / "g.png").read_bytes()
    )
    assert has_colour(image, page.PALETTE[2])
    assert has_colour(image, "#e3e6ea", 500)  # the noise floor
    with pytest.raises(zoo.ZooError, match="gradients=True"):
        gradients.plot_gradients(dataclasses.replace(made, gradients=[]), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    fit = fitted(zoo.PPCA(2, 3), points())
    with pytest.raises(zoo.ZooError, match="one discrete latent"):
        responsibilities.plot_responsibilities(fit, points(), tmp_path / "r.png")
    with pytest.raises(zoo.ZooError, match="png"):
        plots.plot_components(fit, points(), tmp_path / "r.doc")

    class Nothing(zoo.LatentVariableModel):
        pass

    with pytest.raises(zoo.ZooError, match="Nothing"):
        plots.plot_components(dataclasses.replace(fit, model=Nothing()), points(), tmp_path / "r.png")
    assert list(tmp_path.iterdir()) == []


def test_large_data_are_drawn_from_a_seeded_part() -> None:
    x = torch.arange(20_000, dtype=torch.float64).reshape(-1, 1)
    part, rows = seen.visible(x)
    again, _ = seen.visible(x)
    assert rows.shape == (seen.MAX_POINTS, 1)
    assert len(part) == seen.MAX_POINTS
    assert torch.equal(part, again)
    assert rows.max() > 19_000


def test_sequences_are_flattened_without_their_padding() -> None:
    x = torch.arange(24, dtype=torch.float64).reshape(2, 4, 3)
    _, rows = seen.visible({"x": x, "lengths": torch.tensor([4, 1])})
    assert rows[:, 0].tolist() == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("shape", [(64, 1), (64, 3), (20, 64), (5, 7, 2)])
def test_samples(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    assert_drawn(samples.plot_samples(x, tmp_path / "s.png").read_bytes(), colours=10)


def test_pictures_leave_the_callers_matplotlib_alone(made: Comparison, tmp_path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("svg")
    figure = pyplot.figure()
    before = dict(matplotlib.rcParams)
    curves.plot_comparison(made, tmp_path / "a.png")
    assert matplotlib.get_backend() == "svg"
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == [figure.number]
    pyplot.close(figure)
