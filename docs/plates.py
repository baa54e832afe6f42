"""The plate diagrams of all models: ``python docs/plates.py`` draws ``docs/plates/NAME.svg`` from their programs.

Drawn by ``pyro.render_model`` from each model's ``tiny()``, so chains show the few steps that its data have. Needs
graphviz and its ``dot``; a picture holds what it was drawn from, and a test compares that with the program of today.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyro

from zoo.core.contract import prepared
from zoo.core.isolation import isolated
from zoo.models import model_classes

FOLDER = Path(__file__).resolve().parent / "plates"
SOURCE = re.compile(r"<!-- drawn from:\n(.*?)-->", re.DOTALL)


def sources() -> Iterator[tuple[str, str]]:
    """By name of the model, what its diagram is drawn from."""
    for name, cls in sorted(model_classes().items()):
        model, x = importlib.import_module(cls.__module__).tiny()
        data = prepared(model, x)
        named = data if isinstance(data, dict) else {}
        given = () if named else data if isinstance(data, tuple) else (data,)
        with isolated(0):
            graph = pyro.render_model(model.model, model_args=given, model_kwargs=named, render_distributions=True)
        yield name, graph.source.replace("--", "- -")  # a comment in XML has no two in a row


def source_of(picture: Path) -> str:
    """What a picture says that it was drawn from."""
    found = SOURCE.search(picture.read_text(encoding="utf-8"))
    return found[1] if found else ""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, source in sources():
        target = FOLDER / f"{name}.svg"
        if target.exists() and source_of(target) == source:
            continue
        drawn = subprocess.run(
            ["dot", "-Tsvg", "-Nfontname=sans-serif", "-Gbgcolor=white"],
            input=source.replace("- -", "--"), check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        head, rest = drawn.split("<svg", 1)
        target.write_text(f"{head}<!-- drawn from:\n{source}-->\n<svg{rest}", encoding="utf-8")
        print(f"wrote {target.name}")


if __name__ == "__main__":
    main()
