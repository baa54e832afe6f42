"""Options that several commands have, and checks that need nothing but their values."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import completing
from zoo.errors import ZooError

#: What a model that asks for a size gets when nobody names one.
DEFAULTS: dict[str, Any] = {
    "num_components": 3,
    "num_factors": 2,
    "num_states": 3,
    "num_nonterminals": 8,
    "num_preterminals": 16,
    "latent_dim": 2,
}
#: Options of ``fit`` itself with a value of their kind; ``--set`` takes them too.
FIT_OPTIONS: dict[str, Any] = {"init": "kmeans++", "restarts": 1, "max_seconds": 1.0, "device": "cpu"}
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name from `zoo models`, or file.py:ClassOrFunction.",
        autocompletion=completing.models,
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A name from `zoo data`, or a file: .csv, .tsv, .txt, .npy, .npz, .parquet, .xlsx. Large .npy, .npz and "
        ".parquet, and a folder of them, are read in pieces.",
        autocompletion=completing.data_names,
    ),
]
Columns = Annotated[str | None, typer.Option(help="Columns to use, by name or number: 0,2 or length,width.")]
Labels = Annotated[
    str | None, typer.Option(help="Column of known classes, left out of the fit; `true` for those of a named set.")
]
Targets = Annotated[
    str | None, typer.Option(help="Columns of y for a model of y given x; of an .npz file, the array's name.")
]
Sequence = Annotated[
    str | None, typer.Option(help="Column whose values tell sequences apart; by default the one called sequence.")
]
Time = Annotated[
    str | None, typer.Option(help="Column by which the rows of each sequence are sorted: numbers, or ISO dates.")
]
Decimal = Annotated[
    str | None, typer.Option(help="What stands before decimals in a file of text: , or . (a point unless said).")
]
Split = Annotated[str | None, typer.Option(help="Part of a named data set: train, valid, test.")]
DropMissing = Annotated[bool, typer.Option("--drop-missing", help="Leave out rows with a gap in a column used.")]
Standardize = Annotated[bool, typer.Option("--standardize", help="Scale each column to mean 0 and sd 1.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE, an option of model or estimator; again for more. See `zoo models MODEL`."),
]
Guide = Annotated[str | None, typer.Option(help="file.py:function, the guide of a program of your own.")]
Fixed = Annotated[
    str | None, typer.Option(help="Parameters that stay at the values the model has, with commas: means,weights.")
]
Out = Annotated[Path | None, typer.Option(help="A new folder for the result.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; give the other options as they were.")
]
Jobs = Annotated[int, typer.Option(help="Processes to divide the fits among; -1: as many as there are cores.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def check_out(out: Path | None, resume: bool = False) -> None:
    """Refuse a folder that cannot take the result, before any work."""
    if out is None:
        if resume:
            raise ZooError("--resume expected --out with it. Pass the run's folder.")
        return
    from zoo.storage.folders import check_free

    if not resume:
        begun = (out / "checkpoints").is_dir()
        check_free(out, "Go on with --resume, or choose another name." if begun else "Choose another name.")
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ZooError(f"--out expected a place to write to, got {str(parent)!r}, which is not. Choose another.")


def check_record(out: Path | None) -> None:
    """Refuse a file that is to take a record, unless its name says that it is JSON."""
    if out is not None and out.suffix != ".json":
        raise ZooError(f"--out expected a .json file, got {str(out)!r}. Name one.")


def holding(out: Path | None) -> AbstractContextManager[None]:
    """Keep other runs out of a folder until the result is there."""
    from zoo.storage.folders import held

    return nullcontext() if out is None else held(out)


def named(fixed: str | None) -> list[str]:
    """The names in ``--fixed``."""
    names = [part.strip() for part in (fixed or "").split(",") if part.strip()]
    if fixed is not None and not names:
        raise ZooError(f"--fixed expected names with commas, got {fixed!r}. For instance --fixed means.")
    return names


def check_seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise ZooError(f"--seed expected a whole number of at least 0, got {seed}. Take 0, 1, 2, ...")
    return seed
