"""A zoo of latent-variable models: each a Pyro program with an amortized guide, fitted by any estimator."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing has it, which takes time to import: an interrupt should find us in the command line
if TYPE_CHECKING:
    from typing import Any

    from zoo.alignment import align
    from zoo.automatic.explaining import Explanation, explain
    from zoo.automatic.posteriors import DiscretePosterior, discrete_posterior
    from zoo.comparison import Comparison, compare
    from zoo.data import list_data, load_data
    from zoo.distributions import ExactBernoulli, Selected
    from zoo.errors import LikelihoodDecreased, ZooError
    from zoo.evaluation import Evaluation, evaluate
    from zoo.fitting import fit
    from zoo.model import LatentVariableModel
    from zoo.models import model_classes
    from zoo.results import Fit, load
    from zoo.statistics import Moments, Statistics

__version__ = "0.1.0"

# Imported when first asked for: `zoo --help` then need not wait for torch.
_HOME = {
    "align": "alignment",
    "Explanation": "automatic.explaining",
    "explain": "automatic.explaining",
    "DiscretePosterior": "automatic.posteriors",
    "discrete_posterior": "automatic.posteriors",
    "Comparison": "comparison",
    "compare": "comparison",
    "list_data": "data",
    "load_data": "data",
    "ExactBernoulli": "distributions",
    "LikelihoodDecreased": "errors",
    "ZooError": "errors",
    "Selected": "distributions",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "fit": "fitting",
    "LatentVariableModel": "model",
    "model_classes": "models",
    "Fit": "results",
    "load": "results",
    "Moments": "statistics",
    "Statistics": "statistics",
}

__all__ = [
    "Comparison",
    "DiscretePosterior",
    "Evaluation",
    "ExactBernoulli",
    "Explanation",
    "Fit",
    "LatentVariableModel",
    "LikelihoodDecreased",
    "Moments",
    "Selected",
    "Statistics",
    "ZooError",
    "align",
    "compare",
    "discrete_posterior",
    "evaluate",
    "explain",
    "fit",
    "list_data",
    "load",
    "load_data",
    "model_classes",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"zoo.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name[:1].isupper():  # a model; other names may be submodules on their way in
        for cls in importlib.import_module("zoo.models").model_classes().values():
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    classes = importlib.import_module("zoo.models").model_classes()
    return sorted({*globals(), *__all__, *(cls.__name__ for cls in classes.values())})
