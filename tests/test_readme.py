"""The README's sessions run as printed, and what it says exists does."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_sessions_print_what_the_readme_says():
    result = doctest.testfile(str(README), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 15
    assert result.failed == 0


def test_every_model_is_in_the_table_and_every_file_named_exists():
    from zoo.models import model_classes

    text = README.read_text()
    for cls in model_classes().values():
        assert f"| `{cls.__name__}`" in text
    for name in re.findall(r"`((?:tests|docs|examples)/[\w./]+)`", text):
        assert (README.parent / name).exists(), name
