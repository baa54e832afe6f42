"""Held-out data: the best parameters by a score, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.data import Data, changed, count, plain

__all__ = ["HeldOut"]


class HeldOut:
    """Follows a score of held-out data and keeps the parameters where it was highest.

    Args:
        data: as the model takes them.
        score: the score of such data at the model's present parameters, total, nats; higher is better.
        patience: how many looks without a new best end a run.
        unit: what a look follows, a word for the note.
        kind: what the score is, words for the note.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        data: Any,
        score: Callable[[Data], float | None],
        patience: int,
        unit: str = "iteration",
        kind: str = "log-likelihood",
    ) -> None:
        self.data = changed(data, prepared(model, plain(data)))
        self.patience, self.unit, self.kind = patience, unit, kind
        self._score, self.rows = score, count(self.data)
        self.best, self.since, self.looks, self.best_at = -math.inf, 0, 0, 0
        self.last: float | None = None
        self.state: dict[str, Tensor] | None = None
        self.objective, self.notes = -math.inf, list[str]()

    def worse(
        self,
        state: Callable[[dict[str, Tensor] | None], dict[str, Tensor]],
        objective: float,
        notes: Sequence[str] = (),
    ) -> bool:
        """Take the score at the present parameters; True once it has not risen for ``patience`` looks.

        Args:
            state: gives the parameters' copy; it may write over the one it is handed.
        """
        self.looks += 1
        score = self._score(self.data)
        self.last = None if score is None else score / self.rows
        if score is None:
            return False  # nothing was seen, for better or worse
        if score > self.best:
            self.best, self.state, self.since, self.best_at = score, state(self.state), 0, self.looks
            self.objective, self.notes = objective, list(notes)
        else:
            self.since += 1
        return self.since >= self.patience

    @property
    def note(self) -> str:
        """Where the held-out data were served best."""
        return f"held-out {self.kind} highest, {self.best:.4f}, at {self.unit} {self.best_at}: kept"

    def record(self) -> dict[str, Any]:
        """What a checkpoint needs besides the kept parameters."""
        return {name: getattr(self, name) for name in ("best", "since", "looks", "best_at", "objective", "notes")}

    def take_over(self, record: dict[str, Any], state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`record` gave and the parameters that were kept."""
        for name, value in record.items():
            setattr(self, name, value)
        self.state = state or None
