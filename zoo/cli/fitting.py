"""``zoo fit``, ``zoo compare`` and ``zoo explain``: commands that take a model and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import completing
from zoo.cli.classes import agreement, print_agreement, print_classes
from zoo.cli.holding_out import held_out
from zoo.cli.options import (
    Columns,
    DataName,
    Decimal,
    DropMissing,
    Fixed,
    Guide,
    Jobs,
    Json,
    Labels,
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
    named,
)
from zoo.cli.output import RECORD, at_once, complain, dumps, stdout_for_result, tell
from zoo.cli.resuming import keeping, run_folder
from zoo.cli.several import begun_again, find_each_other, is_first, wait_for_first
from zoo.cli.showing import print_parameters
from zoo.cli.task import Source, Task, prepare
from zoo.errors import LikelihoodDecreased, ZooError

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["compare", "explain", "fit", "ready", "stop_code", "write_record"]


def fit(
    model: ModelName,
    data: DataName = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            help="How to fit; by default em where it can serve, auto_em for a program of closed forms.",
            autocompletion=completing.estimators,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Where every random number comes from.")] = 0,
    settings: Settings = None,
    guide: Guide = None,
    fixed: Fixed = None,
    columns: Columns = None,
    labels: Labels = None,
    targets: Targets = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
    standardize: Standardize = False,
    drop_missing: DropMissing = False,
    hold_out: Annotated[
        float | None,
        typer.Option(help="Share of the data to leave out of the fit and score after it; 0.1 for grammars, else 0."),
    ] = None,
    out: Out = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="With --out: draw the pictures, and write report.html.")
    ] = True,
    resume: Resume = False,
    checkpoint_every: Annotated[
        str | None, typer.Option(help="With --out: 90s or 500 (steps) between checkpoints; by default 60s.")
    ] = None,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Fit one model to data by one estimator.

    Prints the parameters. With --out these, the posterior of every datum, pictures and report.html are written there,
    and a long run writes checkpoints; after a crash the same command with --resume goes on.

    In several processes, which divide the rows among them: torchrun --nproc-per-node=2 -m zoo fit ...

    Example: zoo fit gaussian_mixture --data iris --estimator em --set num_components=3 --set tol=1e-8 --out runs/a
    """
    resume = resume or (out is not None and begun_again())
    if out is None and checkpoint_every is not None:
        raise ZooError("--checkpoint-every expected --out with it. Pass the run's folder.")
    check_out(out, resume)
    check_seed(seed)
    source = Source(columns, labels, targets, split, standardize, sequence, decimal, time, drop_missing)
    drawn = list[str]()
    find_each_other()
    with stdout_for_result(as_json):
        stay = named(fixed)
        task = prepare(model, data, None if estimator is None else [estimator], settings, guide, source, False, stay)
        import zoo

        ready()
        apart = held_out(task, hold_out, seed)
        name = task.estimators[0]
        try:
            this = zoo.fit(
                task.model, task.x, estimator=name, guide=task.guide, seed=seed, progress=None, out=out,
                checkpoint_every=checkpoint_every, resume=resume, data_name=task.record["data"], fixed=stay, jobs=jobs,
                **task.fit_options, **task.options[name],
            )  # fmt: skip
        except LikelihoodDecreased as error:
            if error.fit is None:
                raise
            this = error.fit
        if not is_first():
            wait_for_first()
            raise typer.Exit({"interrupted": 130, "diverged": 3}.get(this.status, 0))
        rows = [_row(this, task)]
        score = None if apart is None else apart.score(this)
        if apart is not None:
            rows[0].update(num_held_out=apart.num_data, held_out_log_likelihood=score)
    if out is not None:
        write_record(out, task, {"command": "fit", "seed": seed} | ({} if apart is None else apart.record))
    tell(task.notes)
    with at_once():  # pictures take longer than a small fit
        if as_json:
            print(dumps(_told(this, task, rows)))
        else:
            print(this)
            print_parameters(this, out)
            print_agreement(rows)
            print_classes(this, task)
            if apart is not None:
                print(apart.told(score))
    stopped = this.status == "interrupted"
    if out is not None:
        with stdout_for_result(as_json):
            from zoo.core.data import stream_of
            from zoo.reporting.answer import write_answer

            try:
                shown = None if apart is None else apart.x
                rows_of_file = task.rows if apart is None else None
                if (stream := stream_of(task.x)) is not None:
                    task.x, rows_of_file = stream.sample, stream.sample_rows.numpy()
                    tell([f"posteriors and pictures are of {len(rows_of_file)} rows; `zoo predict` writes all"])
                answer = write_answer(
                    this, task.x, out, name=task.data_name, shown=shown, report=report, rows=rows_of_file
                )
                drawn = [path.name for path in answer.files]
                tell(answer.missing)
            except KeyboardInterrupt:
                stopped = True
        if not as_json:
            print(f"saved in {out}{': ' if drawn else ''}{', '.join(drawn)}")
    if stopped:
        raise typer.Exit(stop_code(out))
    if this.status == "diverged":
        raise typer.Exit(_diverged([this]))


