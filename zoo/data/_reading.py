"""What readers of binary tables have in common: the package for .parquet, and the word on a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ZooError

__all__ = ["pyarrow_parquet", "unreadable"]


def pyarrow_parquet(path: Path) -> Any:
    """The module that reads ``.parquet``.

    Raises:
        ZooError: it is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ZooError(
            f"Reading {path.name} needs pyarrow, which is not installed. Run: pip install 'latent-zoo[parquet]'."
        ) from None
    return pq


def unreadable(path: Path, kind: str, error: Exception) -> ZooError:
    """The mistake of a damaged file, by the first line of what its reader says."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return ZooError(f"{path.name} is no readable {kind} file: {reason}. Save it again.")
