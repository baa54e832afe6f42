"""What went wrong: which parameter, site or gradient is not finite."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call
from zoo.core.isolation import kept_generators
from zoo.core.objective import Objective
from zoo.core.sites import unwrapped

__all__ = ["explain"]


def explain(model: LatentVariableModel, objective: Objective, batch: Data) -> str | None:
    """Which parameter, site or gradient is not finite on a batch, a phrase; None where all of them are."""
    named = list(model.named_parameters())
    lost = [name for name, p in named if p.isnan().any()]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"parameter {lost[0]!r}{more} became NaN, as its gradient was not finite"
    watch = _Watch()
    with torch.no_grad(), kept_generators(), pyro.validation_enabled(False):
        for _ in range(5):  # a rare draw may have been the cause
            watch.look(model, batch)
            if watch.found is not None:
                return watch.found
    moved = [(name, p) for name, p in named if p.requires_grad]
    try:
        grads = torch.autograd.grad(objective(batch).surrogate, [p for _, p in moved], allow_unused=True)
    except (ValueError, RuntimeError):
        return None
    for (name, _), grad in zip(moved, grads, strict=True):
        if grad is not None and not bool(grad.abs().max() < 1e18):  # its square overflows
            return f"the gradient of parameter {name!r} became {float(grad.abs().max()):.3g}"
    return None


class _Watch(Messenger):
    """Runs a model's programs and notes the first sample site that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def look(self, model: LatentVariableModel, batch: Data) -> None:
        try:
            with self:
                drawn = poutine.trace(lambda: call(model.guide, batch)).get_trace() if model.has_guide else None
                run = poutine.replay(model.model, trace=drawn) if drawn is not None else model.model
                call(run, batch)
        except Exception:
            return  # whatever NaN did to the program; a mistake in it shows without us

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = unwrapped(msg["fn"])
        for name in getattr(fn, "arg_constraints", {}) if self.found is None else ():
            value = fn.__dict__.get(name)
            if isinstance(value, Tensor) and value.isnan().any():
                self.found = f"the {name} of site {msg['name']!r} is nan"

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if self.found is not None or type(msg["fn"]).__name__ == "_Subsample":
            return
        value, mask = msg["value"], msg["mask"]
        try:
            seen: dict[str, Tensor] = {"value": value, "log_prob": msg["fn"].log_prob(value)}
        except ValueError:
            self.found = f"site {msg['name']!r} cannot be scored: its value left the support"
            return
        if isinstance(mask, Tensor):
            seen["log_prob"] = seen["log_prob"].where(mask, torch.zeros_like(seen["log_prob"]))
        for what, tensor in seen.items():
            bad = ~tensor.isfinite()
            if mask is not False and bad.any() and not (what == "value" and msg["is_observed"]):
                self.found = f"the {what} of site {msg['name']!r} is {float(tensor[bad][0])}"
                return
