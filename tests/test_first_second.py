"""What commands import before they answer: worlds that they do not use are not loaded. No test reads a clock."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.cli import descriptions
from zoo.core.parallel import compiled
from zoo.estimators import estimator_classes
from zoo.storage.json import to_json

#: Each takes as long to import as a small fit takes, or longer.
WORLDS = (
    "arviz",
    "jax",
    "matplotlib",
    "numba",
    "numpyro",
    "pandas",
    "pyarrow",
    "rich",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
)


def loaded(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that its process has loaded then."""
    code = "import sys; from zoo.cli import main; c = main(sys.argv[1:]); print('\\n', *sys.modules); sys.exit(c)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    said, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    return said, set(modules.split())


@pytest.mark.parametrize("model", ["gaussian_mixture", "factor_analysis"])
def test_a_small_fit_loads_no_world_that_it_does_not_use(tmp_path: Path, model: str) -> None:
    rows = "\n".join(f"{i % 3 + i / 40:.3f},{i % 3 * 2 + (i * 7 % 11) / 30:.3f},{i % 2}" for i in range(60))
    (tmp_path / "x.csv").write_text(f"length,width,kind\n{rows}\n")
    said, modules = loaded("fit", model, "--data", str(tmp_path / "x.csv"))
    assert "log-likelihood" in said
    assert "length" in said
    assert not modules & set(WORLDS)
    others = {name for name in modules if name.startswith("zoo.models.") and name.count(".") == 2}
    assert others == {f"zoo.models.{model}", "zoo.models.shared"}


def test_kernels_are_kept_for_other_processes_and_a_cache_that_fails_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core import caching

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "kernel_of_a_test.py").write_text("def twice(x):\n    return 2.0 * x\n")

    def hits() -> int:
        """Compile as a new process would; how many kernels came from the cache."""
        monkeypatch.delitem(sys.modules, "kernel_of_a_test", raising=False)
        names = vars(importlib.import_module("kernel_of_a_test"))
        compiled(names, ["twice"])
        assert names["twice"](4.0) == 8.0
        return sum(names["twice"].stats.cache_hits.values())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert [hits(), hits()] == [0, 1]
    (index,) = (tmp_path / "__pycache__").glob("*.nbi")
    for damage in (b"", b"\x80", index.read_bytes()[:-9]):
        index.write_bytes(damage)
        assert [hits(), hits()] == [0, 1]
    for path in (tmp_path / "__pycache__").glob("*.nb*"):
        path.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(caching.IndexDataCacheFile, "_open_for_write", full)
        assert hits() == 0
    assert [hits(), hits()] == [0, 1]
    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", full)  # a read-only disk, and no home
    assert hits() == 0


def test_a_kernel_is_compiled_anew_where_another_file_that_it_calls_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "caller_of_a_test.py").write_text("def more(x):\n    return called(x) + 1.0\n")

    def answer() -> tuple[float, int]:
        for name in ("caller_of_a_test", "called_in_a_test"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        caller, called = (vars(importlib.import_module(name)) for name in ("caller_of_a_test", "called_in_a_test"))
        compiled(called, ["scaled"])
        caller["called"] = called["scaled"]
        compiled(caller, ["more"])
        return caller["more"](4.0), sum(caller["more"].stats.cache_hits.values())

    for factor, hits in ((2.0, 0), (2.0, 1), (30.0, 0)):
        (tmp_path / "called_in_a_test.py").write_text(f"def scaled(x):\n    return {factor} * x\n")
        os.utime(tmp_path / "called_in_a_test.py", (1e9 + factor, 1e9 + factor))
        assert answer() == (4.0 * factor + 1.0, hits)


@pytest.mark.parametrize("arguments", [("models",), ("models", "pcfg", "--json")])
def test_what_there_is_is_told_without_importing_it(arguments: tuple[str, ...]) -> None:
    said, modules = loaded(*arguments)
    assert "pcfg" in said
    assert not modules & {"torch", "pyro", "numpy", "zoo.models", "zoo.estimators", *set(WORLDS) - {"rich"}}


def test_other_files_of_models_are_asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = descriptions.description("ppca")
    assert descriptions.estimator_names() == sorted(estimator_classes())
    printed = json.loads(descriptions.PRINTED.read_text(encoding="utf-8"))
    for row in printed["models"]:
        row["about"] = "was another once"
    other = tmp_path / "models.json"
    monkeypatch.setattr(descriptions, "PRINTED", other)
    for text in (json.dumps(printed), json.dumps({**printed, "digest": "0" * 64}), "{", ""):
        other.write_text(text)
        told = descriptions.description("ppca")
        assert (told["about"] == "was another once") == (text == json.dumps(printed))
        if told["about"] == known["about"]:
            assert json.loads(to_json(told)) == known
