"""The estimators, one a file, each knowing nothing of any particular model. Found by being here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from zoo.errors import unknown_name
from zoo.estimators.base import Estimator

__all__ = ["estimator_classes", "find_estimator"]


@cache
def estimator_classes() -> dict[str, type[Estimator]]:
    """Every estimator by its name."""
    found: dict[str, type[Estimator]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Estimator) and "name" in value.__dict__:
                found[value.name] = value
    return found


def find_estimator(name: str) -> type[Estimator]:
    """The estimator class of a name.

    Raises:
        ZooError: there is none; the nearest name is offered.
    """
    classes = estimator_classes()
    if name not in classes:
        raise unknown_name("estimator", name, classes)
    return classes[name]
