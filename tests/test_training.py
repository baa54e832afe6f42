"""The training loop: checkpoints that survive kill -9, held-out data, divergence by name, parts of a loss, rates."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.cli import main
from zoo.core.hooks import Computed
from zoo.core.isolation import forked_rng
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.core.schedule import Schedule
from zoo.core.stage import Stage
from zoo.core.state import snapshot
from zoo.errors import ZooError
from zoo.estimators import estimator_classes, gradient
from zoo.estimators.base import Run, options_from
from zoo.estimators.eg import EG
from zoo.estimators.gradient import fixed_score
from zoo.estimators.loop.adam import ScaledAdam
from zoo.estimators.loop.flat_adam import FlatAdam
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.loop.train import train
from zoo.estimators.svi import SVI
from zoo.models.gaussian_mixture import tiny as gaussian_mixture
from zoo.models.poisson_mixture import tiny as poisson_mixture
from zoo.models.vae import tiny as vae
from zoo.runs import progress
from zoo.runs.progress import Bar, values

ROOT = Path(__file__).parent.parent
PROGRAM = '''
import sys, time
import pyro, pyro.distributions as dist, torch
from torch import nn
import zoo


class Network(zoo.LatentVariableModel):
    """A little autoencoder in single precision, with noise, dropout and a buffer that moves."""

    dtype = torch.float32

    def __init__(self, width=8):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 4))
        self.decode = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 6))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), x.new_ones(())).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, raw = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def data(rows=70):
    generator = torch.Generator().manual_seed(1)
    return torch.bernoulli(torch.full((rows, 6), 0.4), generator=generator)


if __name__ == "__main__":
    torch.set_num_threads(1)
    zoo.fit(
        Network(), data(), estimator="svi", seed=5, batch_size=7, max_epochs=40, warmup=30, validation=0.1, patience=40,
        out=sys.argv[1], checkpoint_every=7, resume=True, progress=lambda row, fraction: time.sleep(float(sys.argv[2])),
    )
'''
scope: dict[str, Any] = {"__name__": "programs"}
exec(PROGRAM, scope)
Network, binary = scope["Network"], scope["data"]
SMALL: dict[str, Any] = {"batch_size": 7, "max_epochs": 12, "warmup": 10, "seed": 3}


def same(a: Any, b: Any) -> None:
    """Two fits of one path: parameters bit for bit, and everything of the history but the clock."""
    for name, value in a.model.state_dict().items():
        assert torch.equal(value, b.model.state_dict()[name]), name
    assert {k: v for k, v in a.history.items() if k != "seconds"} == {
        k: v for k, v in b.history.items() if k != "seconds"
    }


def stop_at(row: int) -> Callable[..., None]:
    """A callback that interrupts when this many rows have been written."""
    count = 0

    def callback(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == row:
            raise KeyboardInterrupt

    return callback


def interrupted(out: Path, row: int = 6, every: Any = 4, model: Any = None, x: Any = None, **options: Any) -> Any:
    fit = zoo.fit(
        Network() if model is None else model, binary() if x is None else x, progress=stop_at(row), out=out,
        checkpoint_every=every, **{"estimator": "svi", **SMALL, **options},
    )  # fmt: skip
    assert "interrupted" in [entry["status"] for entry in fit.restarts]
    return fit


def newest(out: Path) -> Path:
    return max(p for p in (out / "checkpoints").iterdir() if p.name.isdecimal())


def position(checkpoint: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((checkpoint / "state.json").read_text().splitlines()[1])
    return record


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("kills", [(14,), pytest.param((2, 14), marks=pytest.mark.slow)])
def test_killed_it_ends_where_it_would_have(kills: tuple[int, ...], tmp_path: Path) -> None:
    """A real process, killed for good in mid-epoch, or in its warm-up and again in mid-epoch, and resumed."""
    (tmp_path / "run.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def process(out: str, pause: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "run.py", out, str(pause)], cwd=tmp_path, env=environment
        )

    whole = process("whole", 0)
    stages = []
    for number in kills:  # the warm-up has 28 steps, the run 360
        running = process("killed", 0.1)
        until = time.monotonic() + 180
        while not (tmp_path / f"killed/checkpoints/{number:08d}").is_dir():
            assert time.monotonic() < until
            assert running.poll() is None
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
        stages.append(position(newest(tmp_path / "killed")))
        assert not (tmp_path / "killed/fit.json").exists()
    assert any(stage["at"]["batch"] for stage in stages)
    assert stages[-1]["stage"] == "climb"
    assert process("killed", 0).wait(180) == 0
    assert whole.wait(180) == 0
    expected, found = (load_file(str(tmp_path / name / "model.safetensors")) for name in ("whole", "killed"))
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    histories = [json.loads((tmp_path / name / "fit.json").read_text())["history"] for name in ("whole", "killed")]
    for column in ("objective", "validation"):
        assert histories[0][column] == histories[1][column]
        assert len(histories[0][column]) == 40
    assert not (tmp_path / "killed/checkpoints").exists()


CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "svi": (lambda: (Network(), binary()), {}),
    "svi in the warm-up": (lambda: (Network(), binary()), {"warmup": 100}),
    "iwae, clipped": (lambda: (Network(), binary()), {"estimator": "iwae", "clip_norm": 1.0}),
    "svi, held out": (lambda: (Network(), binary()), {"validation": 0.2, "patience": 50}),
    "eg, scaled, its best kept": (
        gaussian_mixture,
        {"estimator": "eg", "batch_size": None, "max_epochs": 100, "optimizer": "adam"},
    ),
    "eg, quasi-Newton": (
        gaussian_mixture,
        {"estimator": "eg", "batch_size": None, "max_epochs": 200, "optimizer": "lbfgs"},
    ),
    "svi, quasi-Newton in the warm-up": (
        poisson_mixture,
        {"batch_size": None, "max_epochs": 200, "warmup": 100, "optimizer": "lbfgs"},
    ),
    "eg, scaled, batches": (gaussian_mixture, {"estimator": "eg"}),
    "svi, annealed": (vae, {"annealing": 1.0, "annealing_start": 0.2}),
    "gumbel, annealed": (poisson_mixture, {"estimator": "gumbel", "batch_size": 5}),
    "rws": (poisson_mixture, {"estimator": "rws", "batch_size": 5}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    make, options = CASES[name]
    model, x = make()
    options = {"estimator": "svi", **SMALL, **options}
    if options["estimator"] == "eg":
        del options["warmup"]
    whole = zoo.fit(model, x, **options)
    rows = 97 if options["max_epochs"] == 100 else 6
    with pytest.MonkeyPatch.context() as patch:
        if "warm-up" in name:  # stop it there, where no row is written
            calls, save = [0], zoo.storage.checkpoint.Checkpoints.save

            def stop(self: Any, *args: Any) -> None:
                save(self, *args)
                calls[0] += 1
                if calls[0] == (2 if "quasi" in name else 5):
                    raise KeyboardInterrupt

            patch.setattr(zoo.storage.checkpoint.Checkpoints, "save", stop)
        fit = zoo.fit(model, x, out=tmp_path / "r", checkpoint_every=4, progress=stop_at(rows), **options)
    assert fit.status == "interrupted"
    record = position(newest(tmp_path / "r"))
    assert record["stage"] == ("warm-up" if "warm-up" in name else "climb")
    assert options["batch_size"] is None or record["at"]["batch"] or len(x) < 14
    torch.manual_seed(99)
    again = zoo.fit(model, x, out=tmp_path / "r", resume=True, **options)
    same(whole, again)
    assert (again.status, again.log_likelihood, again.elbo) == (whole.status, whole.log_likelihood, whole.elbo)
    assert not (tmp_path / "r/checkpoints").exists()


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    plain = zoo.fit(Network(), binary(), estimator="svi", **SMALL)
    same(plain, zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", checkpoint_every=3, **SMALL))
    assert zoo.load(tmp_path / "r", Network()).history == json.loads((tmp_path / "r/fit.json").read_text())["history"]


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    whole = zoo.fit(Network(), binary(), estimator="svi", **SMALL)
    interrupted(tmp_path / "r")
    kept = sorted(p.name for p in (tmp_path / "r/checkpoints").iterdir())
    assert len(kept) == 2
    file = newest(tmp_path / "r") / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    again = zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", resume=True, **SMALL)
    same(whole, again)
    assert any(f"checkpoint {kept[1]} is damaged" in note for note in again.notes)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_without_a_whole_checkpoint_it_says_so(tmp_path: Path, file: str) -> None:
    interrupted(tmp_path / "r")
    for path in (tmp_path / "r/checkpoints").iterdir():
        content = bytearray((path / file).read_bytes())
        content[len(content) // 2] ^= 1  # one bit
        (path / file).write_bytes(bytes(content))
    with pytest.raises(ZooError, match=r"is damaged .*checksum.*no whole one"):
        zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", resume=True, **SMALL)


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"x": binary(71)}, "of data"),
    "seed": ({"seed": 4}, "of seed 3, not 4"),
    "option": ({"learning_rate": 0.1}, "of option learning_rate 0.02, not 0.1"),
    "held-out data": ({"validation": 0.2}, "of option validation None, not 0.2"),
    "arguments": ({"model": Network(9)}, "of arguments width '8', not '9'"),
    "model": ({"model": zoo.PPCA(num_factors=2, num_features=6)}, "of model 'network', not 'ppca'"),
    "estimator": ({"estimator": "iwae"}, "of estimator 'svi', not 'iwae'"),
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("what", FOREIGN)
def test_another_run_is_refused_by_what_differs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, what: str, finished: bool
) -> None:
    change, match = FOREIGN[what]
    out = tmp_path / "r"
    if finished:
        zoo.fit(Network(), binary(), estimator="svi", out=out, **SMALL)
    else:
        interrupted(out)
        (out / "identity.json").unlink()  # as after a crash: only the checkpoints say what it was
    options = {"model": Network(), "x": binary(), "estimator": "svi", "out": out, "resume": True, **SMALL, **change}
    with pytest.raises(ZooError, match=match) as caught:
        zoo.fit(options.pop("model"), options.pop("x"), **options)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", **SMALL)

    def never(*_: Any) -> None:
        raise AssertionError("work was done")

    again = zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", resume=True, progress=never, **SMALL)
    same(first, again)
    assert again.options == first.options
    with pytest.raises(ZooError, match="Resume the run"):
        zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", **SMALL)


def test_more_time_goes_on_where_the_budget_ended(tmp_path: Path) -> None:
    whole = zoo.fit(Network(), binary(), estimator="svi", **SMALL)
    short = zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", max_seconds=1e-9, **SMALL)
    assert short.iterations == 1
    same(whole, zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", resume=True, **SMALL))


def test_finished_starts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = zoo.fit(Network(), binary(), estimator="svi", restarts=3, **SMALL)
    finish = zoo.storage.checkpoint.RunFolder.finish
    monkeypatch.setattr(
        zoo.storage.checkpoint.RunFolder, "finish", lambda self, i, write, _: finish(self, i, write, 60.0)
    )
    interrupted(tmp_path / "r", row=SMALL["max_epochs"] + 5, restarts=3)
    assert (tmp_path / "r/checkpoints/starts/0/fit.json").is_file()
    rows: list[Any] = []
    again = zoo.fit(
        Network(), binary(), estimator="svi", restarts=3, out=tmp_path / "r", resume=True,
        progress=lambda row, _: rows.append(row), **SMALL,
    )  # fmt: skip
    same(whole, again)
    assert [entry["objective"] for entry in again.restarts] == [entry["objective"] for entry in whole.restarts]
    assert SMALL["max_epochs"] < len(rows) < 2 * SMALL["max_epochs"] + 1


def test_a_full_disk_stops_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zoo.storage.checkpoint, "write_tensors", full)
    fit = zoo.fit(Network(), binary(), estimator="svi", out=tmp_path / "r", checkpoint_every=5, **SMALL)
    assert fit.notes == ["the last checkpoint could not be written (No space left on device)"]


def test_no_pickle_is_written(tmp_path: Path) -> None:
    interrupted(tmp_path / "r")
    assert {p.name for p in newest(tmp_path / "r").iterdir()} == {"state.json", "state.safetensors"}


def test_resume_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "poisson_mixture", "--estimator", "svi", "--set", "max_epochs=20", "--set", "batch_size=20"]
    arguments += ["--set", "warmup=20"]
    assert main([*arguments, "--out", "whole"]) == 0
    save, calls = zoo.storage.checkpoint.Checkpoints.save, [0]

    def stop(self: Any, *args: Any) -> None:
        save(self, *args)
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zoo.storage.checkpoint.Checkpoints, "save", stop)
        assert main([*arguments, "--out", "r", "--checkpoint-every", "15 steps"]) == 130
    assert main([*arguments, "--out", "r", "--resume"]) == 0
    expected, found = (load_file(f"{name}/model.safetensors") for name in ("whole", "r"))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert json.loads(Path("r/run.json").read_text())["model"] == "poisson_mixture"
    capfd.readouterr()
    assert main([*arguments, "--resume"]) == 2
    assert "--out" in capfd.readouterr().err
    assert main([*arguments, "--seed", "1", "--out", "r", "--resume"]) == 2
    assert "seed 0, not 1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("every", "expected"),
    [(None, (60.0, None)), (5, (None, 5)), (2.5, (2.5, None)), ("90s", (90.0, None)), ("500 steps", (None, 500)),
     ("500", (None, 500))],
)  # fmt: skip
def test_intervals(every: Any, expected: Any) -> None:
    assert zoo.storage.checkpoint.interval(every) == expected


# --- held-out data ----------------------------------------------------------------------------------------------------


def test_the_best_on_held_out_data_is_kept() -> None:
    options = {**SMALL, "max_epochs": 300, "decay": "constant", "learning_rate": 0.05}
    fit = zoo.fit(Network(), binary(), estimator="svi", validation=0.3, patience=15, **options)
    column = fit.history["validation"]
    assert fit.status == "stalled"
    assert fit.num_data == 49
    best = max(range(len(column)), key=lambda i: column[i])
    assert len(column) == best + 1 + 15
    assert f"at epoch {best + 1}: kept" in fit.notes[-1]
    held = binary()[held_rows(70, 0.3, 3)]
    model = fit.model
    score = fixed_score(model, SVI().objective(Problem(model, held)))
    assert score(held) / 21 == pytest.approx(column[best], abs=1e-6)
    assert not model.training


def held_rows(rows: int, fraction: float, seed: int) -> Tensor:
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    return order[: round(rows * fraction)].sort().values


def test_scores_have_no_noise_and_touch_no_generator() -> None:
    model, x = Network(), binary()
    score = fixed_score(model, SVI().objective(Problem(model, x)))
    before = torch.get_rng_state()
    assert score(x) == score(x)
    assert torch.equal(before, torch.get_rng_state())


def test_a_score_counts_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out data in three pieces of unequal size: the total is that of all rows together."""
    monkeypatch.setattr(gradient, "SCORED_ROWS", 30)
    model, x = poisson_mixture()
    x = x.repeat(6, 1)[:70]
    assert len(x) > 2 * gradient.SCORED_ROWS
    with torch.no_grad():
        q = model.encoder(x)
        direct = (q.probs * (model.log_joint(x) - q.logits)).sum()
    assert fixed_score(model, SVI().objective(Problem(model, x)))(x) == pytest.approx(float(direct), rel=1e-12)


