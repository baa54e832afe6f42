"""Pages of the API, written anew at every build from the package's own lists: no name is listed by hand."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

#: Page by page: its title, and the module whose ``__all__`` it shows.
MODULES = {
    "structures": ("Structures: exact sums", "zoo.structures"),
    "guides": ("Guides: families of q", "guides"),
    "bayes": ("Priors", "zoo.bayes.priors"),
}
HEAD = "# {title}\n\n{about}\n\n```{{eval-rst}}\n"


def entry(module: str, name: str, thing: Any, members: bool = True) -> str:
    kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
    lines = [f".. auto{kind}:: {module}.{name}"]
    if kind == "class" and members:
        lines += ["   :members:", "   :show-inheritance:"]
    return "\n".join(lines) + "\n\n"


def page(title: str, about: str, entries: list[str]) -> str:
    return HEAD.format(title=title, about=about) + "".join(entries) + "```\n"


def pages() -> dict[str, str]:
    """By their places, the texts."""
    import zoo
    from zoo.core.contract import LatentVariableModel
    from zoo.estimators import estimator_classes

    public = {name: getattr(zoo, name) for name in zoo.__all__ if name != "__version__"}
    is_model = {
        name: inspect.isclass(thing) and issubclass(thing, LatentVariableModel) for name, thing in public.items()
    }
    verbs = [n for n, thing in public.items() if inspect.isfunction(thing)]
    results = [n for n, thing in public.items() if inspect.isclass(thing) and not is_model[n]]
    written = {
        "verbs": page("Verbs", "What one calls: `zoo.fit` and its like.", [entry("zoo", n, public[n]) for n in verbs]),
        "results": page("Results", "What the verbs return.", [entry("zoo", n, public[n]) for n in results]),
        "contract": page(
            "The contract of a model",
            "What every model is, and may offer; [Your own model](../your_own_model.md) has it in tables.",
            [entry("zoo", "LatentVariableModel", public["LatentVariableModel"])],
        ),
        "models": page(
            "Models",
            "Each has a page of its own under [Models](../models/index.md).",
            [entry("zoo", n, public[n], members=False) for n in public if is_model[n] and n != "LatentVariableModel"],
        ),
        "estimators": page(
            "Estimators",
            "Named in `zoo.fit(..., estimator=name)`, their fields are its options.",
            [entry(cls.__module__, cls.__name__, cls, members=False) for _, cls in sorted(estimator_classes().items())],
        ),
    }
    for name, (title, module) in MODULES.items():
        this = importlib.import_module(module)
        names = [n for n in this.__all__ if getattr(getattr(this, n), "__module__", "") != "builtins"]  # not an alias
        about = inspect.cleandoc(this.__doc__ or "")
        written[name] = page(title, about, [entry(module, n, getattr(this, n)) for n in names])
    listed = "\n".join(written)
    written["index"] = (
        "# API\n\nFrom the docstrings: shapes, units, errors and sources of every public name.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
    return {f"api/{name}.md": text for name, text in written.items()}
