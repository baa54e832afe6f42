"""The gallery: every example with what its first lines say, and the picture that ``make examples`` drew."""

from __future__ import annotations

import ast
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent


def pages() -> dict[str, str]:
    """By their places, the texts."""
    parts = [
        "# Gallery\n\nEvery example of the zoo, run in full: the pictures are what it drew, the words its own. "
        "`python examples/NAME.py` prints the figures, `--out` draws.\n"
    ]
    for path in sorted((DOCS.parent / "examples").glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        question, _, rest = text.partition("\n")
        title = path.stem.replace("_", " ")
        parts.append(f"(example-{path.stem})=\n## {title[0].upper()}{title[1:]}\n\n**{question.strip()}**\n")
        if (DOCS / "gallery" / f"{path.stem}.png").is_file():
            parts.append(f"![What examples/{path.name} draws](gallery/{path.stem}.png)\n")
        parts.append(f"```text\n{rest.strip()}\n```\n")
    return {"gallery.md": "\n".join(parts)}