def test_a_score_is_that_of_the_end_of_the_annealing() -> None:
    model, x = vae()
    objective = SVI(anneal_epochs=5, max_epochs=10).objective(Problem(model, x))
    score = fixed_score(model, objective)
    objective.at(0.1)
    assert objective.weight < 0.5  # type: ignore[attr-defined]
    with torch.no_grad(), forked_rng(0):
        parts = model.elbo_parts(x)[1]
    assert score(x) == pytest.approx(float((parts["reconstruction"] - parts["kl"]).sum()), rel=1e-6)
    assert float(parts["kl"].sum()) > 1e-3


@pytest.mark.parametrize("estimator", ["em", "eg", "svi"])
def test_an_exact_likelihood_is_what_held_out_data_are_scored_by(estimator: str) -> None:
    model, x = poisson_mixture()
    options = {"max_iter": 5, "tol": 0} if estimator == "em" else {"max_epochs": 5}
    options |= {"warmup": 10} if estimator == "svi" else {}
    fit = zoo.fit(model, x, estimator=estimator, validation=x[:4], **options)
    column = fit.history["validation"]
    assert len(column) == 5
    assert fit.score(x[:4]) == pytest.approx(4 * max(column), abs=1e-9)


def test_held_out_data_hold_for_every_estimator_that_takes_them() -> None:
    model, x = poisson_mixture()
    taking = [n for n, c in estimator_classes().items() if "validation" in {f.name for f in dataclasses.fields(c)}]
    assert {"em", "hard_em", "eg", "svi", "iwae", "gumbel", "reinforce", "rws"} <= set(taking)
    for name in sorted({*taking} & {"em", "hard_em", "eg", "svi", "iwae", "gumbel", "st_gumbel", "reinforce", "rws"}):
        length = {"max_iter": 3} if name in ("em", "hard_em") else {"max_epochs": 3}
        length |= {"warmup": 3} if "warmup" in {f.name for f in dataclasses.fields(estimator_classes()[name])} else {}
        fit = zoo.fit(model, x, estimator=name, validation=0.25, **length)
        assert all(math.isfinite(v) for v in fit.history["validation"])
        assert fit.num_data == 9
        assert fit.options["validation"] == 0.25


