"""The tables of models in the README, and what ``zoo models`` says: ``python docs/models.py`` prints both from each
model's ``tiny()``.

Which estimators serve a model is asked of themselves, on the smallest instance with its data.
"""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from pathlib import Path

from zoo.cli.descriptions import PRINTED, printed
from zoo.core.contract import LatentVariableModel
from zoo.estimators import estimator_classes
from zoo.models import model_classes, snake_case

TARGET = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- Printed by docs/models.py. -->\n", "<!-- End of what is printed. -->\n"
#: The order of the columns: by what they do of each step, exact ones first.
ORDER = ("em", "hard_em", "online_em", "auto_em", "closed_form", "eg", "svi", "gumbel", "st_gumbel", "reinforce")


@cache
def descriptions() -> str:
    """What ``models.json`` has to say; every model is asked for it, once."""
    return printed()


def tables() -> str:
    """What each model is and where it comes from; then by which estimators it can be fitted."""
    classes = sorted(model_classes().values(), key=lambda cls: (_family(cls), cls.__name__))
    lines = ["| model | what it is | reference |", "|---|---|---|"]
    for cls in classes:
        about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").split(". ")[0].rstrip(".")
        lines.append(f"| `{cls.__name__}` | {about.replace('|', chr(92) + '|')} | {cls.reference} |")
    names = [*ORDER, *sorted(set(estimator_classes()) - set(ORDER))]
    lines += ["", "| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + ":-:|" * len(names)]
    served = {row["model"]: row["estimators"] for row in json.loads(descriptions())["models"]}
    for cls in classes:
        able = served[snake_case(cls.__name__)]
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
    PRINTED.write_text(descriptions(), encoding="utf-8")
    print(f"wrote the tables of {TARGET.name}, and {PRINTED.name}")
