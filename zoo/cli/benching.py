"""``zoo bench``: speed beside other packages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import completing
from zoo.cli.options import check_record
from zoo.cli.output import complain
from zoo.errors import ZooError, unknown_name

__all__ = ["bench"]


def bench(
    name: Annotated[
        str | None, typer.Argument(help="Which one; all of them without.", autocompletion=completing.benchmarks)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="A .json file that records the run (replaced if there).")] = None,
) -> None:
    """Measure speed beside other packages; needs a checkout of the project.

    With --out FILE.json what is measured on the way is in FILE.part.json until the record is there.

    Example: zoo bench gaussian_mixture --quick
    """
    import importlib

    import zoo
    from zoo.cli.stopping import interrupts
    from zoo.core.machine import machine

    root = Path(zoo.__file__).resolve().parent.parent
    files = sorted(p.stem for p in (root / "benchmarks").glob("*.py") if not p.stem.startswith("_"))
    if not (root / "benchmarks" / "__init__.py").is_file() or not files:
        raise ZooError(
            "bench expected a checkout, but benchmarks/ is not installed. Clone it, `pip install -e .[bench]`."
        )
    if name is not None and name not in files:
        raise unknown_name("benchmark", name, files)
    check_record(out)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    keeping = importlib.import_module("benchmarks._parts").keeping
    results = dict[str, Any]()
    record: dict[str, Any] = {
        "command": f"zoo bench{f' {name}' if name else ''}{' --quick' if quick else ''}",
        "machine": machine(),
        "results": results,
    }
    under_way = None if out is None else out.with_suffix(".part.json")

    def keep(part: str, numbers: Any) -> None:
        results[each][part] = numbers
        _write(under_way, record)

    if out is not None:
        interrupts()
    for each in files if name is None else [name]:
        results[each] = {}
        try:
            with keeping(keep):
                results[each] = importlib.import_module(f"benchmarks.{each}").run(quick=quick)
        except ModuleNotFoundError as error:
            raise ZooError(
                f"benchmark {each} expected the package {error.name!r}. Run `pip install latent-zoo[bench]`."
            ) from error
        except KeyboardInterrupt:
            if under_way is None or not under_way.exists():
                raise
            raise typer.Exit(complain(f"interrupted; what was measured is in {under_way}.", 130)) from None
    _write(out, record)
    if under_way is not None:
        under_way.unlink(missing_ok=True)


def _write(file: Path | None, record: dict[str, Any]) -> None:
    from zoo.storage.folders import written
    from zoo.storage.json import to_json

    if file is not None:
        with written(file) as staging:
            staging.write_text(to_json(record))
