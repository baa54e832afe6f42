"""Runs of EM write checkpoints as those of gradients do: stopped anywhere, they end where they would have."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.core.nested import tensors_in, with_tensors
from zoo.core.statistics import Moments, Statistics
from zoo.estimators import estimator_classes
from zoo.estimators.base import Run
from zoo.storage.checkpoint import Checkpoints, RunFolder

#: Model, options, and after how many checkpoints it is stopped. "together": starts that are one batch.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "em": ("gaussian_hmm", {"tol": 0, "max_iter": 30}, 4),
    "squarem": ("poisson_mixture", {"accelerate": "squarem"}, 1),
    "held out": ("bernoulli_mixture", {"validation": 0.3, "patience": 9, "tol": 0, "max_iter": 40}, 2),
    "hard": ("gaussian_mixture_hmm", {"estimator": "hard_em"}, 3),
    "hard, starts": ("gaussian_mixture_hmm", {"estimator": "hard_em", "restarts": 3}, 20),
    "by enumeration": ("von_mises_mixture", {"estimator": "auto_em"}, 1),
    "online": ("gaussian_mixture", {"estimator": "online_em", "batch_size": 5, "max_epochs": 6}, 3),
    "online, scores": ("ppca", {"estimator": "online_em", "batch_size": 5, "max_epochs": 6}, 5),
    "together, one": ("factor_analysis", {"tol": 0, "max_iter": 60}, 5),
    "together": ("gaussian_mixture", {"restarts": 6}, 5),
    "together, some done": ("gaussian_mixture", {"restarts": 6}, 9),
    "together, a chain": ("categorical_hmm", {"restarts": 3, "max_iter": 40}, 5),
    "together, factors": ("factor_analysis", {"restarts": 4}, 2),
}
#: What checkpoints call a run, where it is not "em".
STAGES = {"online": "online_em", "online, scores": "online_em"}


def tiny(name: str) -> tuple[Any, Any]:
    made: tuple[Any, Any] = importlib.import_module(f"zoo.models.{name}").tiny()
    return made


def stopped(patch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Interrupt once so many checkpoints have been written; the stages that they were of."""
    stages: list[str] = []
    save = Checkpoints.save

    def counted(self: Checkpoints, record: dict[str, Any], values: Any) -> None:
        save(self, record, values)
        stages.append(record["stage"])
        if len(stages) == after:
            raise KeyboardInterrupt

    patch.setattr(Checkpoints, "save", counted)
    return stages


def same(a: zoo.Fit, b: zoo.Fit) -> None:
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    clocks = [{name: column for name, column in fit.history.items() if name != "seconds"} for fit in (a, b)]
    assert clocks[0] == clocks[1]
    assert (a.status, a.log_likelihood, a.notes) == (b.status, b.log_likelihood, b.notes)
    entries = [[{**entry, "seconds": None} for entry in fit.restarts] for fit in (a, b)]
    assert entries[0] == entries[1]