# --- divergence -------------------------------------------------------------------------------------------------------


class Falling(zoo.LatentVariableModel):
    """A program that goes wrong at a site of its own, once its parameter has come far enough."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a = how, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        far = bool(self.a.detach() > 0.3)
        loc, scale, upper = torch.zeros_like(x), torch.ones_like(x), x.new_tensor(0.5 if far else 9.0)
        if far and self.how == "argument":
            scale = scale * math.nan
        if far and self.how == "gradient":
            loc = (self.a - self.a.detach()).abs().sqrt()  # 0, of infinite slope
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("first", dist.Normal(self.a, 1.0), obs=x)
            if self.how in ("support", "checked support"):
                lower = -9 * torch.ones_like(x)
                pyro.sample("second", dist.Uniform(lower, upper, validate_args=self.how != "support"), obs=x)
            else:
                pyro.sample("second", dist.Normal(loc, scale), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))


@pytest.mark.parametrize(
    ("how", "options", "match"),
    [
        ("support", {}, "log_prob of site 'second' is -inf"),
        ("checked support", {}, "site 'second' cannot be scored"),
        ("argument", {}, "scale of site 'second' is nan"),
        ("gradient", {}, "parameter 'a' became NaN"),
        ("gradient", {"clip_norm": 1.0}, "gradient of parameter 'a' became nan"),
    ],
)
def test_a_divergence_names_its_site(how: str, options: dict[str, Any], match: str) -> None:
    x = torch.linspace(0.6, 1.4, 8, dtype=torch.float64)
    steps: list[float] = []
    model = Falling(how)
    fit = zoo.fit(
        model, x, estimator="svi", warmup=0, max_epochs=300, init="current",
        progress=lambda row, _: steps.append(row["objective"]), **options,
    )  # fmt: skip
    assert fit.status == "diverged"
    note = fit.notes[0]
    assert match in note
    assert f"diverged at step {len(steps) + 1}:" in note
    assert "last good parameters, of step 0," in note
    assert float(fit.model.a.detach()) == 0.0
    assert all(math.isfinite(value) for value in steps)


def test_the_last_good_parameters_are_those_of_the_last_look() -> None:
    x = torch.linspace(0.6, 1.4, 8, dtype=torch.float64)
    found = {}
    for rate, step in ((0.02, 0), (0.002, 100)):
        fit = zoo.fit(Falling("support"), x, estimator="svi", warmup=0, max_epochs=900, learning_rate=rate)
        assert fit.status == "diverged"
        assert f"of step {step}," in fit.notes[0]
        found[step] = float(fit.model.a.detach())
    assert 0.1 < found[100] <= 0.3


def test_a_mistake_in_a_program_is_no_divergence() -> None:
    class Broken(Falling):
        def model(self, x: Tensor) -> None:
            if self.a > 0.2:
                raise RuntimeError("a bug")
            super().model(x)

    x = torch.linspace(0.6, 1.4, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="a bug"):
        zoo.fit(Broken("none"), x, estimator="svi", warmup=0, max_epochs=300)


def test_what_fails_at_once_is_no_divergence() -> None:
    """Data outside the support are a mistake of the caller's, whose own error says most."""
    model, x = Falling("checked support"), torch.ones(8, dtype=torch.float64)
    with torch.no_grad():
        model.a += 1
    with pytest.raises(ValueError, match="support"):
        train(Problem(model, x), Stage("climb", failing(model), Schedule(5)), Run())


