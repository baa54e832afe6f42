"""The command line, one file a kind of command. What is heavy is imported inside the commands: help comes at once.

================  ====================================================================
``entry``         where it begins; what becomes of every mistake
``listing``       ``models``, ``data``
``descriptions``  what there is to say of each model, printed beforehand
``fitting``       ``fit``, ``compare``, ``explain``
``selecting``     ``select``
``showing``       ``show``
``predicting``    ``predict``
``fitted``        ``evaluate``, ``sample``, ``forecast``
``tables``        ``reproduce``, ``bench``
``beginning``     ``new``
``task``          words of a command to a checked model, data and options
``classes``       how components go with known classes
``holding_out``   a share of the data that a fit does not see
``tokens``        words that go on, in files
``saved``         a fit in its folder, and the data that it is asked about
``programs``      what MODEL and --guide name
``options``       options that several commands have
``completing``    what Tab offers
``several``       one fit in several processes
``resuming``      many fits in one folder, gone on with
``output``        what is printed
================  ====================================================================
"""

from __future__ import annotations

import signal

from zoo.cli.stopping import leave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code."""
    before = signal.getsignal(signal.SIGINT)
    # Only in a process of our own: its end is the end of all.
    quick = argv is None and before is signal.default_int_handler
    if quick:
        signal.signal(signal.SIGINT, leave)
        from zoo.cli.several import end, launched, leave_with_launcher

        leave_with_launcher()
    try:
        from zoo.cli.entry import main as run

        code = run(argv)
        if quick and launched() > 1:
            end(code)
        return code
    finally:
        if quick:
            signal.signal(signal.SIGINT, before)
