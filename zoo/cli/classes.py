"""``--labels``: what a fit's components have to do with known classes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from zoo.cli.task import Task
from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.runs.result import Fit

__all__ = ["agreement", "agreements", "print_agreement", "print_classes"]

#: Classes, and components, that a table of them shows.
MOST = 12


def _both(this: Fit, x: Any, labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Known classes and predicted components of the data that have a class; None where no component is predicted."""
    try:
        predicted = this.predict(x)
    except (ZooError, NotImplementedError):
        return None
    if isinstance(predicted, dict) or predicted.is_floating_point() or predicted.shape != labels.shape:
        return None
    seen = labels.flatten() >= 0
    return labels.flatten()[seen], predicted.cpu().flatten()[seen]


def agreement(this: Fit, task: Task) -> float | None:
    """Adjusted Rand index of predicted components against the known classes, where a component is predicted."""
    from sklearn.metrics import adjusted_rand_score

    both = _both(this, task.x, task.labels)
    return None if both is None else float(adjusted_rand_score(*(labels.numpy() for labels in both)))


def agreements(this: Fit, x: Any, labels: Tensor) -> dict[str, float]:
    """How well predicted components, or states, agree with known classes.

    Raises:
        ZooError: the model predicts neither, or no datum has a class.
    """
    from sklearn.metrics import adjusted_rand_score

    from zoo.scores.clustering import hungarian_accuracy, normalized_mutual_information

    both = _both(this, x, labels)
    if both is None:
        raise ZooError(
            f"--labels expected a model that predicts a component or state wherever there is a label, got "
            f"{this.model.label}. Leave --labels out."
        )
    known, predicted = (values.numpy() for values in both)
    return {
        "adjusted_rand_index": float(adjusted_rand_score(known, predicted)),
        "normalized_mutual_information": normalized_mutual_information(predicted, known),
        "accuracy": hungarian_accuracy(predicted, known),
    }


def print_agreement(rows: list[dict[str, Any]]) -> None:
    """A line a fit."""
    for row in rows:
        if row.get("adjusted_rand_index") is not None:
            print(
                f"{row['estimator']}, seed {row['seed']}: adjusted Rand index {row['adjusted_rand_index']:.4f} "
                "against the labels"
            )


def print_classes(this: Fit, task: Task) -> None:
    """How many data of each class, by its name, went into each component; nothing where these are many."""
    both = None if task.labels is None else _both(this, task.x, task.labels)
    if both is None:
        return
    from zoo.reporting.tables import Table, columns

    known, found = ([int(value) for value in labels] for labels in both)
    classes, components = sorted(set(known)), range(max(found, default=0) + 1)
    if max(len(classes), len(components)) > MOST:
        return
    named = task.classes is not None and max(classes, default=0) < len(task.classes)
    heads = [task.classes[c] if named and task.classes is not None else f"class {c}" for c in classes]
    pairs = Counter(zip(known, found, strict=True))
    rows = [[str(k), *(str(pairs[c, k]) for c in classes)] for k in components]
    part = "component" if task.labels.dim() == 1 else "state"
    print(columns(Table("", [(part, True), *((head, True) for head in heads)], rows), rule=False))
