"""Work spread over processes: the same results in the same order, and nothing of a worker's that is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import Ran
from torch import Tensor

import zoo
from zoo.core.spread import spread
from zoo.errors import LeftOut
from zoo.reproduce import pcfg, reproduce
from zoo.reproduce._rows import Running, each_by_itself, running


@pytest.fixture(scope="module", autouse=True)
def one_pool() -> Iterator[None]:
    """Workers that start once for all tests here, and end with them."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=False, kill_workers=True)


def check_same(one: zoo.Fit, other: zoo.Fit) -> None:
    """Two fits that agree in every number and word but their times."""
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    for name in one.history:
        assert name == "seconds" or one.history[name] == other.history[name], name
    for name in ("status", "log_likelihood", "elbo", "notes", "restarts", "options", "data", "label", "seed"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.fixture(scope="module")
def points() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 2, generator=generator, dtype=torch.float64) + 3 * torch.eye(2)[torch.arange(60) % 2]


def coins(x: Tensor) -> None:
    """A program of the user's: two coins, thrown five times."""
    shares = pyro.param("shares", torch.tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
    probs = pyro.param("probs", lambda: torch.rand(2) / 2 + 0.2, constraint=dist.constraints.unit_interval)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(shares))
        pyro.sample("x", dist.Binomial(5, probs[z]), obs=x)


def test_restarts_in_two_processes_are_those_of_one(points: Tensor) -> None:
    for options in ({"estimator": "em", "max_iter": 30}, {"estimator": "gumbel", "max_epochs": 4, "warmup": 2}):
        model = zoo.GaussianMixture(3, 2)
        one, two = (zoo.fit(model, points, restarts=3, seed=5, init="random", jobs=n, **options) for n in (1, 2))
        check_same(one, two)
        assert two.x is not None
        assert sum(start["chosen"] for start in two.restarts) == 1
        assert len({start["seed"] for start in two.restarts}) == 3


def test_a_program_of_the_users_travels_and_what_it_prints_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    heads = dist.Binomial(5, torch.tensor([0.2, 0.8]).repeat(40)).sample()

    def here(x: Tensor) -> None:  # a closure, which no other process can import
        coins(x)

    one, two = (zoo.fit(here, heads, estimator="auto_em", restarts=2, max_iter=5, jobs=n) for n in (1, 2))
    check_same(one, two)
    assert capsys.readouterr().out == ""
    with spread(lambda i: print("heads", i), [3, 4], 2) as results:
        next(results)
        assert capsys.readouterr().out == "heads 3\n"
        next(results)
    assert capsys.readouterr().out == "heads 4\n"


def test_a_comparison_in_two_processes_is_that_of_one(points: Tensor) -> None:
    def compared(jobs: int) -> zoo.Comparison:
        model = zoo.GaussianMixture(2, 2)
        names = ["em", "gumbel:max_epochs=3:warmup=2", "hard_em"]
        weights = torch.arange(1, 61) / 10.0
        return zoo.compare(
            model, points, estimators=names, seeds=2, track=2, weights=weights, gradients=False, jobs=jobs
        )

    one, two = compared(1), compared(2)
    assert [(fit.label, fit.seed) for fit in one.fits] == [(fit.label, fit.seed) for fit in two.fits]
    for a, b in zip(one.fits, two.fits, strict=True):
        check_same(a, b)
        assert torch.equal(a.x, b.x)
    assert one.notes == two.notes
    assert not two.interrupted


def test_a_selection_in_two_processes_is_that_of_one(points: Tensor, tmp_path: Path) -> None:
    def selected(jobs: int) -> zoo.Selection:
        grid = {"num_components": [1, 2, 60, 61]}
        return zoo.select("gaussian_mixture", points, grid=grid, folds=2, seed=1, max_iter=10, jobs=jobs)

    one, two = selected(1), selected(2)
    for a, b in zip(one.candidates, two.candidates, strict=True):
        assert (a.reason, a.entropy, a.held_out) == (b.reason, b.entropy, b.held_out)
        assert (a.fit is None) == (b.fit is None)
        if a.fit is not None and b.fit is not None:
            check_same(a.fit, b.fit)
            assert torch.equal(a.fit.x, b.fit.x)
    assert one.to_dict() | {"rows": None} == two.to_dict() | {"rows": None}
    assert torch.equal(one.x, two.x)
    assert "fold 1 of 2" in one.candidates[2].held_out.reason
    assert one.candidates[3].fit is None


