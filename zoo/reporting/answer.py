"""What a run's folder holds of a fit for a person, beside what loads it: parameters, latents, pictures, a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.core.contract import lacks
from zoo.core.data import num_data
from zoo.errors import one_line
from zoo.reporting.fit_report import write_fit_report
from zoo.reporting.latent_tables import Columns, latent_table, with_rows, write_columns
from zoo.reporting.parameters import frame, parameters_of, record
from zoo.reporting.subjects import Fitted
from zoo.storage.folders import written_into
from zoo.storage.json import to_json

__all__ = ["Answer", "write_answer"]

#: The most numbers of ``posterior.csv``, and sentences that are parsed for it, where nobody asks for more.
NUMBERS, SENTENCES = 5_000_000, 1000


@dataclass
class Answer:
    """What was written, and a line on each thing that could not be."""

    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def attempt(self, what: str, write: Callable[[], None]) -> None:
        """Whatever becomes of it, the fit is done."""
        try:
            write()
        except Exception as error:
            self.missing.append(f"no {what}: {one_line(error)}")


def write_answer(
    fit: Fitted, x: Any, folder: Path, *, name: str, shown: Any = None, report: bool = True, rows: Any = None
) -> Answer:
    """Write ``parameters.csv``, ``parameters.json``, ``posterior.csv``, pictures and ``report.html``; each whole.

    Args:
        x: the data of the fit. name: what they are called.
        folder: one that exists.
        report: whether to draw the pictures, and to write the page.
        shown: data for pictures of networks where others than those of the fit are to be shown.
        rows: which rows of a file the data are, from 0, where some were left out: ``row`` says so, from 1.
    """
    try:
        with written_into(folder) as staging:
            answer = _written(fit, x, staging, name, shown, report, rows)
    except OSError as error:  # a full disk; the fit itself is there
        return Answer(missing=[f"nothing was written beside the fit: {one_line(error)}"])
    answer.files = [folder / path.relative_to(staging) for path in answer.files]
    return answer


def _written(fit: Fitted, x: Any, folder: Path, name: str, shown: Any, report: bool, rows: Any) -> Answer:
    answer, latents = Answer(), dict[str, Columns]()

    def parameters() -> None:
        told = parameters_of(fit)
        listed = [p for p in told if p.listed]
        if listed:
            frame(listed).to_csv(folder / "parameters.csv", index=False)
            answer.files.append(folder / "parameters.csv")
        made = {"model": fit.model.label, "estimator": fit.estimator, **record(fit, told)}
        (folder / "parameters.json").write_text(to_json(made, None), encoding="utf-8")
        answer.files.append(folder / "parameters.json")

    def posterior() -> None:
        if lacks(fit.model, "parse") is None and num_data(x) > SENTENCES:
            answer.missing.append("posterior.csv left out, for so many sentences; zoo predict writes it")
            return
        made = latent_table(fit, x)
        if sum(len(column) for column in made.values()) > NUMBERS:
            answer.missing.append("posterior.csv left out, of so many numbers; zoo predict writes it")
            return
        latents["of all"] = made
        answer.files.append(write_columns(with_rows(made, rows), folder / "posterior.csv"))

    def page() -> None:
        files, missing = write_fit_report(
            fit, x, folder, name=name, shown=shown, latents=latents.get("of all"), notes=answer.missing
        )
        answer.files += files
        answer.missing += missing

    answer.attempt("parameters.csv", parameters)
    answer.attempt("posterior.csv", posterior)
    if report:
        answer.attempt("report.html", page)
    return answer