def failing(model: Any) -> Any:
    def objective(batch: Tensor) -> Any:
        log_prob = pyro.poutine.trace(model.model).get_trace(batch).log_prob_sum()
        return Step(-log_prob, log_prob.detach())

    return Computed(objective)


def test_a_resumed_divergence_keeps_the_same_parameters(tmp_path: Path) -> None:
    x = torch.linspace(0.6, 1.4, 8, dtype=torch.float64)
    options: dict[str, Any] = {"warmup": 0, "max_epochs": 900, "learning_rate": 0.002, "estimator": "svi"}
    whole = zoo.fit(Falling("support"), x, **options)
    interrupted(tmp_path / "r", row=130, model=Falling("support"), x=x, batch_size=None, seed=0, **options)
    again = zoo.fit(Falling("support"), x, out=tmp_path / "r", resume=True, **options)
    same(whole, again)
    assert whole.notes == again.notes
    assert "of step 100," in again.notes[0]


def test_an_overflowing_second_moment_is_seen() -> None:
    p = nn.Parameter(torch.zeros(3))
    adam = ScaledAdam([p], {}, 0.01)
    p.grad = torch.tensor([1.0, 1e30, 1.0])
    adam.step()
    assert bool(adam.unsound())


def test_diverged_runs_keep_what_served_the_held_out_data() -> None:
    x = torch.linspace(0.6, 1.4, 8, dtype=torch.float64)
    fit = zoo.fit(Falling("support"), x, estimator="svi", warmup=0, max_epochs=300, validation=x[:2] - 0.5, patience=99)
    assert fit.status == "diverged"
    assert "served the held-out data best" in fit.notes[0]
    assert 0.1 < float(fit.model.a.detach()) < 0.35


