"""An objective of a fit in several processes: each has that of its own rows of a batch, the mean is everybody's."""

from __future__ import annotations

from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, num_data, take
from zoo.core.isolation import forked_rng
from zoo.core.objective import Objective, Step
from zoo.core.ranks import Ranks
from zoo.core.shared_noise import SharedNoise
from zoo.core.state import restore, snapshot
from zoo.errors import RankLost, ZooError, one_line

__all__ = ["SharedObjective", "check_divides"]

#: Rows that an objective is tried on, whole and in parts; how far these may lie apart, relative to its size.
TRIED, CLOSE = 15, 1e-3


class SharedObjective(Objective):
    """The mean over the ranks, each weighted by its rows: of one batch, whose rows they divide.

    The gradient is the rank's own part, so that its average over the ranks is that of the batch.
    """

    def __init__(self, objective: Objective, ranks: Ranks) -> None:
        self.objective, self.ranks, self.column = objective, ranks, objective.column

    def __call__(self, batch: Data) -> Step:
        ranks, rows = self.ranks, num_data(batch)
        begin, end = ranks.bounds(rows)
        share = (end - begin) / rows
        kept: list[Tensor] = []

        def part() -> tuple[float, float | None, dict[str, float]]:
            step = _of(self.objective, batch, begin, end)
            kept.append(step.surrogate)
            value = None if step.value is None else share * float(step.value)
            parts = {name: share * float(each) for name, each in step.parts.items()}
            return share * float(step.surrogate.detach()), value, parts

        surrogates, values, parts = zip(*ranks.each(part), strict=True)
        own = kept[0] * (share * ranks.size)
        whole = own.detach().new_tensor(sum(surrogates))
        known = None if any(value is None for value in values) else whole.new_tensor(sum(values))
        sums = {name: whole.new_tensor(sum(each[name] for each in parts)) for name in parts[0]}
        return Step(own - own.detach() + whole, known, sums)

    def at(self, fraction: float) -> None:
        self.objective.at(fraction)

    def outcomes(self, batch: Data) -> Tensor | None:
        return self.objective.outcomes(batch)

    def state(self) -> dict[str, Tensor]:
        return self.objective.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.objective.load(state)


def _of(objective: Objective, batch: Data, begin: int, end: int) -> Step:
    """What an objective says of some rows of a batch; where there are none, of its first one."""
    begin, end = (begin, end) if begin < end else (0, 1)
    with SharedNoise(num_data(batch), begin, end):
        return objective(take(batch, slice(begin, end)))


def check_divides(objective: Objective, model: LatentVariableModel, x: Data, ranks: Ranks) -> None:
    """Raise ZooError unless an objective is a mean over rows, as it is on a few of them: whole and in two parts."""
    some = take(x, slice(0, TRIED))
    rows = num_data(some)
    half = rows // 2 + 1
    before, carried = snapshot(model), {name: value.clone() for name, value in objective.state().items()}
    try:
        values = []
        for cuts in ([(0, rows)], [(0, half), (half, rows)]):
            value = 0.0
            for begin, end in cuts if rows > 2 else []:
                with forked_rng(0):
                    value += float(_of(objective, some, begin, end).surrogate.detach()) * (end - begin) / rows
            values.append(value)
        whole, sum_of_parts = values
        apart = abs(whole - sum_of_parts) > CLOSE * max(1.0, abs(whole))
        why = f"{sum_of_parts:.6g} in two parts and {whole:.6g} at once" if apart else None
    except RankLost:
        raise
    except Exception as error:  # whatever a program says to fewer rows than it wants
        why = f"a part of the rows fails ({one_line(error)})"
    finally:
        restore(model, before)
        if carried:
            objective.load(carried)
    if why is not None:
        raise ZooError(
            f"{model.name}: {ranks.size} processes expected an objective that is a mean over rows, with draws of each "
            f"row's own, got {why}. Fit it in one process."
        )
