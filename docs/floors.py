"""The floors of the house: which package may import which, read off the code; ``python docs/floors.py`` draws them.

A package stands on a floor and imports from lower floors only, lazily or for types as well. ``FLOORS`` is the one
place where that is written down; ``tests/test_architecture.py`` holds the code to it, and the picture in
``docs/design.md`` is drawn from it.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
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
    """The floors as an SVG: a band a floor, from the roof down, and a dot for each package that one imports."""
    side, left, top = 28, 200, 100
    names = [name for floor in reversed(FLOORS) for name in floor]
    place = {name: i for i, name in enumerate(names)}
    size = left + side * len(names), top + side * len(names)
    count = Counter(package(module) for module in files(root))
    pairs = {(package(module), package(target)) for module, targets in imports(root).items() for target in targets}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0] + 28} {size[1] + 12}" '
        f'width="{size[0] + 28}" height="{size[1] + 12}">',
        "<style>text{font:14px sans-serif;fill:#1d2430} .few{font-size:12px;fill:#5c6673} .of{text-anchor:end} "
        ".dot{fill:#2f6db5} line{stroke:#d5dbe2} .own{fill:#e3e8ee} .paper{fill:#fff} "
        ".odd{fill:#f5f7f9}</style>",
        f'<rect class="paper" width="{size[0] + 28}" height="{size[1] + 12}"/>',
        f'<text class="few" x="12" y="{top - 12}">floor</text>',
        f'<text class="few of" x="{left - 12}" y="{top - 12}">files</text>',
        f'<text class="few of" x="{left - 12}" y="20">imports from:</text>',
    ]
    row = 0
    for level, floor in enumerate(reversed(FLOORS)):
        y, number = top + side * row, len(FLOORS) - 1 - level
        band = "odd" if number % 2 else "paper"
        parts.append(f'<rect class="{band}" x="0" y="{y}" width="{size[0]}" height="{side * len(floor)}"/>')
        parts.append(f'<text class="few" x="12" y="{y + 20}">{number}</text>')
        row += len(floor)
    for name, i in place.items():
        x, y = left + side * i, top + side * i
        parts.append(
            f'<line x1="0" y1="{y}" x2="{size[0]}" y2="{y}"/><line x1="{x}" y1="{top}" x2="{x}" y2="{size[1]}"/>'
        )
        parts.append(f'<rect class="own" x="{x}" y="{y}" width="{side}" height="{side}"/>')
        parts.append(f'<text x="44" y="{y + 20}">{name}</text>')
        parts.append(f'<text class="few of" x="{left - 12}" y="{y + 20}">{count[name]}</text>')
        parts.append(f'<text transform="translate({x + 19} {top - 10}) rotate(-60)">{name}</text>')
    for name, there in sorted(pairs):
        if name != there and name in place and there in place:
            x, y = left + side * place[there] + side // 2, top + side * place[name] + side // 2
            parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="7"/>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    target = ROOT / "docs" / "floors.svg"
    target.write_text(drawn(), encoding="utf-8")
    print(f"wrote {target.relative_to(ROOT)}: {len(files())} files on {len(FLOORS)} floors")
