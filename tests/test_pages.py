"""The site's pages: their cells run, their links lead somewhere. (``make docs`` builds them, warnings as errors.)"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from tests.printing import DOCS, printed

CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Pages and folders of pages that are written when the site is built, which sees to their links.
WRITTEN = {"api", "examples", "models", "choosing.md", "commands.md", "gallery.md", "performance.md"}
PAGES = sorted(p for p in DOCS.rglob("*.md") if CELL.search(p.read_text(encoding="utf-8")))
#: Pages that compile samplers, about 15 seconds of processor time; what they show test_nuts.py and test_evaluation.py
#: hold every day.
SLOW = {"diagnostics"}


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for p in PAGES
        for name in [str(p.relative_to(DOCS).with_suffix(""))]
    ],
)
def test_the_cells_of_a_page_run(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they assert holds; what they print is printed anew at every build."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    monkeypatch.chdir(page.parent)
    mpl.use("Agg")
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # plt.show() without a screen
        for cell in CELL.findall(page.read_text(encoding="utf-8")):
            exec(compile(cell, str(page), "exec"), names)
    plt.close("all")


def test_links_between_pages_lead_somewhere() -> None:
    links = 0
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                links += 1
                if Path(target.removeprefix("../")).parts[0] not in WRITTEN and page.parent.name not in WRITTEN:
                    assert (page.parent / target).exists(), f"{page}: {target}"
    assert links > 10


def test_every_model_has_a_story() -> None:
    from zoo.models import model_classes

    assert {p.stem for p in (DOCS / "stories").glob("*.md")} == set(model_classes())
    for page in (DOCS / "stories").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text.startswith("## Story\n"), page.name
        assert "\n## Pitfalls\n" in text, page.name
        assert text.count("$$") % 2 == 0, page.name


def test_every_example_has_a_picture_in_the_gallery() -> None:
    """``make examples`` keeps them."""
    assert {p.stem for p in (DOCS.parent / "examples").glob("*.py")} == {
        p.stem for p in (DOCS / "gallery").glob("*.png")
    }


def test_every_plate_diagram_is_of_the_program_of_today() -> None:
    pytest.importorskip("graphviz", reason="pyro.render_model draws by it")
    plates = printed("plates")
    for name, source in plates.sources():
        assert plates.source_of(plates.FOLDER / f"{name}.svg") == source, f"python docs/plates.py draws {name} anew"


def test_every_notebook_is_that_of_its_page() -> None:
    pytest.importorskip("jupytext", reason="notebooks are printed by it")
    notebooks = printed("notebooks")
    for name in notebooks.PAGES:
        assert (notebooks.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8") == notebooks.notebook(name)
