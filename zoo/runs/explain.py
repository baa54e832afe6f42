"""``zoo.explain``: what EM would do with a program, before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo.automatic.chains import Chain
from zoo.automatic.enumerated import shown
from zoo.automatic.enumeration import why_not_exact
from zoo.automatic.plan import SiteRow, Update, make_plan
from zoo.core.contract import prepared
from zoo.core.functions import as_model
from zoo.core.isolation import isolated, kept_generators
from zoo.core.problem import Problem
from zoo.core.turns import exclusive
from zoo.errors import ZooError
from zoo.reporting.tables import Table, columns

__all__ = ["Explanation", "explain"]


@dataclass
class Explanation:
    """A program's sites, the update of each parameter, and the cost of enumeration. ``print`` shows tables.

    Attributes:
        model: its name.
        sites: name, role ("latent", "observed", "prior"), family, and how many log-probabilities enumeration makes.
        updates: by parameter, how ``auto_em`` updates it and why so.
        elements: size of the largest table of log-probabilities, predicted before it is made.
        largest: the site it belongs to.
        e_step: how the sum over the latents is done.
    """

    model: str
    sites: list[SiteRow]
    updates: list[Update]
    elements: int
    largest: str
    e_step: str

    def __str__(self) -> str:
        groups: list[tuple[str, SiteRow, int]] = []
        for row in self.sites:  # z_0 .. z_99 are one line
            stem = row.name.rstrip("0123456789")
            key = (stem, row.role, row.family, row.elements)
            if groups and (groups[-1][0], *_kind(groups[-1][1])) == key and stem != row.name:
                groups[-1] = (stem, row, groups[-1][2] + 1)
                continue
            same = next((i for i, g in enumerate(groups) if (g[0], *_kind(g[1])) == key and stem != row.name), None)
            if same is None:
                groups.append((stem if stem != row.name else row.name, row, 1))
            else:
                groups[same] = (stem, row, groups[same][2] + 1)
        lines: list[tuple[str, ...]] = [
            (f"{stem}* ({count} sites)" if count > 1 else row.name, row.role, row.family, f"{row.elements:,}")
            for stem, row, count in groups
        ]
        updates = [(shown(u.parameter), u.how, u.why) for u in self.updates]
        tables = [
            columns(Table("", [(h, False) for h in ("site", "role", "family", "log-probabilities")], lines)),
            columns(Table("", [(h, False) for h in ("parameter", "update", "because")], updates)),
            f"E step: {self.e_step}. Largest table: {self.elements:,} numbers (site {self.largest!r}).",
        ]
        return f"{self.model}\n\n" + "\n\n".join(tables)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from zoo.reporting.notebook import text_html

        return text_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model,
            "sites": [vars(row) for row in self.sites],
            "updates": [{**vars(u), "parameter": shown(u.parameter)} for u in self.updates],
            "elements": self.elements,
            "largest": self.largest,
            "e_step": self.e_step,
        }


def _kind(row: SiteRow) -> tuple[str, str, int]:
    return row.role, row.family, row.elements


@exclusive
def explain(
    model: Any, x: Any, *, guide: Callable[..., Any] | None = None, seed: int = 0, **arguments: Any
) -> Explanation:
    """What ``auto_em`` would do with a program on such data: sites, updates, and the cost before it is paid.

    Args:
        model: a zoo model, its name or class, or a Pyro program ``model(x)``.
        x: data as the model takes them, or a name or path as :func:`zoo.load_data` takes it.
        guide: a guide, if the program needs one to run; the exact sum ignores it.
        seed: of the random numbers that a first run draws.
        arguments: of a model that is given by its name or class.

    Raises:
        ZooError: an argument that is not known; the program cannot be summed, named by site.

    Example:
        >>> found = zoo.explain("poisson_mixture", "earthquakes", num_components=2)
        >>> [update.how for update in found.updates]
        ['closed form: expected counts, normalised', 'closed form: expected events over exposure']
    """
    from zoo.runs.making import made
    from zoo.runs.prepare import first_run, serving, start

    model, x = made(model, x, arguments, guide)
    if arguments:
        raise ZooError(f"explain: argument {next(iter(arguments))!r} is not known. Arguments are those of the model.")
    template = as_model(model, guide)
    with isolated(seed):
        data = prepared(template, x)
        with kept_generators():
            first_run(template, data)
        ready = start(template, data, template.inits[0], searched=False)
        reason = why_not_exact(ready, data)
        if reason is not None:
            able = ", ".join(serving(Problem(ready, data)))
            raise ZooError(f"explain: {reason}. {f'Fit it by {able}' if able else 'Give it a guide'}.")
        plan = make_plan(ready, data, checked=True)
    if isinstance(plan.chain, Chain):
        states, steps = plan.chain.num_states, plan.chain.inside.shape[1]
        kind = "mixture" if steps == 1 else f"chain of {steps} steps"
        how = f"a {kind} with {states} states, summed by the compiled kernel without running the program"
    else:
        how = f"Pyro's enumeration of the program ({plan.why_not_chain})"
    if not ready.normalized:
        how += "; with its factors the program is no normalised density"
    return Explanation(ready.name, plan.sites, plan.updates, plan.elements, plan.largest, how)
