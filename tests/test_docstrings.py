"""The examples in docstrings, which the API pages of the site show: they print what they say, and none is lacking."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

import guides
import zoo
from zoo.bayes import priors
from zoo.models import model_classes

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("zoo", "guides")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^ +>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)
#: Names that are shown by what returns them, and errors.
SHOWN_ELSEWHERE = {
    *("Candidate", "Comparison", "DiscretePosterior", "Evaluation", "Explanation", "LikelihoodDecreased"),
    *("LatentVariableModel", "Moments", "Selection", "ZooError", "Prior", "Structure", "Paths", "standard_normal"),
}
METHODS = (
    *("posterior", "predict", "predict_proba", "transform", "viterbi", "score_samples", "score", "sample", "filter"),
    *("posterior_predictive", "forecast", "parameters", "parameters_frame", "plot", "summary", "save"),
)


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT).with_suffix(""))) for p in FILES])
def test_examples_print_what_they_say(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs={"zoo": zoo, "torch": torch}):
        torch.manual_seed(0)
        pyro.clear_param_store()
        runner.run(test)
    found = runner.summarize(verbose=False)
    assert found.attempted > 0, "the examples were not found"
    assert found.failed == 0


def public_names() -> dict[str, Any]:
    """What users call, by its whole name."""
    public: dict[str, Any] = {f"zoo.{name}": getattr(zoo, name) for name in zoo.__all__}
    public |= {f"zoo.{cls.__name__}": cls for cls in model_classes().values()}
    for module in (guides, priors, zoo.structures):
        public |= {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
    public |= {f"zoo.Fit.{name}": getattr(zoo.Fit, name) for name in METHODS}
    return {name: thing for name, thing in public.items() if callable(thing) or isinstance(thing, property)}


def test_every_public_name_has_an_example() -> None:
    lacking = [
        name
        for name, thing in public_names().items()
        if name.rpartition(".")[2] not in SHOWN_ELSEWHERE and ">>> " not in (inspect.getdoc(thing) or "")
    ]
    assert not lacking
