"""What the command line prints: results on stdout as text or JSON, notes and one-line mistakes on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["RECORD", "complain", "dumps", "stdout_for_result", "tell", "word"]

#: Name of the record of what a run was made of, beside the fit.
RECORD = "run.json"


def complain(message: str, code: int) -> int:
    print("zoo:", " ".join(message.split()), file=sys.stderr)
    return code


def tell(notes: list[str]) -> None:
    # After the work, so that a mistake found during it is the one line on stderr.
    for note in notes:
        print("note:", note, file=sys.stderr)


@contextlib.contextmanager
def stdout_for_result(as_json: bool) -> Iterator[None]:
    """With --json, whatever a user's program prints goes to stderr."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Only what JSON knows: NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else getattr(value, "__name__", repr(value))


def word(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value) if value is not None else "null"
