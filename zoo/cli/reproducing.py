"""``zoo reproduce``: published tables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from zoo.cli import completing
from zoo.cli.options import Json, check_record, check_seed
from zoo.cli.output import complain, dumps, stdout_for_result, tell
from zoo.errors import ZooError

__all__ = ["reproduce"]


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="Which table; without it, a list.", autocompletion=completing.tables)
    ] = None,
    budget: Annotated[str, typer.Option(help="quick (minutes on two cores) or full (the paper's schedule).")] = "quick",
    seed: Annotated[int, typer.Option(help="Where every random number comes from.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the record.")] = None,
    jobs: Annotated[
        int, typer.Option(help="Processes to divide rows and seeds among; -1: as many as there are cores.")
    ] = 1,
    device: Annotated[str | None, typer.Option(help="Where its fits compute, for instance cuda.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that --out was begun for.")] = False,
    as_json: Json = False,
) -> None:
    """Run a published table, and print ours beside theirs.

    With --out FILE.json what is finished on the way is kept in a folder beside it, FILE.run, until the record is there;
    after a crash the same command with --resume goes on with it.

    Example: zoo reproduce iwae --budget quick
    """
    from zoo.reproduce import command, tables
    from zoo.reproduce import reproduce as run

    if table is None:
        known = tables()
        if as_json:
            print(dumps({"tables": [{"table": name, "about": module.ABOUT} for name, module in known.items()]}))
        else:
            print("\n".join(f"{name:<12}{module.ABOUT}" for name, module in known.items()))
        return
    check_seed(seed)
    check_record(out)
    if resume and out is None:
        raise ZooError("--resume expected --out with it. Pass the record's file.")
    with stdout_for_result(as_json), _keeping(out, resume, command(table, budget, seed, device)) as kept:
        found = run(table, budget, seed, lambda line: print(line, file=sys.stderr, flush=True), jobs, device, kept)
        if out is not None:
            found.save(out)
    print(dumps(found.record) if as_json else found)


@contextmanager
def _keeping(out: Path | None, resume: bool, command: str) -> Iterator[Path | None]:
    """Where a table keeps what it has reached until its record is there; None where none is to be written.

    Raises:
        ZooError: it was begun and is not to be resumed, or was begun by another command.
        typer.Exit: its record is there, or Ctrl-C.
    """
    if out is None:
        yield None
        return
    import zoo
    from zoo.cli.stopping import interrupts
    from zoo.storage.checkpoint import Checkpoints, RunFolder
    from zoo.storage.folders import held

    place = out.with_suffix(".run")
    begun = place.exists()
    if resume and not begun and _command_of(out) == command:
        tell([f"{out} has the result of this command already"])
        raise typer.Exit(0)
    with held(place):
        if begun and not resume:
            raise ZooError(f"--out {out} was begun before, in {place}. Go on with --resume, or remove that folder.")
        folder = RunFolder(place, Checkpoints(place, {"command": command, "version": zoo.__version__}), resume)
        interrupts()
        try:
            with folder.under_way() as kept:
                yield kept
        except KeyboardInterrupt:
            if not folder.checkpoints.folder.is_dir():
                raise
            told = f"interrupted; what is finished is in {place}. Go on with --resume."
            raise typer.Exit(complain(told, 130)) from None
        shutil.rmtree(place)


def _command_of(record: Path) -> str | None:
    """The command that wrote a record, if there is one."""
    import json

    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(record.read_text(encoding="utf-8"))["command"])
    return None
