"""Runs of every kind, killed by kill -9 at random moments and begun or resumed again: the result is the same.

Slow; ``ZOO_KILLS`` says how many kills there are to be in all (100). Most runs are forks of this process, which has
made each of them once, so that no time goes into imports: what is killed is a real process at work. Those of several
processes, or with threads that a fork would lose, are commands of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("ZOO_KILLS", "100"))
#: What a clock or the memory says may differ.
VARYING = {"seconds", "cpu_seconds", "train_seconds", "resumed", "peak_memory_mb", "machine", "versions", "date"}
#: By this variable of its environment a process is known to belong to a run.
MARK = "ZOO_KILLED"
#: Seconds in which whatever belonged to a killed run has to be gone.
PATIENCE = 20.0


@dataclass
class Forked:
    """A run that is a fork of this process."""

    work: Callable[[Path], None]
    victims = ("run",)

    def begin(self, out: Path) -> int:
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
                self.work(out)
                code = 0
        except BaseException:
            (out / "failed.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def processes(self, child: int, out: Path) -> list[int]:
        return [child]


@dataclass
class Commanded:
    """A run by the command line in processes of its own.

    Attributes:
        words: what follows ``python -m``. victims: whom to kill: "run" is the process that was started, "worker" one of
            those that it started, "all" the run and all of them.
    """

    words: tuple[str, ...]
    victims: tuple[str, ...] = ("run",)

    def begin(self, out: Path) -> int:
        words = [word.replace("SHARED", str(out.parent)) for word in self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), MARK: out.name}
        child = os.fork()
        if not child:
            said = os.open(out / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.chdir(out)
            os.execve(sys.executable, [sys.executable, "-m", *words], environment)
        return child

    def processes(self, child: int, out: Path) -> list[int]:
        """The run's process and the workers that it started, those that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                dead = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                ours = f"{MARK}={out.name}".encode() in (path / "environ").read_bytes().split(b"\0")
                if ours and not dead and b"resource_tracker" not in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return sorted(found, key=lambda process: (process != child, process))


Kind = Forked | Commanded


def fit(model: str, **options: Any) -> Forked:
    """A fit of a model's own small data, with checkpoints after every few steps."""

    def work(out: Path) -> None:
        made, x = importlib.import_module(f"zoo.models.{model}").tiny()
        zoo.fit(made, x, out=out / "run", resume=True, checkpoint_every=8, **options)

    return Forked(work)


def command(*words: str) -> Forked:
    """A command that is given as it was; what it writes is in the folder of this run."""

    def work(out: Path) -> None:
        os.chdir(out)
        code = main([word.replace("SHARED", str(out.parent)) for word in words])
        if code:
            raise RuntimeError(f"exit {code}")

    return Forked(work)


