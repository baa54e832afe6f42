"""The command line, one file a kind of command. What is heavy is imported inside the commands: help comes at once.

================  ====================================================================
``entry``         where it begins; what becomes of every mistake
``listing``       ``models``, ``data``
``fitting``       ``fit``, ``compare``, ``explain``
``fitted``        ``evaluate``, ``sample``
``tables``        ``reproduce``, ``bench``
``task``          words of a command to a checked model, data and options
``programs``      what MODEL and --guide name
``options``       options that several commands have
``output``        what is printed
================  ====================================================================
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["interrupts", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code."""
    before = signal.getsignal(signal.SIGINT)
    # Only in a process of our own: its end is the end of all.
    quick = argv is None and before is signal.default_int_handler
    if quick:
        signal.signal(signal.SIGINT, _leave)
    try:
        from zoo.cli.entry import main as run

        return run(argv)
    finally:
        if quick:
            signal.signal(signal.SIGINT, before)


def interrupts() -> None:
    """From here on there is something to save: Ctrl-C raises KeyboardInterrupt again.

    Before, while packages are imported and data read, it ends the process at once: an exception raised inside an import
    may be swallowed there.
    """
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: Any) -> None:
    sys.stdout.flush()
    print("zoo: interrupted before there was anything to save.", file=sys.stderr, flush=True)
    os._exit(130)
