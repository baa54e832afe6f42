"""``zoo predict``: labels, states, scores, codes of data, by a saved fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from zoo.cli.options import (
    Columns,
    DataName,
    Decimal,
    DropMissing,
    Guide,
    Json,
    Sequence,
    Split,
    Standardize,
    Targets,
    Time,
)
from zoo.cli.output import dumps, stdout_for_result
from zoo.cli.saved import Folder, Program, check_new, data_for, load_fit
from zoo.cli.task import Source
from zoo.errors import ZooError
from zoo.storage.folders import written

__all__ = ["predict"]

_KINDS = (".csv", ".tsv", ".json", ".npy", ".parquet")


def predict(
    folder: Folder,
    data: DataName = None,
    out: Annotated[
        Path | None, typer.Option(help="A new file: .csv, .tsv, .json, .npy, .parquet; on the screen without.")
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Probabilities beside labels and states, deviations beside scores.")
    ] = False,
    scores: Annotated[bool, typer.Option("--scores", help="ln p of each datum or sequence too, nats.")] = False,
    model: Program = None,
    guide: Guide = None,
    columns: Columns = None,
    targets: Targets = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
    standardize: Standardize = False,
    drop_missing: DropMissing = False,
    as_json: Json = False,
) -> None:
    """Say of every datum which component it is of, of every step which state: labels, scores, codes, parses, by a fit.

    A row a datum, or a step of a sequence, in the order of the data; a file's columns are found by their names. Where
    rows of the file were left out or sorted, a column `row` counts them as they are there, from 1.
    Without --data: of the data it was fitted to.

    Example: zoo predict runs/a --data new.csv --out labels.csv --proba
    """
    if out is not None:
        check_new(out, _KINDS)
    screen = sys.stdout
    with stdout_for_result(as_json or out is None):
        from zoo.core.data import stream_of

        this, record = load_fit(folder, model, guide)
        source = Source(columns, None, targets, split, standardize, sequence, decimal, time, drop_missing)
        name, x, _, rows = data_for(folder, this, record, source, data)
        if stream_of(x) is not None:
            _by_pieces(this, x, out or screen, proba, scores, as_json)
            return
        from zoo.reporting.latent_tables import latent_table, with_rows, write_columns

        made = with_rows(latent_table(this, x, proba=proba, scores=scores), rows)
        if out is not None:
            with written(out) as path:
                write_columns(made, path)
    count = len(next(iter(made.values())))
    if as_json:
        columns_of = {column: values.tolist() for column, values in made.items()}
        print(dumps({"model": this.model.label, "data": name, "num_rows": count, "columns": columns_of}))
    elif out is None:
        import pandas as pd

        pd.DataFrame(made).to_csv(sys.stdout, index=False)
    else:
        print(f"{count} rows of {', '.join(list(made)[:6])}{', ...' * (len(made) > 6)} in {out}")


def _by_pieces(fit: Any, x: Any, out: Path | IO[str], proba: bool, scores: bool, as_json: bool) -> None:
    """Data that stay in their file: read, answered and written in pieces."""
    from zoo.reporting.table_pieces import table_pieces, write_pieces
    from zoo.runs.progress import fraction_shown

    if as_json:
        raise ZooError(f"--json expected data that fit into memory, got the {len(x)} rows of {x.name}. Write --out.")
    pieces = table_pieces(fit, x, proba=proba, scores=scores)
    if not isinstance(out, Path):
        write_pieces(pieces, out)
        return
    with written(out) as path, fraction_shown("predict"):
        count, names = write_pieces(pieces, path)
    print(f"{count} rows of {', '.join(names[:6])}{', ...' * (len(names) > 6)} in {out}, read in pieces")
