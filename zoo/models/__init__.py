"""The zoo's models, one a file. A model is found by being here: nobody edits a list."""

from __future__ import annotations

from functools import cache

from zoo.core.contract import LatentVariableModel
from zoo.core.found import classes_in, classes_of, named, snake_case

__all__ = ["find_model", "model_classes", "snake_case"]


@cache
def model_classes() -> dict[str, type[LatentVariableModel]]:
    """Every model of the zoo by its snake-case name: those that the files here offer.

    Example:
        >>> zoo.model_classes()["vae"]
        <class 'zoo.models.vae.VAE'>
    """
    return {snake_case(cls.__name__): cls for cls in classes_in(__name__, LatentVariableModel)}


def find_model(name: str) -> type[LatentVariableModel]:
    """The model class of a snake-case name; where its file has that name too, no other is imported.

    Raises:
        ZooError: there is none; the nearest name is offered.
    """
    for cls in classes_of(__name__, name, LatentVariableModel):
        if snake_case(cls.__name__) == name:
            return cls
    return named("model", name, model_classes())
