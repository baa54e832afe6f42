"""A zoo of latent-variable models: each a Pyro program with an amortized guide, fitted by any estimator."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing has it, which takes time to import: an interrupt should find us in the command line
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

#: The public names, by the module that has them; ``__init__.pyi`` is printed from this. A name is imported when it is
#: first asked for: `zoo --help` then need not wait for torch.
_PUBLIC = {
    "automatic.posteriors": ("DiscretePosterior", "discrete_posterior"),
    "core.contract": ("LatentVariableModel",),
    "core.statistics": ("Moments", "Statistics"),
    "data": ("list_data", "load_data", "load_trees"),
    "data.opening": ("open_data",),
    "data.parse_tree": ("ParseTree", "parse_trees"),
    "densities.distributions": ("ExactBernoulli", "Selected"),
    "errors": ("LikelihoodDecreased", "ZooError"),
    "models": ("model_classes",),
    "runs.align": ("align",),
    "runs.as_sklearn": ("as_sklearn",),
    "runs.compare": ("Comparison", "compare"),
    "runs.deep_belief_net": ("deep_belief_net",),
    "runs.evaluate": ("Evaluation", "evaluate"),
    "runs.explain": ("Explanation", "explain"),
    "runs.fit": ("fit",),
    "runs.load": ("load",),
    "runs.result": ("Fit",),
    "runs.select": ("select",),
    "runs.selection": ("Candidate", "Selection"),
    "runs.variants": ("Variant",),
    "scores.bracketing": ("bracketing",),
}
_HOME = {name: home for home, names in _PUBLIC.items() for name in names}

__all__ = sorted(_HOME)


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
    return sorted({"__version__", *__all__, *(cls.__name__ for cls in classes.values())})
