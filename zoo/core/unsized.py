"""A model whose sizes the data will say: ``zoo.GaussianMixture(num_components=3)``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from zoo.errors import ZooError

__all__ = ["SIZES", "Unsized", "of_constructor", "unsized"]

#: Arguments of constructors that ``from_data`` reads off the data.
SIZES = ("num_cities", "num_features", "num_inputs", "num_symbols")


class Unsized:
    """A class of models and some of its arguments; the sizes that are missing are read off the data at the fit.

    ``zoo.fit`` and its kin take it in the place of a model; ``from_data(x)`` makes the model at once.
    """

    def __init__(self, kind: Any, arguments: Mapping[str, Any], missing: list[str]) -> None:
        self.kind, self.arguments, self.missing = kind, dict(arguments), missing

    def from_data(self, x: Any) -> Any:
        """The model, with sizes read off the data.

        Raises:
            ZooError: the data do not say them.
        """
        return self.kind.from_data(x, **self.arguments)

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.kind.__name__}({words}), with {' and '.join(self.missing)} by the data"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy and pickle look for
            raise AttributeError(name)
        raise ZooError(
            f"{self.kind.__name__} expected {self.missing[0]} before its {name} is asked for, got nothing for it. "
            f"Pass {self.missing[0]}=..., or data: zoo.fit(model, x), model.from_data(x)."
        )


def of_constructor(kind: Any) -> inspect.Signature:
    """The arguments of ``kind.__init__``, without the instance."""
    signature = inspect.signature(kind.__init__)
    return signature.replace(parameters=list(signature.parameters.values())[1:], return_annotation=signature.empty)


def unsized(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Unsized | None:
    """A stand-in for ``kind(*args, **kwargs)`` where sizes alone are missing; None where the call is to be made."""
    try:
        bound = inspect.signature(kind).bind_partial(*args, **kwargs)
    except TypeError:  # too many, or a word that it does not know: Python says it best
        return None
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        name
        for name, parameter in bound.signature.parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in several and name not in bound.arguments
    ]
    if not missing or not set(missing) <= set(SIZES):
        return None
    return Unsized(kind, bound.arguments, missing)
