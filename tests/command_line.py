"""The command line, run inside a test."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Ran"]


@dataclass
class Ran:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str
