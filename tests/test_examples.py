"""Every script in examples/ runs, small, and returns finite figures."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


#: Half a minute: it draws from three posteriors.
SLOW = {"posteriordb"}


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in EXAMPLES]
)
def test_example_runs_and_returns_finite_figures(path, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    metrics = module.main(["--smoke"])
    numbers = [value for value in metrics.values() if isinstance(value, (int, float))]
    assert numbers
    assert all(math.isfinite(value) for value in numbers)
    assert capsys.readouterr().out.strip()
    assert not list(tmp_path.iterdir()), "an example writes files only where --out says"


def test_every_model_has_an_example():
    from zoo.models import model_classes

    assert set(model_classes()) <= {path.stem for path in EXAMPLES}
