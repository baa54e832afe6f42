"""``zoo select``: one model over a grid of settings, and which of them the data speak for."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import completing
from zoo.cli.fitting import ready, stop_code, write_record
from zoo.cli.options import (
    DEFAULTS,
    Columns,
    DataName,
    Decimal,
    DropMissing,
    Guide,
    Jobs,
    Json,
    ModelName,
    Out,
    Resume,
    Sequence,
    Settings,
    Split,
    Standardize,
    Targets,
    Time,
    check_out,
    check_seed,
    holding,
)
from zoo.cli.output import dumps, stdout_for_result, tell
from zoo.cli.programs import arguments_of, find
from zoo.cli.resuming import keeping, run_folder
from zoo.cli.task import Source, Task, prepare
from zoo.errors import ZooError, unknown_name
from zoo.reporting.subjects import CRITERIA

__all__ = ["select"]


def select(
    model: ModelName,
    data: DataName = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUES to try: 1..8, or 1,2,4, or words with commas; again for more names."),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(help="What chooses: bic, aic, icl, or cv.", autocompletion=completing.criteria),
    ] = "bic",
    folds: Annotated[
        int | None, typer.Option(help="Folds of cross-validation; none by default, 5 for --criterion cv.")
    ] = None,
    estimator: Annotated[
        str | None, typer.Option(help="How to fit; by default as zoo fit does.", autocompletion=completing.estimators)
    ] = None,
    restarts: Annotated[
        int | None, typer.Option(help="Starts of every fit, each run to its end; by default the promising of ten.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Where every random number comes from.")] = 0,
    settings: Settings = None,
    guide: Guide = None,
    columns: Columns = None,
    targets: Targets = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
    standardize: Standardize = False,
    drop_missing: DropMissing = False,
    max_fits: Annotated[int, typer.Option(help="The most fits to make, those to folds among them.")] = 200,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Choose how many components, states or factors: fit a model at every point of a grid.

    Prints BIC, AIC, ICL (where z is discrete) and, with --folds, the mean held-out log-likelihood. MODEL may be
    file.py:make, a function of the grid's names that makes a program. With --out: the table, a picture, report.html
    and the best fit's folder, DIR/best; after a crash the same command with --resume goes on with the fits that are
    there.

    Example: zoo select gaussian_mixture --data faithful --grid num_components=1..6 --grid covariance_type=full,tied
    """
    check_out(out, resume)
    check_seed(seed)
    if folds is not None and folds < 2:
        raise ZooError(f"--folds expected a number of at least 2, got {folds}. Take --folds 5.")
    if criterion not in CRITERIA:
        raise unknown_name("--criterion", criterion, CRITERIA)
    asked = _grid(grid, model)
    many = math.prod(map(len, asked.values()))
    many *= 1 + (folds or (5 if criterion == "cv" else 0))
    if many > max_fits:
        raise ZooError(f"--grid asks for {many} fits, expected at most {max_fits}. Allow them with --max-fits {many}.")
    source = Source(columns, None, targets, split, standardize, sequence, decimal, time, drop_missing)
    with stdout_for_result(as_json), holding(out):
        given = [*(settings or ()), *([] if restarts is None else [f"restarts={restarts}"])]
        task, build = _task(model, data, estimator, given, guide, source, asked)
        import zoo

        ready()
        name = task.estimators[0]
        record = {"command": "select", "seed": seed, "grid": asked}
        folder = run_folder(out, resume, "selection.json", task, {**record, "criterion": criterion, "folds": folds})
        with keeping(folder) as kept:
            made = zoo.select(
                build, task.x, grid=asked, criterion=criterion, estimator=name, guide=task.guide, folds=folds,
                seed=seed, max_fits=max_fits, progress=None, jobs=jobs, data_name=task.data_name, checkpoints=kept,
                **task.fit_options, **task.options[name],
            )  # fmt: skip
        if folder is not None:

            def write(staging: Path) -> None:
                made.write(staging)
                _complete(made, staging, task, record)

            folder.publish(write, keep=made.interrupted)
    tell(task.notes)
    if as_json:
        print(dumps(made.to_dict()))
    else:
        print(made)
        if out is not None:
            print(f"saved in {out}; open {out / 'report.html'}; the best fit is in {out / 'best'}")
    if made.interrupted:
        raise typer.Exit(stop_code(out))


def _grid(texts: list[str] | None, model: str) -> dict[str, list[Any]]:
    """The names and values of ``--grid``."""
    if not texts:
        size = next((n for n in arguments_of(find(model)) if n in DEFAULTS), "k")
        raise ZooError(f"--grid expected NAME=VALUES, got none. For instance --grid {size}=1..8.")
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ZooError(f"--grid expected NAME=VALUES, got {text!r}. For instance --grid num_components=1..8.")
        if name in grid:
            raise ZooError(f"--grid {name} expected once, got it again with {values!r}. Put all values in one.")
        grid[name] = _values(name, values)
    return grid


def _values(name: str, text: str) -> list[Any]:
    """1..8 as whole numbers, a JSON list as it is, else numbers or words between commas."""
    span = re.fullmatch(r"(-?\d+)\s*\.\.\s*(-?\d+)", text)
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise ZooError(f"--grid {name} expected a range that goes up, got {text}. Write {last}..{first}.")
        if last - first >= 10_000:
            raise ZooError(f"--grid {name} expected fewer values, got {last - first + 1}. Name some with commas.")
        return list(range(first, last + 1))
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = []
        if listed:
            return list(listed)
    values = [_value(part.strip()) for part in text.split(",") if part.strip()]
    if not values or text.startswith("["):
        raise ZooError(f"--grid {name} expected values, got {text!r}. For instance --grid {name}=1..8.")
    return values


def _value(text: str) -> Any:
    if ".." in text:
        raise ZooError(f"--grid expected a range such as 1..8, got {text!r}. Write it by itself, of whole numbers.")
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _task(
    model: str, data: str | None, estimator: str | None, given: list[str], guide: str | None, source: Source,
    grid: dict[str, list[Any]],
) -> tuple[Task, Any]:  # fmt: skip
    """Data and options, checked at the grid's first point; and what makes the model of every point."""
    from zoo.runs.grids import Builder

    build = find(model)
    first = {name: values[0] for name, values in grid.items()}
    for text in given:
        name = text.partition("=")[0].strip()
        if name in grid:
            raise ZooError(f"{name} expected in --grid or in --set, got it in both. Leave one out.")
    known = arguments_of(build)
    for name in grid:
        if known and name not in known:
            raise unknown_name("--grid", name, known)
    made = Builder.of(build, grid, {})
    names = None if estimator is None else [estimator]
    if made.sized:
        task = prepare(
            model, data, names, [*given, *(f"{n}={dumps(v)}" for n, v in first.items())], guide, source, False
        )
        task.record["settings"] = {n: v for n, v in task.record["settings"].items() if n not in grid}
        return task, task.model
    program = made.kind(**first)
    pair = program if isinstance(program, tuple) else (program, None)
    return prepare(model, data, names, given, guide, source, False, program=pair), build


def _complete(made: Any, out: Path, task: Task, more: dict[str, Any]) -> None:
    """The record of the run, and in the best fit's folder what ``zoo fit`` writes."""
    from zoo.reporting.answer import write_answer

    write_record(out, task, more)
    best = out / "best"
    if best.is_dir():
        write_record(best, task, {**more, "point": made.chosen})
        task.notes += write_answer(made.best, task.x, best, name=task.data_name, report=False, rows=task.rows).missing
