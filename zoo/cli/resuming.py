"""Comparisons and selections in a folder: what is finished on the way is kept there until the result is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from zoo.cli.output import tell

if TYPE_CHECKING:
    from zoo.cli.task import Task
    from zoo.storage.checkpoint import RunFolder

__all__ = ["keeping", "run_folder"]


def run_folder(out: Path | None, resume: bool, result: str, task: Task, more: dict[str, Any]) -> RunFolder | None:
    """The folder of a command that makes many fits; None where nothing is to be written.

    Args:
        result: the name of the file of its result. more: what is recorded of the command beside its task.

    Raises:
        ZooError: it holds something else.
        typer.Exit: it holds this very result.
    """
    if out is None:
        return None
    from zoo.storage.checkpoint import Checkpoints, RunFolder, fingerprint

    identity = {**more, **task.record, "estimators": task.estimators, "checksum": fingerprint(task.x)}
    folder = RunFolder(out, Checkpoints(out, identity), resume, result)
    if folder.complete:
        tell([f"{out} has the result of this command already: {result}, report.html"])
        raise typer.Exit(0)
    return folder


def keeping(folder: RunFolder | None) -> AbstractContextManager[Path | None]:
    """Where the fits of such a command keep what they have reached."""
    return nullcontext() if folder is None else folder.under_way()
