"""Runs of every kind, killed by kill -9 at random moments and begun or resumed again: the result is the same.

Slow; ``ZOO_KILLS`` says how many kills there are to be in all (100). Each run is a fork of this process, so that no
time goes into imports: what is killed is a real process at work.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main

KILLS = int(os.environ.get("ZOO_KILLS", "100"))
#: What a clock or the memory says, and names of files, may differ.
VARYING = {"seconds", "cpu_seconds", "peak_memory_mb", "machine", "versions", "date"}
Run = Callable[[Path], None]


def fit(kind: str, **options: Any) -> Run:
    """A fit of a model's own small data, with checkpoints after every few steps."""

    def run(out: Path) -> None:
        model, x = importlib.import_module(f"zoo.models.{kind}").tiny()
        zoo.fit(model, x, out=out / "run", resume=True, checkpoint_every=8, **options)

    return run


def command(*words: str) -> Run:
    """A command that is given as it was; what it writes is in the folder of this run."""

    def run(out: Path) -> None:
        os.chdir(out)
        code = main([word.replace("SHARED", str(out.parent)) for word in words])
        if code:
            raise RuntimeError(f"exit {code}")

    return run


EM = {"estimator": "em", "init": "current", "tol": 0}
KINDS: dict[str, Run] = {
    "em": fit("gaussian_hmm", max_iter=100, **EM),
    "em by moments": fit("factor_analysis", max_iter=300, **EM),
    "em, starts at once": fit("gaussian_mixture", estimator="em", restarts=8, tol=0, max_iter=100),
    "em, starts tried": fit("bernoulli_mixture", estimator="em", max_iter=60),
    "squarem": fit("poisson_mixture", accelerate="squarem", max_iter=40, **EM),
    "hard_em, starts": fit("gaussian_mixture_hmm", estimator="hard_em", restarts=6),
    "auto_em": fit("categorical_hmm", estimator="auto_em", tol=0, max_iter=60, init="current"),
    "online_em": fit("poisson_mixture", estimator="online_em", batch_size=4, tol=0, max_epochs=40),
    "eg": fit("gaussian_mixture", estimator="eg", optimizer="adam", max_epochs=150),
    "eg, quasi-Newton": fit("gaussian_mixture", estimator="eg", restarts=4),
    "svi": fit("vae", estimator="svi", max_epochs=40),
    "gumbel": fit("poisson_mixture", estimator="gumbel", batch_size=5, max_epochs=30, warmup=20),
    "iwae, held out": fit("vae", estimator="iwae", max_epochs=20, validation=0.3),
    "pcd": fit("restricted_boltzmann_machine", estimator="pcd", max_epochs=30),
    "advi": fit("gaussian_mixture", estimator="advi", max_epochs=60, num_samples=20),
    "zoo fit": command(
        "fit", "poisson_mixture", "--data", "SHARED/x.csv", "--estimator", "em", "--set", "tol=0", "--set",
        "max_iter=200", "--out", "run", "--checkpoint-every", "5", "--resume",
    ),
    "zoo compare": command(
        "compare", "poisson_mixture", "--data", "SHARED/x.csv", "--estimators", "em,eg,svi", "--set", "max_iter=50",
        "--set", "svi.max_epochs=30", "--set", "svi.warmup=10", "--no-gradients", "--out", "run",
    ),
    "zoo select": command(
        "select", "poisson_mixture", "--data", "SHARED/x.csv", "--grid", "num_components=1..3", "--out", "run"
    ),
    "zoo predict": command("predict", "SHARED/fit", "--data", "SHARED/x.csv", "--proba", "--out", "labels.csv"),
    "zoo sample": command("sample", "SHARED/fit", "-n", "3000", "--out", "drawn.npy"),
    "zoo evaluate": command("evaluate", "SHARED/fit", "--data", "SHARED/x.csv"),
    "zoo reproduce": command("reproduce", "hopfield", "--budget", "quick", "--out", "table.json"),
}  # fmt: skip
#: Kinds whose command is to find no result there when it is given again.
ANEW = {"zoo compare", "zoo select", "zoo predict", "zoo sample"}


