"""What a record says of the machine that it was made on."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["machine", "processor"]


def machine() -> dict[str, Any]:
    """Processor, number of cores, and Python's version."""
    return {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}


def processor() -> str:
    """The processor by its maker's name where the system tells it, else its architecture."""
    with suppress(OSError):  # Linux; elsewhere the standard library knows
        named = re.search(r"^model name\s*:\s*(.*\S)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if named:
            return named.group(1)
    return platform.processor() or platform.machine()
