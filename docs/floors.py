"""The floors of the house: which package may import which, read off the code; ``python docs/floors.py`` draws them.

A package stands on a floor and imports from lower floors only, lazily or for types as well. ``FLOORS`` is the one
place where that is written down; ``tests/test_architecture.py`` holds the code to it, and the picture in
``docs/design.md`` is drawn from it.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

#: From the ground up. Packages on one floor do not import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "guides"),
    ("core",),
    ("data", "densities", "storage"),
    ("structures",),
    ("automatic",),
    ("scores", "components"),
    ("reporting",),
    ("bayes",),
    ("models", "estimators"),
    ("runs",),
    ("reproduce",),
    ("cli",),
)
ROOT = Path(__file__).resolve().parent.parent


def files(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ``zoo`` and ``guides`` by its dotted name."""
    paths = [path for folder in ("zoo", "guides") for path in sorted((root / folder).rglob("*.py"))]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """By module, the modules of the house that it imports anywhere: at the top, inside functions, for types."""
    modules = files(root)
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: a relative import"
                targets |= {f"{node.module}.{alias.name}" for alias in node.names}
        reached = {_module(target, modules) for target in targets}
        arrows[name] = {target for target in reached if target is not None and target not in (name, "zoo")}
    return arrows


def _module(name: str, modules: dict[str, Path]) -> str | None:
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def package(module: str) -> str:
    """The room of a module: ``zoo.core.data`` is in "core", ``guides.chain`` in "guides"."""
    parts = module.removesuffix(".__main__").split(".")
    return parts[0] if parts[0] == "guides" or len(parts) == 1 else parts[1]


def climbing(root: Path = ROOT) -> list[str]:
    """The imports that go up a floor, or across one; empty in a house in order."""
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module, targets in imports(root).items():
        room = package(module)
        if room == "zoo":
            continue
        for target in sorted(targets):
            there = package(target)
            if there != room and floor[there] >= floor[room]:
                wrong.append(f"{module} ({room}) imports {target} ({there})")
    return wrong


def circles(root: Path = ROOT) -> list[list[str]]:
    """Sets of modules that import each other, directly or around a corner (Tarjan 1972)."""
    arrows = imports(root)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    sets: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in arrows[module]:
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            part = [stack.pop()]
            while part[-1] != module:
                part.append(stack.pop())
            if len(part) > 1:
                sets.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for module in arrows:
        if module not in index:
            visit(module)
    return sets


def drawn(root: Path = ROOT) -> str:
    """The floors as an SVG: a box a package with its number of files, a line for every pair where one imports."""
    width, height, gap, top = 132, 40, 34, 12
    count: dict[str, int] = {}
    for module in files(root):
        count[package(module)] = count.get(package(module), 0) + 1
    whole = max(len(names) for names in FLOORS) * (width + gap) + gap
    boxes: dict[str, tuple[float, float]] = {}
    for level, names in enumerate(reversed(FLOORS)):
        left = (whole - len(names) * width - (len(names) - 1) * gap) / 2
        for i, name in enumerate(names):
            boxes[name] = left + i * (width + gap), top + level * (height + gap)
    pairs = {(package(m), package(t)) for m, targets in imports(root).items() for t in targets}
    lines = [
        f'<line x1="{boxes[a][0] + width / 2:g}" y1="{boxes[a][1] + height:g}" '
        f'x2="{boxes[b][0] + width / 2:g}" y2="{boxes[b][1]:g}"/>'
        for a, b in sorted(pairs)
        if a != b and "zoo" not in (a, b) and b not in ("errors", "core")
    ]
    rooms = [
        f'<rect x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="6"/>'
        f'<text x="{x + width / 2:g}" y="{y + 18:g}">{name}</text>'
        f'<text class="small" x="{x + width / 2:g}" y="{y + 33:g}">{count[name]} '
        f"{'file' if count[name] == 1 else 'files'}</text>"
        for name, (x, y) in boxes.items()
    ]
    style = (
        "line{stroke:#8a94a3;stroke-width:1;opacity:.55} rect{fill:#f5f7f9;stroke:#5c6673} "
        "text{font:14px sans-serif;text-anchor:middle;fill:#1d2430} .small{font-size:10px;fill:#5c6673}"
    )
    bottom = top * 2 + len(FLOORS) * (height + gap) - gap
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole:g} {bottom}" width="{whole:g}" height="{bottom}">'
    )
    paper = f'<rect x="0" y="0" width="{whole:g}" height="{bottom}" style="fill:#fff;stroke:none"/>'
    return "\n".join([head, f"<style>{style}</style>", paper, *lines, *rooms, "</svg>", ""])


if __name__ == "__main__":
    target = ROOT / "docs" / "floors.svg"
    target.write_text(drawn(), encoding="utf-8")
    print(f"wrote {target.relative_to(ROOT)}: {len(files())} files on {len(FLOORS)} floors")
