"""``zoo select``: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Ran

TABLE = "length,width\n" + "\n".join(
    f"{a:.4f},{b:.4f}"
    for a, b in np.concatenate(
        [np.random.default_rng(1).normal((-3, 0), 1, (25, 2)), np.random.default_rng(2).normal((3, 2), 1, (25, 2))]
    )
)
PROGRAM = """
import pyro, torch
import pyro.distributions as dist

def make(k):
    def program(x):
        rates = pyro.param("rates", torch.linspace(1.0, 10.0, k + 1)[1:], constraint=dist.constraints.positive)
        weights = pyro.param("weights", torch.ones(k) / k, constraint=dist.constraints.simplex)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rates[z]), obs=x)
    return program
"""


def test_a_record_and_the_best_fit(run: Callable[..., Ran]) -> None:
    Path("own.csv").write_text(TABLE)
    arguments = ["select", "gaussian_mixture", "--data", "own.csv", "--grid", "num_components=1..2"]
    arguments += ["--grid", "covariance_type=tied", "--restarts", "1", "--set", "tol=1e-5"]
    ran = run(*arguments, "--folds", "2", "--json", "--out", "s")
    assert ran.code == 0, ran.err
    record = json.loads(Path("s/selection.json").read_text())
    assert json.loads(ran.out) == record
    assert record["best"]["bic"] == {"num_components": 2, "covariance_type": "tied"}
    assert record["rows"][1]["cv"] > record["rows"][0]["cv"]
    assert {path.name for path in Path("s/best").iterdir()} >= {
        "fit.json",
        "parameters.csv",
        "posterior.csv",
        "run.json",
    }
    assert "width" in Path("s/best/parameters.csv").read_text()
    scored = json.loads(run("evaluate", "s/best", "--json").out)
    assert scored["log_likelihood"] == pytest.approx(record["rows"][1]["log_likelihood"])
    assert "expected one fit. Take the best, s/best" in run("evaluate", "s").err


def test_a_program_of_ones_own(run: Callable[..., Ran]) -> None:
    counts = np.concatenate([np.random.default_rng(1).poisson(2, 20), np.random.default_rng(2).poisson(12, 20)])
    Path("counts.csv").write_text("n\n" + "\n".join(map(str, counts)))
    Path("file.py").write_text(PROGRAM)
    ran = run("select", "file.py:make", "--data", "counts.csv", "--grid", "k=1,2", "--restarts", "1", "--out", "s")
    assert ran.code == 0, ran.err
    assert "best by BIC: k=2" in ran.out
    assert "the best fit is in s/best" in ran.out
    scored = run("evaluate", "s/best", "--model", "file.py:make", "--json")
    best = json.loads(Path("s/selection.json").read_text())["rows"][1]
    assert json.loads(scored.out)["log_likelihood"] == pytest.approx(best["log_likelihood"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    {
        "no grid": ((), "--grid num_components=1..8"),
        "no values": (("--grid", "num_components="), "--grid num_components expected values"),
        "no equals": (("--grid", "num_components"), "NAME=VALUES"),
        "downward": (("--grid", "num_components=8..1"), "Write 1..8"),
        "half a range": (("--grid", "num_components=1..,3"), "1..8, got '1..'"),
        "bad list": (("--grid", "num_components=[1,"), "--grid num_components expected values"),
        "twice": (("--grid", "num_components=1", "--grid", "num_components=2"), "expected once"),
        "both": (("--grid", "num_components=1", "--set", "num_components=2"), "got it in both"),
        "unknown": (("--grid", "num_component=1..3"), "Did you mean 'num_components'?"),
        "many": (("--grid", "num_components=1..300"), "--max-fits 300"),
        "criterion": (("--grid", "num_components=1", "--criterion", "bics"), "'bic'"),
        "folds": (("--grid", "num_components=1", "--folds", "1"), "--folds 5"),
        "folder": (("--grid", "num_components=1", "--out", "full"), "'full' expected to be new"),
    }.values(),
)
def test_a_mistake_is_one_line(run: Callable[..., Ran], arguments: tuple[str, ...], said: str) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("")
    ran = run("select", "gaussian_mixture", "--data", "iris", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert said in ran.err


def test_its_names_are_completed() -> None:
    from zoo.cli.completing import criteria

    assert criteria("") == ["bic", "aic", "icl", "cv"]
    assert criteria("i") == ["icl"]
