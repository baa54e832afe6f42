"""Learning curves thin enough for a record."""

from __future__ import annotations

from typing import Any

from zoo.runs.result import Fit

__all__ = ["learning_curve", "thinned"]


def thinned(length: int, points: int = 20) -> list[int]:
    """At most ``points`` + 1 indices of a curve, evenly spaced, the first and the last among them."""
    return sorted({*range(0, length, max(1, -(-length // points))), length - 1} if length else set())


def learning_curve(name: str, fitted: Fit, num_data: int, start: int = 0) -> list[dict[str, Any]]:
    """Some epochs of a fit, counted from ``start``, and the bound they climbed, any prior left out, nats a datum."""
    history = fitted.history
    columns = [history[name] for name in ("elbo", "bound", "objective") if name in history]
    bounds = next(values for values in columns if None not in values)
    return [
        {"name": name, "epoch": start + i + 1, "training_bound": bounds[i] / num_data} for i in thinned(len(bounds))
    ]
