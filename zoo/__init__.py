"""A zoo of latent-variable models: each a Pyro program with an amortized guide, fitted by any estimator."""

from __future__ import annotations

from typing import Any

from zoo.alignment import align
from zoo.compare import Comparison, compare
from zoo.data import load_data
from zoo.distributions import ExactBernoulli, Selected
from zoo.errors import LikelihoodDecreased, ZooError
from zoo.evaluation import Evaluation, evaluate
from zoo.fitting import fit
from zoo.model import LatentVariableModel
from zoo.models import model_classes
from zoo.results import Fit, load
from zoo.statistics import Moments, Statistics

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name[:1].isupper():
        for cls in model_classes().values():
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(cls.__name__ for cls in model_classes().values())})


__all__ = [
    "Comparison",
    "Evaluation",
    "ExactBernoulli",
    "Fit",
    "LatentVariableModel",
    "LikelihoodDecreased",
    "Moments",
    "Selected",
    "Statistics",
    "ZooError",
    "align",
    "compare",
    "evaluate",
    "fit",
    "load",
    "load_data",
    "model_classes",
]
