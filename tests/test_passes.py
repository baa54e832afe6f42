"""Passes through data that stay in their files say how many rows they are through."""

import io
import re
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import zoo
from zoo.core.passes import heard_by, passing
from zoo.runs import progress


@pytest.fixture
def x():
    return 3.0 * torch.randint(3, (2000, 1)).double() + torch.randn(2000, 4).double()


@pytest.fixture
def there(x, tmp_path, monkeypatch):
    """The rows in a file, read a few at a time."""
    monkeypatch.setattr("zoo.core.memory.PIECE_NUMBERS", 512)
    np.save(tmp_path / "x.npy", x.numpy())
    return zoo.open_data(tmp_path / "x.npy")


@pytest.fixture
def told(monkeypatch, capfd):
    """``told()``: the lines that were written since it was last called, one at every news."""
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    monkeypatch.setattr(progress, "EVERY", -1.0)
    monkeypatch.setattr(progress, "_clock", progress._Clock())
    return lambda: capfd.readouterr().err.splitlines()


def rows_of(lines, title):
    """The numbers of rows in lines of this title: how many are done, of how many."""
    found = [re.search(r"rows ([\d ]+?)(?: of ([\d ]+))?(?:,|$)", line) for line in lines if line.startswith(title)]
    return [tuple(int(n.replace(" ", "")) for n in match.groups() if n) for match in found if match]


@pytest.mark.parametrize("estimator", ["em", "svi", "online_em"])
def test_a_fit_says_of_every_pass_which_rows_it_is_at(estimator, there, told):
    steps = {"max_iter": 3, "tol": 0} if estimator == "em" else {"max_epochs": 3, "batch_size": 200}
    steps |= {"warmup": 0} if estimator == "svi" else {}
    zoo.fit(zoo.GaussianMixture(3, 4), there, estimator=estimator, restarts=1, progress=None, **steps)
    lines = told()
    rows = rows_of(lines, estimator)
    assert {of for _, of in rows} == {2000}
    passes = sum(done == 2000 for done, _ in rows)
    assert passes >= 4, "the look at all rows, and each of three iterations or epochs"
    assert len(rows) > 3 * passes
    assert any(re.search(r"em: 2 iterations, .*, rows 1 \d\d\d of 2 000", line) for line in lines) or estimator != "em"


def test_evaluation_prediction_and_reading_say_so_too(there, x, tmp_path, told, run, monkeypatch):
    fit = zoo.fit(zoo.GaussianMixture(3, 4), x, restarts=1, max_iter=2)
    fit.save(tmp_path / "a")
    pd.DataFrame(x.numpy(), columns=list("abcd")).to_parquet(tmp_path / "x.parquet", row_group_size=300)
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    monkeypatch.setattr("zoo.data.opening.STREAMED", 10_000)
    said = run("predict", "a", "--data", "x.parquet", "--out", "p.csv").err.splitlines()
    assert rows_of(said, "reading")[:2] == [(300, 2000), (600, 2000)]
    assert rows_of(said, "predict")[-1] == (2000, 2000)
    assert len(rows_of(said, "predict")) > 20
    said = run("evaluate", "a", "--data", "x.npy").err.splitlines()
    assert rows_of(said, "evaluate")[-1] == (2000, 2000)


def test_of_a_dataset_that_does_not_say_how_long_it_is_the_rows_so_far_are_told(x, told):
    class Lines(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(x)

    class Items(torch.utils.data.Dataset):
        __getitem__ = staticmethod(x.__getitem__)
        __len__ = staticmethod(x.__len__)

    for source, expected in ((Lines(), [(1024,), (2000,)]), (Items(), [(1024, 2000), (2000, 2000)])):
        zoo.fit("gaussian_mixture", source, num_components=3, max_iter=1, restarts=1, progress=None)
        assert rows_of(told(), "reading") == expected


@pytest.mark.parametrize("shown", [progress.shown, progress.waited_for, progress.fraction_shown])
def test_a_bar_shows_a_pass_while_it_lasts(shown, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=150)
    monkeypatch.setattr(progress, "_console", lambda asked: console)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with shown(title="em", progress=None):
        with passing(78_125_000) as told:
            for done in (1_000_000, 12_000_000):
                told(done)
                time.sleep(0.25)  # it is drawn now and then
        before = len(console.file.getvalue())
        time.sleep(0.25)
    assert "rows 12 000 000 of 78 125 000" in console.file.getvalue()[:before]
    assert "rows" not in console.file.getvalue()[before:]


def test_a_pass_that_is_left_is_over():
    outer, inner = [], []
    with heard_by(lambda *told: outer.append(told)):
        with suppress(ZeroDivisionError), passing(10) as told:
            told(3)
            raise ZeroDivisionError
        assert outer == [(3, 10), (None, None)]
        with heard_by(lambda *told: inner.append(told)), passing(None) as told:
            told(4)
    assert inner == [(4, None), (None, None), (None, None)]
    assert set(outer[2:]) == {(None, None)}
