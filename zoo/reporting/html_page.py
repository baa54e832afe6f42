"""What pages are made of: one self-contained HTML file, with tables, and pictures in a light and a dark version."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.errors import ZooError, one_line
from zoo.reporting.tables import Table

__all__ = ["Picture", "bullets", "escaped", "html_page", "html_table", "in_figures"]


class Picture(NamedTuple):
    """A picture that a page may have.

    Attributes:
        title: what stands above it; "" to name each of its files. about: a sentence below, or one by file's stem.
        draw: writes it into a folder, light or dark, and gives its files.
        themed: whether it has a dark version.
    """

    title: str
    about: str | Mapping[str, str]
    draw: Callable[[Path, bool], Sequence[Path]]
    themed: bool = True


def in_figures(pictures: Iterable[Picture], folder: Path) -> tuple[list[str], list[Path], list[str]]:
    """Draw pictures into a folder, whatever becomes of one of them.

    Returns:
        A figure of the page for each that was drawn, their files, and a line on each that could not be.
    """
    figures, files, missing = list[str](), list[Path](), list[str]()
    for picture in pictures:
        before = set(folder.iterdir())
        with tempfile.TemporaryDirectory() as dark:
            try:
                light = list(picture.draw(folder, False))
                night = list(picture.draw(Path(dark), True)) if picture.themed else light
            except ZooError:  # a posterior that does not lend itself to the picture
                light = night = []
            except Exception as error:  # whatever a program does where it is drawn: the fits are done
                light = night = []
                missing.append(f"no picture {picture.title or 'of the latents'!r}: {one_line(error)}")
            if not light:
                for path in set(folder.iterdir()) - before:
                    path.unlink()
            for day, other in zip(light, night, strict=True):
                if day.suffix == ".png":
                    title = picture.title or day.stem.replace("_", " ").capitalize()
                    about = picture.about if isinstance(picture.about, str) else picture.about[day.stem]
                    figures.append(_figure(day, other, title, about))
            files += light
    return figures, files, missing


def _figure(light: Path, night: Path, title: str, about: str) -> str:
    def inline(path: Path) -> str:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")

    dark = "" if night == light else f'<source media="(prefers-color-scheme: dark)" srcset="{inline(night)}">'
    return (
        f"<figure><h2>{escaped(title)}</h2><picture>{dark}"
        f'<img alt="{escaped(title)}" src="{inline(light)}"></picture>'
        f"<figcaption>{escaped(about)}</figcaption></figure>"
    )


_CSS = """
:root { color-scheme: light dark; --ink: #1d2430; --quiet: #5c6673; --line: #dfe3e8; --paper: #ffffff; --band: #f5f7f9;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --quiet: #98a2b0; --line: #343b46; --paper: #171b21;
  --band: #1f252d; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
p.lead { color: var(--quiet); margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; min-width: min(100%, 26rem);
  font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { padding: .4rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
td:first-child, th:first-child { position: sticky; left: 0; max-width: 60vw; background: var(--paper); }
td { min-width: 4rem; }
tr.best td { background: var(--band); font-weight: 600; }
tr.best td:first-child { box-shadow: inset 3px 0 0 var(--mark); }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption, .small { color: var(--quiet); font-size: .85rem; }
li { margin: .25rem 0; }
details { margin-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
"""


def html_page(title: str, parts: Sequence[str]) -> str:
    """A whole page: it needs nothing beside it, and no script is used."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def html_table(table: Table, best: int | None = None, heading: str = "h2") -> str:
    """A table that scrolls by itself where it is wide; the row ``best`` stands out."""
    head = "".join(f"<th{_number(n)}>{escaped(name)}</th>" for name, n in table.columns)
    body = "".join(
        ('<tr class="best">' if i == best else "<tr>")
        + "".join(f"<td{_number(n)}>{escaped(cell)}</td>" for cell, (_, n) in zip(row, table.columns, strict=True))
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    title = f"<{heading}>{escaped(table.title)}</{heading}>" if table.title else ""
    head = f"<thead><tr>{head}</tr></thead>" if any(name for name, _ in table.columns) else ""
    return f'{title}<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def bullets(title: str, lines: Sequence[str], heading: str = "h2") -> list[str]:
    """Lines below a heading; nothing where there are none."""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return [f"<{heading}>{escaped(title)}</{heading}><ul>{items}</ul>"] if lines else []


def escaped(text: str) -> str:
    return html.escape(str(text), quote=True)


def _number(number: bool) -> str:
    return ' class="n"' if number else ""
