"""What the command line prints: results on stdout as text or JSON, notes and one-line mistakes on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from zoo.cli.several import is_first, may_complain

__all__ = ["RECORD", "at_once", "complain", "dumps", "stdout_for_result", "tell", "unread", "word"]

#: Name of the record of what a run was made of, beside the fit.
RECORD = "run.json"


def complain(message: str, code: int) -> int:
    if may_complain():
        print("zoo:", " ".join(message.split()), file=sys.stderr, flush=True)
    return code


def tell(notes: list[str]) -> None:
    # After the work, so that a mistake found during it is the one line on stderr.
    for note in notes if is_first() else ():
        print("note:", note, file=sys.stderr)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """What is printed here is out before anything else is done, which goes on where its reader has gone
    (``zoo fit ... | head``)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        unread()


def unread() -> None:
    """Nobody reads stdout any more: what is still printed goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def stdout_for_result(as_json: bool) -> Iterator[None]:
    """With --json, whatever a user's program prints goes to stderr."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def dumps(value: Any, indent: int | None = None) -> str:
    from zoo.storage.json import to_json

    return to_json(value, indent)


def word(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value) if value is not None else "null"
