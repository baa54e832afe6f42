"""Estimators held against each other from one start: bias and spread of one gradient, relative to the exact one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, map_tensors, take
from zoo.core.isolation import isolated
from zoo.estimators import find_estimator
from zoo.runs.gradients import gradient_quality

__all__ = ["gradient_note", "note_gradients", "started"]


def started(template: LatentVariableModel, data: Data, seed: int) -> LatentVariableModel:
    """A copy with networks as drawn, as its own start makes it of the data."""
    model = copy.deepcopy(template)
    with isolated(seed):
        model.reset_guide()
        model.initialize(model.prepare(data), "random")
    return model


def note_gradients(
    rows: Sequence[dict[str, Any]],
    options: Mapping[str, dict[str, Any]],
    points: Mapping[str, LatentVariableModel],
    data: Data,
    *,
    measured: int,
    draws: int,
    guide_steps: int,
    seed: int,
) -> None:
    """Note in each row, under "gradients", by point: bias, its standard error and sd over the exact gradient's length.

    Args:
        rows: one for each estimator. options: by the estimator's name, in the same order.
        points: models by a word. measured: how many data, the first ones. guide_steps: of the guide before.
    """
    for row in rows:
        row["gradients"] = {}
    for point, model in points.items():
        few = map_tensors(torch.clone, take(model.prepare(data), slice(0, measured)))
        made = {name: find_estimator(name)(**each) for name, each in options.items()}
        found = gradient_quality(model, few, made, point=point, num_draws=draws, warmup=guide_steps, seed=seed)
        for row, quality in zip(rows, found, strict=True):
            unit = quality.exact_norm
            row["gradients"][point] = {
                "bias": quality.bias / unit,
                "bias_se": quality.bias_se / unit,
                "sd": quality.sd / unit,
                "exact_norm": unit,
            }


def gradient_note(row: dict[str, Any]) -> str:
    """What :func:`note_gradients` noted in a row, to read."""
    return ", ".join(
        f"{point} bias {found['bias']:.2g} ± {found['bias_se']:.1g}, sd {found['sd']:.2g}"
        for point, found in row["gradients"].items()
    )
