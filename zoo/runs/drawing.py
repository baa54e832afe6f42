"""New data from a fitted model: of its own accord, given a part, or after sequences that it has seen."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.core.checks import positive
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, call, num_data
from zoo.core.isolation import isolated
from zoo.core.memory import LARGE
from zoo.core.pieces import gathered, pieces
from zoo.core.sites import sample_sites
from zoo.errors import ZooError
from zoo.runs.templates import expanded

__all__ = ["filtered", "forecast_probs", "forecasts", "new_data"]


def new_data(model: LatentVariableModel, template: Data, n: int | None, given: Any, seed: int) -> Data:
    """``n`` new data shaped as the template, or one for each row of ``given``."""
    fields = model.fields
    if not fields.given and (reason := model.withholds().get("sample_like")) is not None:
        raise ZooError(f"sample: expected a density of the data to draw from, but {reason}.")
    if (n is None) == (given is None) or (given is not None and not fields.given):
        raise ZooError(f"sample: expected how many, or given= of {', '.join(fields.given) or 'no fields'}.")
    with isolated(seed), torch.no_grad():
        known = {} if given is None else prepared(model, given, given_alone=True)
        total = num_data(known) if n is None else n
        rows = expanded(template, total)
        rows = {**fields.named(rows), **known} if known else rows
        return gathered((_drawn(model, template, piece) for piece in pieces(model, rows, LARGE)), total)


def _drawn(model: LatentVariableModel, template: Data, rows: Data) -> Data:
    """As many new data as ``rows`` has, by torch's generator."""
    if not model.fields.given and lacks(model, "sample_like") is None:
        like: Any = model.sample_like
        return like(template, num_data(rows))
    unconditioned = poutine.uncondition(model.model)
    trace = poutine.trace(lambda: call(unconditioned, rows)).get_trace()
    observed = [
        site["value"]
        for site in sample_sites(trace).values()
        if site["infer"].get("was_observed") and isinstance(site["value"], Tensor)
    ]
    if lacks(model, "from_pixels") is None:
        to_units: Any = model.from_pixels
        observed = [to_units(value) for value in observed]
    return observed[0] if len(observed) == 1 else tuple(observed)


def forecasts(model: LatentVariableModel, x: Any, num_steps: int, num_samples: int, seed: int) -> Tensor:
    """Draws of what follows each sequence of x, (num_samples, N, num_steps, D)."""
    if (reason := lacks(model, "continuation")) is not None:
        raise ZooError(f"forecast: expected a model of sequences, but {reason}. Fit an HMM or a VRNN.")
    positive(num_steps, "num_steps", "forecast")
    positive(num_samples, "num_samples", "forecast")
    hook: Any = model.continuation
    x = prepared(model, x)
    with isolated(seed), torch.no_grad():
        drawn: Tensor = call(lambda *a, **k: hook(*a, **k, num_steps=num_steps, num_samples=num_samples), x)
    return drawn


def forecast_probs(model: LatentVariableModel, x: Any, num_steps: int) -> Tensor:
    """Exact probabilities of the tokens that follow each sequence of x, (N, num_steps, V)."""
    if (reason := lacks(model, "continuation_probs")) is not None:
        raise ZooError(f"forecast_probs: expected a model of tokens, but {reason}. Use forecast.")
    positive(num_steps, "num_steps", "forecast_probs")
    hook: Any = model.continuation_probs
    with torch.no_grad():
        found: Tensor = call(lambda *a, **k: hook(*a, **k, num_steps=num_steps), prepared(model, x))
    return found


def filtered(model: LatentVariableModel, x: Any, seed: int) -> Tensor:
    """What x_1..x_t say of z_t, (N, T, L) or (N, T, K)."""
    if (reason := lacks(model, "filter")) is not None:
        raise ZooError(f"filter: expected a model of sequences, but {reason}. Use posterior.")
    hook: Any = model.filter
    with isolated(seed), torch.no_grad():
        found: Tensor = hook(prepared(model, x))
    return found
