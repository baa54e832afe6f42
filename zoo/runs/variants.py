"""What stands in a comparison: an estimator with its options, under a label of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import ZooError, unknown_name
from zoo.estimators import find_estimator, option_names
from zoo.estimators.base import Estimator, options_from

__all__ = ["Variant", "folder_of", "sorted_out", "variant"]


@dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
        label: what tables, pictures and folders call it.
        estimator: the estimator's name.
        options: options of its own.
        model: another model than the comparison's, to be fitted to the same data; None takes the comparison's.

    Raises:
        ZooError: by :meth:`made`, and where it is compared, before any fit: an estimator or option that is not known.

    Example:
        >>> zoo.Variant("cold", "gumbel", {"temperature": 0.2})
        Variant(label='cold', estimator='gumbel', options={'temperature': 0.2}, model=None)
    """

    label: str
    estimator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Any = None

    def made(self) -> Estimator:
        """The estimator with its options.

        Raises:
            ZooError: an option that it does not have, or a value of the wrong kind.
        """
        return options_from(find_estimator(self.estimator), dict(self.options))


def variant(text: str | Variant) -> Variant:
    """``"gumbel:temperature=0.5:num_particles=2"`` as a variant of that label; a value is JSON, or else a word.

    Raises:
        ZooError: an estimator that is not known, or something after it that is no NAME=VALUE.
    """
    if isinstance(text, Variant):
        find_estimator(text.estimator)
        return text
    name, *settings = (part.strip() for part in str(text).split(":"))
    find_estimator(name)
    options: dict[str, Any] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals or not option:
            raise ZooError(f"estimators: {text!r} expected NAME:OPTION=VALUE, got {setting!r} after the name.")
        try:
            options[option] = json.loads(value)
        except ValueError:
            options[option] = value
        if isinstance(options[option], float) and not math.isfinite(options[option]):
            raise ZooError(f"estimators: {text!r} expected a finite {option}, got {value}. Choose a number.")
    return Variant(":".join([name, *settings]), name, options)


def folder_of(label: str) -> str:
    """The label as the name of a folder, on any system."""
    return re.sub(r"[^\w.=+-]", "_", label)


def sorted_out(
    variants: Sequence[Variant], own: Mapping[str, Mapping[str, Any]], common: Mapping[str, Any]
) -> list[Variant]:
    """The variants with all of their options: those common to all that have them, then their estimator's, their label's
    and their own.

    Raises:
        ZooError: a label, or its folder, twice; an option that none has, or a value of the wrong kind.
    """
    labels = [each.label for each in variants]
    _once(labels)
    for name in own:
        if name not in labels and name not in {each.estimator for each in variants}:
            find_estimator(name)
            raise ZooError(f"compare: options for {name!r} expected it among the estimators, got {', '.join(labels)}.")
    fields = {each.label: option_names(each.estimator) for each in variants}
    known: set[str] = set().union(*fields.values())
    for option in common:
        if option not in known:
            raise unknown_name("option", option, known)
    complete = []
    for each in variants:
        options = {name: value for name, value in common.items() if name in fields[each.label]}
        options |= {**own.get(each.estimator, {}), **own.get(each.label, {}), **each.options}
        complete.append(dataclasses.replace(each, options=options))
        complete[-1].made()
    return complete


def _once(labels: Iterable[str]) -> None:
    seen: set[str] = set()
    for label in labels:
        if not label or folder_of(label) in seen:
            raise ZooError(
                f"compare: estimators expected a label of its own for each, got {label!r} again. Tell them apart: "
                "Variant('another label', ...), or options after a colon."
            )
        seen.add(folder_of(label))
