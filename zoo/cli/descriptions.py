"""What ``zoo models`` says of each model: its arguments, the estimators that serve it and their options.

To say it, every model has to be imported and tried on its smallest instance, which takes many seconds. It is printed
beforehand, by ``docs/models.py``, to ``models.json``, together with a digest of the files of models and estimators:
where these are others, something was added or changed, and they are asked anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PRINTED", "description", "descriptions", "estimator_names", "printed"]

PRINTED = Path(__file__).with_name("models.json")


def descriptions() -> list[dict[str, Any]]:
    """Of all models, by name."""
    found = _known()
    if found is not None:
        return [_whole(row, found["estimators"]) for row in found["models"]]
    from zoo.models import model_classes

    return [_whole(_describe_model(name, cls), _describe_options()) for name, cls in model_classes().items()]


def description(name: str) -> dict[str, Any]:
    """Of one model.

    Raises:
        ZooError: there is none of that name; the nearest is offered.
    """
    found = _known() or {"models": []}
    for row in found["models"]:
        if row["model"] == name:
            return _whole(row, found["estimators"])
    from zoo.models import find_model

    return _whole(_describe_model(name, find_model(name)), _describe_options())


def estimator_names() -> list[str]:
    """The estimators' names, in the order of the alphabet."""
    found = _known()
    if found is not None:
        return list(found["estimators"])
    from zoo.estimators import estimator_classes

    return sorted(estimator_classes())


def printed() -> str:
    """What ``models.json`` has to say."""
    from zoo.models import model_classes
    from zoo.storage.json import to_json

    rows = [_describe_model(name, cls) for name, cls in model_classes().items()]
    return to_json({"digest": _digest(), "estimators": _describe_options(), "models": rows}) + "\n"


def _digest() -> str:
    """Of the files of all models and estimators."""
    root = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(path for folder in ("models", "estimators") for path in (root / folder).rglob("*.py")):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()


def _known() -> dict[str, Any] | None:
    """What is printed, where it is of these files."""
    try:
        found = json.loads(PRINTED.read_text(encoding="utf-8"))
        return found if found["digest"] == _digest() else None
    except (OSError, ValueError, KeyError):
        return None


def _whole(row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A model's row with the options of its estimators, which are the same whatever the model."""
    of = {name: options[name] for name in row["estimators"]}
    first = {name: row[name] for name in ("model", "about", "arguments", "inits", "estimators")}
    return {
        **first,
        "estimator_options": {name: {option: each["default"] for option, each in of[name].items()} for name in of},
        "option_about": {n: {option: e["about"] for option, e in of[n].items() if e["about"]} for n in of},
        **row,
    }


def _describe_model(name: str, cls: Any) -> dict[str, Any]:
    import inspect

    from zoo.core.contract import prepared
    from zoo.core.data import map_tensors
    from zoo.core.problem import Problem
    from zoo.runs.prepare import serving

    arguments: list[dict[str, Any]] = [
        {"name": p.name, "default": None if p.default is p.empty else p.default, "required": p.default is p.empty}
        for p in inspect.signature(cls).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    module: Any = sys.modules[cls.__module__]
    instance, x = module.tiny()
    able: list[str] = []
    if type(instance) is cls:
        able = serving(Problem(instance, prepared(instance, map_tensors(lambda t: t, x))))
    meanings = _meanings(cls, [argument["name"] for argument in arguments])
    for argument in arguments:
        argument["about"] = meanings.get(argument["name"], "")
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return {
        "model": name,
        "about": " ".join(about.split()),
        "arguments": arguments,
        "inits": list(cls.inits),
        "estimators": able,
        "default_data": cls.default_data,
        "reference": cls.reference,
    }


def _describe_options() -> dict[str, dict[str, Any]]:
    """By estimator and option, its default and what it is about."""
    from zoo.estimators import estimator_classes

    found: dict[str, dict[str, Any]] = {}
    for name, kind in sorted(estimator_classes().items()):
        options = dataclasses.fields(kind)
        about = _meanings(kind, [option.name for option in options])
        found[name] = {o.name: {"default": o.default, "about": about.get(o.name, "")} for o in options}
    return found


def _meanings(cls: Any, names: Sequence[str]) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of its arguments, where a name and a colon begin it."""
    import inspect
    import re

    found: dict[str, str] = {}
    for base in cls.__mro__:
        block = re.search(
            r"^(?:Args|Attributes).*?:\n(.*?)(?=^\S|\Z)", inspect.cleandoc(base.__doc__ or ""), re.DOTALL | re.MULTILINE
        )
        text = " ".join(block.group(1).split()) if block else ""
        marks = sorted(
            (m.start(), m.end(), name) for name in names for m in re.finditer(rf"(?<![\w`=]){name}(?:, \w+)*: ", text)
        )
        for _, end, name in marks:
            stop = min((start for start, _, _ in marks if start >= end), default=len(text))
            said = re.sub(r":\w+:`~?([^`]*)`", r"\1", text[end:stop]).replace("``", "").strip()
            if not re.match(r"(of \w+, )?see zoo\.", said):  # a base says it
                found.setdefault(name, said)
    return found
