"""What the README has of models and speed, the page of who serves whom, and what ``zoo models`` says: ``python
docs/models.py`` prints all from each model's ``tiny()`` and from results/.

Which estimators serve a model is asked of themselves, on the smallest instance with its data.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from timings import beside
from wording import family, first_sentence

from zoo.cli.descriptions import PRINTED, printed
from zoo.core.contract import LatentVariableModel
from zoo.estimators import estimator_classes
from zoo.models import model_classes, snake_case

ROOT = Path(__file__).resolve().parent.parent
TARGET, SERVED = ROOT / "README.md", ROOT / "docs" / "served.md"
BEGIN, END = "<!-- Printed by docs/models.py. -->\n", "<!-- End of what is printed. -->\n"
FAST, FASTER = "<!-- Speed, printed by docs/models.py from results/. -->\n", "<!-- End of speed. -->\n"
#: The order of the columns: by what they do of each step, exact ones first.
ORDER = ("em", "hard_em", "online_em", "auto_em", "closed_form", "eg", "svi", "gumbel", "st_gumbel", "reinforce")


@cache
def descriptions() -> str:
    """What ``models.json`` has to say; every model is asked for it, once."""
    return printed()


def _classes() -> list[type[LatentVariableModel]]:
    return sorted(model_classes().values(), key=lambda cls: (family(cls), cls.__name__))


def models() -> str:
    """What each model is and where it comes from."""
    lines = ["| model | what it is | after |", "|---|---|---|"]
    for cls in _classes():
        source = re.split(r"\), |\)$|\);", cls.reference)[0] + ")"
        lines.append(f"| `{cls.__name__}` | {first_sentence(cls)} | {source} |")
    return "\n".join(lines) + "\n"


def served() -> str:
    """The page of who serves whom."""
    names = [*ORDER, *sorted(set(estimator_classes()) - set(ORDER))]
    lines = [
        "<!-- Printed by docs/models.py. -->\n# Which estimator serves which model\n",
        "A dot: the estimator can fit the model; of the others `zoo fit` says why not.\n",
        "| | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|" + ":-:|" * len(names),
    ]
    able = {row["model"]: row["estimators"] for row in json.loads(descriptions())["models"]}
    for cls in _classes():
        dots = ("●" if name in able[snake_case(cls.__name__)] else "" for name in names)
        lines.append(f"| {cls.__name__} | " + " | ".join(dots) + " |")
    return "\n".join(lines) + "\n"


def speed() -> str:
    """A few of the recorded figures; the site has all."""
    rows = [
        "How many times as long others take (`zoo bench NAME`, recorded in `results/`; the site has all):\n",
        "| what | beside | times |\n|---|---|---:|",
    ]
    shown = (
        ("gaussian_mixture", "Gaussian mixture", ("scikit-learn", "pomegranate")),
        ("hmm", "Gaussian HMM", ("hmmlearn scaling", "dynamax")),
        ("vae", "VAE", ("pyro.infer.SVI",)),
    )
    for name, kind, peers in shown:
        timed = [(what, ratios) for what, ratios in beside(name).items() if set(peers) <= set(ratios)]
        for what, ratios in timed[::2]:
            times = ", ".join(f"{ratios[peer]:.3g}" for peer in peers)
            rows.append(f"| {kind}, {what} | {', '.join(peers)} | {times} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The README with the tables of today."""
    text = TARGET.read_text(encoding="utf-8")
    for begin, end, part in ((BEGIN, END, models()), (FAST, FASTER, speed())):
        before, rest = text.split(begin)
        text = before + begin + part + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    SERVED.write_text(served(), encoding="utf-8")
    PRINTED.write_text(descriptions(), encoding="utf-8")
    print(f"wrote the tables of {TARGET.name}, {SERVED.name} and {PRINTED.name}")
