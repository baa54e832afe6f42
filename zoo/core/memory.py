"""How much is worked on at a time: every such limit; and the peak memory of a stretch of work (Linux)."""

from __future__ import annotations

import mmap
from typing import Any

__all__ = [
    "BUCKET",
    "LARGE",
    "LAYER",
    "PIECE_NUMBERS",
    "PIECE_ROWS",
    "SMALL",
    "TABLE",
    "TRACED",
    "WEIGHTS",
    "PeakMemory",
    "rows_at_once",
]

#: Numbers that may be held for the data now worked on: 16 MiB of doubles, which a common cache holds in part.
PIECE_NUMBERS = 2**21
#: How many times as many while statistics are added up or data drawn: kernels share work out among sequences.
LARGE = 16
#: Rows that mixtures add up at a time: temporaries stay small beside the data.
PIECE_ROWS = 16_384
#: Importance weights that may be held, or pairs of draws and rows.
WEIGHTS = 4_000_000
#: Numbers of a network's widest layer that may be in memory at a time.
LAYER = 20_000_000
#: Weights of draws that are made at once under Pyro's handlers, which keep what they see.
TRACED = 2_000_000
#: The largest table of log-probabilities that enumeration may make for one site: 2 GiB in float64.
TABLE = 2**28
#: Sentences of like length whose trees are summed together, where lengths differ: padding costs its cube.
BUCKET = 100
#: Work on fewer numbers is small: one thread does it, and it may be rehearsed.
SMALL = 1_000_000


def rows_at_once(numbers: int, times: int = 1) -> int:
    """Data to take at a time where each needs so many numbers; at least one."""
    return max(1, times * PIECE_NUMBERS // max(1, numbers))


_STATUS, _PAGES, _RESET = "/proc/self/status", "/proc/self/statm", "/proc/self/clear_refs"


class PeakMemory:
    """``with PeakMemory() as m``: afterwards ``m.peak_mb`` is the peak above the start, in MiB, or None."""

    peak_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        self._before: int | None = None
        try:
            with open(_RESET, "wb", buffering=0) as reset:
                reset.write(b"5")  # resets the high-water mark
            with open(_PAGES, "rb", buffering=0) as pages:
                self._before = int(pages.read(1 << 8).split()[1]) * mmap.PAGESIZE // 1024
        except OSError:
            return self
        # A mark of what ran before this program in the same process is not reset, and hides ours where it is higher.
        self._hidden = _mark() > self._before
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._before is not None:
            peak = _stated_mark() if self._hidden else _mark()
            self.peak_mb = max(0, peak - self._before) / 1024


def _mark() -> int:
    """The high-water mark, KiB, for which no table has to be written and read."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _stated_mark() -> int:
    with open(_STATUS, "rb", buffering=0) as status:
        _, _, rest = status.read(1 << 16).partition(b"\nVmHWM:")
    return int(rest.split(maxsplit=1)[0])
