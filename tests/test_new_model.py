"""``zoo new``, Tab, and a half-written file in zoo/models: a model of one's own, from its first line."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli import completing
from zoo.core import found
from zoo.errors import LeftOut

ROOT = Path(__file__).parents[1]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that has ``folder`` first on its path, then this checkout."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


def test_a_skeleton_passes_its_test_and_runs_its_example(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("new", "waiting_times")
    assert done.code == 0
    assert "waiting_times.py:WaitingTimes" in done.out
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_waiting_times.py"]) == 0
    assert "@" not in (tmp_path / "waiting_times.py").read_text()
    (tmp_path / "my.csv").write_text("a,b\n" + "\n".join(f"{0.1 * i + 0.1},{3 - 0.1 * i}" for i in range(20)))
    fitted = run("fit", "waiting_times.py", "--data", "my.csv", "--json")
    assert fitted.code == 0, fitted.err
    assert '"auto_em"' in fitted.out


def test_in_a_checkout_it_goes_where_everything_finds_it(tmp_path: Path) -> None:
    """As linted as the rest, with a test and an example beside it; a broken neighbour is named and breaks nothing."""
    for part in ("zoo", "guides"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert python(tmp_path, "-m", "zoo.cli", "new", "my_model").returncode == 0
    for command in (("check",), ("format", "--check")):
        lint = python(tmp_path, "-m", "ruff", *command, "zoo/models/my_model.py", "tests", "examples")
        assert lint.returncode == 0, lint.stdout
    (tmp_path / "zoo/models/half_written.py").write_text("import nothing_of_this_name\n")
    told = python(tmp_path, "-m", "zoo.cli", "models", "my_model")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("my_model\n")
    assert not told.stderr
    told = python(tmp_path, "-c", "import zoo.models; print('my_model' in zoo.models.model_classes())")
    assert told.stdout == "True\n"
    assert "zoo.models.half_written is left out" in told.stderr
    assert "nothing_of_this_name" in told.stderr


#: What a newcomer changes in the skeleton to have a mixture of counts with more zeros than a Poisson's.
ZERO_INFLATED = {
    "x_d | z ~ Exponential(rates[z, d]) ": "x_d | z ~ 0 with probability gates[z, d], else Poisson(rates[z, d])",
    "D independent waiting times": "D independent counts",
    "        self.encoder =": "        gates = 0.2 * torch.ones_like(self.rates)\n"
    "        self.gates = parameter(gates, constraints.unit_interval)\n"
    "        self.encoder =",
    "dist.Exponential(self.rates[z])": "dist.ZeroInflatedPoisson(self.rates[z], gate=self.gates[z])",
    "bool((x > 0).all())": "bool(((x >= 0) & (x == x.round())).all())",
    "[[0.2, 1.9], [4.1, 0.1], [0.7, 3.0], [2.2, 0.4], [0.1, 0.9], [3.0, 0.2]]": "[[0.0, 3], [4, 0], [0, 0], [2, 5]]",
}
#: And a line with noise of which there are two, nobody says where which: data of two parts.
SWITCHING = {
    "    inits =": "    fields = Fields(given=('x',), observed=('y',))\n    inits =",
    "contract import parameter": "contract import Fields, parameter",
    "torch.ones(num_components, num_features, dtype=self.dtype), constraints.positive)\n": "even, constraints.positive)"
    "\n        self.slopes = parameter(torch.zeros_like(even), constraints.real)\n",
    "nn.Linear(num_features": "nn.Linear(2",
    "def model(self, x: Tensor)": "def model(self, x: Tensor, y: Tensor)",
    "def guide(self, x: Tensor)": "def guide(self, x: Tensor, y: Tensor)",
    "self.encoder(x)": "self.encoder(torch.cat([x, y], -1))",
    'pyro.sample("x", dist.Exponential(self.rates[z]).to_event(1), obs=x)': "at = self.slopes[z] * x[:, 0]\n"
    '            pyro.sample("y", dist.Normal(at, self.rates[z]), obs=y[:, 0])',
    "        spread = 3 ** (2 * torch.rand(self.num_components, self.num_features, dtype=self.dtype) - 1)\n": "",
    "self.rates = spread / x.mean(0)": "self.slopes = torch.randn(self.num_components, dtype=self.dtype)",
    "x.dim() != 2 or x.shape[1] != self.num_features": "x[0].shape != x[1].shape",
    "(N, {self.num_features}), got {tuple(x.shape)}": "(N, 1) twice, got {tuple(x[0].shape)}",
    "        if not bool((x > 0).all()):\n": "",
    '            raise ZooError(f"x expected positive numbers, got {float(x.min()):g} among them. '
    'Leave those rows out.")\n': "",
    "torch.tensor([[2.0, 0.5], [0.3, 4.0]])": "torch.tensor([0.5, 0.7])",
    "    return model, torch.tensor([[0.2, 1.9], [4.1, 0.1], [0.7, 3.0], [2.2, 0.4], [0.1, 0.9], [3.0, 0.2]])": "    "
    "model.slopes = torch.tensor([1.0, -1.0])\n    x = torch.tensor([[0.2], [1.9], [4.1], [-0.1], [0.7], [3.0]])\n"
    "    return model, (x, torch.tensor([[0.0], [1.5], [4.4], [0.3], [-1.1], [-2.2]]))",
}  # fmt: skip


@pytest.mark.slow  # the whole contract of two models; that the skeleton itself works is seen above
@pytest.mark.parametrize("changes", [ZERO_INFLATED, SWITCHING], ids=["zero_inflated", "switching"])
def test_a_model_of_few_own_lines_keeps_the_whole_contract(changes: dict[str, str], tmp_path: Path) -> None:
    for part in ("zoo", "guides", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "examples").mkdir()
    for name in ("pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, tmp_path)
    assert python(tmp_path, "-m", "zoo.cli", "new", "my_model").returncode == 0
    path = tmp_path / "zoo/models/my_model.py"
    skeleton = text = path.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    own = [line for line in difflib.ndiff(skeleton.splitlines(), text.splitlines()) if line.startswith("+ ")]
    assert len(own) <= 40
    done = python(tmp_path, "-m", "pytest", "-q", "-p", "no:xdist", "tests/test_contract.py", "-k", "my_model")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_data_that_are_taken_apart_are_refused_where_the_class_is_written() -> None:
    with pytest.raises(zoo.ZooError, match=r"Pair.validate expected the data as one argument, \(self, x\), got"):

        class Pair(zoo.LatentVariableModel):
            def validate(self, x: Any, y: Any) -> Any: ...  # type: ignore[override]

    with pytest.raises(zoo.ZooError, match=r"Begun.initialize expected .*, got \(self, x, y\)\. Take x alone"):

        class Begun(zoo.LatentVariableModel):
            def initialize(self, x: Any, y: Any, init: str, restart: int = 0) -> None: ...  # type: ignore[override]


def test_a_file_that_does_not_say_what_it_offers_offers_its_models(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "kinds_of_int"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plain.py").write_text("class Whole(int): ...\nclass _Inner(int): ...\n")
    (package / "broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(LeftOut, match=r"kinds_of_int.broken is left out.*SyntaxError"):
        assert [cls.__name__ for cls in found.classes_in("kinds_of_int", int)] == ["Whole"]


def test_one_column_has_one_shape_for_functions_and_classes(run: Callable[..., Any], tmp_path: Path) -> None:
    """A class of the same program as a function gets the same vector; one that counts features, a column."""
    (tmp_path / "mine.py").write_text(
        "import pyro, torch, zoo\nimport pyro.distributions as dist\nfrom pyro.nn import PyroParam\n"
        "from torch.distributions import constraints\n"
        "def program(x, rate):\n"
        "    with pyro.plate('data', len(x)):\n"
        "        z = pyro.sample('z', dist.Categorical(torch.ones(2, dtype=x.dtype) / 2))\n"
        "        pyro.sample('x', dist.Poisson(rate[z]), obs=x)\n"
        "def function(x):\n"
        "    program(x, pyro.param('rate', torch.tensor([1.0, 20.0]), constraint=constraints.positive))\n"
        "class Kind(zoo.LatentVariableModel):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.rate = PyroParam(torch.tensor([1.0, 20.0], dtype=self.dtype), constraints.positive)\n"
        "    def model(self, x):\n"
        "        assert x.dim() == 1\n"
        "        program(x, self.rate)\n"
    )
    (tmp_path / "counts.csv").write_text("n\n1\n2\n0\n18\n22\n3\n")
    scores = [
        json.loads(run("fit", f"mine.py:{name}", "--data", "counts.csv", "--json").out)["rows"][0]["log_likelihood"]
        for name in ("function", "Kind")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)


@pytest.mark.parametrize("name", ["My_Model", "2nd", "class", "gaussian_mixture", "a-b", "../x"])
def test_other_names_are_refused(name: str, run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("new", name)
    assert done.code == 2
    assert "For instance zoo new my_" in done.err
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("precious")
    done = run("new", "mine")
    assert done.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]


def test_names_read_off_texts_are_those_that_are_imported() -> None:
    from zoo.data import list_data
    from zoo.data._files import SUFFIXES
    from zoo.estimators import estimator_classes

    assert completing.estimators("") == sorted(estimator_classes())
    assert [name for name in completing.data_names("") if not {".", "/"} & set(name)] == [s.name for s in list_data()]
    assert set(completing.suffixes()) == set(SUFFIXES)


def test_tab_knows_what_there_is(tmp_path: Path, monkeypatch: Any) -> None:
    assert completing.model_names() == sorted(zoo.model_classes())
    assert completing.models("gaussian_mixture_h") == ["gaussian_mixture_hmm"]
    assert completing.data_names("iri") == ["iris"]
    assert completing.estimator_list("em,e") == ["em,eg"]
    assert completing.tables("jsb") == ["jsb"]
    monkeypatch.chdir(tmp_path)
    for name in ("our.py", "my.csv", "notes.md", ".hidden.py"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.npy").touch()
    assert completing.models("our") == ["our.py"]
    assert completing.models("more") == ["more/"]
    assert completing.data_names("my") == ["my.csv"]
    assert completing.data_names("mo") == ["more/x.npy"], "what is in the only folder: a shell ends a single word"
    assert completing.data_names("more/") == ["more/x.npy"]


def test_the_shell_is_answered() -> None:
    """As bash asks: the words so far, and which of them is being typed."""
    asked = {"_ZOO_COMPLETE": "complete_bash", "COMP_WORDS": "zoo fit gaussian_m", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from zoo.cli import main; sys.exit(main([]))"],
        env=os.environ | asked | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["gaussian_mixture", "gaussian_mixture_hmm", "gaussian_mixture_vae"]
