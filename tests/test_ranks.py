"""One fit in several processes, real ones under torchrun: it is that of one process, and ends as one."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.ranks import CASES
from zoo.estimators import estimator_classes

HERE = Path(__file__).resolve().parent

#: By estimator, how close two processes come to one, relative to the largest number.
CLOSE = {"em": 1e-10, "hard_em": 1e-10, "squarem": 1e-9, "auto_em": 1e-9, "online_em": 1e-10}
#: The same of those that take steps along gradients.
CLOSE |= dict.fromkeys(("svi", "adam", "eg", "iwae", "gumbel", "reinforce", "rws"), 1e-5)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}


def launched(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python's in two processes under torchrun."""
    whole = [*TORCHRUN, "--nproc-per-node=2", *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)


def compared(out: Path, names: list[str]) -> None:
    done = launched(str(HERE / "ranks.py"), str(out), *names)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["together"] == second["together"], "the ranks went apart"
    for name in names:
        close = CLOSE[name.split(", ")[1]]
        one, two = first["alone"][name], first["together"][name]
        assert (one["status"], len(one["objective"])) == (two["status"], len(two["objective"])), name
        assert math.isclose(one["score"], two["score"], rel_tol=close), (name, one["score"], two["score"])
        for what in ("objective", "parameters"):
            a, b = (torch.tensor(each[what], dtype=torch.float64) for each in (one, two))
            apart = float((a - b).abs().max() / a.abs().max())
            assert apart < close, (name, what, apart)


#: Those of the everyday run: statistics with lengths, a program of the user's, minibatches with noise.
EVERY_DAY = ("chain, em", "counts, auto_em", "mixture, svi", "pixels, svi")


def test_two_processes_are_one(tmp_path: Path) -> None:
    """The history, the score and all parameters of a fit."""
    compared(tmp_path, list(EVERY_DAY))


@pytest.mark.slow  # every estimator that divides its rows
def test_two_processes_are_one_by_every_estimator(tmp_path: Path) -> None:
    divided = {kind.name for kind in estimator_classes().values() if kind.spreads}
    assert divided <= {options["estimator"] for _, options in CASES.values()} | {"st_gumbel"}
    compared(tmp_path, [name for name in CASES if name not in EVERY_DAY])


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("zoo: ")]


FAILING = """
import os
import pyro
import pyro.distributions as dist
import torch

runs = 0


def program(x):
    global runs
    runs += 1
    if os.environ["RANK"] == "1" and len(x) < 20 and runs > {after}:
        raise ValueError("enough of this")
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[:, 0])
"""


def test_what_fails_in_one_process_is_one_line(tmp_path: Path) -> None:
    """A program that raises in the second process alone, after some steps: nobody waits for it."""
    (tmp_path / "mine.py").write_text(FAILING.format(after=40))
    (tmp_path / "x.csv").write_text("a\n" + "\n".join(str(0.1 * i) for i in range(20)))
    done = launched(
        "-m", "zoo", "fit", f"{tmp_path / 'mine.py'}:program", "--data", str(tmp_path / "x.csv"), "--estimator", "eg",
        "--set", "optimizer=adam",
    )  # fmt: skip
    assert done.returncode != 0
    assert [line for line in complaints(done) if "enough of this" in line] == complaints(done)
    assert len(complaints(done)) == 1, done.stderr
    assert re.search(r"exitcode *: 2 ", done.stderr), done.stderr
    assert not done.stdout


# --- what becomes of a run whose processes end, with the command line under torchrun: some seconds each, so slow ---


def begun(folder: Path, max_iter: int, *options: str) -> subprocess.Popen[str]:
    """A run of two processes that has written a checkpoint."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 6, generator=draw) + 2 * torch.randint(3, (20000, 1), generator=draw)
    np.save(folder / "x.npy", x.double().numpy())
    command = [*TORCHRUN, "--nproc-per-node=2", *options, *fit_command(folder, max_iter)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    waited = time.monotonic() + 120
    while not list((folder / "run" / "checkpoints").glob("0*")):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < waited, "no checkpoint"
        time.sleep(0.1)
    return run


def fit_command(folder: Path, max_iter: int, out: str = "run") -> list[str]:
    return [
        "-m", "zoo", "fit", "gaussian_mixture", "--data", str(folder / "x.npy"), "--estimator", "em",
        "--set", "num_components=6", "--set", "tol=0", "--set", f"max_iter={max_iter}", "--set", "restarts=1",
        "--out", str(folder / out), "--checkpoint-every", "20", "--no-report",
    ]  # fmt: skip


def workers(run: subprocess.Popen[str]) -> list[int]:
    """Its processes, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == run.pid:
                settings = (path / "environ").read_bytes().split(b"\0")
                rank = next((int(s.split(b"=")[1]) for s in settings if s.startswith(b"RANK=")), None)
                found.update({} if rank is None else {rank: int(path.name)})
        except (OSError, ValueError):
            continue
    assert sorted(found) == [0, 1], found
    return [found[rank] for rank in sorted(found)]


linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")


@linux
@pytest.mark.slow  # a worker or the launcher is killed: all end, and a run of one process goes on from the checkpoint
@pytest.mark.parametrize("whom", ["first", "second", "launcher"])
def test_a_killed_process_ends_all_and_the_run_can_go_on(tmp_path: Path, whom: str) -> None:
    run = begun(tmp_path, 1500)
    first, second = workers(run)
    os.kill({"launcher": run.pid, "first": first, "second": second}[whom], signal.SIGKILL)
    _out, err = run.communicate(timeout=60)  # until nobody can write there any more
    assert run.returncode != 0
    assert err.count("\nzoo: ") + err.startswith("zoo: ") <= 1
    assert not (tmp_path / "run" / "fit.json").exists()
    alone, resumed = (subprocess.run(
        [sys.executable, *fit_command(tmp_path, 200, name), *more], env=ENVIRONMENT, check=False, capture_output=True
    ) for name, more in (("alone", []), ("run", ["--resume"])))  # fmt: skip
    assert alone.returncode == 0
    assert resumed.returncode == 2
    assert b"max_iter 1500, not 200" in resumed.stderr


@linux
@pytest.mark.slow  # torchrun begins killed workers again, and these go on
def test_workers_that_are_begun_again_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    run = begun(tmp_path, 400, "--max-restarts=1")
    os.kill(workers(run)[1], signal.SIGKILL)
    _out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    done = subprocess.run([sys.executable, *fit_command(tmp_path, 400, "alone")], env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    together, alone = (zoo.load(tmp_path / name) for name in ("run", "alone"))
    assert together.iterations == alone.iterations == 400
    assert math.isclose(together.log_likelihood or 0, alone.log_likelihood or 1, rel_tol=1e-10)
    assert together.history["seconds"] == sorted(together.history["seconds"])


@linux
@pytest.mark.slow  # Ctrl-C to the launcher, or to one process alone: all end at one iteration, the first one writes
@pytest.mark.parametrize("whom", ["launcher", "first", "second"])
def test_ctrl_c_keeps_what_was_reached(tmp_path: Path, whom: str) -> None:
    run = begun(tmp_path, 5000)
    first, second = workers(run)
    os.kill({"launcher": run.pid, "first": first, "second": second}[whom], signal.SIGINT)
    _out, err = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "zoo: interrupted; what was reached is in" in err
    if whom != "launcher":
        assert re.search(r"exitcode *: 130 ", err), err
    stopped = zoo.load(tmp_path / "run")
    assert stopped.status == "interrupted"
    assert 20 <= stopped.iterations < 5000
