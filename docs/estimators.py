"""The table of E and M steps in ``docs/design.md``: ``python docs/estimators.py`` prints it from the estimators."""

from __future__ import annotations

from pathlib import Path

from zoo.estimators import estimator_classes

TARGET = Path(__file__).resolve().parent / "design.md"
HEAD = "<!-- The table is printed by docs/estimators.py. -->\n| estimator | E step | M step |\n|---|---|---|\n"


def table() -> str:
    """A row an estimator: those with an exact E step, or none, before those whose q is the guide."""
    ordered = sorted(estimator_classes().items(), key=lambda item: (item[1].uses_guide, item[0]))
    return HEAD + "".join(f"| `{name}` | {each.about_e} | {each.about_m} |\n" for name, each in ordered)


def page() -> str:
    """The text of the page with the table of today."""
    text = TARGET.read_text(encoding="utf-8")
    before, after = text.split(HEAD)
    rest = after.split("\n")
    kept = next(i for i, line in enumerate(rest) if not line.startswith("|"))
    return before + table() + "\n".join(rest[kept:])


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote the table of {TARGET.name}")
