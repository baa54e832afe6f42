"""The tables of models in the README: ``python docs/models.py`` prints them from each model's ``tiny()``.

Which estimators serve a model is asked of themselves, on the smallest instance with its data.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from zoo.core.contract import LatentVariableModel, prepared
from zoo.core.problem import Problem
from zoo.estimators import estimator_classes
from zoo.models import model_classes
from zoo.runs.prepare import serving

TARGET = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- Printed by docs/models.py. -->\n", "<!-- End of what is printed. -->\n"
#: The order of the columns: by what they do of each step, exact ones first.
ORDER = ("em", "hard_em", "online_em", "auto_em", "closed_form", "eg", "svi", "gumbel", "st_gumbel", "reinforce")


def served(cls: type[LatentVariableModel]) -> list[str]:
    """The estimators that can serve a model's smallest instance."""
    model, x = sys.modules[cls.__module__].tiny()  # type: ignore[attr-defined]
    return serving(Problem(model, prepared(model, x)))


def tables() -> str:
    """What each model is and where it comes from; then by which estimators it can be fitted."""
    classes = sorted(model_classes().values(), key=lambda cls: (_family(cls), cls.__name__))
    lines = ["| model | what it is | reference |", "|---|---|---|"]
    for cls in classes:
        about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
        lines.append(f"| `{cls.__name__}` | {about.replace('|', chr(92) + '|')} | {cls.reference} |")
    names = [*ORDER, *sorted(set(estimator_classes()) - set(ORDER))]
    lines += ["", "| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + ":-:|" * len(names)]
    for cls in classes:
        able = served(cls)
        lines.append(f"| {cls.__name__} | " + " | ".join("●" if name in able else "" for name in names) + " |")
    return "\n".join(lines) + "\n"


def _family(cls: type[LatentVariableModel]) -> int:
    """Mixtures, factors, chains, networks."""
    marks = (r"Mixture$", r"Factor|PCA$", r"HMM$")
    return next((i for i, mark in enumerate(marks) if re.search(mark, cls.__name__)), len(marks))


def page() -> str:
    """The README with the tables of today."""
    text = TARGET.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(f"wrote the tables of {TARGET.name}")