def table(out: Path) -> None:
    """A table of many fits, with small ones and few images."""
    from zoo.reproduce import iwae

    small = dataclasses.replace(iwae.SETTINGS["quick"], epochs=30, scored=10, samples=30, few=5)
    images = [torch.rand(60, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with patch.dict(iwae.SETTINGS, quick=small), patch.object(iwae, "images", lambda: (images[0], images[1].round())):
        command("reproduce", "iwae", "--out", "table.json", "--resume").work(out)


EM = {"estimator": "em", "init": "current", "tol": 0}
#: A long climb with checkpoints, and a comparison: by one process, by several.
CLIMB = (
    "fit", "poisson_mixture", "--data", "SHARED/x.csv", "--estimator", "em", "--set", "tol=0", "--set",
    "max_iter=200", "--out", "run", "--checkpoint-every", "5", "--resume",
)  # fmt: skip
COMPARISON = (
    "compare", "poisson_mixture", "--data", "SHARED/x.csv", "--estimators", "em,eg,svi", "--set", "max_iter=50",
    "--set", "svi.max_epochs=30", "--set", "svi.warmup=10", "--no-gradients", "--out", "run",
    "--resume",
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "em": fit("gaussian_hmm", max_iter=150, **EM),
    "em by moments": fit("factor_analysis", max_iter=300, **EM),
    "em, starts at once": fit("gaussian_mixture", estimator="em", restarts=8, tol=0, max_iter=100),
    "em, starts tried": fit("bernoulli_mixture", estimator="em", tol=0, max_iter=200),
    "squarem": fit("poisson_mixture", accelerate="squarem", max_iter=200, **EM),
    "hard_em, starts": fit("gaussian_mixture_hmm", estimator="hard_em", restarts=6),
    "auto_em": fit("categorical_hmm", estimator="auto_em", tol=0, max_iter=100, init="current"),
    "online_em": fit("poisson_mixture", estimator="online_em", batch_size=4, tol=0, max_epochs=120),
    "eg": fit("gaussian_mixture", estimator="eg", optimizer="adam", max_epochs=300),
    "eg, quasi-Newton": fit("gaussian_mixture", estimator="eg", restarts=6),
    "svi": fit("vae", estimator="svi", max_epochs=200),
    "gumbel": fit("poisson_mixture", estimator="gumbel", batch_size=5, max_epochs=60, warmup=20),
    "iwae, held out": fit("vae", estimator="iwae", max_epochs=150, validation=0.3),
    "pcd": fit("restricted_boltzmann_machine", estimator="pcd", max_epochs=300),
    "advi": fit("gaussian_mixture", estimator="advi", max_epochs=60, num_samples=20),
    "zoo fit": command(*CLIMB),
    "zoo compare": command(*COMPARISON),
    "zoo select": command(
        "select", "poisson_mixture", "--data", "SHARED/x.csv", "--grid", "num_components=1..3", "--folds", "2",
        "--set", "max_iter=50", "--out", "run", "--resume",
    ),
    "zoo predict": command("predict", "SHARED/fit", "--data", "SHARED/many.csv", "--proba", "--out", "labels.csv"),
    "zoo sample": command("sample", "SHARED/fit", "-n", "200000", "--out", "drawn.npy"),
    "zoo evaluate": command("evaluate", "SHARED/fit", "--data", "SHARED/many.csv"),
    "zoo reproduce": Forked(table),
    "nuts": Commanded((
        "zoo", "fit", "gaussian_mixture", "--data", "SHARED/x.csv", "--estimator", "nuts", "--set", "num_warmup=30",
        "--set", "num_samples=120", "--set", "num_chains=1", "--set", "num_components=2", "--out", "run", "--resume",
        "--checkpoint-every", "1", "--no-report",
    )),
    "zoo fit --jobs": Commanded((
        "zoo", "fit", "poisson_mixture", "--data", "SHARED/x.csv", "--estimator", "eg", "--set", "optimizer=adam",
        "--set", "max_epochs=300", "--set", "restarts=4", "--jobs", "2", "--out", "run", "--resume",
        "--checkpoint-every", "20", "--no-report",
    ), ("run", "worker", "all")),
    "zoo compare --jobs": Commanded(("zoo", *COMPARISON, "--jobs", "2"), ("run", "worker")),
    "torchrun": Commanded(
        ("torch.distributed.run", "--nproc-per-node=2", "-m", "zoo", *CLIMB, "--no-report"), ("worker", "run", "all")
    ),
}  # fmt: skip
#: Kinds whose command is to find no result there when it is given again, and that result.
ANEW = {"zoo predict": "labels.csv", "zoo sample": "drawn.npy"}


def spent(processes: list[int]) -> float:
    """Seconds of processor time: what others do on this machine moves no kill."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~process << 3 | 2)
    return total


def watched(kind: Kind, out: Path, limit: float = float("inf"), victim: str = "run") -> tuple[int, float]:
    """Begin a run and wait for its end, or kill it when it has taken so many seconds of processor time.

    Returns:
        Its exit status as ``os.waitpid`` has it, and the seconds that it took, as far as seen.
    """
    child, took = kind.begin(out), 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status, took
        took = max(took, spent(kind.processes(child, out)))
        if took >= limit:
            break
        time.sleep(0.001 if isinstance(kind, Forked) else 0.03)
    run, *workers = kind.processes(child, out) or [child]
    chosen = {"run": [run], "worker": workers[-1:] or [run], "all": [run, *workers]}[victim]
    for process in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    waited = time.monotonic() + PATIENCE
    while isinstance(kind, Commanded) and (left := kind.processes(child, out)):
        if time.monotonic() > waited:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError(f"{len(left)} processes of a killed run ({victim}) are at work still")
        time.sleep(0.05)
    return status, took


def ended(kind: Kind, out: Path) -> float:
    """Run to the end; the seconds that it took."""
    status, took = watched(kind, out)
    failed = out / "failed.txt"
    assert status == 0, failed.read_text() if failed.exists() else (out / "said.txt").read_text()
    return took


def steady(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"[\d.]+ s\b", "some s", value)  # in a note
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


def made_once(kinds: dict[str, Kind], folder: Path) -> None:
    """Do in this process what forks of it will do: whatever is imported, or compiled, is so in all of them."""
    here = Path.cwd()
    for number, kind in enumerate(kinds.values()):
        if isinstance(kind, Forked):
            out = folder / f"once-{number}"
            out.mkdir()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                kind.work(out)
            os.chdir(here)
            shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="runs are forks, processes are found by /proc")
def test_killed_runs_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    """All kinds of runs, `ZOO_KILLS` kills in all: every one ends with the files of the run that nobody killed."""
    torch.set_num_threads(1)
    rng, model, kinds = random.Random(0), zoo.PoissonMixture(2, 2), KINDS
    if wanted := os.environ.get("ZOO_KILLS_OF"):
        kinds = {name: kind for name, kind in KINDS.items() if name in wanted.split(";")}
    for name, size in (("x", 200), ("many", 20000)):
        rows = np.random.default_rng(0).poisson(4.0, (size, 2))
        np.savetxt(tmp_path / f"{name}.csv", rows, fmt="%d", delimiter=",", header="a,b", comments="")
    zoo.fit(model, torch.as_tensor(rows).double(), estimator="em", out=tmp_path / "fit")
    (tmp_path / "fit/run.json").write_text(json.dumps({"command": "fit", "settings": {}}))
    made_once(kinds, tmp_path)
    expected: dict[str, Any] = {}
    lasts: dict[str, float] = {}
    for name, kind in kinds.items():
        out = tmp_path / f"whole-{name.replace(' ', '-')}"
        out.mkdir()
        lasts[name] = ended(kind, out)
        expected[name] = result(out)
    print("seconds:", "; ".join(f"{name} {took:.2f}" for name, took in lasts.items()))
    killed, late = Counter[str](), Counter[str]()
    quick = [each for each in kinds.items() if lasts[each[0]] < 3]  # twice as often
    turns = itertools.cycle([*kinds.items(), *quick])
    while killed.total() < KILLS:
        name, kind = next(turns)
        number = killed.total() + late.total()
        assert number < 10 * KILLS, "most runs end before they are killed"
        out = tmp_path / f"killed-{number}"
        out.mkdir()
        for _ in range(rng.choice((1, 2))):
            status, _ = watched(kind, out, rng.uniform(0, 0.97 * lasts[name]), rng.choice(kind.victims))
            (late if status == 0 else killed)[name] += 1
            whole_so_far(out)
            if status == 0:
                break
        if not (name in ANEW and (out / ANEW[name]).exists()):  # it was killed after all was written
            ended(kind, out)
        assert result(out) == expected[name], f"{name}, kill {number}"
        shutil.rmtree(out)
    told = "; ".join(f"{name} {killed[name]}" for name in kinds)
    print(f"{killed.total()} kills at work, all runs ended as ever ({late.total()} came too late): {told}")
