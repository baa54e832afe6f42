"""New data from a fitted model: of its own accord, given a part, or after sequences that it has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.core.checks import positive
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, num_data
from zoo.core.isolation import isolated
from zoo.core.memory import LARGE
from zoo.core.pieces import gathered, pieces
from zoo.core.sequences import inside
from zoo.core.sites import family_of, is_sample
from zoo.errors import ZooError
from zoo.runs.identity import derived_seed
from zoo.runs.reading import prepared
from zoo.runs.templates import expanded

__all__ = ["filtered", "forecast_probs", "forecasts", "new_data", "new_sequences"]


def new_data(model: LatentVariableModel, template: Data, n: int | None, given: Any, seed: int) -> Data:
    """``n`` new data shaped as the template, or one for each row of ``given``."""
    fields = model.fields
    if not fields.given and (reason := model.withholds().get("sample_like")) is not None:
        raise ZooError(f"sample: expected a density of the data to draw from, but {reason}.")
    if (n is None) == (given is None) or (given is None) == bool(fields.given):
        what = f"given= of {', '.join(fields.given)}, one row a draw" if fields.given else "how many, and no given="
        raise ZooError(f"sample: expected {what}. Pass it alone.")
    with isolated(seed), torch.no_grad():
        known = {} if given is None else prepared(model, given, given_alone=True)
        total = num_data(known) if n is None else n
        rows = expanded(template, total)
        rows = {**fields.named(rows), **known} if known else rows
        return gathered((_drawn(model, template, piece) for piece in pieces(model, rows, LARGE)), total)


def new_sequences(model: LatentVariableModel, template: Data, n: int | None, lengths: Any, seed: int, x: Data) -> Data:
    """``n`` new sequences of given lengths, x (n, T, D) and lengths (n,) by name; those of the data ``x`` at random
    where ``lengths`` is "data". Each is the beginning of a longer draw."""
    if not isinstance(template, dict) or "lengths" not in template or lacks(model, "sample_like") is not None:
        raise ZooError("sample: lengths expected a model of sequences, whose data have some. Leave them out.")
    if isinstance(lengths, str):
        if lengths != "data":
            raise ZooError(f'sample: lengths expected whole numbers or "data", got {lengths!r}. Take "data".')
        if x is None or n is None:
            what = "how many" if n is None else "the data, which a fit that was loaded does not hold"
            raise ZooError(f'sample: lengths="data" expected {what}, got none. Pass lengths=[...].')
        with isolated(derived_seed(seed, 1)):
            chosen = x["lengths"][torch.randint(len(x["lengths"]), (n,))]
    else:
        chosen = torch.as_tensor(lengths)
        if chosen.dim() != 1 or chosen.is_floating_point() or n not in (None, len(chosen)) or not (chosen > 0).all():
            raise ZooError(f"sample: lengths expected {n or 'n'} whole numbers from 1, got {lengths!r}. Correct them.")
    steps = max(int(chosen.max()), template["x"].shape[1])
    longest = {**template, "x": template["x"][:, :1].expand(-1, steps, *template["x"].shape[2:])}
    drawn = new_data(model, longest, len(chosen), None, seed)
    if isinstance(drawn, dict):
        raise ZooError(f"sample: {model.name} draws lengths of its own, its sequences end. Leave out lengths.")
    drawn = drawn[:, : int(chosen.max())]
    there = inside(drawn, chosen).reshape(*drawn.shape[:2], *[1] * (drawn.dim() - 2))
    return {"x": drawn.where(there, 0), "lengths": chosen}


def _drawn(model: LatentVariableModel, template: Data, rows: Data) -> Data:
    """As many new data as ``rows`` has, by torch's generator."""
    if not model.fields.given and lacks(model, "sample_like") is None:
        like: Any = model.sample_like
        return like(template, num_data(rows))
    with Redrawn(model.points) as handler:
        call(model.model, rows)
    observed = list(handler.drawn.values())
    if lacks(model, "from_pixels") is None:
        to_units: Any = model.from_pixels
        observed = [to_units(value) for value in observed]
    return observed[0] if len(observed) == 1 else tuple(observed)


class Redrawn(Messenger):
    """What a program observes is drawn anew, and kept in ``drawn`` by site; latents are drawn, or at given values.

    Parameters with a prior (``points``), ``pyro.deterministic`` and ``pyro.factor`` are no data: they stay.

    Attributes:
        where: by site, its distribution and mask.
    """

    def __init__(self, points: Collection[str], latents: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.points, self.latents = points, latents or {}
        self.drawn: dict[str, Tensor] = {}
        self.where: dict[str, tuple[Any, Any]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not is_sample(msg) or msg["name"] in self.points:
            return
        if not msg["is_observed"]:
            msg["value"] = self.latents.get(msg["name"], msg["value"])
        elif not (msg["infer"] or {}).get("_deterministic") and family_of(msg["fn"]) != "Unit":
            msg["value"], msg["is_observed"], msg["done"] = None, False, False
            self.where[msg["name"]] = msg["fn"], msg["mask"]

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.where:
            self.drawn[msg["name"]] = msg["value"]


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
