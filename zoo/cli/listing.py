"""``zoo models`` and ``zoo data``: what there is."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from zoo.cli import completing
from zoo.cli.options import DEFAULTS, FIT_OPTIONS, Json
from zoo.cli.output import dumps, word

__all__ = ["data", "models"]


def models(
    model: Annotated[
        str | None, typer.Argument(help="Show this one in full, with all options.", autocompletion=completing.models)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models; of one, its arguments, the estimators that can serve it, and where it comes from.

    Example: zoo models gaussian_mixture
    """
    from zoo.cli.descriptions import description, descriptions

    if model is not None:
        found = description(model)
        print(dumps(found) if as_json else _model_page(found))
        return
    rows = descriptions()
    if as_json:
        print(dumps({"models": rows}))
        return
    print(
        _grid(
            ("model", "what it is", "default data"),
            [(row["model"], row["about"], row["default_data"] or "-") for row in rows],
        )
    )
    print("`zoo models MODEL` shows one in full: arguments, estimators that can serve it, all options, the paper.")


def data(as_json: Json = False) -> None:
    """List the data sets by name; a path to a file of your own goes wherever a name does.

    Example: zoo data
    """
    from zoo.data import list_data

    rows = list_data()
    if as_json:
        print(dumps({"data": [dataclasses.asdict(row) for row in rows]}))
        return
    print(
        _grid(
            ("data", "shape", "labels", "what", "where"),
            [(r.name, r.shape, "yes" if r.labelled else "-", r.about, r.location) for r in rows],
        )
    )


def _model_page(row: dict[str, Any]) -> str:
    lines = [row["model"], f"  {row['about']}", f"  {row['reference']}", "", "arguments (--set NAME=VALUE):"]
    for argument in row["arguments"]:
        given = argument["name"] in DEFAULTS
        if not argument["required"]:
            default = f"default {word(argument['default'])}"
        elif given:
            default = f"{DEFAULTS[argument['name']]} unless set"
        else:
            default = "read off the data"
        lines.append(f"  {argument['name']:<20} {default}")
        lines += textwrap.wrap(argument["about"], 96, initial_indent=" " * 8, subsequent_indent=" " * 8)
    lines += ["", f"of every fit: {', '.join(FIT_OPTIONS)} (--set NAME=VALUE)"]
    lines += [f"starts: init={', '.join(row['inits'])}", f"data without --data: {row['default_data'] or '-'}", ""]
    lines += [f"estimators: {', '.join(row['estimators'])}", ""]
    lines.append("their options (--set NAME=VALUE, or --set ESTIMATOR.NAME=VALUE in compare):")
    alike: dict[tuple[str, str, str], list[str]] = {}
    for estimator, options in row["estimator_options"].items():
        for name, default in options.items():
            alike.setdefault((name, word(default), row["option_about"][estimator].get(name, "")), []).append(estimator)
    for (name, default, about), estimators in alike.items():
        lines += textwrap.wrap(
            f"  {name:<20} default {default:<10} {', '.join(estimators)}", 110, subsequent_indent=" " * 42,
            drop_whitespace=False,
        )  # fmt: skip
        lines += textwrap.wrap(about, 96, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(line.rstrip() for line in lines)


def _grid(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    import shutil

    from zoo.reporting.tables import Table, ruled

    table = Table("", [(heading, False) for heading in headings], [[str(cell) for cell in row] for row in rows])
    return ruled(table, max(100, shutil.get_terminal_size((140, 24)).columns), fold=True)
