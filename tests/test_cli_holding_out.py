"""``zoo fit --hold-out``: what the fit does not see, what it says of it, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Ran

import zoo

SENTENCES = "the cat sat\na dog ran home\nthe dog sat\na cat ran home\n" * 10


def test_a_share_is_scored_and_not_fitted(run: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = run(
        "fit", "gaussian_mixture", "--data", "iris", "--hold-out", "0.2", "--no-report", "--out", str(out), "--json"
    )
    row = json.loads(ran.out)["rows"][0]
    assert json.loads(ran.out)["num_data"] == 120
    assert row["num_held_out"] == 30
    x = zoo.load_data("iris")
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    fit = zoo.load(out)
    assert row["held_out_log_likelihood"] == pytest.approx(fit.score(x[order[:30]]), abs=1e-8)
    assert fit.log_likelihood == pytest.approx(fit.score(x[order[30:]]), abs=1e-8)
    # The folder knows which rows were fitted.
    again = json.loads(run("evaluate", str(out), "--json").out)
    assert again["num_data"] == 120
    assert again["log_likelihood"] == pytest.approx(fit.log_likelihood, abs=1e-8)
    plain = run("fit", "gaussian_mixture", "--data", "iris", "--hold-out", "0.2").out
    assert f"30 data held out: log-likelihood {row['held_out_log_likelihood']:.4f}" in plain


def test_grammars_parse_what_they_have_not_seen(run: Callable[..., Ran], tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text(SENTENCES)
    arguments = ("fit", "pcfg", "--data", str(path), "--set", "num_nonterminals=2", "--set", "num_preterminals=3")
    ran = run(*arguments, "--set", "max_iter=5", "--out", str(tmp_path / "g"))
    assert "4 data held out: log-likelihood" in ran.out
    assert "(36 sequences" in ran.out
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4].sort().values.tolist()
    trees = (tmp_path / "g" / "trees.txt").read_text().split("\n\n")[:4]
    expected = [SENTENCES.splitlines()[i].split() for i in order]
    assert [
        [line.split()[-1] for line in tree.splitlines() if line.split()[-1].islower()] for tree in trees
    ] == expected
    assert "held out" not in run(*arguments, "--set", "max_iter=5", "--hold-out", "0").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gaussian_mixture", "--data", "iris", "--hold-out", "1.5"), "a share from 0 to below 1, got 1.5"),
        (("gaussian_mixture", "--data", "iris", "--hold-out", "0.999"), "several data to choose from"),
        (("poisson_hmm", "--data", "earthquakes", "--hold-out", "0.2"), "got one sequence"),
    ],
)
def test_mistakes(run: Callable[..., Ran], arguments: tuple[str, ...], message: str) -> None:
    ran = run("fit", *arguments)
    assert ran.code == 2
    assert message in ran.err
