"""Which update each parameter gets, and why: the rule that serves all of its uses, or numeric steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoo.automatic.enumerated import shown
from zoo.automatic.gaussians import Gaussians
from zoo.automatic.leaves import Leaf
from zoo.automatic.lookup import ParameterSpace
from zoo.automatic.rule import Rule
from zoo.automatic.rules import RULES, kind_of
from zoo.automatic.sums import Use

__all__ = ["Update", "assign"]


@dataclass
class Update:
    """What happens to a parameter in the M step, and why.

    Attributes:
        parameter: its name. how: the update, in words: "closed form: ...", or "numeric: ...".
        why: what in the program says so. sites: those that depend on the parameter.
    """

    parameter: str
    how: str
    why: str
    sites: list[str]


def assign(
    space: ParameterSpace, found: dict[str, list[Leaf] | None], reached: dict[str, list[str]]
) -> tuple[list[Rule], list[Update], list[str]]:
    """The rules with their uses, what they do to each parameter, and the names of those that climb.

    Args:
        found: by site, its leaves with their lookups; None where it is not known.
        reached: by parameter, the sites that depend on it.
    """
    uses, unknown = _uses(space, found, reached)
    by_kind: dict[type[Rule], Rule] = {kind: kind(space) for kind in RULES}
    whys = {name: unknown.get(name) or _why_numeric(name, uses[name], by_kind) for name in space.names}
    _spread(whys, uses)
    updates, numeric = [], []
    for name, why in whys.items():
        sites = reached[name]
        if why is not None:
            numeric.append(name)
            updates.append(Update(name, "numeric: Newton or gradient steps that climb", why, sites))
        elif not uses[name]:
            updates.append(Update(name, "stays: none of its entries can move", "every entry is at its bound", sites))
        else:
            rule = _rule_of(uses[name], by_kind)
            # A table made of several parameters is one use: its data count once.
            rule.uses += [use for use in uses[name] if not any(use is other for other in rule.uses)]
            updates.append(Update(name, *_in_words(rule, uses[name]), sites))
    return [rule for rule in by_kind.values() if rule.uses], updates, numeric


def _uses(
    space: ParameterSpace, found: dict[str, list[Leaf] | None], reached: dict[str, list[str]]
) -> tuple[dict[str, list[Use]], dict[str, str]]:
    """By parameter its uses, and why it has a part in something that is none."""
    uses: dict[str, list[Use]] = {name: [] for name in space.names}
    unknown: dict[str, str] = {}
    for site, mine in found.items():
        if mine is None:
            for name in space.names:
                if site in reached[name]:
                    unknown.setdefault(name, f"enters site {site!r}, whose distribution is not known")
            continue
        for leaf in mine:
            for argument, lookup in [*leaf.lookups.items(), ("value", leaf.value_lookup)]:
                if argument == "value" and leaf.value is None:
                    continue
                if lookup is None:
                    # A parameter that is a lookup in one argument may also be part of another that is none.
                    for name in _behind(leaf, argument, space, reached):
                        unknown.setdefault(name, f"enters {argument} of site {site!r} through a function")
                elif not lookup.fixed:
                    use = Use(leaf, argument, lookup)
                    for name in space.owner(lookup.ids):
                        uses[name].append(use)
    return uses, unknown


def _why_numeric(name: str, uses: list[Use], by_kind: dict[type[Rule], Rule]) -> str | None:
    """Why no rule serves a parameter; None where one does, or where nothing of it can move."""
    kinds = [kind_of(use) for use in uses]
    why = next((kind for kind in kinds if isinstance(kind, str)), None)
    if why is not None or not kinds:
        return why
    return "plays several roles" if len(set(kinds)) > 1 else _rule_of(uses, by_kind).refuses(name, uses)


def _rule_of(uses: list[Use], by_kind: dict[type[Rule], Rule]) -> Rule:
    kind = kind_of(uses[0])
    assert not isinstance(kind, str)
    return by_kind[kind]


def _spread(whys: dict[str, str | None], uses: dict[str, list[Use]]) -> None:
    """Where one of the parameters that make a table climbs, all of them do: a rule writes the whole table."""
    names = [name for name, why in whys.items() if why is not None]
    for name in names:  # grows meanwhile
        for other, theirs in uses.items():
            if whys[other] is None and any(use is mine for use in theirs for mine in uses[name]):
                whys[other] = f"makes a table with {shown(name)}, which is updated numerically"
                names.append(other)


def _in_words(rule: Rule, uses: list[Use]) -> tuple[str, str]:
    """What a rule does to a parameter, and why it may."""
    enters = [use for use in uses if use.argument != "value"]
    views = sorted({str(use.lookup.view) for use in enters})
    through = "" if views in ([], ["identity"]) else f" through {views[0]}"
    scale = isinstance(rule, Gaussians) and not any(use.argument == "loc" for use in uses)
    text = Gaussians.scale_text if scale else rule.text
    if len(enters) < len(uses):
        text += ", with its conjugate prior"
    return text, f"{', '.join(sorted({f'{use.leaf.family}.{use.argument}' for use in enters}))}{through}"


def _behind(leaf: Leaf, argument: str, space: ParameterSpace, reached: dict[str, list[str]]) -> list[str]:
    """The parameters that an argument, or the value, depends on."""
    value = leaf.value if argument == "value" else leaf.args[argument]
    assert value is not None
    if not value.requires_grad:
        return [name for name in space.names if leaf.site in reached[name]]
    raw = [space.raw[name] for name in space.names]
    grads = torch.autograd.grad(value.sum(), raw, allow_unused=True, retain_graph=True)
    return [name for name, grad in zip(space.names, grads, strict=True) if grad is not None]
