"""The pictures of the gallery: ``python docs/gallery.py runs/examples`` takes them from what ``make examples`` drew.

Of a film its last frame is kept, of several pictures the first; none is wider than 900 points.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parent / "gallery"
WIDTH = 900


def main(source: Path) -> None:
    FOLDER.mkdir(exist_ok=True)
    for drawn in sorted(source.iterdir()):
        pictures = sorted(p for p in drawn.rglob("*") if p.suffix in (".png", ".gif") and p.is_file())
        if not pictures:  # its data were not at hand
            continue
        with Image.open(pictures[0]) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            kept = image.convert("RGB")
        kept.thumbnail((WIDTH, 2 * WIDTH))
        kept.quantize(64).save(FOLDER / f"{drawn.name}.png", optimize=True)
        print(f"{drawn.name}.png, of {pictures[0].name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
