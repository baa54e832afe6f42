"""What Tab, repr and a notebook show of models, fits, comparisons and scores."""

from __future__ import annotations

import os
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo

TABLE = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + torch.tensor([0.0, 5])


class Checked(HTMLParser):
    """Fails where a tag is not closed by its own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.words = list[str](), list[str]()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_tab_on_the_package_shows_the_zoo_and_nothing_else() -> None:
    names = [name for name in dir(zoo) if not name.startswith("_")]
    assert set(names) == {*zoo.__all__, *(cls.__name__ for cls in zoo.model_classes().values())}


def test_tab_and_repr_of_a_model() -> None:
    model = zoo.fit(zoo.GaussianMixture(2, 2), TABLE, max_iter=3).model
    assert {"means", "weights", "covariances"} <= set(dir(model))
    assert "means_unconstrained" not in dir(model)
    assert "num_components=2, num_features=2" in repr(model)


def test_a_fit_in_a_notebook() -> None:
    fit = zoo.fit("gaussian_mixture", TABLE, num_components=2)
    assert len(repr(fit).splitlines()) <= 3
    words = Checked(fit._repr_html_()).words
    assert any("converged" in word for word in words)
    shown = {word for word in words if re.fullmatch(r"-?\d+\.\d+", word)}
    mean = fit.parameters["means"][0, 1]
    assert any(abs(float(number) - mean) < 1e-3 * abs(mean) for number in shown), (mean, shown)


def test_a_comparison_and_a_score_in_a_notebook() -> None:
    options = {"svi": {"max_epochs": 3, "warmup": 2}}
    made = zoo.compare(
        "gaussian_mixture", TABLE, num_components=2, estimators=["em", "svi"], options=options, gradients=False
    )
    words = Checked(made._repr_html_()).words
    assert {"em", "svi", "log-likelihood"} <= set(words)
    assert f"{made.fits[0].log_likelihood:.4f}" in words
    score = zoo.evaluate(made.fits[0], TABLE)
    assert len(repr(score).splitlines()) < 15
    assert repr(score).splitlines()[0] in Checked(score._repr_html_()).words[0]


def test_a_selection_and_an_explanation_in_a_notebook() -> None:
    made = zoo.select("gaussian_mixture", TABLE, grid={"num_components": [1, 2]}, restarts=1)
    words = Checked(made._repr_html_()).words
    assert {"num_components", "BIC", f"{made.best.bic:.2f}"} <= set(words)
    assert f"best by BIC: num_components={made.chosen['num_components']}" in words
    titles = [ax.get_title(loc="left") for ax in made.plot().axes]
    assert titles[:3] == [f"{name}: lower is better" for name in ("BIC", "AIC", "ICL")]
    told = zoo.explain("gaussian_mixture", TABLE, num_components=2)
    assert repr(told) == str(told)
    assert repr(told) in Checked(told._repr_html_()).words
    with pytest.raises(zoo.ZooError, match=r"argument .num_component. is not known\. Did you mean .num_components."):
        zoo.explain("gaussian_mixture", TABLE, num_component=2)


def test_sequences_are_no_data_of_one() -> None:
    fit = zoo.fit("poisson_hmm", torch.tensor([[1.0], [9], [8], [2]]), num_states=2, max_iter=2)
    assert "(1 sequence of 4 time steps, 5 parameters)" in repr(fit)


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is displayed in a notebook, each output with all its states: IPython as far as it is asked."""
    shown: list[list[str]] = []

    class Handle:
        def __init__(self, states: list[str]) -> None:
            self.states = states

        def update(self, content: dict[str, str], raw: bool) -> None:
            assert raw
            self.states.append(content["text/plain"])

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        shown.append([content["text/plain"]])
        return Handle(shown[-1])

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return shown


def test_a_progress_line_counts_what_it_says(cells: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    fit = zoo.fit("gaussian_mixture", TABLE, num_components=2, progress=True, restarts=1)
    (states,) = cells
    assert re.search(rf"em .* {fit.iterations} iterations  objective {fit.history['objective'][-1]:.4f}", states[-1])
    assert "╌" in states[0]
    assert "╌" not in states[-1]
    options: dict[str, Any] = {"num_components": 2, "estimator": "svi", "max_epochs": 3, "warmup": 0}
    zoo.fit("gaussian_mixture", TABLE, progress=True, **options)
    assert " 3 epochs " in cells[1][-1]
    monkeypatch.setattr("zoo.runs.notebook_line.PATIENCE", 1000.0)
    zoo.fit("gaussian_mixture", TABLE, progress=None, **options)
    assert len(cells) == 2  # what is soon over says nothing unless it is asked
    monkeypatch.setattr("zoo.runs.notebook_line.PATIENCE", 0.0)
    zoo.fit("gaussian_mixture", TABLE, progress=None, **options)
    assert len(cells) == 3


NOTEBOOK = [
    "import zoo\nfit = zoo.fit('gaussian_mixture', 'iris', num_components=3)\nfit",
    "fit.plot()",
    "zoo.select('gaussian_mixture', 'iris', grid={'num_components': [2, 3]}, restarts=1)",
    "zoo.fit('gaussian_mixture', 'iris', num_components=3, progress=True, restarts=1);",
    "zoo.fit('gaussian_mixtures', 'iris')",
]


@pytest.mark.slow  # what the tests above see of pieces, in a kernel
def test_a_notebook_runs_without_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "nbclient and ipykernel are not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(zoo.__file__).parent.parent), *sys.path]))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in NOTEBOOK])
    nbclient.NotebookClient(book, timeout=300, allow_errors=True).execute(cwd=str(tmp_path))
    fit, picture, table, line, wrong = (cell["outputs"][-1] for cell in book.cells)
    assert "-180.1855" in fit["data"]["text/html"]
    assert picture["data"]["image/png"]
    assert picture["metadata"]["image/png"]["width"] == 640
    assert "best by BIC: num_components=2" in table["data"]["text/html"]
    assert re.search(r"em ━{30} +\d+ iterations  objective -\d+\.\d+", line["data"]["text/plain"])
    assert wrong["traceback"] == [
        "line 1: zoo.fit('gaussian_mixtures', 'iris')",
        "ZooError: model 'gaussian_mixtures' is not known. Did you mean 'gaussian_mixture'?",
    ]
