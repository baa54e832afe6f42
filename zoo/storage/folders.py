"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

__all__ = ["check_free", "new_folder"]


class new_folder:
    """``with new_folder(path) as staging``: what is written to ``staging`` appears at ``path`` whole, or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.target = Path(folder)
        check_free(self.target)

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.staging = Path(tempfile.mkdtemp(prefix=f".{self.target.name}-", dir=self.target.parent))
        except OSError as error:
            raise ZooError(
                f"output folder {str(self.target)!r} cannot be made ({error.strerror}). Choose another."
            ) from None
        return self.staging

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is not None:
            shutil.rmtree(self.staging, ignore_errors=True)
            return
        self.staging.chmod(0o755)
        if self.target.is_dir():
            self.target.rmdir()  # empty: checked
        self.staging.rename(self.target)


def check_free(folder: Path) -> None:
    """Raise ZooError unless a run may be written to ``folder``: it does not exist, or is an empty folder."""
    if folder.is_file():
        raise ZooError(f"output folder expected a folder, got the file {str(folder)!r}. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ZooError(
            f"output folder {str(folder)!r} expected to be new or empty, but it holds files. Choose another name."
        )