PROGRAM = """
import torch, pyro, pyro.distributions as dist, zoo
from zoo_jobs_neighbour import CHANCE

def model(x):
    rate = pyro.param("rate", lambda: torch.rand(2) * 10 + 1, constraint=dist.constraints.positive)
    if not rate.requires_grad and x.max() > 98:
        raise LookupError("a mistake of mine")
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([CHANCE, 1 - CHANCE])))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)
"""


def test_jobs_on_the_command_line(run: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "zoo_jobs_neighbour.py").write_text("CHANCE = 0.3")
    (tmp_path / "counts.csv").write_text("n\n" + "\n".join(map(str, [1, 2, 9, 10, 0, 3, 8, 12] * 4)))
    given = ["mine.py:model", "--data", "counts.csv", "--json", "--jobs"]
    rows = []
    for jobs in ("1", "2"):
        ran = run("fit", *given, jobs, "--set", "restarts=2", "--set", "max_iter=4")
        assert ran.code == 0, ran.err
        rows.append(json.loads(ran.out)["rows"][0])
    assert rows[0]["log_likelihood"] == rows[1]["log_likelihood"]
    ran = run("compare", *given, "2", "--estimators", "auto_em,eg", "--set", "max_iter=4", "--set", "eg.max_epochs=5")
    assert [row["estimator"] for row in json.loads(ran.out)["rows"]] == ["auto_em", "eg"]
    ran = run("select", "poisson_mixture", *given[1:], "2", "--grid", "num_components=1,2", "--set", "max_iter=4")
    assert len(json.loads(ran.out)["rows"]) == 2
    ran = run("select", "poisson_mixture", *given[1:], "0", "--grid", "num_components=1,2")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "jobs expected a whole number of at least 1, or -1 for all cores, got 0" in ran.err


def test_rows_by_themselves_say_what_they_said_and_count_their_time() -> None:
    def row(item: int, say: Callable[[str], None]) -> tuple[int, int]:
        say(f"row {item}")
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return item * item, os.getpid()

    for jobs in (1, 2):
        lines = list[str]()
        with running(Running(jobs)) as others:
            found = list(each_by_itself(row, [3, 4], lines.append))
        assert [(item, square) for item, (square, _) in found] == [(3, 9), (4, 16)]
        assert lines == ["row 3", "row 4"]
        assert (os.getpid() in {process for _, (_, process) in found}) == (jobs == 1)
        assert (others.cpu_seconds >= 0.1) == (jobs == 2)


@pytest.mark.slow  # the grammars of a published table; the everyday run has rows that do nothing
def test_rows_of_a_table_in_two_processes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = pcfg.Setting(nonterminals=2, preterminals=3, seeds=1, held_out=0.25, iterations=2, epochs=1)
    x: Any = zoo.load_data("known_grammar", symbols=True)
    monkeypatch.setitem(pcfg.SETTINGS, "quick", setting)
    monkeypatch.setattr(pcfg, "load_data", lambda name, symbols: {name: x[name][:40] for name in ("x", "lengths")})
    monkeypatch.setattr(pcfg, "load_trees", lambda name: zoo.load_trees("known_grammar")[:40])
    monkeypatch.setattr(pcfg, "_methods", some_methods(pcfg._methods))
    records, lines = [], dict[int, list[str]]()
    for jobs in (1, 2):
        told = lines.setdefault(jobs, [])
        records.append(reproduce("pcfg", seed=3, say=told.append, jobs=jobs).record)
    one, two = records
    plain = ("method", "seed", "f1", "nats", "held_out", "rounds")
    assert [[run[key] for key in plain] for run in one["runs"]] == [[run[key] for key in plain] for run in two["runs"]]
    assert one["rows"] == two["rows"]
    assert [line.split("(")[0] for line in lines[1]] == [line.split("(")[0] for line in lines[2]]
    assert two["cpu_seconds"] > sum(run["cpu_seconds"] for run in two["runs"])


def some_methods(methods: Any) -> Any:
    return lambda setting: dict(list(methods(setting).items())[:2])


@pytest.mark.slow  # a cluster; the everyday run has joblib's own workers
def test_a_comparison_on_a_dask_cluster_is_that_of_one_process(points: Tensor) -> None:
    distributed = pytest.importorskip("distributed")
    import joblib

    def compared(jobs: int) -> zoo.Comparison:
        return zoo.compare(zoo.GaussianMixture(2, 2), points, estimators=["em", "hard_em"], seeds=2, jobs=jobs)

    one = compared(1)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        two = compared(-1)
    for a, b in zip(one.fits, two.fits, strict=True):
        check_same(a, b)


