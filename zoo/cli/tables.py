"""``zoo reproduce`` and ``zoo bench``: published tables, and speed beside other packages."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import completing
from zoo.cli.options import Json, check_seed
from zoo.cli.output import complain, dumps, stdout_for_result, tell
from zoo.errors import ZooError, unknown_name

__all__ = ["bench", "reproduce"]


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
    if out is not None and out.suffix != ".json":
        raise ZooError(f"--out expected a .json file, got {str(out)!r}. Name one.")
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
    if resume and not place.exists() and _command_of(out) == command:
        tell([f"{out} has the result of this command already"])
        raise typer.Exit(0)
    if not resume and place.exists():
        raise ZooError(f"--out {out} was begun before: {place} is there. Go on with --resume, or remove that folder.")
    with held(place):
        folder = RunFolder(place, Checkpoints(place, {"command": command, "version": zoo.__version__}), resume)
        interrupts()
        try:
            with folder.under_way() as kept:
                yield kept
        except KeyboardInterrupt:
            raise typer.Exit(
                complain(f"interrupted; what is finished is in {place}. Go on with --resume.", 130)
            ) from None
        shutil.rmtree(place)


def _command_of(record: Path) -> str | None:
    """The command that wrote a record, if there is one."""
    import json

    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(record.read_text(encoding="utf-8"))["command"])
    return None


def bench(
    name: Annotated[
        str | None, typer.Argument(help="Which one; all of them without.", autocompletion=completing.benchmarks)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="A .json file that records the run (replaced if there).")] = None,
) -> None:
    """Measure speed beside other packages; needs a checkout of the project.

    Example: zoo bench gaussian_mixture --quick
    """
    import importlib
    import platform

    import zoo
    from zoo.storage.folders import written
    from zoo.storage.json import to_json

    root = Path(zoo.__file__).resolve().parent.parent
    files = sorted(p.stem for p in (root / "benchmarks").glob("*.py") if not p.stem.startswith("_"))
    if not (root / "benchmarks" / "__init__.py").is_file() or not files:
        raise ZooError(
            "bench expected a checkout, but benchmarks/ is not installed. Clone it, `pip install -e .[bench]`."
        )
    if name is not None and name not in files:
        raise unknown_name("benchmark", name, files)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    record: dict[str, Any] = {
        "command": f"zoo bench{f' {name}' if name else ''}{' --quick' if quick else ''}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "results": {},
    }
    for each in files if name is None else [name]:
        try:
            record["results"][each] = importlib.import_module(f"benchmarks.{each}").run(quick=quick)
        except ModuleNotFoundError as error:
            raise ZooError(
                f"benchmark {each} expected the package {error.name!r}. Run `pip install latent-zoo[bench]`."
            ) from error
    if out is not None:
        with written(out) as file:
            file.write_text(to_json(record))
