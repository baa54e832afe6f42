"""What starts ask for on their way, so that what many of them ask for is one batch: clusters, first M steps, climbs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

from zoo.components import climbs, clusters, first_steps
from zoo.components.climbs import Asked
from zoo.components.clusters import Clusters
from zoo.components.first_steps import FirstSteps

__all__ = ["Question", "Starting", "alone", "answers"]

Question: TypeAlias = Clusters | FirstSteps | Asked
#: A start on its way: it asks, and goes on with the answer.
Starting: TypeAlias = Generator[Question, Any, None]


def answers(several: Sequence[Question]) -> list[Any]:
    """What is answered to each, those of a kind at once; as if one came after the other, but for rounding."""
    kinds: dict[type, Callable[[Any], Sequence[Any]]] = {
        Clusters: clusters.all_clustered,
        FirstSteps: first_steps.all_stepped,
        Asked: climbs.all_climbed,
    }
    found: dict[int, Any] = {}
    for kind, all_answered in kinds.items():
        which = [index for index, question in enumerate(several) if isinstance(question, kind)]
        if which:
            found.update(zip(which, all_answered([several[index] for index in which]), strict=True))
    return [found[index] for index in range(len(several))]


def alone(starting: Starting) -> None:
    """Take a start to its end, by itself."""
    try:
        question = next(starting)
        while True:
            question = starting.send(answers([question])[0])
    except StopIteration:
        pass
