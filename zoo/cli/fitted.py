"""``zoo evaluate``, ``zoo sample`` and ``zoo forecast``: commands that take the folder of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.classes import agreements
from zoo.cli.options import (
    Columns,
    DataName,
    Decimal,
    DropMissing,
    Guide,
    Json,
    Labels,
    Sequence,
    Split,
    Standardize,
    Targets,
    Time,
    check_seed,
)
from zoo.cli.output import dumps, stdout_for_result
from zoo.cli.saved import check_new, data_for, fitted_data, load_fit
from zoo.cli.task import Source
from zoo.cli.tokens import beginnings, cut, write_probs, write_sequences
from zoo.errors import ZooError
from zoo.storage.folders import written

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["evaluate", "forecast", "sample"]


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote.")],
    data: DataName = None,
    model: Annotated[str | None, typer.Option(help="file.py:function, for a fit of your own program.")] = None,
    guide: Guide = None,
    samples: Annotated[int, typer.Option(help="Draws from the guide a datum.")] = 1000,
    seed: Annotated[int, typer.Option(help="Where the draws come from.")] = 0,
    columns: Columns = None,
    labels: Labels = None,
    targets: Targets = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
    standardize: Standardize = False,
    drop_missing: DropMissing = False,
    as_json: Json = False,
) -> None:
    """Score a saved fit on data: exact log-likelihood, importance-weighted bound, ELBO and the k̂ of the guide.

    Without --data: on the data it was fitted to. --standardize scales by the data given, not by those fitted to. With
    --labels also how well components agree with known classes.

    Example: zoo evaluate runs/a --data iris
    """
    check_seed(seed)
    if samples < 2:
        raise ZooError(f"--samples expected a number of at least 2, got {samples}. Take 1000.")
    with stdout_for_result(as_json):
        this, record = load_fit(folder, model, guide)
        source = Source(columns, labels, targets, split, standardize, sequence, decimal, time, drop_missing)
        asked = data_for(folder, this, record, source, data)
        name, x = asked.name, asked.x
        known = {} if labels is None else agreements(this, x, asked.codes)
        import zoo
        from zoo.runs.progress import fraction_shown

        with fraction_shown("evaluate") as told:
            found = zoo.evaluate(this, x, num_samples=samples, seed=seed, progress=told)
    if as_json:
        print(dumps({"model": this.model.label, "data": name, **found.to_dict(), **known}))
        return
    print(f"{this.model.label} ({this.estimator}) on {name}: {found}")
    if known:
        scores = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in known.items())
        print(f"against the labels: {scores}")


def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote.")],
    n: Annotated[int, typer.Option("-n", "--num", help="How many.")] = 64,
    out: Annotated[Path, typer.Option(help="A new file: .png (a picture), .csv or .npy.")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(help="Where the draws come from.")] = 0,
    model: Annotated[str | None, typer.Option(help="file.py:function, for a fit of your own program.")] = None,
    guide: Guide = None,
    mean: Annotated[
        bool, typer.Option("--mean", help="Draw z, and write the mean of x given z: no noise of single pixels.")
    ] = False,
) -> None:
    """Draw new data from a saved fit; from one of y given x, at rows of the data it was fitted to.

    A .csv of y given x has both. Sequences of words become sentences in a .txt.

    Example: zoo sample runs/a -n 64 --out samples.png
    """
    check_seed(seed)
    if n < 1:
        raise ZooError(f"-n expected a number of at least 1, got {n}. Take -n 64.")
    check_new(out, (".png", ".csv", ".npy", ".txt"))
    this, record = load_fit(folder, model, guide)
    from zoo.core.data import tensors
    from zoo.reporting.latents import draw, inputs

    given, at = bool(this.model.fields.given), None
    if given or mean:
        x = fitted_data(folder, this, record).x if given else None
        drawn: Any = draw(this, n, seed, x=x, means=mean)
        at = inputs(this, n, seed, x)
    else:
        drawn = this.sample(n, seed)
    if isinstance(drawn, dict) and set(drawn) == {"x", "lengths"} and drawn["x"].dim() == 2 and out.suffix != ".png":
        drawn = [row[:length] for row, length in zip(drawn["x"], drawn["lengths"].tolist(), strict=True)]
    elif out.suffix.lower() == ".txt":
        raise ZooError(
            f"--out expected a name ending in .png, .csv or .npy of such draws, got {out.name!r}. Rename it."
        )
    elif len(tensors(drawn)) != 1:
        raise ZooError(f"sample: expected one observed variable, got {len(tensors(drawn))}. Use fit.sample in Python.")
    _write_new(drawn, out, this, at)
    print(f"{n} draws in {out}")


def forecast(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote, of a model of sequences.")],
    data: DataName = None,
    steps: Annotated[int, typer.Option(help="How many frames to go on for.")] = 16,
    n: Annotated[int, typer.Option("-n", "--num", help="Draws a sequence; with --probs, tokens listed a step.")] = 1,
    out: Annotated[Path, typer.Option(help="A new file: .csv or .npy; of words .txt.")] = Path("forecast.npy"),
    probs: Annotated[
        bool, typer.Option("--probs", help="Of tokens: no draws, but how probable each next one is, exact.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Where the draws come from.")] = 0,
    model: Annotated[str | None, typer.Option(help="file.py:function, for a fit of your own program.")] = None,
    guide: Guide = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
) -> None:
    """Go on with sequences from a saved fit: draws of the frames that follow, the first sequence's before the second's.

    Without --data: with those it was fitted to; a file is laid out as theirs was. Sentences are gone on with before
    their end.

    Example: zoo forecast runs/a --data jsb --split test --steps 16 --out next.npy
    """
    check_seed(seed)
    for name, value in (("--steps", steps), ("-n", n)):
        if value < 1:
            raise ZooError(f"{name} expected a number of at least 1, got {value}. Take {name} 1.")
    check_new(out, (".csv", ".npy") if probs else (".csv", ".npy", ".txt"))
    this, record = load_fit(folder, model, guide)
    if out.suffix.lower() == ".txt" and not this.model.takes_symbols:
        raise ZooError(f"--out expected a name ending in .csv or .npy of such draws, got {out.name!r}. Rename it.")
    source = Source(split=split, sequence=sequence, decimal=decimal, time=time)
    x = beginnings(data_for(folder, this, record, source, data)[1], this.model)
    if probs:
        found = this.forecast_probs(x, steps)
        with written(out) as path:
            write_probs(found, path, this.model, n)
        print(f"{len(found)} sequences, {steps} steps each, in {out}")
        return
    drawn = this.forecast(x, steps, num_samples=n, seed=seed).transpose(0, 1)
    number, rows = len(drawn), drawn.flatten(0, 1)
    words = out.suffix.lower() == ".txt" or rows.dim() == 2
    _write_new(cut(rows.flatten(1).long(), this.model) if words else rows, out, this)
    print(f"{number} sequence{'s' * (number != 1)}, {n} draw{'s' * (n != 1)} of {steps} steps each, in {out}")


def _write_new(drawn: Any, out: Path, this: Fit, given: Any = None) -> None:
    """The draws, in a table beside what was given, in a file that appears whole."""
    with written(out) as path:
        _write_draws(drawn, path, this, given)


def _write_draws(drawn: Any, path: Path, this: Fit, given: Any) -> None:
    if path.suffix.lower() == ".png":
        from zoo.reporting.samples import plot_samples

        plot_samples(drawn, path, names=None if this.model.fields.given else this.columns)
        return
    import numpy as np

    if isinstance(drawn, list):
        return write_sequences([row.cpu().numpy() for row in drawn], path, this.model)
    values = drawn.detach().cpu().numpy()
    if path.suffix.lower() == ".npy":
        np.save(path, values, allow_pickle=False)
        return
    import csv

    whole = bool((values == np.round(values)).all())
    schema = this.model.schema
    symbols = schema is not None and schema.symbols is not None
    before: list[tuple[Any, ...]] = [()] * len(values)
    heads: tuple[str, ...] = ()
    if given is not None:
        heads, inputs = given[0], given[1].detach().cpu().numpy()
        kinds = [int if (column == np.round(column)).all() else float for column in inputs.T]
        before = [tuple(kind(v) for kind, v in zip(kinds, row, strict=True)) for row in inputs]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        sequences = values.ndim == 3
        flat = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
        names = this.columns or ()
        if this.model.fields.given:  # the second of a pair; an image that was cut has other columns
            names = schema.columns.get("1", ()) if heads and schema is not None else ()
        if len(names) != flat.shape[1]:
            names = tuple(f"{'y' if heads else 'x'}{i}" for i in range(flat.shape[1]))
        writer.writerow([*(["sequence"] if sequences else []), *heads, *names])
        for i, row in enumerate(flat):
            if symbols and schema is not None:
                cells = list(schema.decode(row))
            else:
                cells = [int(v) if whole else float(v) for v in row]
            writer.writerow([*([i // values.shape[1]] if sequences else before[i]), *cells])
