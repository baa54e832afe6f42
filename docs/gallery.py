"""The pictures of the gallery: ``python docs/gallery.py [NAME ...]`` runs examples in full and keeps what they draw.

About half an hour for all. Of a film its last frame is kept, of several pictures the first; none is wider than
900 points.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "gallery"
WIDTH = 900


def drawn(example: Path) -> Image.Image | None:
    """What an example draws; None where its data are not at hand."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "picture.png"
        if "gif" in example.read_text(encoding="utf-8").split('"""')[1] and example.stem != "hopfield_tsp":
            target = target.with_suffix(".gif")
        subprocess.run([sys.executable, str(example), "--out", str(target)], check=True, cwd=ROOT, env={**os.environ})
        pictures = sorted(p for p in Path(place).rglob("*") if p.suffix in (".png", ".gif"))
        if not pictures:
            return None
        with Image.open(pictures[0]) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            return image.convert("RGB")


def main(names: Sequence[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for example in sorted((ROOT / "examples").glob("*.py")):
        if names and example.stem not in names:
            continue
        began = time.perf_counter()
        image = drawn(example)
        if image is not None:
            image.thumbnail((WIDTH, 2 * WIDTH))
            image.quantize(64).save(FOLDER / f"{example.stem}.png", optimize=True)
        print(f"{example.stem}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
