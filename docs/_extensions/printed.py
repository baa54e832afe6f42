"""Pages that are written anew at every build, from the code and from recorded runs: none is kept, none can be stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import choosing
import commands
import gallery_page
import model_pages
import performance
import reference
from sphinx.application import Sphinx

MAKERS = (reference, model_pages, gallery_page, performance, choosing, commands)


def write(app: Sphinx) -> None:
    root = Path(app.srcdir)
    written = {root / place: text for maker in MAKERS for place, text in maker.pages().items()}
    for target, text in written.items():
        target.parent.mkdir(exist_ok=True)
        if not target.exists() or target.read_text(encoding="utf-8") != text:  # else it is read anew
            target.write_text(text, encoding="utf-8")
    for folder in ("api", "examples", "models"):
        for page in (root / folder).glob("*.md"):
            if page not in written:
                page.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    for change in (reference.spoken, reference.apart):
        app.connect("autodoc-process-docstring", change, priority=400)  # before napoleon reads it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
