"""A page that moves: pictures of one figure one after another, as a .gif."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.reporting.page import Page

__all__ = ["Film", "gif"]

#: Milliseconds a frame, and of the last one; dots an inch.
FRAME, STAYS, DOTS = 250, 2000, 80


def gif(path: str | Path) -> Path:
    """The path, or a ZooError where it does not end in .gif."""
    if Path(path).suffix.lower() != ".gif":
        raise ZooError(f"animation expected a name ending in .gif, got {Path(path).name!r}. Rename it.")
    return Path(path)


class Film:
    """Takes pictures of a page as it is changed between them; where things stand on it is found once.

    Args:
        page: with all that will be on it.
        path: where to save; ends in .gif.

    Raises:
        ZooError: a file of another kind.
    """

    def __init__(self, page: Page, path: str | Path) -> None:
        self.page, self.path = page, gif(path)
        page.figure.set_dpi(DOTS / page.scale)
        page.figure.draw_without_rendering()
        page.figure.set_layout_engine("none")
        self.pictures: list[Any] = []

    def take(self) -> None:
        """A picture of the page as it is."""
        from PIL import Image

        canvas: Any = self.page.figure.canvas
        canvas.draw()
        self.pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))

    def save(self, frame: int = FRAME) -> Path:
        """Write the pictures, each shown so many milliseconds, the last one longer."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        durations = [frame] * (len(self.pictures) - 1) + [STAYS]
        self.pictures[0].save(
            self.path, save_all=True, append_images=self.pictures[1:], duration=durations, loop=0
        )  # fmt: skip
        return self.path
