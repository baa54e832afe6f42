"""The estimators, one a file, each knowing nothing of any particular model. Found by being here."""

from __future__ import annotations

from functools import cache

from zoo.core.found import classes_in, named
from zoo.estimators.base import Estimator

__all__ = ["estimator_classes", "find_estimator"]


@cache
def estimator_classes() -> dict[str, type[Estimator]]:
    """Every estimator by its name."""
    return {cls.name: cls for cls in classes_in(__name__, Estimator) if "name" in vars(cls)}


def find_estimator(name: str) -> type[Estimator]:
    """The estimator class of a name.

    Raises:
        ZooError: there is none; the nearest name is offered.
    """
    return named("estimator", name, estimator_classes())
