"""The command line: what it prints where, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Ran

import zoo

ROOT = Path(__file__).parents[1]
SMALL = ["--set", "max_epochs=5", "--set", "warmup=2"]
OWN = """
import pyro, torch
import pyro.distributions as dist
from torch.distributions import constraints

print("a program may print")

def mixture(x):
    weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
    centres = pyro.param("centres", torch.tensor([-1.0, 1.0]))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(centres[z], 1.0), obs=x[:, 0])

def mixture_guide(x):
    logits = pyro.param("logits", torch.zeros(x.shape[0], 2))
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Categorical(logits=logits))
"""
OWN_CLASS = """
from zoo.models.poisson_mixture import PoissonMixture

class Counts(PoissonMixture):
    '''A model of one's own.'''
"""


@pytest.fixture
def two_groups(tmp_path: Path) -> Path:
    """A CSV file of 60 rows, two groups on a line, and their labels."""
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(-3, 1, 30), generator.normal(3, 1, 30)])
    lines = [f"{value},{'ab'[i // 30]}" for i, value in enumerate(values)]
    path = tmp_path / "two.csv"
    path.write_text("value,group\n" + "\n".join(lines) + "\n")
    return path


def strict(text: str) -> Any:
    """One JSON object without NaN or infinities, and nothing else."""

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# --- what works -------------------------------------------------------------------------------------------------------


def test_fit_of_iris_from_the_defaults(run: Callable[..., Ran]) -> None:
    """The global optimum of three full components; the sizes that were chosen for the user are said on stderr."""
    ran = run("fit", "gaussian_mixture", "--labels", "true", "--out", "a")
    assert ran.code == 0
    assert "-180.185" in ran.out
    assert "adjusted Rand index 0.90" in ran.out
    assert "num_components=3" in ran.err
    assert "data iris" in ran.err
    assert zoo.load("a").log_likelihood == pytest.approx(-180.1855, abs=1e-3)
    record = strict(Path("a/run.json").read_text())
    assert record["data"] == "iris"
    assert record["versions"]["torch"]


def test_fit_json_is_one_object(run: Callable[..., Ran]) -> None:
    ran = run("fit", "poisson_mixture", "--data", "earthquakes", "--set", "num_components=2", "--json")
    found = strict(ran.out)
    assert {"model", "data", "num_data", "rows"} <= found.keys()
    assert (found["model"], found["data"], found["num_data"]) == ("poisson_mixture", "earthquakes", 107)
    (row,) = found["rows"]
    assert row["evidence_gap"] == 0
    assert row["status"] == "converged"
    assert ran.code == 0


def test_compare_own_csv_saves_a_report_and_evaluates(run: Callable[..., Ran], two_groups: Path) -> None:
    arguments = ["--data", str(two_groups), "--labels", "group", "--set", "num_components=2", *SMALL]
    ran = run(
        "compare", "gaussian_mixture", *arguments, "--estimators", "em,svi", "--seeds", "2", "--json", "--out", "c",
        "--set", "svi.max_epochs=7",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = strict(ran.out)["rows"]
    assert [(row["estimator"], row["seed"]) for row in rows] == [("em", 0), ("em", 1), ("svi", 0), ("svi", 1)]
    assert rows[0]["adjusted_rand_index"] > 0.9
    assert rows[2]["iterations"] == 7
    assert rows[2]["evidence_gap"] > 0
    assert Path("c/report.html").stat().st_size > 10_000
    fit = run("evaluate", "c/fits/em-1", "--json")
    assert fit.code == 0, fit.err
    found = strict(fit.out)
    assert found["num_data"] == 60
    assert found["log_likelihood"] == pytest.approx(rows[1]["log_likelihood"], abs=1e-6)
    whole = run("evaluate", "c")
    assert whole.code == 2
    assert "em-0" in whole.err


def test_own_program_from_a_file(run: Callable[..., Ran], two_groups: Path) -> None:
    """A function with a guide, end to end; what its file prints stays off stdout."""
    Path("own.py").write_text(OWN)
    arguments = ["own.py:mixture", "--guide", "own.py:mixture_guide", "--data", "two.csv", "--columns", "value"]
    ran = run("fit", *arguments, "--estimator", "svi", *SMALL, "--json", "--no-report", "--out", "f")
    assert ran.code == 0, ran.err
    assert strict(ran.out)["model"] == "mixture"
    assert "a program may print" in ran.err
    lost = run("evaluate", "f", "--data", "two.csv", "--columns", "value")
    assert lost.code == 2
    assert "model" in lost.err
    ran = run("evaluate", "f", "--model", "own.py", "--guide", "own.py", "--samples", "30", "--json")
    assert ran.code == 0, ran.err
    found = strict(ran.out)
    assert found["log_likelihood"] > found["elbo"]


def test_own_class_is_the_one_model_of_its_file(run: Callable[..., Ran]) -> None:
    Path("counts.py").write_text(OWN_CLASS)
    ran = run("fit", "counts.py", "--data", "earthquakes", "--set", "num_components=2", "--json")
    assert ran.code == 0, ran.err
    assert strict(ran.out)["rows"][0]["log_likelihood"] == pytest.approx(-360.369, abs=1e-3)


def test_one_column_is_a_vector_to_a_program_and_em_is_explained(run: Callable[..., Ran]) -> None:
    """The program of the README, on counts of one column: explained, and compared with a guide made for it."""
    Path("mine.py").write_text(
        "import pyro, torch\nimport pyro.distributions as dist\nfrom torch.distributions import constraints\n"
        "def model(x):\n"
        "    rate = pyro.param('rate', torch.tensor([1.0, 20.0]), constraint=constraints.positive)\n"
        "    with pyro.plate('data', len(x)):\n"
        "        z = pyro.sample('z', dist.Categorical(torch.ones(2) / 2))\n"
        "        pyro.sample('x', dist.Poisson(rate[z]), obs=x)\n"
    )
    Path("counts.csv").write_text("n\n1\n2\n0\n18\n22\n3\n")
    shown = run("explain", "mine.py:model", "--data", "counts.csv")
    assert (shown.code, "closed form: expected events over exposure" in shown.out) == (0, True)
    found = strict(run("explain", "mine.py:model", "--data", "counts.csv", "--json").out)
    assert [u["parameter"] for u in found["updates"]] == ["rate"]
    names = "auto_em,eg,svi"
    ran = run(
        "compare",
        "mine.py:model",
        "--data",
        "counts.csv",
        "--estimators",
        names,
        "--set",
        "max_epochs=300",
        "--json",
        "--no-gradients",
    )
    rows = strict(ran.out)["rows"]
    assert [row["estimator"] for row in rows] == names.split(",")
    values = [row["log_likelihood"] for row in rows]
    assert values[1] == pytest.approx(values[0], abs=1e-3)
    assert values[0] - 1 < values[2] <= values[0] + 1e-6


def test_samples_as_table_array_and_picture(run: Callable[..., Ran]) -> None:
    run("fit", "poisson_mixture", "--no-report", "--out", "f")
    for name in ("s.csv", "s.npy", "s.png"):
        assert run("sample", "f", "-n", "5", "--out", name).code == 0
    assert Path("s.png").read_bytes().startswith(b"\x89PNG")
    array = np.load("s.npy")
    assert array.shape == (5, 1)
    assert np.array_equal(np.loadtxt("s.csv", skiprows=1), array[:, 0])
    again = run("sample", "f", "--out", "s.csv")
    assert (again.code, len(again.err.splitlines())) == (2, 1)


def test_lists(run: Callable[..., Ran]) -> None:
    models = strict(run("models", "--json").out)["models"]
    assert {row["model"] for row in models} == set(zoo.model_classes())
    gaussian = next(row for row in models if row["model"] == "gaussian_mixture")
    assert {"em", "eg", "svi", "gumbel"} <= set(gaussian["estimators"])
    listed = run("models").out
    assert all(f" {name} " in listed for name in zoo.model_classes())
    assert "Mixture of K Gaussians over D features." in listed
    assert len(listed.splitlines()) <= 2 * len(models) + 8, "to be read at a glance"
    assert "earthquakes" in run("data").out
    page = run("models", "gaussian_mixture").out
    assert '"full", "tied", "diag" or "spherical"' in page, "what an argument may be stands on the page"
    assert "stop when an iteration gains less than this" in page
    assert "max_seconds" in page
    assert "covariance_type" in page
    assert "learning_rate" in page
    assert run("--version").out == f"zoo {zoo.__version__}\n"


def test_compare_takes_an_estimator_twice(run: Callable[..., Ran]) -> None:
    labels = ["gumbel:temperature=0.5", "gumbel:temperature=1"]
    ran = run(
        "compare", "gaussian_mixture", "--data", "iris", "--estimators", ",".join(labels), "--set", "max_epochs=3",
        "--set", "gumbel.warmup=0", "--no-gradients", "--json", "--out", "c",
    )  # fmt: skip
    rows = json.loads(ran.out)["rows"]
    assert [row["estimator"] for row in rows] == labels
    fits = {path.name: json.loads((path / "fit.json").read_text()) for path in Path("c/fits").iterdir()}
    assert sorted(fits) == ["gumbel_temperature=0.5-0", "gumbel_temperature=1-0"]
    assert [fits[name]["options"]["temperature"] for name in sorted(fits)] == [0.5, 1]
    assert {record["options"]["warmup"] for record in fits.values()} == {0}


@pytest.mark.parametrize("command", ["models", "data", "fit", "compare", "select", "evaluate", "sample", "bench"])
def test_help_has_an_example(run: Callable[..., Ran], command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"Example: zoo {command}" in " ".join(ran.out.split())


def test_help_needs_no_torch() -> None:
    """The commands import what they need themselves. The package is bare here: only cli.py is on trial."""
    script = (
        "import sys, types\n"
        f"bare = types.ModuleType('zoo'); bare.__path__ = [{str(ROOT / 'zoo')!r}]; sys.modules['zoo'] = bare\n"
        "from zoo.cli import main\n"
        "assert main(['fit', '--help']) == 0\n"
        "print([name for name in ('torch', 'pyro', 'numpy', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_nothing_is_printed_as_nan() -> None:
    from zoo.cli.output import dumps

    assert strict(dumps({"a": [float("nan"), float("inf"), 1.5], "b": None})) == {"a": [None, None, 1.5], "b": None}


# --- mistakes ---------------------------------------------------------------------------------------------------------


def _files() -> None:
    """Files that cannot be fitted, in the present folder."""
    rows = [f"{i % 7}.5,{i % 5}.25" for i in range(20)]
    Path("good.csv").write_text("a,b\n" + "\n".join(rows) + "\n")
    Path("inf.csv").write_text("a,b\n" + "\n".join([*rows[:4], "inf,2", *rows[4:]]) + "\n")
    Path("nan.csv").write_text("a,b\n" + "\n".join([*rows[:3], "nan,2", *rows[3:]]) + "\n")
    Path("words.csv").write_text("a,b\n" + "\n".join([*rows[:3], "1,red", *rows[3:]]) + "\n")
    Path("same.csv").write_text("a,b\n" + "1,2\n" * 20)
    Path("empty.csv").write_text("")
    Path("ragged.csv").write_text("a,b\n1,2\n3,4,5\n")
    with open("pickled.npy", "wb") as stream:
        pickle.dump({"a": 1}, stream)
    np.save("objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    Path("syntax.py").write_text("def model(x:\n")
    Path("raises.py").write_text("x = 1\nraise RuntimeError('two\\nlines')\n")
    Path("own.py").write_text(OWN)
    Path("late.py").write_text("def model(x):\n    return x.no_such_thing\n")
    Path("divides.py").write_text("def model(x):\n    return 1 / 0\n")
    Path("nothing.py").write_text("x = 1\n")
    Path("full").mkdir()
    Path("full/fit.json").write_text("{}")


GAUSSIAN = ("fit", "gaussian_mixture", "--data", "good.csv")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "infinite entries": (("fit", "gaussian_mixture", "--data", "inf.csv"), "infinite"),
    "NaN": (("fit", "gaussian_mixture", "--data", "nan.csv"), "row"),
    "column": ((*GAUSSIAN, "--columns", "a,c"), "'c'"),
    "number of columns": ((*GAUSSIAN, "--set", "num_features=5"), "(N, 5)"),
    "words": (("fit", "gaussian_mixture", "--data", "words.csv"), "red"),
    "more components than points": ((*GAUSSIAN, "--set", "num_components=50"), "50"),
    "duplicates only": (("fit", "gaussian_mixture", "--data", "same.csv"), "distinct"),
    "empty file": (("fit", "gaussian_mixture", "--data", "empty.csv"), "empty"),
    "ragged file": (("fit", "gaussian_mixture", "--data", "ragged.csv"), "ragged.csv"),
    "missing file": (("fit", "gaussian_mixture", "--data", "god.csv"), "good.csv"),
    "pickle": (("fit", "gaussian_mixture", "--data", "pickled.npy"), "pickled.npy"),
    "array of objects": (("fit", "gaussian_mixture", "--data", "objects.npy"), "objects.npy"),
    "model": (("fit", "gausian_mixture"), "'gaussian_mixture'"),
    "estimator": ((*GAUSSIAN, "--estimator", "emm"), "'em'"),
    "estimator in compare": (("compare", "gaussian_mixture", "--estimators", "em,sv"), "'svi'"),
    "the same estimator twice": (("compare", "gaussian_mixture", "--estimators", "em,em"), "'em' again"),
    "option after a colon": (("compare", "gaussian_mixture", "--estimators", "em:tools=1"), "'tools'"),
    "colon in fit": ((*GAUSSIAN, "--estimator", "em:tol=1"), "'em:tol=1'"),
    "data set": (("fit", "gaussian_mixture", "--data", "irs"), "'iris'"),
    "option": ((*GAUSSIAN, "--estimater", "em"), "--estimator"),
    "command": (("fitt",), "'fit'"),
    "no model": (("fit",), "MODEL"),
    "no folder": (("evaluate", "nowhere"), "fit.json"),
    "--set key": ((*GAUSSIAN, "--set", "num_component=3"), "'num_components'"),
    "--set without value": ((*GAUSSIAN, "--set", "tol"), "NAME=VALUE"),
    "--set of another estimator": (("compare", "gaussian_mixture", "--set", "svi.tool=3"), "'tol'"),
    "option of no use to the estimator": ((*GAUSSIAN, "--estimator", "em", "--set", "warmup=3"), "warmup"),
    "option's type": ((*GAUSSIAN, "--set", "tol=often"), "tol expected a number"),
    "option's size": ((*GAUSSIAN, "--set", "max_iter=-1"), "max_iter"),
    "infinite option": ((*GAUSSIAN, "--set", "max_iter=1e999"), "finite"),
    "NaN option": ((*GAUSSIAN, "--set", "tol=NaN"), "tol"),
    "model option's type": ((*GAUSSIAN, "--set", "num_components=three"), "num_components"),
    "model option's shape": ((*GAUSSIAN, "--set", "hidden_dims=wide"), "hidden_dims"),
    "covariance type": ((*GAUSSIAN, "--set", "covariance_type=ful"), "'full'"),
    "start": ((*GAUSSIAN, "--set", "init=kmean++"), "'kmeans++'"),
    "restarts": ((*GAUSSIAN, "--set", "restarts=0"), "restarts"),
    "seconds": ((*GAUSSIAN, "--set", "max_seconds=soon"), "max_seconds"),
    "device": ((*GAUSSIAN, "--set", "device=abacus"), "abacus"),
    "estimator cannot serve": (("fit", "ppca", "--data", "wine", "--estimator", "gumbel"), "svi"),
    "estimator cannot serve a program": (
        ("fit", "own.py:mixture", "--data", "good.csv", "--estimator", "em"),
        "auto_em",
    ),
    "used folder": ((*GAUSSIAN, "--out", "full"), "full"),
    "file for a folder": ((*GAUSSIAN, "--out", "good.csv"), "good.csv"),
    "used folder of compare": (("compare", "gaussian_mixture", "--out", "full"), "full"),
    "missing program": (("fit", "onw.py:mixture", "--data", "good.csv"), "own.py"),
    "syntax error": (("fit", "syntax.py", "--data", "good.csv"), "line 1"),
    "no such name": (("fit", "own.py:mixtur", "--data", "good.csv"), "'mixture'"),
    "program without a model": (("fit", "nothing.py", "--data", "good.csv"), "none"),
    "program that raises": (("fit", "raises.py", "--data", "good.csv"), "line 2"),
    "program that fails later": (("fit", "late.py", "--data", "good.csv"), "no_such_thing"),
    "program that divides by zero": (("fit", "divides.py", "--data", "good.csv"), "divides.py, line 2"),
    "program without data": (("fit", "own.py"), "--data"),
    "negative seed": ((*GAUSSIAN, "--seed", "-1"), "-1"),
    "seed of words": ((*GAUSSIAN, "--seed", "first"), "--seed expected a whole number, got 'first'"),
    "share of words": ((*GAUSSIAN, "--hold-out=some"), "--hold-out expected a number, got 'some'"),
    "option of an estimator that was not chosen": ((*GAUSSIAN, "--set", "svi.tol=1"), "Pass --estimator svi"),
    "number in explain": (("explain", *GAUSSIAN[1:], "--set", "max_iter=few"), "max_iter expected a number"),
    "word in explain": (("explain", *GAUSSIAN[1:], "--set", "accelerate=squarm"), "'squarem'"),
    "start in explain": (("explain", *GAUSSIAN[1:], "--set", "init=kmean"), "'kmeans++'"),
    "word of a grid": (("select", *GAUSSIAN[1:], "--grid", "covariance_type=full,typo"), "'typo' is not known"),
    "start in compare": (("compare", "gaussian_mixture", "--estimators", "em", "--set", "init=kmean"), "'kmeans++'"),
    "a column twice": ((*GAUSSIAN, "--columns", "0,0"), "--columns expected each column once"),
    "huge seed": ((*GAUSSIAN, "--seed", "99999999999999999999999"), "--seed"),
    "zero seeds": (("compare", "gaussian_mixture", "--seeds", "0"), "--seeds"),
    "negative seeds": (("compare", "gaussian_mixture", "--seeds", "-3"), "--seeds"),
    "no estimators": (("compare", "gaussian_mixture", "--estimators", ","), "--estimators"),
    "kind of picture": (("sample", "full", "--out", "a.gif"), "a.gif"),
    "damaged fit": (("sample", "full", "--out", "a.png"), "full"),
    "benchmark": (("bench", "gaussian_mixtur"), "'gaussian_mixture'"),
    "--set twice": ((*GAUSSIAN, "--set", "num_components=2", "--set", "num_components=3"), "num_components"),
    "an option twice": ((*GAUSSIAN, "--data", "iris"), "--data"),
    "estimator in capitals": ((*GAUSSIAN, "--estimator", "EM"), "'em'"),
    "another package's word": ((*GAUSSIAN, "--set", "n_init=3"), "'restarts'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Callable[..., Ran], mistake: str) -> None:
    _files()
    arguments, said = MISTAKES[mistake]
    takes_out = arguments[0] in ("fit", "compare") and len(arguments) > 1 and "--out" not in arguments
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if "__pycache__" not in path.parts}
    ran = run(*arguments, *(["--out", "new/run"] if takes_out else []))
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if "__pycache__" not in path.parts}
    assert ran.code == 2, (ran.out, ran.err)
    lines = [line for line in ran.err.splitlines() if line != "a program may print"]
    assert len(lines) == 1, ran.err
    assert said in lines[0]
    assert "Traceback" not in ran.err
    assert ran.out in ("", "a program may print\n")
    assert after == before


def test_a_fit_that_diverged_exits_with_three(run: Callable[..., Ran]) -> None:
    wild = ["--set", "learning_rate=1e5", "--set", "max_epochs=50"]
    ran = run("fit", "gaussian_mixture", "--data", "iris", "--estimator", "eg", *wild, "--no-report", "--out", "f")
    assert ran.code == 3
    assert "diverged at step" in ran.err.splitlines()[-1]
    assert strict(Path("f/fit.json").read_text())["status"] == "diverged"
    common = ["compare", "gaussian_mixture", "--data", "iris", "--no-gradients", *wild, "--estimators"]
    assert run(*common, "eg").code == 3
    assert run(*common, "em,eg").code == 0, "one of them can be used"


def test_a_wrong_m_step_exits_with_three(run: Callable[..., Ran]) -> None:
    Path("wrong.py").write_text(
        "import zoo\n\nclass Wrong(zoo.PoissonMixture):\n"
        "    def __init__(self, num_components: int, num_features: int):\n"
        "        super().__init__(num_components, num_features)\n"
        "    def m_step(self, statistics):\n        notes = super().m_step(statistics)\n"
        "        self.rates = self.rates.detach() * 1.5\n        return notes\n"
    )
    ran = run("fit", "wrong.py", "--data", "earthquakes", "--no-report", "--out", "f")
    assert ran.code == 3, ran.err
    assert "fell" in ran.err.splitlines()[-1]
    assert Path("f/fit.json").is_file()


def test_help_without_arguments_and_by_its_short_name(run: Callable[..., Ran]) -> None:
    assert run().code == run("-h").code == run("fit", "-h").code == 0
    assert run().out == run("--help").out


def test_data_are_asked_for_where_a_fit_does_not_know_them(run: Callable[..., Ran]) -> None:
    x = zoo.load_data("iris")
    zoo.fit(zoo.GaussianMixture(2, 4), x + 1, max_iter=3).save("unknown")
    ran = run("evaluate", "unknown")
    assert (ran.code, "--data" in ran.err) == (2, True)
    zoo.fit(zoo.GaussianMixture(2, 4), x, max_iter=3, data_name="iris").save("known")
    assert "on iris" in run("evaluate", "known").out
    zoo.fit(zoo.GaussianMixture(2, 4), x + 1, max_iter=3, data_name="iris").save("other")
    assert run("evaluate", "other").code == 2
    Path("known/run.json").write_text("{")
    assert "on iris" in run("evaluate", "known").out, "the record beside it is damaged"


def test_rows_of_missing_values_are_named(run: Callable[..., Ran]) -> None:
    _files()
    assert "row 4 (line 5)" in run("fit", "gaussian_mixture", "--data", "nan.csv").err


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_used_folder_is_refused_before_any_work(
    run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    _files()

    def worked(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(zoo, command, worked)
    ran = run(command, "gaussian_mixture", "--out", "full")
    assert ran.code == 2
    assert "full" in ran.err


def test_our_own_failure_says_how_to_see_more(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a\nbug")

    monkeypatch.setattr(zoo, "fit", broken)
    ran = run("fit", "gaussian_mixture")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "RuntimeError" in ran.err
    assert "ZOO_DEBUG" in ran.err
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a\nbug"):
        run("fit", "gaussian_mixture")


@pytest.mark.skipif(os.name != "posix", reason="interrupts are sent as signals")
def test_interrupted_fit_is_saved(tmp_path: Path) -> None:
    """Ctrl-C in a long run: exit 130, and the folder holds the fit so far."""
    Path(tmp_path / "slow.py").write_text(
        OWN_CLASS + "    def __init__(self, num_components: int, num_features: int):\n"
        "        super().__init__(num_components, num_features)\n"
        "    def log_marginal(self, x):\n        print('step', flush=True)\n"
        "        return super().log_marginal(x)\n"
    )
    # A shell that runs tests in the background ignores the interrupt, and so would its children.
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from zoo.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", start, "fit", "slow.py", "--data", "earthquakes", "--estimator", "eg"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--set", "max_epochs=10000000", "--set", "optimizer=adam", "--out", "f"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(200):  # it is well inside the loop by then
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out[-300:], err)
    assert "interrupted" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert strict((tmp_path / "f" / "fit.json").read_text())["status"] == "interrupted"


def test_exit_codes_of_the_process(tmp_path: Path) -> None:
    """As a shell sees them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "zoo.cli", "fit", "gaussian_mixture", "--seed", "-1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
