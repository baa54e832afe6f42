"""What commands about a saved fit have in common: loading it, the data it is asked about, and where answers go."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from zoo.cli.output import RECORD
from zoo.cli.programs import find, load_object
from zoo.cli.task import Source
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.data._loaded import Loaded
    from zoo.runs.result import Fit

__all__ = ["Folder", "Program", "check_new", "data_for", "fitted_data", "load_fit"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote.")]
Program = Annotated[str | None, typer.Option("--model", help="file.py:function, for a fit of your own program.")]


def check_new(out: Path, kinds: tuple[str, ...]) -> None:
    """Refuse a file of another kind, one that is there, and one in a folder that is not."""
    if out.suffix.lower() not in kinds:
        named = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise ZooError(f"--out expected a name ending in {named}, got {out.name!r}. Rename it.")
    if out.exists():
        raise ZooError(f"--out expected a new file, but {str(out)!r} exists. Choose another name.")
    if not out.absolute().parent.is_dir():
        raise ZooError(f"--out expected a folder that exists, got {str(out.parent)!r}. Make it first.")


class Asked(NamedTuple):
    """The data that a fit is asked about.

    Attributes:
        name: what they are called. x: as the model takes them.
        codes: their classes, whole numbers or -1, where labels are asked for.
        rows: which rows of a file they are, from 0, where some were left out or moved.
    """

    name: str
    x: Any
    codes: Any = None
    rows: Any = None


def data_for(folder: Path, this: Fit, record: dict[str, Any], source: Source, data: str | None) -> Asked:
    """By default the data that a fit was made of; of a file the columns that it was fitted to, by their names, laid out
    as it was."""
    if data is None:
        found = fitted_data(folder, this, record, source)
    else:
        laid_out = ("targets", "sequence", "decimal", "time", *(() if this.columns else ("columns",)))
        kept = {key: record.get(key) for key in laid_out}
        source = source.or_else(kept) if Path(data).suffix or Path(data).is_dir() else source
        loaded = source.read_like(data, this.columns, this.model)
        found = Asked(data, loaded.data, _codes(loaded), loaded.places())
    return found._replace(name=Path(found.name).name if Path(found.name).suffix else found.name)


def _codes(loaded: Loaded) -> Any:
    return None if loaded.labels is None else loaded.codes


def load_fit(folder: Path, model: str | None, guide: str | None) -> tuple[Fit, dict[str, Any]]:
    """A saved fit, and the record of how it was made where there is one."""
    import zoo

    if (folder / "comparison.json").is_file():
        inside = sorted(p.parent.name for p in folder.glob("fits/*/fit.json"))
        raise ZooError(
            f"{folder} holds a comparison, expected one fit. Take one of its own, {folder / 'fits' / inside[0]}."
            if inside
            else f"{folder} holds a comparison without fits, expected one fit."
        )
    if (folder / "selection.json").is_file():
        raise ZooError(f"{folder} holds a selection, expected one fit. Take the best, {folder / 'best'}.")
    record: dict[str, Any] = {}
    for place in (folder, folder.parent.parent):  # a fit of a comparison lies two levels below its record
        if (place / RECORD).is_file():
            with contextlib.suppress(ValueError):
                record = json.loads((place / RECORD).read_text(encoding="utf-8"))
            break
    built = None
    if model is not None:
        built = find(model)
        if isinstance(point := record.get("point"), dict) and not isinstance(built, type):
            built = built(**point)  # a selection's best: the function makes the program
            built = built[0] if isinstance(built, tuple) else built
    try:
        return zoo.load(folder, built, load_object(guide, "guide") if guide is not None else None), record
    except ZooError as error:
        ways = {"model": record.get("model"), "guide": record.get("guide")}
        ours = [f"--{name} {shlex.quote(way)}" for name, way in ways.items() if way and ".py" in str(way)]
        raise ZooError(str(error).replace("model=...", " ".join(ours) or "--model file.py:name")) from None


def fitted_data(folder: Path, this: Fit, record: dict[str, Any], source: Source | None = None) -> Asked:
    """The data a saved fit was made of, other columns or another part where these are asked for."""
    from zoo.core.contract import prepared
    from zoo.core.data import num_data, stream_of, take, tensors
    from zoo.data import list_data
    from zoo.runs.prepare import drawn_apart, held_apart
    from zoo.runs.progress import waited_for
    from zoo.storage.checkpoint import fingerprint

    known = this.data or {}
    name, asked = record.get("data"), source or Source()
    if name is None and known.get("name") in {info.name for info in list_data()}:
        name = known["name"]
    if name is None:
        raise ZooError(f"{folder}: --data expected, as the folder does not say what was fitted. Name the data.")
    place = record.get("file")  # the command may be given in another folder
    if place is not None and not Path(name).exists():
        if not Path(place).exists():
            raise ZooError(f"{folder}: expected the data it was fitted to in {place}, got no such file. Pass --data.")
        name = place
    loaded = asked.or_else(record).read_like(name, this.columns, this.model)
    x, codes, rows = loaded.data, _codes(loaded), loaded.places()
    plain = dataclasses.replace(asked, labels=None) == Source()
    if getattr(x, "ndim", 0) == 2 and getattr(this.template, "ndim", 2) == 1:
        x = x.reshape(-1)  # a program that took one column as a vector
    if plain and record.get("hold_out") and (stream := stream_of(x)) is not None:
        x, _ = held_apart(x, stream, record["hold_out"], record["seed"])
    elif plain and record.get("hold_out"):
        kept = drawn_apart(num_data(x), record["hold_out"], record["seed"])[0]
        x, codes = take(x, kept), None if codes is None else codes[kept]
        rows = loaded.places(kept.cpu().numpy())
    checksum = known.get("checksum")
    if plain and checksum and tensors(x):
        whole = stream_of(x) is not None  # the checksum of a stream is that of all rows, which are looked at for it
        with waited_for(None, "data of the fit"):
            there = fingerprint(prepared(copy.deepcopy(this.model) if whole else this.model, x, new=whole))
        if there != checksum:
            raise ZooError(f"{folder}: expected the data it was fitted to, but {name!r} holds others now. Pass --data.")
    return Asked(name, x, codes, rows)
