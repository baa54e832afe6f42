"""Ctrl-C before there is anything to save ends the process; afterwards it interrupts a fit."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as typing has it, which takes time to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["interrupts", "leave"]


def interrupts() -> None:
    """From here on there is something to save: Ctrl-C raises KeyboardInterrupt again.

    Before, while packages are imported and data read, it ends the process at once: an exception raised inside an import
    may be swallowed there.
    """
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(number: int, frame: Any) -> None:
    sys.stdout.flush()
    if os.environ.get("RANK", "0") == "0":  # of several processes one has the word
        print("zoo: interrupted before there was anything to save.", file=sys.stderr, flush=True)
    os._exit(130)
