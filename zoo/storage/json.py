"""Strict JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from torch import Tensor

__all__ = ["to_json"]


def to_json(record: Any) -> str:
    """Strict JSON: what is not finite becomes null."""

    def finite(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {name: finite(v) for name, v in value.items()}
        return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value

    return json.dumps(finite(record), indent=1, default=_jsonable, allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (set, tuple)):
        return list(value)
    return getattr(value, "__name__", repr(value))
