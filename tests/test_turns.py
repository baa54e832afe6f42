"""Threads take turns, interrupts keep what there is, and the caller's random numbers stay the caller's."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.core.isolation import isolated
from zoo.core.numpy_generator import _by_bytes
from zoo.estimators.em import EM
from zoo.estimators.steps import ModelSteps
from zoo.runs import fit as fitting

X = torch.tensor([[1.0], [2], [0], [1], [18], [22], [3], [2], [17], [25], [16], [4]])


def mixture() -> Any:
    return zoo.PoissonMixture(2, 1)


def in_threads(work: Callable[[int], Any], count: int = 4) -> list[Any]:
    """What the same work gives in several threads at once; an exception is raised here."""
    results: list[Any] = [None] * count
    ready = threading.Barrier(count)

    def one(i: int) -> None:
        ready.wait()
        try:
            results[i] = work(i)
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def test_fits_in_threads_give_what_they_give_alone() -> None:
    alone = [zoo.fit(mixture(), X, estimator="eg", seed=i, max_epochs=30).log_likelihood for i in range(4)]
    assert in_threads(lambda i: zoo.fit(mixture(), X, estimator="eg", seed=i, max_epochs=30).log_likelihood) == alone


def test_every_verb_works_in_threads() -> None:
    fit = zoo.fit(mixture(), X)
    draws = fit.sample(5, seed=3)

    def verbs(i: int) -> tuple[Any, ...]:
        made = zoo.compare(mixture(), X, estimators=["em", "svi"], max_epochs=3, warmup=2, gradients=False, track=0)
        return (
            made.fits[1].elbo,
            fit.predict(X).tolist(),
            fit.score(X),
            fit.sample(5, seed=3).equal(draws),
            zoo.evaluate(fit, X).log_likelihood,
            fit.posterior(X).probs.tolist(),
            str(zoo.explain(mixture(), X)),
        )

    first, *others = in_threads(verbs, 3)
    assert first[3]
    assert all(other == first for other in others)


def test_a_fit_may_run_in_another_one_s_callback() -> None:
    inner = []

    def callback(*_: Any) -> None:
        if not inner:
            inner.append(zoo.fit(mixture(), X, max_iter=2).log_likelihood)

    outer = zoo.fit(mixture(), X, progress=callback)
    assert inner
    assert outer.log_likelihood == zoo.fit(mixture(), X).log_likelihood


# --- interrupts -------------------------------------------------------------------------------------------------------


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["rehearsal", "first E step", "score", "trial"])
def test_an_interrupt_gives_a_fit_wherever_it_strikes(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place == "rehearsal":
        monkeypatch.setattr(EM, "rehearse", interrupt)
    elif place == "first E step":
        monkeypatch.setattr(EM, "rehearse", lambda *_: None)
        monkeypatch.setattr(ModelSteps, "e_step", interrupt)
    elif place == "score":
        monkeypatch.setattr("zoo.runs.one_start.total_log_likelihood", interrupt)
    else:
        monkeypatch.setattr(fitting, "run_trials", interrupt)
    fit = zoo.fit(mixture(), X, estimator="eg" if place == "score" else "em")  # EM has its score from the climb
    assert fit.status == "interrupted"
    assert all(value.isfinite().all() for value in fit.model.state_dict().values())
    assert (fit.log_likelihood is None) == (place == "score")


def test_before_there_is_a_start_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo.PoissonMixture, "initialize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        zoo.fit(mixture(), X)


def test_a_comparison_stops_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at the second seed of two estimators: no gradients are measured then."""
    import zoo.runs.compare

    asked = []
    monkeypatch.setattr(zoo.runs.compare, "gradient_quality", lambda *a, **k: asked.append(1) or [])

    def progress(name: str, seed: int) -> Any:
        return interrupt if (name, seed) == ("em", 1) else False

    made = zoo.compare(
        mixture(), X, estimators=["em", "svi"], seeds=2, max_epochs=3, warmup=2, track=0, progress=progress
    )  # fmt: skip
    assert made.interrupted
    assert [(fit.estimator, fit.seed) for fit in made.fits] == [("em", 0), ("em", 1), ("svi", 0)]
    assert not asked
    whole = zoo.compare(mixture(), X, estimators=["em", "svi"], max_epochs=3, warmup=2, track=0)
    assert asked
    assert not whole.interrupted


def test_an_interrupt_among_the_gradients_leaves_the_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.runs.compare

    monkeypatch.setattr(zoo.runs.compare, "gradient_quality", interrupt)
    made = zoo.compare(mixture(), X, estimators=["em", "svi"], max_epochs=3, warmup=2, track=0)
    assert made.interrupted
    assert [fit.status for fit in made.fits] == ["converged", "max_iter"]
    assert made.gradients == []


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_nothing_draws_from_python_s_generator(tmp_path: Path) -> None:
    """In a process of its own: what draws does so when it is first imported."""
    script = """
import random, sys
random.seed(1)
state = random.getstate()
import zoo, torch
x = zoo.load_data("iris")
assert random.getstate() == state, "load_data"
made = zoo.compare(zoo.GaussianMixture(2, 4), x, estimators=["em"], gradients=False)
str(made)
assert random.getstate() == state, "compare"
from zoo.runs.progress import fraction_shown, shown
with fraction_shown("a", True), shown(True, "b"):
    pass
assert random.getstate() == state, "progress"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_python_s_generator_is_kept_around_a_fit() -> None:
    random.seed(3)
    state = random.getstate()
    zoo.fit(mixture(), X)
    assert random.getstate() == state


@pytest.mark.parametrize("drawn", [0, 1, 2, 2 * 624, 2 * 624 + 1])
@pytest.mark.parametrize("quick", [True, False])
def test_numpy_s_generator_is_kept_wherever_it_stands(drawn: int, quick: bool, monkeypatch: Any) -> None:
    """Between two numbers of a normal pair and at the end of its words too, whichever way it is kept."""
    monkeypatch.setattr("zoo.core.numpy_generator._by_bytes", lambda: quick)
    np.random.seed(3)  # noqa: NPY002
    np.random.standard_normal(drawn)  # noqa: NPY002
    before: Any = np.random.get_state()  # noqa: NPY002
    with isolated(7):
        inside = np.random.standard_normal(3).tolist()  # noqa: NPY002
        with isolated(8):
            np.random.standard_normal(5)  # noqa: NPY002
        inside += np.random.standard_normal(2).tolist()  # noqa: NPY002
    after: Any = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(*each) for each in zip(before, after, strict=True))
    assert inside == np.random.RandomState(7).standard_normal(5).tolist()


def test_the_bytes_of_numpy_s_generator_are_all_it_has() -> None:
    assert _by_bytes()
