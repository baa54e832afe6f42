"""Strict JSON, the one writer of it: no NaN and no infinities, which other readers refuse."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

__all__ = ["from_exact", "is_plain", "to_exact", "to_json"]


def to_json(record: Any, indent: int | None = 1) -> str:
    """A record as text: what is not finite becomes null, a tensor lists, a class or function its name."""
    return json.dumps(_plain(record), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    torch = sys.modules.get("torch")  # without it there are no tensors, and no need to wait for it
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else getattr(value, "__name__", repr(value))


def to_exact(record: Any) -> str:
    """One line that :func:`from_exact` reads back as it was: what is not finite becomes {"float": "inf"}."""
    return json.dumps(_marked(record), allow_nan=False)


def from_exact(text: str) -> Any:
    """What :func:`to_exact` was given."""
    return _unmarked(json.loads(text))


def is_plain(value: Any) -> bool:
    """Whether :func:`from_exact` gives back what :func:`to_exact` is given, but for tuples, which become lists."""
    if isinstance(value, dict):
        return set(value) != {"float"} and all(isinstance(name, str) for name in value) and is_plain([*value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return isinstance(value, (int, float, str, bool, type(None)))


def _marked(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {str(name): _marked(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_marked(part) for part in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if set(value) == {"float"} else {n: _unmarked(part) for n, part in value.items()}
    return [_unmarked(part) for part in value] if isinstance(value, list) else value
