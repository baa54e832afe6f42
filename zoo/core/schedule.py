"""How long a run is, how many rows a step takes, how the rate falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DECAYS", "Schedule"]


FULL_BATCH_ROWS = 2048


MIN_STEPS = 3000


DECAYS = ("cosine", "constant", "stages")


#: Burda et al. (2016), section 5: eight stages, the i-th of 3 ** i epochs at a rate lower by 10 ** (-i / 7).
STAGES = 8


STAGED_EPOCHS = (3**STAGES - 1) // 2


@dataclass(frozen=True)
class Schedule:
    """How long, how much at a time, how fast.

    Attributes:
        max_epochs: passes over the data; None takes enough for 3000 steps, at least one (for "stages" 3280 epochs).
        batch_size: rows a step; None takes all rows up to 2048, else 256.
        learning_rate: Adam's, at the start.
        decay: "cosine" falls to a hundredth along a cosine, "constant" stays, "stages" are those of Burda et al.
            (2016), section 5: eight, the i-th (from 0) of 3^i epochs at 10^(-i/7) of the rate, 3280 epochs in all;
            with ``max_epochs`` they keep their proportions.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02
    decay: str = "cosine"

    def resolve(self, rows: int) -> tuple[int, int]:
        """(epochs, batch size) for a number of rows."""
        batch = int(self.batch_size or (rows if rows <= FULL_BATCH_ROWS else 256))
        steps = math.ceil(rows / min(batch, rows))
        usual = STAGED_EPOCHS if self.decay == "stages" else math.ceil(MIN_STEPS / steps)
        return int(self.max_epochs or usual), batch

    def rate(self, fraction: float) -> float:
        """The rate when this fraction of all steps is done."""
        if self.decay == "cosine":
            return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2)
        return self.learning_rate * (10 ** (-stage(fraction) / 7) if self.decay == "stages" else 1.0)


def stage(fraction: float) -> int:
    """Which of the eight stages a fraction of the steps lies in, from 0."""
    epochs = fraction * STAGED_EPOCHS + 1e-6  # a boundary belongs to the later stage, whatever rounding says
    return next((i for i in range(STAGES) if epochs < (3 ** (i + 1) - 1) // 2), STAGES - 1)