# --- priors -----------------------------------------------------------------------------------------------------------


class WithPrior(zoo.LatentVariableModel):
    """z ~ N(0, 1), x | z ~ N(m + z, 1) and a prior N(0, 0.1) on m: ln p(x) is exact, and its highest point known."""

    variance = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def log_prior(self) -> Tensor:
        return -0.5 * self.m.square() / self.variance

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(self.m + z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - self.m) / 2, math.sqrt(0.5)))

    def log_marginal(self, x: Tensor) -> Tensor:
        return dist.Normal(self.m, math.sqrt(2.0)).log_prob(x)


@pytest.mark.parametrize("estimator", ["eg", "svi", "iwae"])
def test_minibatches_and_a_prior_end_at_the_mode(estimator: str) -> None:
    """ln p(x | m) + ln p(m) is highest at sum(x) / (N + 2 / variance): here half of the mean of the data."""
    x = torch.linspace(1.5, 2.5, 20, dtype=torch.float64)
    mode = float(x.sum()) / (len(x) + 2 / WithPrior.variance)
    fit = zoo.fit(WithPrior(), x, estimator=estimator, batch_size=5, max_epochs=250, learning_rate=0.1)
    assert float(fit.model.m.detach()) == pytest.approx(mode, abs=0.02)
    assert mode == pytest.approx(float(x.mean()) / 2, abs=1e-9)
    at_mode = float(fit.model.log_marginal(x).sum().detach() + fit.model.log_prior().detach())
    assert sum(fit.history["objective"][-100:]) / 100 == pytest.approx(at_mode, abs=0.5)  # draws of z: noise


# --- parts, rates, batches, speed -------------------------------------------------------------------------------------


