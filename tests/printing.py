"""The scripts of docs/, which print what is kept there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def printed(name: str) -> ModuleType:
    """A script by its path from docs/, without its suffix."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # as where it is run, beside what it imports
        patch.syspath_prepend(DOCS)
        spec.loader.exec_module(module)
    return module
