"""What the fits of a comparison start from: the same model, data and parameters, in whichever process they run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.data import Data, plain
from zoo.core.isolation import isolated
from zoo.core.problem import Problem
from zoo.errors import LikelihoodDecreased
from zoo.runs.beside import settled, with_beside
from zoo.runs.fit import as_device, fit
from zoo.runs.prepare import first_run, possible_rows, start
from zoo.runs.result import Fit
from zoo.runs.variants import Variant, folder_of

__all__ = ["ComparedFits", "Ground"]


@dataclass
class Ground:
    """A model and the data as it takes them, which several variants start from; ``x`` without what stands beside."""

    problem: Problem
    data: Data
    x: Data
    stopping: Sequence[str]
    _begun: tuple[int, LatentVariableModel] | None = None

    @classmethod
    def of(cls, model: LatentVariableModel, x: Any, device: str | None, beside: dict[str, Any], guided: bool) -> Ground:
        base = copy.deepcopy(model)
        if device is not None:
            base.to(as_device(device))
        data = prepared(base, x, new=True)
        whole = with_beside(base, data, beside["weights"], beside["known"])
        rows, _ = possible_rows(base, whole)
        problem = first_run(base, plain(rows), guided)
        problem, stopping = settled(problem, rows, beside["fixed"])
        return cls(problem, data, plain(whole), list(stopping))

    def begun(self, seed: int, init: str | None) -> LatentVariableModel:
        """A copy of the model at the start of a seed; the last one is kept."""
        if self._begun is not None and self._begun[0] == seed:
            return self._begun[1]
        model = self.problem.model
        with isolated(seed):
            copied = start(model, self.problem.data, model.inits[0] if init is None else init)
        for name in self.stopping:
            copied.get_parameter(name).requires_grad_(True)
        self._begun = seed, copied
        return copied


@dataclass
class ComparedFits:
    """What all fits of a comparison have in common; called with a seed and the number of a variant, it makes theirs.

    Attributes:
        grounds: one for each variant. settings: of every fit. checkpoints: a folder for those of all fits, or None.
    """

    variants: Sequence[Variant]
    grounds: Sequence[Ground]
    init: str | None
    settings: dict[str, Any]
    progress: Any
    checkpoints: Path | None = None

    def __call__(self, which: tuple[int, int]) -> Fit:
        seed, i = which
        each, ground = self.variants[i], self.grounds[i]
        shown = self.progress(each.label, seed) if callable(self.progress) else self.progress
        own = None if self.checkpoints is None else self.checkpoints / f"{folder_of(each.label)}-{seed}"
        try:
            this = fit(
                ground.begun(seed, self.init), ground.data, estimator=each.estimator, seed=seed, init="current",
                progress=shown, out=own, resume=own is not None, **self.settings, **each.options,
            )  # fmt: skip
        except LikelihoodDecreased as error:
            this = error.fit
        this.label, this.x = each.label, None  # of all fits the same data
        return this