class WithParts(Objective):
    """An objective of two parts."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, 0

    def __call__(self, batch: Tensor) -> Step:
        self.calls += 1
        kl = self.model.encode(batch).square().mean()
        reconstruction = batch.mean() - self.model.decode(batch[:, :2]).square().mean()
        bound = reconstruction - kl
        return Step(-bound, bound.detach(), {"reconstruction": reconstruction.detach(), "kl": kl.detach()})


def test_parts_are_columns() -> None:
    model, x, run = Network(), binary(66), Run()
    objective = WithParts(model)
    rows: list[dict[str, Any]] = []
    run.callback = lambda row, _: rows.append(row)
    train(Problem(model, x), Stage("climb", objective, Schedule(4, 20, 0.01)), run)
    assert objective.calls == 16
    for i in range(4):  # the last batch has 6 rows and counts for 6
        total = 66 * (run.history["reconstruction"][i] - run.history["kl"][i])
        assert total == pytest.approx(run.history["objective"][i], rel=1e-5)
        assert rows[i]["kl"] == run.history["kl"][i]
    assert "kl 0." in values(rows[-1])


def test_a_part_may_not_take_a_columns_name() -> None:
    model, x = Network(), binary()
    objective = WithParts(model)

    def named(batch: Tensor) -> Step:
        surrogate, value, _ = objective(batch)
        assert value is not None
        return Step(surrogate, value, {"elbo": value})

    with pytest.raises(ZooError, match="'elbo'"):
        train(Problem(model, x), Stage("climb", Computed(named), Schedule(1, 20)), Run())


class Wrapped(Objective):
    """Another objective, changed."""

    column = "bound"

    def __init__(self, inner: Objective) -> None:
        self.inner = inner


class Unknown(Wrapped):
    """A gradient whose value nobody knows."""

    def __call__(self, batch: Tensor) -> Step:
        return Step(self.inner(batch).surrogate, None)


def test_an_objective_without_a_value_is_climbed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, own = binary(), SVI.objective
    options: dict[str, Any] = {"estimator": "svi", "max_epochs": 6, "warmup": 3}
    plain = zoo.fit(Network(), x, **options)
    monkeypatch.setattr(SVI, "objective", lambda self, problem: Unknown(own(self, problem)))
    fit = zoo.fit(Network(), x, validation=x[:20], patience=2, **options)
    assert fit.history["objective"] == fit.history["bound"] == fit.history["validation"] == [None] * 6
    assert fit.status == "max_iter", "a score that is not known is no look without a new best"
    assert fit.elbo == plain.elbo
    assert all(torch.equal(value, plain.model.state_dict()[name]) for name, value in fit.model.state_dict().items())


def test_a_score_that_is_not_known_is_no_look_in_vain() -> None:
    scores = iter([None, 1.0, None, None, 0.5, None, 0.5])
    model, x = Network(), binary()
    held = HeldOut(model, x, lambda _: next(scores), patience=2)
    looks = [held.worse(lambda into: snapshot(model, into), 0.0) for _ in range(7)]
    assert looks == [False] * 6 + [True]
    assert held.best_at == 2


class Drifting(Wrapped):
    """A bound whose scale moves with every step: what it carries is no function of the fraction done."""

    def __init__(self, inner: Objective) -> None:
        super().__init__(inner)
        self.scale = torch.tensor(1.0)

    def __call__(self, batch: Tensor) -> Step:
        step = self.inner(batch)
        self.scale = self.scale * -0.9  # Adam knows no scale, but a sign
        return Step(step.surrogate * self.scale, step.value)

    def state(self) -> dict[str, Tensor]:
        return {"scale": self.scale}

    def load(self, state: dict[str, Tensor]) -> None:
        self.scale = state["scale"]


def test_what_an_objective_carries_is_in_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = SVI.objective
    monkeypatch.setattr(SVI, "objective", lambda self, problem: Drifting(own(self, problem)))
    options = {**SMALL, "estimator": "svi", "warmup": 0}
    whole = zoo.fit(Network(), binary(), **options)
    interrupted(tmp_path / "r", row=5, model=Network(), x=binary(), **options)
    same(whole, zoo.fit(Network(), binary(), out=tmp_path / "r", resume=True, **options))


class Layered(Network):
    """A network whose decoder is trained first."""

    def pretraining(self, problem: Problem) -> list[Stage]:
        names = [name for name, _ in self.named_parameters() if name.startswith("decode")]
        return [Stage("decoder", SVI().objective(problem), Schedule(3, 20), names, recorded=False)]


def test_a_models_pretraining_comes_first(tmp_path: Path) -> None:
    model, x = Layered(), binary()
    stages = list(SVI(max_epochs=2, batch_size=20, warmup=4).stages(Problem(model, x)))
    assert [stage.name for stage in stages] == ["decoder", "warm-up", "climb"]
    told: list[str] = []

    class Bar:
        def __call__(self, row: dict[str, Any], fraction: float | None) -> None: ...

        def stage(self, name: str, fraction: float) -> None:
            told.append(name)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = Run(Bar())
    train(Problem(model, x), stages[0], run)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("decode")}
    assert run.warmup is not None
    assert run.warmup["steps"] == 3 * -(-len(x) // 20)
    fit = zoo.fit(Layered(), x, estimator="svi", max_epochs=2, batch_size=20, warmup=20, progress=Bar())
    assert fit.warmup is not None
    assert fit.warmup["steps"] > run.warmup["steps"] + 15
    options: dict[str, Any] = {"estimator": "svi", "batch_size": 20, "max_epochs": 4, "warmup": 0, "seed": 1}
    whole = zoo.fit(Layered(), x, **options)
    interrupted(tmp_path / "r", row=2, model=Layered(), x=x, **options)
    same(whole, zoo.fit(Layered(), x, out=tmp_path / "r", resume=True, **options))


def test_columns_that_come_late_are_filled_up() -> None:
    run = Run()
    run.record(1.0)
    run.record(2.0, kl=0.5)
    run.record(3.0)
    assert run.history["kl"] == [None, 0.5, None]


def test_stages_are_those_of_the_paper() -> None:
    """Burda et al. (2016), section 5: for i = 0..7, 3^i passes over the data with rate 0.001 · 10^(-i/7)."""
    schedule = Schedule(batch_size=100, learning_rate=1e-3, decay="stages")
    epochs, _ = schedule.resolve(50_000)
    assert epochs == sum(3**i for i in range(8)) == 3280
    expected = [1e-3 * 10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    for steps in (1, 7, 500):  # the first and the last step of every epoch
        for epoch, rate in enumerate(expected):
            for step in {epoch * steps, epoch * steps + steps - 1}:
                assert schedule.rate(step / (epochs * steps)) == pytest.approx(rate, rel=1e-12)


def test_the_constant_rate_is_constant() -> None:
    assert {Schedule(learning_rate=0.3, decay="constant").rate(i / 9) for i in range(10)} == {0.3}


def test_the_decay_is_an_option() -> None:
    ends = {
        decay: zoo.fit(Network(), binary(), estimator="svi", decay=decay, **SMALL).history["objective"][-1]
        for decay in ("cosine", "constant", "stages")
    }
    assert len(set(ends.values())) == 3


def test_clipping_bounds_the_gradient() -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    adam = ScaledAdam([p], {}, 0.01)
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    adam.step(clip_norm=1.0)
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-5, atol=0)
    p.grad = torch.tensor([math.inf, 1.0], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="non-finite"):
        adam.step(clip_norm=1.0, careful=True)


def test_clipping_means_the_same_in_either_precision() -> None:
    """The norm over all parameters of gradient times unit, here sqrt(0.6^2 + 8^2 + 5^2), is cut to 1."""
    units = [0.2, 4.0, None]
    grads = [torch.tensor([0.0, 3.0]), torch.tensor([2.0]), torch.tensor([3.0, 4.0])]
    length = math.sqrt(0.6**2 + 8**2 + 5**2)
    ended = []
    for dtype in (torch.float32, torch.float64):
        parameters = [nn.Parameter(torch.zeros(len(g), dtype=dtype)) for g in grads]
        scales = {id(p): torch.tensor(u) for p, u in zip(parameters, units, strict=True) if u is not None}
        adam = ScaledAdam(parameters, scales, 0.01)
        assert len(adam.scaled) == (0 if dtype == torch.float32 else 2)
        for factor in (1.0, 0.01, 5.0):  # the second is short enough to pass as it is
            for p, g in zip(parameters, grads, strict=True):
                p.grad = factor * g.to(dtype)
            adam.step(clip_norm=1.0)
            cut = min(1.0, 1 / (factor * length))
            torch.testing.assert_close(parameters[2].grad, cut * factor * grads[2].to(dtype), rtol=1e-5, atol=0)
        ended.append(torch.cat([p.detach().double() for p in parameters]))
    torch.testing.assert_close(*ended, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("unit", [None, 0.05])
def test_single_precision_takes_torchs_fused_adam(unit: float | None) -> None:
    """One number as a unit is the rate times that number; both are plain Adam's path."""
    torch.manual_seed(3)
    ours = nn.Parameter(torch.randn(50, 20))
    plain = nn.Parameter(ours.detach().clone())
    scales = {} if unit is None else {id(ours): torch.tensor(unit)}
    adam = ScaledAdam([ours], scales, 0.02)
    theirs = torch.optim.Adam([plain], lr=0.02 * (unit or 1.0), foreach=False)
    assert adam.adam.defaults["fused"]
    for _ in range(200):
        grad = torch.randn(50, 20)
        ours.grad, plain.grad = grad.clone(), grad.clone()
        adam.step()
        theirs.step()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_double_precision_is_torchs_adam_bit_for_bit() -> None:
    """Parameters without a gradient stay, and count no step; what torch's saves is taken over, and the other way."""
    torch.manual_seed(3)
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((5, 3), (), (2, 3, 3), (7,))]
    plain = [nn.Parameter(p.detach().clone()) for p in ours]
    adam, theirs = ScaledAdam(ours, {}, 0.02), torch.optim.Adam(plain, lr=0.02, foreach=False)
    assert isinstance(adam.adam, FlatAdam)
    for step in range(60):
        adam.set_rate(0.02 - 1e-4 * step)
        theirs.param_groups[0]["lr"] = 0.02 - 1e-4 * step
        for i, (p, q) in enumerate(zip(ours, plain, strict=True)):
            p.grad = (
                None
                if 20 <= step < 30 and i % 2
                else torch.randn(p.shape[::-1], dtype=p.dtype).permute(tuple(range(p.dim()))[::-1])
            )
            q.grad = None if p.grad is None else p.grad.clone()
        adam.step()
        theirs.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, plain, strict=True)), step
        if step == 40:
            saved = theirs.state_dict()
            named = {f"{i}/{n}": v.clone() for i, entry in saved["state"].items() for n, v in entry.items()}
            assert {n: v.dtype for n, v in adam.state().items()} == {n: v.dtype for n, v in named.items()}
            assert all(torch.equal(v, named[n]) for n, v in adam.state().items())
            adam = ScaledAdam(ours, {}, 0.02)
            adam.load(named)
    assert len(ScaledAdam(ours, {id(ours[0]): torch.tensor(2.0)}, 0.01).scaled) == 1