def compare(
    model: ModelName,
    data: DataName = None,
    estimators: Annotated[
        str | None,
        typer.Option(
            help="Names with commas, options after a colon; by default em (or auto_em), eg, svi, gumbel.",
            autocompletion=completing.estimator_list,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many starts; each estimator gets the same ones.")] = 1,
    settings: Settings = None,
    guide: Guide = None,
    fixed: Fixed = None,
    columns: Columns = None,
    labels: Labels = None,
    targets: Targets = None,
    sequence: Sequence = None,
    time: Time = None,
    decimal: Decimal = None,
    split: Split = None,
    standardize: Standardize = False,
    drop_missing: DropMissing = False,
    gradients: Annotated[
        bool, typer.Option("--gradients/--no-gradients", help="Measure the sampled gradients' bias and spread.")
    ] = True,
    out: Out = None,
    resume: Resume = False,
    jobs: Jobs = 1,
    as_json: Json = False,
) -> None:
    """Fit one model by several estimators from the same starts, and set the results side by side.

    Options of one estimator alone: --set svi.learning_rate=0.01; the same one twice: --estimators
    gumbel:temperature=0.5,gumbel:temperature=1. With --out: all fits, pictures and report.html;
    after a crash the same command with --resume goes on with the fits that are there.

    Example: zoo compare gaussian_mixture --data iris --estimators em,eg,svi,gumbel --seeds 5 --out runs/iris
    """
    check_out(out, resume)
    if seeds < 1:
        raise ZooError(f"--seeds expected a number of at least 1, got {seeds}. Take --seeds 5.")
    names = None
    if estimators is not None:
        names = [part.strip() for part in estimators.split(",") if part.strip()]
        if not names:
            raise ZooError(f"--estimators expected names with commas, got {estimators!r}. Take em,svi.")
    source = Source(columns, labels, targets, split, standardize, sequence, decimal, time, drop_missing)
    with stdout_for_result(as_json), holding(out):
        stay = named(fixed)
        task = prepare(model, data, names, settings, guide, source, True, stay)
        import zoo.runs.compare

        record = {"command": "compare", "seeds": seeds}
        folder = run_folder(out, resume, "comparison.json", task, {**record, "gradients": gradients})
        template = task.model
        device = task.fit_options.pop("device", None)
        if device is not None:
            template = _on_device(template, task.guide, device)
            task.guide = None
        ready()
        # The options are sorted out already; what is common has been handed to each estimator.
        with keeping(folder) as kept:
            made = zoo.compare(
                template, task.x, estimators=task.estimators, seeds=seeds, guide=task.guide, options=task.options,
                progress=None, data_name=task.data_name, gradients=gradients, fixed=stay, jobs=jobs, checkpoints=kept,
                **task.fit_options,
            )  # fmt: skip
        rows = [_row(this, task) for this in made.fits]
        stopped = made.interrupted
        if folder is not None:

            def write(staging: Path) -> None:
                made.write(staging)
                write_record(staging, task, record)

            folder.publish(write, keep=stopped)
    tell(task.notes)
    if as_json:
        print(dumps({**made.to_dict(), "rows": rows}))
    else:
        print(made)
        print_agreement(rows)
        if out is not None:
            print(f"saved in {out}; open {out / 'report.html'}")
    if stopped:
        raise typer.Exit(stop_code(out))
    if all(this.status == "diverged" for this in made.fits):
        raise typer.Exit(_diverged(made.fits))


def explain(
    model: ModelName,
    data: DataName = None,
    settings: Settings = None,
    guide: Guide = None,
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
    """Show what auto_em would do with a program: its sites, the update of each parameter and why, the cost.

    Example: zoo explain my_model.py:model --data counts.csv
    """
    source = Source(columns, labels, targets, split, standardize, sequence, decimal, time, drop_missing)
    with stdout_for_result(as_json):
        task = prepare(model, data, ["auto_em"], settings, guide, source, False)
        import zoo

        _check_fit_options(task)
        found = zoo.explain(task.model, task.x, guide=task.guide)
    tell(task.notes)
    print(dumps(found.to_dict()) if as_json else found)


def _check_fit_options(task: Task) -> None:
    """Refuse what `zoo fit` would refuse of the same command: it is tried here before it is given there."""
    from zoo.core.functions import as_model
    from zoo.estimators import find_estimator
    from zoo.estimators.base import options_from
    from zoo.runs.fit import as_device
    from zoo.runs.prepare import check_init

    for name in task.estimators:
        options_from(find_estimator(name), task.options[name])
    check_init(as_model(task.model, task.guide), task.fit_options.get("init"))
    if "device" in task.fit_options:
        as_device(task.fit_options["device"])


def ready() -> None:
    """Import what every fit needs, and let Ctrl-C end a fit with what there is."""
    import zoo.runs.fit  # noqa: F401
    from zoo.cli.stopping import interrupts

    interrupts()


def _on_device(model: Any, guide: Any, device: str) -> Any:
    import copy

    from zoo.core.functions import as_model
    from zoo.runs.fit import as_device

    return copy.deepcopy(as_model(model, guide)).to(as_device(device))


def _row(this: Fit, task: Task) -> dict[str, Any]:
    row = {**this.summary(), "aic": this.aic, "bic": this.bic, "num_parameters": this.num_parameters}
    if task.labels is not None:
        row["adjusted_rand_index"] = agreement(this, task)
    return row


def write_record(folder: Path, task: Task, more: dict[str, Any]) -> None:
    """What a run was made of, beside its result."""
    from zoo.reporting.page_tables import versions
    from zoo.storage.folders import written

    record = {**more, **task.record, "estimators": task.estimators, "versions": versions()}
    with written(folder / RECORD) as file:
        file.write_text(dumps(record, indent=1), encoding="utf-8")


def _told(this: Fit, task: Task, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``zoo fit --json`` prints."""
    from zoo.reporting.parameters import parameters_of, record

    found = {"model": this.model.label, "data": task.data_name, "num_data": this.num_data, "rows": rows}
    return found | record(this, parameters_of(this))


def stop_code(out: Path | None) -> int:
    where = f"what was reached is in {out}" if out is not None else "nothing was saved, for want of --out"
    return complain(f"interrupted; {where}.", 130)


def _diverged(fits: list[Fit]) -> int:
    """Say which fits diverged and why."""
    reasons = [
        f"{this.label}{f', seed {this.seed}' * (len(fits) > 1)}: {this.notes[-1]}" if this.notes else this.label
        for this in fits
    ]
    return complain(f"diverged; {'; '.join(reasons)}", 3)