def counted_rows(patch: pytest.MonkeyPatch) -> list[float]:
    """The objective of every row that is written from here on."""
    rows: list[float] = []
    record = Run.record

    def counted(self: Run, objective: float, **more: Any) -> None:
        rows.append(objective)
        record(self, objective, **more)

    patch.setattr(Run, "record", counted)
    return rows


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, options, after = CASES[name]
    model, x = tiny(kind)
    options = {"estimator": "em", "init": None if "restarts" in options else "current", **options}
    rows = counted_rows(monkeypatch)
    whole = zoo.fit(model, x, **options)
    wanted = len(rows)
    with pytest.MonkeyPatch.context() as patch:
        stages = stopped(patch, after)
        cut = zoo.fit(model, x, out=tmp_path / "r", checkpoint_every=3, **options)
    assert "interrupted" in [entry["status"] for entry in cut.restarts]
    assert set(stages) == {"together" if name.startswith("together") else STAGES.get(name, "em")}
    (tmp_path / "r/identity.json").unlink()  # as if it had been killed
    torch.manual_seed(99)
    rows.clear()
    again = zoo.fit(model, x, out=tmp_path / "r", resume=True, **options)
    same(whole, again)
    assert 0 < len(rows) < wanted  # it did not begin anew
    assert not (tmp_path / "r/checkpoints").exists()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gaussian_hmm", {"max_iter": 9}), ("ppca", {"max_iter": 9}), ("gaussian_mixture", {"estimator": "online_em"})],
)
def test_more_time_goes_on_where_the_budget_ended(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, x = tiny(kind)
    options = {"estimator": "em", "init": "current", **options}
    whole = zoo.fit(model, x, **options)
    short = zoo.fit(model, x, out=tmp_path / "r", max_seconds=1e-9, **options)
    assert (short.status, short.iterations) == ("max_iter", 1)
    same(whole, zoo.fit(model, x, out=tmp_path / "r", resume=True, **options))


def test_a_start_that_was_run_on_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says how many starts there are, the first one's fit is kept while others are tried and run on."""
    model, x = tiny("gaussian_mixture_hmm")
    options: dict[str, Any] = {"estimator": "em", "max_iter": 25, "tol": 1e-12}
    monkeypatch.setattr("zoo.runs.fit.promising", lambda trials, *_: [trials[0].restart])
    monkeypatch.setattr("zoo.runs.fit.MOST", 3)
    rows = counted_rows(monkeypatch)
    whole = zoo.fit(model, x, **options)
    wanted, first = len(rows), 25
    finish = RunFolder.finish
    monkeypatch.setattr(RunFolder, "finish", lambda self, restart, write, _: finish(self, restart, write, 60.0))
    with pytest.MonkeyPatch.context() as patch:
        stages = stopped(patch, 10)  # eight of the first start
        zoo.fit(model, x, out=tmp_path / "r", checkpoint_every=3, **options)
    assert len(stages) == 10
    rows.clear()
    same(whole, zoo.fit(model, x, out=tmp_path / "r", resume=True, **options))
    assert len(rows) <= wanted - first - 3


SERVED = {"closed_form": "ppca", "mean_field": "hopfield_tsp"}


@pytest.mark.parametrize("name", SERVED)
def test_an_estimator_without_checkpoints_says_so(name: str, tmp_path: Path) -> None:
    model, x = tiny(SERVED[name])
    note = f"{name} writes no checkpoints: a run of it that is stopped begins anew"
    assert note in zoo.fit(model, x, estimator=name, out=tmp_path / "r", checkpoint_every=1).notes
    assert note not in zoo.fit(model, x, estimator=name, out=tmp_path / "s").notes


def test_all_others_write_them() -> None:
    """Each by the one way there is: `Run.save`, in a file of its own or of a class that it is made of."""
    without = {name for name, cls in estimator_classes().items() if not cls.writes_checkpoints}
    assert without == set(SERVED)


def test_numbers_in_values_come_back() -> None:
    def drawn(seed: int) -> Statistics:
        t = torch.rand(3, 2, generator=torch.Generator().manual_seed(seed))
        return Statistics(
            seed, t.sum(), counts=t[0], moments=Moments(t[1], t, t * 2), more=(t.numpy(), {"a": 0.1 * seed})
        )

    one, other = drawn(1), drawn(2)
    values = tensors_in(one)
    assert values is not None
    made = with_tensors(other, values)
    assert torch.equal(made["moments"].scatter, one["moments"].scatter)
    assert np.array_equal(made["more"][0], one["more"][0])
    assert (made["more"][1], made["num_data"], made["objective"]) == (one["more"][1], 1.0, one["objective"])
    assert tensors_in({"a": torch.zeros(1), "b": object()}) is None
    for wrong in (values[1:], [*values, values[0]]):
        with pytest.raises(ValueError, match="tensors"):
            with_tensors(other, wrong)
