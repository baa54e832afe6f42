"""What a scorer is: a file of this folder with a ``SCORER``, which answers what it can of a model on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.found import modules_in

__all__ = ["Scorer", "Scoring", "scorers"]


@dataclass
class Scoring:
    """A model and data, adopted by it, to be scored, and what is known by now.

    Attributes:
        num_samples: S, draws from the guide a datum. trained: whether the guide knows of these data.
        progress: told which fraction of the data is done.
        found: what scorers before have found, by the names of :class:`zoo.runs.evaluate.Evaluation`.
    """

    model: LatentVariableModel
    x: Data
    num_samples: int
    trained: bool
    progress: Callable[[float], None] | None = None
    found: dict[str, Any] = field(default_factory=dict)


class Scorer(NamedTuple):
    """One way to score; of lower ``order`` first. What it finds, or why it has nothing to say, a phrase."""

    order: int
    score: Callable[[Scoring], dict[str, Any] | str]


@cache
def scorers() -> tuple[Scorer, ...]:
    """All scorers of this folder, in order."""
    modules = modules_in("zoo.scores").values()
    return tuple(sorted((m.SCORER for m in modules if hasattr(m, "SCORER")), key=lambda scorer: scorer.order))
