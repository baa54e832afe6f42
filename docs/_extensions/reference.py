"""Pages of the API, written anew at every build from the package's own lists: no name is listed by hand."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

#: Page by page: its title, and the module whose ``__all__`` it shows.
MODULES = {
    "structures": ("Structures: exact sums", "zoo.structures"),
    "guides": ("Guides: families of q", "guides"),
    "bayes": ("Priors", "zoo.bayes.priors"),
}
#: What public names return, hold or raise, by module.
PARTS = {
    "zoo.automatic.assignment": ("Update",),
    "zoo.automatic.plan": ("SiteRow",),
    "zoo.bayes.draws": ("Draws",),
    "zoo.core.streams": ("Stream",),
    "zoo.data": ("DataInfo",),
    "zoo.models.shared.belief_net": ("DeepBeliefNet",),
    "zoo.runs.folds": ("HeldOutScore",),
    "zoo.runs.gradients": ("GradientQuality",),
    "zoo.scores.bracketing": ("Bracketing",),
    "zoo.structures.tree_problem": ("Expected",),
    "guides.tables": ("OtherData",),
}
HEAD = "# {title}\n\n{about}\n\n```{{eval-rst}}\n"


def entry(module: str, name: str, thing: Any, members: bool = True) -> str:
    kind = "class" if inspect.isclass(thing) else "function" if callable(thing) else "data"
    lines = [f".. auto{kind}:: {module}.{name}"]
    if kind == "class" and members:
        lines += ["   :members:", "   :show-inheritance:"]
    if name == "Fit":  # its answers stand in a base of their own
        lines.append("   :inherited-members:")
    home = getattr(thing, "__module__", module)
    # Where pages of source link back to: by the module's name, or by the first name that it was seen under.
    anchors = {f"{home.partition('.')[0]}.{name}", *([f"{home}.{name}"] if kind == "function" else [])}
    for anchor in sorted(anchors - {f"{module}.{name}"}):
        lines = [".. raw:: html", "", f'   <span id="{anchor}"></span>', "", *lines]
    return "\n".join(lines) + "\n\n"


def page(title: str, about: str, entries: list[str]) -> str:
    return HEAD.format(title=title, about=about) + "".join(entries) + "```\n"


def bases(classes: list[type], public: set[type]) -> list[type]:
    """The classes of the house that several classes are made of, and that are not public themselves."""
    found = {base for cls in classes for base in cls.__mro__ if base.__module__.startswith("zoo.")}
    return sorted(found - public - set(classes), key=lambda cls: (cls.__module__, cls.__name__))


def spoken(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A colon in an attribute's first line is one of prose: left there, what is before it would be taken for a type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = re.sub(r"(?<!:):(?= )", " –", lines[0])


#: Where an entry begins behind another: "rows: N. columns: D", "x: (N, D). log_marginal(x): (N,)".
NEXT = re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:\([^)]*\))?(?:, [a-z_]\w*)*: )")


def apart(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """What shares a line in a docstring's section gets a line of its own; a letter, "D.", is no number of a list."""
    inside, changed = False, list[str]()
    for line in lines:
        head = line[:1].strip()
        inside = line.startswith(("Args", "Attributes", "Shapes")) and line.endswith(":") if head else inside
        parts = NEXT.split(line) if inside and not head else [line]
        parts = [parts[0], *(f"    {part}" for part in parts[1:])]
        changed += [re.sub(r"^( +\w+: [A-Za-z])\.", r"\1\\.", part) if inside else part for part in parts]
    lines[:] = changed


def pages() -> dict[str, str]:
    """By their places, the texts."""
    import zoo
    from zoo.core.contract import LatentVariableModel
    from zoo.estimators import estimator_classes
    from zoo.models import model_classes

    public = {name: getattr(zoo, name) for name in zoo.__all__}
    verbs = [n for n, thing in public.items() if not inspect.isclass(thing)]
    results = [n for n, thing in public.items() if inspect.isclass(thing) and thing is not LatentVariableModel]
    written = {
        "verbs": page("Verbs", "What one calls: `zoo.fit` and its like.", [entry("zoo", n, public[n]) for n in verbs]),
        "results": page("Results", "What the verbs return.", [entry("zoo", n, public[n]) for n in results]),
        "contract": page(
            "The contract of a model",
            "What every model is, and may offer; [Your own model](../your_own_model.md) has it in tables.",
            [entry("zoo", "LatentVariableModel", public["LatentVariableModel"])],
        ),
        "estimators": page(
            "Estimators",
            "Named in `zoo.fit(..., estimator=name)`, their fields are its options.",
            [entry(cls.__module__, cls.__name__, cls, members=False) for _, cls in sorted(estimator_classes().items())],
        ),
    }
    made = [*model_classes().values(), *estimator_classes().values()]
    written["bases"] = page(
        "What models and estimators are made of",
        "Their bases, each with the arguments or options that it gives to all that inherit from it.",
        [entry(c.__module__, c.__name__, c, members=False) for c in bases(made, {LatentVariableModel})],
    )
    written["parts"] = page(
        "Parts of results",
        "What results hold, and what a few calls return or raise.",
        [
            entry(module, name, getattr(importlib.import_module(module), name))
            for module, names in PARTS.items()
            for name in names
        ],
    )
    for name, (title, module) in MODULES.items():
        this = importlib.import_module(module)
        names = [n for n in this.__all__ if getattr(getattr(this, n), "__module__", "") != "builtins"]  # not an alias
        about = inspect.cleandoc(this.__doc__ or "")
        written[name] = page(title, about, [entry(module, n, getattr(this, n)) for n in names])
    listed = "\n".join(written)
    written["index"] = (
        "# API\n\nFrom the docstrings: shapes, units, errors and sources of every public name. "
        "[Models](../models/index.md) have a page each.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    )
    return {f"api/{name}.md": text for name, text in written.items()}
