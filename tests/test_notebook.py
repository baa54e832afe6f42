"""What Tab, repr and a notebook show of models, fits, comparisons and scores."""

from __future__ import annotations

import re
from html.parser import HTMLParser

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
