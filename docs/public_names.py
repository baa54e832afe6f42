"""The public names for type checkers: ``python docs/public_names.py`` writes ``zoo/__init__.pyi``.

``zoo`` imports what it offers when it is first asked for, which no checker can follow; the stub says the same in plain
imports. Models are found by being in their folder, so the stub is printed and a test holds it to be of today.
"""

from __future__ import annotations

from pathlib import Path

import zoo
from zoo.models import model_classes

TARGET = Path(__file__).resolve().parent.parent / "zoo" / "__init__.pyi"


def stub() -> str:
    """The text of the stub."""
    homes = {name: f"zoo.{home}" for name, home in zoo._HOME.items()}
    homes |= {cls.__name__: cls.__module__ for cls in model_classes().values()}
    modules = sorted(set(homes.values()))
    lines = ["# Printed by docs/public_names.py."]
    for module in modules:
        names = sorted(name for name, home in homes.items() if home == module)
        lines += [f"from {module} import {name} as {name}" for name in names]
    return "\n".join([*lines, "", "__version__: str", ""])


if __name__ == "__main__":
    TARGET.write_text(stub(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