def test_a_batch_larger_than_the_data_is_cut() -> None:
    model, x = poisson_mixture()
    fit = zoo.fit(model, x, estimator="eg", batch_size=500, max_epochs=3)
    assert fit.notes == ["batch_size=500 is more than the 12 data: all of them made one batch"]
    same(fit, zoo.fit(model, x, estimator="eg", max_epochs=3))


def test_networks_get_all_threads() -> None:
    wide, x = Network(1000), torch.zeros(5000, 6)
    assert EG(batch_size=200).elements(Problem(Network(1), x)) == 1200
    assert (
        EG(batch_size=20_000).elements(Problem(Network(1000), x))
        > 1_000_000
        > EG(batch_size=200).elements(Problem(wide, x))
    )


def test_the_time_left() -> None:
    class Bars:
        def __init__(self) -> None:
            self.seen: dict[str, Any] = {}

        def update(self, task: Any, **fields: Any) -> None:
            self.seen.update(fields)

    bars = Bars()
    bar = Bar(bars, 0)
    bar.tick(0.5)  # a run resumed at its half
    assert bars.seen["left"] == ""
    bar._began -= 100  # a tenth in 100 s, four to go
    bar.tick(0.6)
    assert bars.seen["left"] == "0:06:40 left"
    bar({"objective": -1.0, "log_likelihood": None, "elbo": -1.0, "seconds": 1.0, "validation": -2.5}, 0.7)
    assert bars.seen["values"] == "objective -1.0000  validation -2.50"
    assert values({"objective": None, "gap": 0.5}) == "gap 0.50", "a gradient without a value"


