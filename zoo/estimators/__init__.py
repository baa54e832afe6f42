"""The estimators, one a file, each knowing nothing of any particular model. Found by being here."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

from zoo.core.found import classes_in, classes_of, named
from zoo.estimators.base import Estimator

__all__ = ["estimator_classes", "find_estimator", "option_names"]


@cache
def estimator_classes() -> dict[str, type[Estimator]]:
    """Every estimator by its name."""
    return {cls.name: cls for cls in classes_in(__name__, Estimator) if "name" in vars(cls)}


@cache
def find_estimator(name: str) -> type[Estimator]:
    """The estimator class of a name; where its file has that name too, no other is imported.

    Raises:
        ZooError: there is none; the nearest name is offered.
    """
    for cls in classes_of(__name__, name, Estimator):
        if vars(cls).get("name") == name:
            return cls
    return named("estimator", name, estimator_classes())


def option_names(*names: str) -> set[str]:
    """What the options of these estimators are called; of all of them where none is named.

    Raises:
        ZooError: one that is not known.
    """
    kinds = [find_estimator(name) for name in names] or estimator_classes().values()
    return {option.name for kind in kinds for option in fields(kind)}
