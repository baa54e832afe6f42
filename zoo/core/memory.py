"""How much of the data is worked on at a time; the peak memory of a stretch of work, where the system tells (Linux)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["LARGE", "PIECE_NUMBERS", "PeakMemory", "rows_at_once"]

#: Numbers that may be held for the data now worked on: 16 MiB of doubles, which a common cache holds in part.
PIECE_NUMBERS = 2**21
#: How many times as many while statistics are added up or data drawn: kernels share work out among sequences.
LARGE = 16


def rows_at_once(numbers: int, times: int = 1) -> int:
    """Data to take at a time where each needs so many numbers; at least one."""
    return max(1, times * PIECE_NUMBERS // max(1, numbers))


_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """``with PeakMemory() as m``: afterwards ``m.peak_mb`` is the peak above the start, in MiB, or None."""

    peak_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        self._before: float | None = None
        try:
            _RESET.write_text("5")  # resets the high-water mark
            self._before = _read("VmRSS")
        except OSError:
            pass
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._before is not None:
            self.peak_mb = max(0.0, _read("VmHWM") - self._before)


def _read(name: str) -> float:
    line = next(row for row in _STATUS.read_text().splitlines() if row.startswith(name + ":"))
    return float(line.split()[1]) / 1024