def test_without_a_terminal_there_is_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long one fit takes or however many there are; what lies between them is not counted."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "_clock", progress._Clock())

    def fit(seconds: int) -> str:
        with progress.shown(None, "em") as callback:
            assert callback is not None
            for second in range(seconds):
                now[0] += 1
                row = {"objective": -2.0, "log_likelihood": -2.0, "elbo": None, "seconds": 1.0}
                callback(row, (second + 1) / 20)
        return capsys.readouterr().err

    assert fit(4) == ""
    assert fit(3) == "em: 1 iterations, 5%, objective -2.0000\n", "five seconds, of both"
    assert fit(9).splitlines() == [
        "em: 3 iterations, 15%, objective -2.0000, 0:00:17 left",
        "em: 8 iterations, 40%, objective -2.0000, 0:00:12 left",
    ]
    now[0] += 50
    assert fit(3) == ""
    with progress.fraction_shown("evaluate") as told:
        assert told is not None
        now[0] += 2
        told(0.25)
    assert capsys.readouterr().err == "evaluate: 25%\n"
    with progress.shown(False, "em") as callback:
        assert callback is None


def test_what_does_not_come_to_saying_how_far_it_is_is_said_to_be_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SILENCE", -1.0)
    monkeypatch.setattr(progress, "_clock", clock := progress._Clock())
    said = ""
    with progress.fraction_shown("evaluate"):
        until = time.monotonic() + 20
        while not said and time.monotonic() < until:
            time.sleep(0.05)
            said += capsys.readouterr().err
    assert re.match(r"evaluate: at work for \d+ s\n", said)
    assert not clock._busy.is_set()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no batch": ({"batch_size": 0}, "batch_size expected a whole number of at least 1, got 0"),
    "part of a batch": ({"batch_size": 2.5}, "batch_size"),
    "no epochs": ({"max_epochs": 0}, "max_epochs"),
    "no patience": ({"patience": 0}, "patience"),
    "decay": ({"decay": "cosin"}, "Did you mean 'cosine'"),
    "no norm": ({"clip_norm": 0}, "clip_norm expected a number above 0"),
    "all held out": ({"validation": 1.0}, r"between 0 and 1, got 1.0"),
    "none held out": ({"validation": 0}, r"between 0 and 1, got 0"),
    "held out by name": ({"validation": "test"}, "validation expected a fraction or data, got 'test'"),
    "other held-out data": ({"validation": torch.zeros(3, 9)}, "shape"),
    "resume nothing": ({"resume": True}, "Pass out="),
    "interval": ({"out": "r", "checkpoint_every": "often"}, "checkpoint_every expected seconds"),
    "no interval": ({"out": "r", "checkpoint_every": 0}, "checkpoint_every expected seconds"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, match = BAD[name]
    model, x = poisson_mixture()
    with pytest.raises(ZooError, match=match) as caught:
        zoo.fit(model, x, estimator="eg", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_one_datum_cannot_be_held_out() -> None:
    model, x = poisson_mixture()
    with pytest.raises(ZooError, match="data on both sides, got 1"):
        zoo.fit(model, x[:1], estimator="eg", validation=0.5)


def test_a_folder_of_other_things_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    model, x = poisson_mixture()
    with pytest.raises(ZooError, match=r"no run that was begun"):
        zoo.fit(model, x, estimator="eg", out=tmp_path, resume=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    shutil.rmtree(tmp_path)


NUMBERS: list[tuple[str, str, list[Any], str]] = [
    ("svi", "num_particles", [0, -1, 1.5, math.nan, True, None], "a whole number of at least 1"),
    ("iwae", "num_particles", [0, 2.5], "a whole number of at least 1"),
    ("gumbel", "num_particles", [0, math.inf], "a whole number of at least 1"),
    ("rws", "num_particles", [0, -3], "a whole number of at least 1"),
    ("svi", "warmup", [-1, 0.5, math.inf], "a whole number of at least 0"),
    ("svi", "phase_steps", [0, -2, 1.5], "a whole number of at least 1"),
    ("svi", "anneal_epochs", [-1, 0.5], "a whole number of at least 0"),
    ("gumbel", "temperature", [0, -1.0, math.nan, -math.inf, math.inf], "a finite number above 0"),
    ("st_gumbel", "final_temperature", [0.0, -0.1, math.nan, -math.inf], "a finite number above 0"),
    ("eg", "learning_rate", [0, -0.1, math.nan, math.inf, None], "a finite number above 0"),
    ("eg", "tol", [-1e-9, math.nan, None], "a finite number of at least 0"),
    ("eg", "max_epochs", [0, math.nan, math.inf], "a whole number of at least 1"),
    ("eg", "batch_size", [0, -5, 0.5], "a whole number of at least 1"),
    ("em", "max_iter", [-1, 0.5], "a whole number of at least 0"),
    ("em", "tol", [-1.0, math.nan], "a finite number of at least 0"),
    ("em", "patience", [0], "a whole number of at least 1"),
    ("online_em", "max_epochs", [0, 1.5], "a whole number of at least 1"),
    ("online_em", "batch_size", [0], "a whole number of at least 1"),
    ("online_em", "burn_in", [-1], "a whole number of at least 0"),
]


@pytest.mark.parametrize(("estimator", "option", "values", "expected"), NUMBERS)
def test_numbers_are_checked_when_an_estimator_is_made(
    estimator: str, option: str, values: list[Any], expected: str
) -> None:
    for value in values:
        with pytest.raises(ZooError) as caught:
            estimator_classes()[estimator](**{option: value})
        assert str(caught.value) == f"{estimator}: {option} expected {expected}, got {value!r}."


def test_options_are_checked_as_ever() -> None:
    assert options_from(SVI, {"clip_norm": 2.0, "decay": "constant"}) == SVI(clip_norm=2.0, decay="constant")
