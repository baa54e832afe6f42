"""``zoo new``: a model to start from, with its test and its example."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.completing import model_names
from zoo.errors import ZooError

__all__ = ["new"]


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name in lower case: my_model.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder for the three files; by default this one, or a checkout's own folders."),
    ] = None,
) -> None:
    """Write a model that works, its test and its example: a start for a model of your own.

    In a checkout of the project they go to zoo/models, tests and examples, where everything else finds the model.

    Example: zoo new my_model
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ZooError(f"NAME expected lower-case words joined by _, got {name!r}. For instance zoo new my_model.")
    if name in model_names():
        raise ZooError(f"NAME expected a new name, got {name!r}, which the zoo has. For instance zoo new my_{name}.")
    here = Path.cwd()
    inside = out is None and (here / "zoo" / "models" / "__init__.py").is_file() and (here / "tests").is_dir()
    folder = Path() if out is None else out
    plain = [f"{name}.py", f"test_{name}.py", f"example_{name}.py"]
    files = [f"zoo/models/{name}.py", f"tests/test_{name}.py", f"examples/{name}.py"] if inside else plain
    places = {kind: folder / file for kind, file in zip(("model", "test", "example"), files, strict=True)}
    there = [str(path) for path in places.values() if path.exists()]
    if there:
        raise ZooError(f"zoo new expected to write {there[0]}, which exists. Choose another name or --out.")
    words = {
        "Class": "".join(part.capitalize() for part in name.split("_")),
        "module": f"zoo.models.{name}" if inside else name,
        "example": str(places["example"]),
    }
    for kind, path in places.items():
        text = (resources.files("zoo.cli") / "skeleton" / f"{kind}.txt").read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"@(\w+)@", lambda match: words[match[1]], text), encoding="utf-8")
    target = name if inside else f"{places['model']}:{words['Class']}"
    print("wrote", ", ".join(str(path) for path in places.values()))
    print("try it:   python -m pytest", places["test"])
    print("          python", places["example"])
    print(f"          zoo fit {target} --data my.csv")
    print("what a model may offer beyond its two programs: docs/your_own_model.md")
