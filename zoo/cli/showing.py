"""``zoo show``: what a run's folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.options import Guide, Json
from zoo.cli.output import dumps, stdout_for_result, word
from zoo.cli.saved import Folder, Program, load_fit
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["print_parameters", "show"]


def show(folder: Folder, model: Program = None, guide: Guide = None, as_json: Json = False) -> None:
    """Show what a folder holds: model, data, estimator, scores, parameters; of a comparison its table.

    Example: zoo show runs/a
    """
    if (folder / "comparison.json").is_file():
        return _show_comparison(folder, as_json)
    with stdout_for_result(as_json):
        this, record = load_fit(folder, model, guide)
    if as_json:
        return print(dumps(_as_record(this, record)))
    print(this)
    for line in _made_of(this, record):
        print(line)
    print_parameters(this, folder if (folder / "parameters.csv").is_file() else None)
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    print(f"{folder} holds {', '.join(files)}")


def print_parameters(this: Fit, out: Path | None) -> None:
    """The tables of the parameters, a line on each network.

    Args:
        out: the folder whose parameters.csv has all of them, where there is one.
    """
    from zoo.reporting.parameter_tables import DIGITS, cut, parameter_text
    from zoo.reporting.parameters import networks_of, parameters_of

    told = parameters_of(this)
    if told:
        where = f", in full in {out / 'parameters.csv'}" if out is not None else ""
        where = where or (", all of them with --out DIR" if cut(told) else "")
        known = any(p.errors is not None for p in told)
        how = f"± standard deviation of their draws, or to {DIGITS} digits" if known else f"to {DIGITS} digits"
        print(f"\nparameters {how}{where}\n\n{parameter_text(told)}\n")
    for network in networks_of(this):
        print(network)


def _made_of(this: Fit, record: dict[str, Any]) -> list[str]:
    """A line each: data, model and estimator with what they were asked for, versions."""
    name = record.get("data") or (this.data or {}).get("name")
    columns = f": {', '.join(this.columns)}" if this.columns else ""
    symbols = f", symbols {' '.join(this.symbols[:20])}{' ...' * (len(this.symbols) > 20)}" if this.symbols else ""
    lines = [f"data       {name or 'not named'}{columns}{symbols}"]
    lines.append(f"model      {this.model.label}{_options(this.model.config)}")
    lines.append(f"estimator  {this.estimator}, seed {this.seed}{_options(this.options)}")
    if versions := record.get("versions"):
        lines.append(f"made by    {', '.join(f'{n} {versions[n]}' for n in ('latent-zoo', 'torch') if n in versions)}")
    return lines


def _options(values: dict[str, Any]) -> str:
    told = {name: value for name, value in values.items() if value is not None}
    return "".join(f", {name}={value if isinstance(value, str) else word(value)}" for name, value in told.items())


def _as_record(this: Fit, made: dict[str, Any]) -> dict[str, Any]:
    from zoo.reporting.parameters import parameters_of, record

    return {
        "model": this.model.label, "data": made.get("data") or (this.data or {}).get("name"),
        "num_data": this.num_data, "columns": this.columns, "symbols": this.symbols,
        **this.summary(), "aic": this.aic, "bic": this.bic, "num_parameters": this.num_parameters,
        "notes": this.notes, "config": this.model.config, "options": this.options, **record(this, parameters_of(this)),
    }  # fmt: skip


def _show_comparison(folder: Path, as_json: bool) -> None:
    from zoo.reporting.tables import Table, columns
    from zoo.reporting.text import nats

    try:
        found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        rows = [
            [str(row["estimator"]), str(row["seed"]), row["status"], nats(row["log_likelihood"]), nats(row["elbo"])]
            for row in found["rows"]
        ]
        title = f"{found['model']} on {found['data']}: {found['num_data']:g} data, totals in nats"
    except (ValueError, KeyError, TypeError):
        raise ZooError(f"show: comparison.json in {str(folder)!r} is damaged. Compare again.") from None
    if as_json:
        return print(dumps(found))
    heads = [("estimator", False), ("seed", True), ("status", False), ("log-likelihood", True), ("bound", True)]
    print(f"{title}\n\n{columns(Table('', heads, rows), rule=False)}\n")
    inside = sorted(path.parent for path in folder.glob("fits/*/fit.json"))
    print(f"open {folder / 'report.html'}" + (f"; a fit of it: zoo show {inside[0]}" if inside else ""))
