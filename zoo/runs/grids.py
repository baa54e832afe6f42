"""A grid of settings: which models it makes, which of these another one holds as a special case."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from zoo.core.contract import LatentVariableModel
from zoo.core.schema import Schema
from zoo.core.unsized import Unsized
from zoo.errors import ZooError, unknown_name
from zoo.models import find_model
from zoo.runs.making import made

__all__ = ["Builder", "Point", "holds", "points", "told"]

#: Settings by their names: one place of a grid.
Point = dict[str, Any]
#: Arguments of which a larger value holds every smaller one as a special case.
GROWING = ("latent_dim", "num_components", "num_factors", "num_states")
#: By argument, which words hold which others as special cases.
WIDER: dict[str, dict[str, tuple[str, ...]]] = {
    "covariance_type": {"full": ("diag", "spherical", "tied"), "diag": ("spherical",)},
    "initial": {"free": ("stationary", "uniform")},
}


def points(grid: Mapping[str, Any]) -> list[Point]:
    """Every combination of a grid's values, the last name's running fastest.

    Args:
        grid: by name the values, an iterable; one value alone counts as one.

    Raises:
        ZooError: no names, or a name without values.
    """
    if not isinstance(grid, Mapping) or not grid:
        raise ZooError(
            f"select: grid expected a dict of names and values, got {grid!r}. For instance "
            "grid={'num_components': range(1, 9)}."
        )
    columns: dict[str, list[Any]] = {}
    for name, values in grid.items():
        several = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
        column: list[Any] = []
        for value in values if several else [values]:
            plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
            if not any(type(plain) is type(other) and plain == other for other in column):
                column.append(plain)
        if not column:
            raise ZooError(f"select: grid of {name} expected at least one value, got none. For instance range(1, 9).")
        columns[str(name)] = column
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


@dataclass
class Builder:
    """What makes a model of one point of a grid.

    Attributes:
        kind: a class of models, or a function of the settings that gives a model, a program, or a program with its
            guide.
        arguments: the same for every point.
        sized: whether it is a class of models.
        schema: names of columns and symbols that the models read data by.
    """

    kind: Any
    arguments: dict[str, Any]
    guide: Callable[..., Any] | None = None
    sized: bool = False
    schema: Schema | None = None

    @classmethod
    def of(cls, model: Any, names: Iterable[str], options: dict[str, Any], guide: Any = None) -> Builder:
        """Check what is varied against what there is to vary; arguments of class or function leave the options.

        Raises:
            ZooError: no class and no function; a name that it does not have.
        """
        kind = find_model(model) if isinstance(model, str) else model
        arguments, schema = dict[str, Any](), None
        if isinstance(kind, Unsized):
            kind, arguments = kind.kind, dict(kind.arguments)
        elif isinstance(kind, LatentVariableModel):
            kind, arguments, schema = type(kind), dict(kind.config), kind.schema
        sized = inspect.isclass(kind) and issubclass(kind, LatentVariableModel)
        if isinstance(kind, torch.nn.Module) or not callable(kind):
            raise ZooError(
                f"select: model expected a name, a class, or a function of the grid's names, got a "
                f"{type(kind).__name__}. Write one that makes it: lambda k: ..."
            )
        takes = inspect.signature(kind).parameters
        known = {name for name, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
        who = getattr(kind, "__name__", type(kind).__name__)
        for name in names:
            if name not in known and not anything:
                if sized:
                    raise unknown_name(f"argument of {who}", name, known)
                raise ZooError(
                    f"select: {who} expected to be a function of {name}, got one of {', '.join(takes) or 'nothing'}. "
                    f"Write one that makes the program: lambda {name}: program."
                )
        arguments |= {name: options.pop(name) for name in list(options) if name in known}
        return cls(kind, arguments, guide, sized, schema)

    def made(self, point: Point, x: Any) -> tuple[Any, Any, Any]:
        """Model, guide and data at a point; a path of data is read."""
        if self.sized:
            model, x = made(self.kind, x, {**self.arguments, **point})
            if self.schema is not None:
                model.schema = copy.deepcopy(self.schema)
            return model, self.guide, x
        built, guide = self.kind(**{**self.arguments, **point}), self.guide
        if isinstance(built, tuple) and len(built) == 2:
            built, guide = built
        model, x = made(built, x, {}, guide)
        return model, guide, x


def holds(wide: Point, narrow: Point, config: Mapping[str, Any], sized: bool) -> bool:
    """Whether a model at one point has that of another as a special case: its likelihood can then not be lower.

    Args:
        config: arguments of the wider model.
        sized: whether the names are arguments of a model of the zoo; of a function of one's own, every whole number is
            taken to grow.
    """
    if wide == narrow:
        return False
    return all(_reaches(name, value, narrow[name], config, sized) for name, value in wide.items())


def _reaches(name: str, wide: Any, narrow: Any, config: Mapping[str, Any], sized: bool) -> bool:
    if wide == narrow:
        return True
    if sized and name not in GROWING:
        return isinstance(wide, str) and narrow in WIDER.get(name, {}).get(wide, ())
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (wide, narrow))
    # A state that is split in two begins twice as often where every state begins alike.
    return whole and wide > narrow and not (name == "num_states" and config.get("initial") == "uniform")


def told(point: Point) -> str:
    """A point in words: num_components=3, covariance_type=tied."""
    return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in point.items())
