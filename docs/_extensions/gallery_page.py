"""The gallery: thumbnails of what ``make examples`` drew, and a page an example with its words, picture and program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from wording import prose

DOCS = Path(__file__).resolve().parent.parent
EXAMPLES = DOCS.parent / "examples"
HEAD = """# Gallery

Every example of the zoo, run in full: the pictures are what it drew.
`python examples/NAME.py` prints the figures on its page, `--out` draws.

::::{grid} 2 2 3 4
:gutter: 2
"""


def title(name: str) -> str:
    """A model's class or a file's name, in words."""
    from zoo.models import model_classes

    cls = model_classes().get(name)
    return name.replace("_", " ").capitalize() if cls is None else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__)


def page(path: Path) -> str:
    """An example: what its first lines say, what it drew, how it is written."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    question, _, rest = text.partition("\n")
    name = path.stem
    return "\n".join(
        [
            f"(example-{name})=\n# {title(name)}: an example\n\n**{question.strip()}**\n",
            f":::{{container}} picture\n![What examples/{name}.py draws](../gallery/{name}.png)\n:::\n",
            prose(rest.strip("\n")),
            f"\n## The program\n\n```{{literalinclude}} ../../examples/{name}.py\n:lines: {_begins(path)}-\n```\n",
        ]
    )


def _begins(path: Path) -> int:
    """The line after the first docstring."""
    first = ast.parse(path.read_text(encoding="utf-8")).body[0]
    return (first.end_lineno or 0) + 2


def pages() -> dict[str, str]:
    """By their places, the texts."""
    paths = sorted(EXAMPLES.glob("*.py"))
    written = {f"examples/{path.stem}.md": page(path) for path in paths}
    cards = [
        f":::{{grid-item-card}} {title(path.stem)}\n:img-top: gallery/{path.stem}.png\n"
        f":img-alt: What examples/{path.name} draws\n:link: example-{path.stem}\n:link-type: ref\n:::\n"
        for path in paths
    ]
    tree = "\n".join(f"{title(path.stem)} <examples/{path.stem}>" for path in paths)
    written["gallery.md"] = "\n".join([HEAD, *cards, "::::\n", f"```{{toctree}}\n:hidden:\n\n{tree}\n```\n"])
    return written
