"""Tables that pages about fits have in common: restarts, data, options, versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from zoo.core.data import tensors
from zoo.reporting.subjects import Fitted
from zoo.reporting.tables import Table
from zoo.reporting.text import nats

__all__ = ["data_table", "restarts_table", "settings", "version_table", "versions"]


def restarts_table(fits: Sequence[Fitted]) -> Table | None:
    """Every start of fits that had several; None where there are none."""
    rows = [
        [
            f"{fit.label}, seed {fit.seed}",
            str(start.get("seed")),
            str(start.get("status")),
            nats(start.get("objective")),
            nats(start.get("log_likelihood")),
            "yes" if start.get("degenerate") else "no",
            "yes" if start.get("chosen") else "",
            "; ".join(map(str, start.get("notes", []))),
        ]
        for fit in fits
        for start in fit.restarts
        if len(fit.restarts) > 1
    ]
    if not rows:
        return None
    columns = [("fit", False), ("start", True), ("status", False), ("objective", True), ("log-likelihood", True)]
    columns += [("degenerate", False), ("chosen", False), ("notes", False)]
    kept = [
        i for i, (name, _) in enumerate(columns) if any(row[i] for row in rows) and (name != "fit" or len(fits) > 1)
    ]
    return Table("Restarts", [columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def data_table(x: Any, title: str, columns: Sequence[str] | None = None) -> Table:
    """Shape and, for up to 20 features, the range of every tensor of the data; ``columns``: names of the features."""
    names = list(x) if isinstance(x, dict) else [f"x{i or ''}" for i in range(len(tensors(x)))]
    alone = columns is not None and len(names) == 1
    rows = []
    for name, value in zip(names, tensors(x), strict=False):
        shape = "\u00a0x\u00a0".join(map(str, value.shape)) or "one number"
        numbers = value.detach().cpu().double().reshape(-1, value.shape[-1] if value.dim() > 1 else 1)
        split = value.dim() > 1 and 1 < numbers.shape[1] <= 20
        for j, column in enumerate(numbers.T if split else [numbers.flatten()]):
            column = column[column.isfinite()]  # neither what is missing nor what pads sequences
            if column.numel():
                known = columns is not None and len(columns) == numbers.shape[1]
                said = columns[j] if known and columns is not None else f"feature {j}"
                label = (said if alone and known else f"{name}, {said}") if split else name
                spread = column.std(correction=0)
                values = [f"{float(v):.5g}" for v in (column.min(), column.mean(), spread, column.max())]
                rows.append([label, shape, *values])
    heads = [("data", False), ("shape", False), ("min", True), ("mean", True), ("sd", True), ("max", True)]
    return Table(f"Data: {title}", heads, rows)


def settings(values: dict[str, Any]) -> str:
    """Options as text."""
    return ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in values.items()) or "defaults"


def versions() -> dict[str, str]:
    """What computed: Python, the machine, and the packages numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in ("latent-zoo", "torch", "pyro-ppl", "numpy", "scipy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package == "latent-zoo":  # run from a checkout
                from zoo import __version__

                found[package] = __version__
    return found


def version_table() -> Table:
    """:func:`versions` as a table."""
    return Table("Versions", [("what", False), ("version", False)], [list(pair) for pair in versions().items()])
