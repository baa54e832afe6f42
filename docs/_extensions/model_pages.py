"""A page a model, written anew at every build: its story by hand, all else from the model itself."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

from wording import FAMILIES, family, first_sentence, plain

DOCS = Path(__file__).resolve().parent.parent


def page(name: str, cls: type) -> str:
    """The text of a model's page."""
    from zoo.cli.descriptions import PRINTED
    from zoo.core.contract import lacks
    from zoo.core.offers import OFFERS

    model, _ = importlib.import_module(cls.__module__).tiny()
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    served = {row["model"]: row["estimators"] for row in json.loads(PRINTED.read_text(encoding="utf-8"))["models"]}
    offers = [f"| `{n}` | {plain(o.says)} |" for n, o in OFFERS.items() if lacks(model, n) is None]
    story = (DOCS / "stories" / f"{name}.md").read_text(encoding="utf-8").strip()
    parts = [
        f"# {cls.__name__}\n\n{plain(about).replace(chr(92) + '|', '|')}\n",
        story,
        f"\n## Its program, drawn\n\n![The plate diagram of {cls.__name__}](../plates/{name}.svg)\n",
        "Drawn by `pyro.render_model` from the smallest instance; shaded: observed. A chain is drawn step by step.\n",
        "## Estimators\n\n" + ", ".join(f"`{e}`" for e in served[name]) + ".\n",
        "`zoo.fit` chooses among them by itself; [how to choose](../choosing.md).\n",
        "## What it knows of itself\n\n| it offers | that is |\n|---|---|\n" + "\n".join(offers) + "\n",
        f"## Example\n\n[`examples/{name}.py`](#example-{name}), with what it prints and its program:\n",
        f":::{{container}} picture\n![What examples/{name}.py draws](../gallery/{name}.png)\n:::\n",
        f"## Reference\n\n{getattr(cls, 'reference', '')}\n",
        f"```{{eval-rst}}\n.. autoclass:: zoo.{cls.__name__}\n   :show-inheritance:\n```\n",
    ]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """By their places, the texts."""
    from zoo.models import model_classes

    classes = model_classes()
    written = {name: page(name, cls) for name, cls in classes.items()}
    lines = ["# Models\n", "One page a model: its story, what is exact about it, what to look out for.\n"]
    for number, (title, _) in enumerate(FAMILIES):
        names = [name for name, cls in classes.items() if family(cls) == number]
        lines.append(f"## {title}\n\n| | |\n|---|---|")
        lines += [f"| [{classes[name].__name__}]({name}.md) | {first_sentence(classes[name])} |" for name in names]
        lines.append("\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n")
    written["index"] = "\n".join(lines)
    return {f"models/{name}.md": text for name, text in written.items()}
