"""What a run is made of, in plain values."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, as_data
from zoo.core.state import snapshot
from zoo.estimators.base import Estimator
from zoo.storage.checkpoint import fingerprint

__all__ = ["derived_seed", "describe", "identify"]


def identify(
    model: LatentVariableModel, x: Data, estimator: Estimator, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What a run is made of, in plain values: two runs that agree in it take the same path."""
    saved = model.saved_as()
    given = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    more = {
        n: fingerprint(as_data(v, symbols=True)) for n, v in given.items() if settings[n] == "given" and not callable(v)
    }
    found: dict[str, Any] = {
        "model": saved["model"],
        "arguments": {name: getattr(v, "__name__", str(v)) for name, v in saved["config"].items()},
        "data": fingerprint(x),
        "estimator": estimator.name,
        "seed": seed,
        "option": {**settings, **more},
    }
    if settings["init"] == "current" and not saved["own_program"]:
        found["start"] = fingerprint(snapshot(model))
    return found


def describe(estimator: Estimator) -> dict[str, Any]:
    """The options as plain values: data given as one are not kept."""
    values = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else "given" for k, v in values.items()}


def derived_seed(seed: int, *path: int) -> int:
    """A seed for a sub-run, unrelated to its neighbours."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:6], "big")
