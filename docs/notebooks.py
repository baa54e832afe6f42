"""The pages that are notebooks too: ``python docs/notebooks.py`` writes ``notebooks/NAME.ipynb``, without outputs."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS.parent / "notebooks"
PAGES = {"vae_is_em": "essay.md", "start_with_a_table": "start/table.md", "start_with_a_program": "start/pyro.md"}


def notebook(name: str) -> str:
    """The text of a notebook; links go to the pages' files where these are kept, data to examples/."""
    page = DOCS / PAGES[name]
    text = page.read_text(encoding="utf-8").replace("../../examples", "../examples")
    text = re.sub(
        r"\[([^]]*)\]\((?![a-z]+:)([\w./]+\.md)(#[\w-]+)?\)", lambda m: _link(page, *m.groups(default="")), text
    )
    book = jupytext.reads(text, fmt="md:myst")
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # the same at every printing
        cell.metadata.pop("tags", None)
    return jupytext.writes(book, fmt="ipynb") + "\n"


def _link(page: Path, words: str, link: str, place: str) -> str:
    target = f"docs/{(page.parent / link).resolve().relative_to(DOCS)}"
    made = [line.lstrip("/") for line in (DOCS.parent / ".gitignore").read_text(encoding="utf-8").split()]
    if target.startswith(tuple(name for name in made if name.startswith("docs/"))):  # when the site is built
        return f"{words} (on the site)"
    return f"[{words}](../{target}{place})"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in PAGES:
        (FOLDER / f"{each}.ipynb").write_text(notebook(each), encoding="utf-8")
        print(f"wrote notebooks/{each}.ipynb")