def forked(run: Run, out: Path) -> int:
    """Begin a run in a process of its own; that process's id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(out / "said.txt", "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            run(out)
            code = 0
    except BaseException:
        (out / "failed.txt").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def ended(child: int, out: Path) -> None:
    _, status = os.waitpid(child, 0)
    failed = out / "failed.txt"
    assert status == 0, failed.read_text() if failed.exists() else (out / "said.txt").read_text()


def steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: steady(part) for name, part in value.items() if name not in VARYING}
    return [steady(part) for part in value] if isinstance(value, list) else value


def result(out: Path) -> dict[str, Any]:
    """All that a run wrote, but pictures, pages and what clocks say."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        assert not path.name.startswith("."), name
        assert path.name != "checkpoints", name
        if path.is_dir() or name == "said.txt" or path.suffix in (".png", ".html"):
            found[name] = None
        elif path.suffix == ".json":
            found[name] = steady(json.loads(path.read_text()))
        elif path.name == "selection.csv":
            found[name] = [line.count(",") for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


def whole_so_far(out: Path) -> None:
    """What stands there under its own name after a kill is whole; work under way has names that begin with a dot."""
    for path in out.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(out).parts)
        if path.suffix == ".json" and not hidden:
            text = path.read_text()
            json.loads(text.split("\n")[1] if path.name == "state.json" else text)
        if path.suffix == ".npy" and not hidden:
            np.load(path)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="runs are forks")
def test_killed_runs_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    """All kinds of runs, `ZOO_KILLS` kills in all: every one ends with the files of the run that nobody killed."""
    torch.set_num_threads(1)
    for name in ("matplotlib.figure", "pandas", "zoo.runs.compare", "zoo.runs.select", "zoo.reporting.report"):
        importlib.import_module(name)  # once, not in every child
    rng, model = random.Random(0), zoo.PoissonMixture(2, 2)
    rows = np.random.default_rng(0).poisson(4.0, (200, 2))
    np.savetxt(tmp_path / "x.csv", rows, fmt="%d", delimiter=",", header="a,b", comments="")
    zoo.fit(model, torch.as_tensor(rows).double(), estimator="em", out=tmp_path / "fit")
    (tmp_path / "fit/run.json").write_text(json.dumps({"command": "fit", "settings": {}}))
    expected: dict[str, Any] = {}
    lasts: dict[str, float] = {}
    for name, run in KINDS.items():
        out = tmp_path / f"whole-{name}"
        out.mkdir()
        began = time.monotonic()
        ended(forked(run, out), out)
        lasts[name] = time.monotonic() - began
        expected[name] = result(out)
    killed = {"at work": 0, "too late": 0}
    for number in range(10 * KILLS):
        if killed["at work"] == KILLS:
            break
        name = list(KINDS)[number % len(KINDS)]
        if name == "zoo reproduce" and number >= len(KINDS):
            continue  # it takes as long as many others
        out = tmp_path / f"killed-{number}"
        out.mkdir()
        for _ in range(1 + number % 2):  # every other run is killed twice
            child = forked(KINDS[name], out)
            time.sleep(rng.uniform(0, lasts[name]))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            late = not os.WIFSIGNALED(status)
            killed["too late" if late else "at work"] += 1
            whole_so_far(out)
            if late:
                assert status == 0 or name in ANEW, (out / "said.txt").read_text()
                break
        there = any((out / place).exists() for place in ("run/comparison.json", "run/selection.json", "labels.csv"))
        if not (name in ANEW and (there or (out / "drawn.npy").exists())):  # it was killed after all was written
            ended(forked(KINDS[name], out), out)
        assert result(out) == expected[name], f"{name}, kill {number}"
        shutil.rmtree(out)
    assert killed["at work"] >= KILLS
    print(
        f"{killed['at work']} kills at work of {len(KINDS)} kinds of runs: all resumed ({killed['too late']} too late)"
    )