class Odd(Exception):
    """What cannot be made again of its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def work(what: Any) -> Any:
    """Whatever a test asks of a worker."""
    if what == "where":
        return os.getpid(), torch.get_num_threads(), torch.get_default_dtype()
    if what == "warn":
        for _ in range(3):
            warnings.warn("careful", LeftOut, stacklevel=1)
    if what == "refuse":
        raise zoo.ZooError("rows expected, got none. Pass some.")
    if what == "odd":
        raise Odd(1, 2)
    if what == "fall":
        raise zoo.LikelihoodDecreased(3, 0.5, fit="reached", rounding=0.1)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(what, tuple):
        path, seconds = what
        Path(path).write_text("begun")
        time.sleep(seconds)
    return what


def test_workers_share_the_threads_and_have_the_defaults_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.core.spread.available_threads", lambda: 5)
    torch.set_default_dtype(torch.float64)
    with spread(work, ["where"] * 4, 2) as results:
        found = list(results)
    torch.set_default_dtype(torch.float32)
    assert os.getpid() not in {process for process, *_ in found}
    assert {tuple(rest) for _, *rest in found} == {(2, torch.float64)}


def test_large_data_arrive_as_they_are() -> None:
    large = torch.arange(40_000, dtype=torch.float64).reshape(200, 200)
    turned, small = large.T, large[:3].clone()

    def sent(place: int) -> tuple[Any, ...]:
        return place, large.double().sum(), turned.stride(), small, large

    with spread(sent, range(3), 2) as results:
        for place, (first, total, stride, few, whole) in enumerate(results):
            assert (first, float(total), stride) == (place, float(large.sum()), (1, 200))
            assert torch.equal(few, small)
            assert torch.equal(whole, large)


def test_warnings_and_errors_of_a_worker_come_out_here() -> None:
    with pytest.warns(LeftOut, match="careful") as caught, spread(work, ["warn", "warn", 5], 2) as results:
        assert list(results) == ["warn", "warn", 5]
    assert len(caught) == 2
    assert caught[0].filename == __file__
    for what, kind, text in (
        ("refuse", zoo.ZooError, "rows expected, got none. Pass some."),
        ("odd", RuntimeError, "Odd: 1 and 2"),
        ("fall", zoo.LikelihoodDecreased, "fell by 0.5 nats at iteration 3"),
    ):
        with spread(work, [1, what], 2) as results:
            assert next(results) == 1
            with pytest.raises(kind, match=text) as raised:
                next(results)
        assert type(raised.value) is kind
        assert "in work" in str(raised.value.__cause__)
        if isinstance(raised.value, zoo.LikelihoodDecreased):
            assert (raised.value.fit, raised.value.iteration, raised.value.rounding) == ("reached", 3, 0.1)


def test_what_cannot_be_sent_is_one_line() -> None:
    lock = threading.Lock()
    with (
        pytest.raises(zoo.ZooError, match=r"^jobs expected what can be sent.*lock.*Leave out jobs\.$"),
        spread(lambda i: lock, [1, 2], 2) as results,
    ):
        next(results)
    with (
        pytest.raises(zoo.ZooError, match=r"^jobs: a result cannot be sent.*lock.*Leave out jobs\.$"),
        spread(lambda i: threading.Lock(), [1, 2], 2) as results,
    ):
        next(results)


def test_threads_are_no_processes() -> None:
    import joblib

    with joblib.parallel_config(backend="threading"), spread(work, ["where"] * 2, 2) as results:
        assert [process for process, *_ in results] == [os.getpid()] * 2


@pytest.mark.parametrize("jobs", [0, -2, 1.5, True, "2", None])
def test_nonsense_for_jobs_is_refused(points: Tensor, jobs: Any) -> None:
    for run, options in ((zoo.fit, {}), (zoo.compare, {}), (zoo.select, {"grid": {"num_components": [2]}})):
        with pytest.raises(zoo.ZooError, match=r"jobs expected a whole number of at least 1, or -1 for all cores, got"):
            run("gaussian_mixture", points, jobs=jobs, **options)


def test_one_job_needs_no_joblib_and_functions_of_progress_need_one_job(
    points: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, told = zoo.GaussianMixture(2, 2), list[Any]()
    with pytest.raises(zoo.ZooError, match="progress expected True, False or None with jobs"):
        zoo.fit(model, points, restarts=2, jobs=2, progress=lambda row, fraction: told.append(row))
    with pytest.raises(zoo.ZooError, match="progress expected True, False or None with jobs"):
        zoo.compare(model, points, jobs=2, progress=lambda label, seed: False)
    monkeypatch.setitem(sys.modules, "joblib", None)
    zoo.fit(model, points, restarts=2, init="random", max_iter=2, progress=lambda row, fraction: told.append(row))
    assert len(told) == 4


def test_the_bar_counts_starts(points: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    counted = list[float]()

    @contextmanager
    def bar(title: str, progress: Any) -> Iterator[Any]:
        assert (title, progress) == ("starts", True)
        yield counted.append

    monkeypatch.setattr("zoo.runs.fit.fraction_shown", bar)
    zoo.fit(zoo.GaussianMixture(2, 2), points, estimator="hard_em", restarts=4, max_iter=2, jobs=2, progress=True)
    assert counted == [0.25, 0.5, 0.75, 1.0]


def test_starts_side_by_side_are_resumed_from_checkpoints_of_their_own(
    points: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"estimator": "gumbel", "restarts": 2, "max_epochs": 9, "warmup": 2, "seed": 2}
    model = zoo.GaussianMixture(2, 2)
    whole = zoo.fit(model, points, **options)

    class Stop(Exception):
        pass

    def stopping(row: Any, fraction: float | None) -> None:
        if fraction is not None and fraction > 0.5:
            raise Stop

    from zoo.runs.restarts import Restarts

    plain = Restarts.__call__

    def stopped(self: Restarts, restart: int) -> Any:
        self.progress, self.side_by_side = stopping, True
        return plain(self, restart)

    for _ in range(2):  # both starts are cut short, as if killed
        with monkeypatch.context() as patch:
            patch.setattr(Restarts, "__call__", stopped)
            with pytest.raises(Stop):
                zoo.fit(model, points, out=tmp_path / "run", checkpoint_every=1, resume=True, **options)
            patch.setattr("zoo.runs.fit.range", lambda n: [1, 0], raising=False)
            with pytest.raises(Stop):
                zoo.fit(model, points, out=tmp_path / "run", checkpoint_every=1, resume=True, **options)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / "apart").iterdir())
    assert kept == ["0", "1"]
    seen: list[int] = []
    monkeypatch.setattr("zoo.runs.restarts.run_one", _watched(seen))
    again = zoo.fit(model, points, out=tmp_path / "run", resume=True, **options)
    assert seen == [1, 1]
    check_same(whole, again)
    assert not (tmp_path / "run" / "checkpoints").exists()


def _watched(seen: list[int]) -> Any:
    from zoo.runs.one_start import run_one

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[-1] is not None)
        return run_one(*arguments)

    return watched


def test_ctrl_c_before_anything_is_finished_is_one_line(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "compare", stopped)
    ran = run("compare", "gaussian_mixture", "--data", "iris", "--jobs", "2")
    assert (ran.code, ran.out, ran.err) == (130, "", "zoo: interrupted before there was anything to save.\n")


def begun_and_next(thread: threading.Thread, results: Iterator[Any]) -> None:
    thread.start()
    next(results)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell began the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_keeps_what_is_finished(points: Tensor, tmp_path: Path) -> None:
    began = time.monotonic()

    def press() -> None:
        while not (tmp_path / "second").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    with spread(work, [1, (tmp_path / "second", 60), 3], 2) as results:
        assert next(results) == 1
        with pytest.raises(KeyboardInterrupt):
            begun_and_next(presser, results)
    presser.join()
    assert time.monotonic() - began < 50


def test_a_fit_that_is_interrupted_between_starts_keeps_them(points: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def cut(call: Any, items: Any, jobs: int) -> Iterator[Any]:
        def results() -> Iterator[Any]:
            yield call(items[0])
            raise KeyboardInterrupt

        yield results()

    monkeypatch.setattr("zoo.runs.fit.spread", cut)
    monkeypatch.setattr("zoo.runs.compare.spread", cut)
    fitted = zoo.fit(zoo.GaussianMixture(2, 2), points, restarts=3, max_iter=2, jobs=2)
    assert (fitted.status, len(fitted.restarts)) == ("interrupted", 1)
    compared = zoo.compare(zoo.GaussianMixture(2, 2), points, estimators=["em", "hard_em"], max_iter=2, jobs=2)
    assert (compared.interrupted, len(compared.fits)) == (True, 1)


def test_a_worker_that_is_killed_is_one_line() -> None:
    with spread(work, [1, "die", 3], 2) as results, pytest.raises(zoo.ZooError) as raised:
        list(results)
    assert str(raised.value) == (
        "jobs=2: a worker process ended before its work was done (TerminatedWorkerError). Where memory ran out, take "
        "fewer jobs."
    )
