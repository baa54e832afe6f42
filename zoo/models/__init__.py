"""The zoo's models, one a file. A model is found by being here: nobody edits a list."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from zoo.core.contract import LatentVariableModel, snake_case
from zoo.errors import unknown_name

__all__ = ["find_model", "model_classes", "snake_case"]


@cache
def model_classes() -> dict[str, type[LatentVariableModel]]:
    """Every model of the zoo by its snake-case name: the classes in files that end with ``tiny()``."""
    found: dict[str, type[LatentVariableModel]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if not hasattr(module, "tiny"):
            continue
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, LatentVariableModel):
                found[snake_case(name)] = value
    return found


def find_model(name: str) -> type[LatentVariableModel]:
    """The model class of a snake-case name.

    Raises:
        ZooError: there is none; the nearest name is offered.
    """
    classes = model_classes()
    if name not in classes:
        raise unknown_name("model", name, classes)
    return classes[name]
