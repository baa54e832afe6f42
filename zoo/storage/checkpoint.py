"""Checkpoints: what a run needs to go on as if it had never stopped. Tensors as safetensors, the rest as JSON.

A checkpoint is a folder, written beside its place, flushed to disk and moved there in one step; the one before it is
kept. It carries checksums and the identity of its run (model, data, options): one that is torn is passed over for the
one before it, one of another run is refused. Nothing found in it is ever imported or run.

Of a fit in several processes the first one reads and writes, and tells the others.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.data import Data, arguments, beside, stream_of, tensors
from zoo.core.ranks import present
from zoo.errors import ZooError
from zoo.storage.folders import check_free, published, sweep, unwritten, written, written_into
from zoo.storage.json import from_exact, to_exact, to_json
from zoo.storage.tensors import read_tensors, write_tensors

__all__ = ["Checkpoint", "Checkpoints", "RunFolder", "fingerprint", "interval", "random_state", "set_random_state"]

FORMAT = 1
#: Folder of the checkpoints inside a run's folder.
FOLDER = "checkpoints"
#: Folder in it of those of starts that run side by side.
APART = "apart"
#: Name of the file that says which run a folder's result is of.
IDENTITY = "identity.json"
#: Seconds between checkpoints where nobody says otherwise.
EVERY = 60.0
_KEPT = 2


@dataclass
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        record: plain values: position, history, counters.
        tensors: by name.
        damaged: the newer checkpoints that could not be used, a phrase each.
    """

    record: dict[str, Any]
    tensors: dict[str, Tensor]
    damaged: list[str] = field(default_factory=list)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix/``, under the rest of their names."""
        return {n.removeprefix(f"{prefix}/"): t for n, t in self.tensors.items() if n.startswith(f"{prefix}/")}


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's own; nothing is made there before there is something to write.
        identity: what the run is made of, plain values by name; a checkpoint with another is refused.
        every: what :func:`interval` takes.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], every: float | str | None = None) -> None:
        self.folder, self.identity = folder / FOLDER, identity
        self.seconds, self.steps = interval(every)
        self.restart = 0
        self.unfinished = False
        self.notes: list[str] = []
        self._written, self._counted = time.monotonic(), 0

    def due(self) -> bool:
        """Count a step; True when it is time to write."""
        if not present().first:
            return False
        self._counted += 1
        if self.steps is not None:
            return self._counted >= self.steps
        return self.seconds is not None and time.monotonic() - self._written >= self.seconds

    def save(self, record: dict[str, Any], values: dict[str, Tensor]) -> None:
        """Write a checkpoint. A disk that is full stops no training: the run gets a note."""
        self._counted = 0
        if not present().first:
            return
        try:
            self._write({**record, "restart": self.restart}, values)
        except OSError as error:
            self.notes = [f"the last checkpoint could not be written ({error.strerror})"]
        self._written = time.monotonic()

    def _write(self, record: dict[str, Any], values: dict[str, Tensor]) -> None:
        there = self._there()
        number = int(there[-1].name) + 1 if there else 1
        with published(self.folder / f"{number:08d}") as staging:
            file = staging / "state.safetensors"
            write_tensors({name: _plain(value) for name, value in values.items()}, file)
            record = {"format": FORMAT, "identity": self.identity, **record, "tensors_sha256": _digest(file)}
            text = to_exact(record)
            checked = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"
            (staging / "state.json").write_text(checked, encoding="utf-8")
        for old in there[: 1 - _KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Raises:
            ZooError: none is whole, or one is of another run.
        """
        return present().from_first(self._latest)

    def _latest(self) -> Checkpoint | None:
        damaged: list[str] = []
        for path in reversed(self._there()):
            try:
                lines = (path / "state.json").read_text(encoding="utf-8").split("\n")
                if hashlib.sha256(lines[1].encode()).hexdigest() != lines[0]:
                    raise ValueError("its checksum is wrong")
                record = from_exact(lines[1])
                if _digest(path / "state.safetensors") != record["tensors_sha256"]:
                    raise ValueError("the checksum of its tensors is wrong")
                values = read_tensors(path / "state.safetensors")
            except (OSError, ValueError, LookupError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                damaged.append(f"checkpoint {path.name} is damaged ({reason})")
                continue
            if record["format"] != FORMAT:
                raise ZooError(f"resume: {path} was written by another version. Fit anew into another folder.")
            check_identity(self.folder.parent, record["identity"], self.identity)
            return Checkpoint(record, values, damaged)
        if damaged:
            raise ZooError(f"resume: {damaged[0]}, and there is no whole one in {self.folder}. Fit anew elsewhere.")
        return None

    def apart(self, restart: int) -> Checkpoints:
        """Those of one start that runs beside others, each of which keeps its own."""
        own = copy.copy(self)
        own.folder, own.restart, own.notes = self.folder / APART / str(restart), restart, []
        own._written, own._counted = time.monotonic(), 0
        return own

    def furthest(self, restart: int, shared: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint of a start that has come furthest: the ``shared`` one, if it is this start's, or one apart."""
        found = [self.apart(restart).latest(), shared]
        mine = [each for each in found if each is not None and each.record["restart"] == restart]
        return max(mine, key=lambda each: each.record["seconds"], default=None)

    def clear(self) -> None:
        """Remove all of them: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _there(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())


class RunFolder:
    """The folder of one run: checkpoints and finished starts on the way, the result in the end.

    Args:
        path: the folder; it need not exist.
        checkpoints: its checkpoints.
        resume: whether it may hold a run already.
        result: the name of a file that every result has.

    Attributes:
        complete: whether it holds the result of this very run.

    Raises:
        ZooError: the folder holds files; or, to resume, files that are not this run's.
    """

    def __init__(self, path: Path, checkpoints: Checkpoints, resume: bool, result: str = "fit.json") -> None:
        self.path, self.checkpoints, self.result = path, checkpoints, result
        self.starts = checkpoints.folder / "starts"
        self.complete = present().from_first(lambda: self._complete(resume))

    def _complete(self, resume: bool) -> bool:
        path, checkpoints = self.path, self.checkpoints
        sweep(path)  # what a process that was killed left of a result
        begun = checkpoints.folder.is_dir() or (path / IDENTITY).is_file()
        if not resume or path.is_file():
            check_free(path, "Resume the run, or choose another name." if begun else "Choose another name.")
        elif path.is_dir() and any(path.iterdir()):
            if not begun:
                raise ZooError(f"resume: {str(path)!r} holds files, but no run that was begun. Choose another folder.")
            try:
                found = json.loads((path / IDENTITY).read_text(encoding="utf-8"))
            except FileNotFoundError:
                return False
            except ValueError:
                raise ZooError(f"resume: {str(path / IDENTITY)!r} is damaged. Fit anew into another folder.") from None
            check_identity(path, found["identity"], checkpoints.identity)
            complete = bool(found["complete"]) and (path / self.result).is_file()
            if complete:
                checkpoints.clear()  # of a run that was killed while it did so
            return complete
        return False

    def finished(self, restart: int) -> Path | None:
        """Where the fit of an earlier start lies, if it was finished."""
        return present().from_first(lambda: self._finished(restart))

    def _finished(self, restart: int) -> Path | None:
        place = self.starts / str(restart)
        if not (place / IDENTITY).is_file():
            return None
        check_identity(self.path, json.loads((place / IDENTITY).read_text())["identity"], self.checkpoints.identity)
        return place

    def finish(self, restart: int, write: Callable[[Path], None], seconds: float) -> None:
        """Keep the fit of a start that took a while; a quick one is as quickly made again."""
        if seconds < 1 or not present().first:
            return
        shutil.rmtree(self.starts / str(restart), ignore_errors=True)
        with suppress(OSError), published(self.starts / str(restart)) as staging:  # or it is made again
            write(staging)
            (staging / IDENTITY).write_text(self._identity(True), encoding="utf-8")

    def publish(self, write: Callable[[Path], None], keep: bool = False) -> None:
        """Put the result into the folder, what says so last; then drop the checkpoints, unless there is more to do.

        Raises:
            ZooError: it cannot be written.
        """
        if not present().first:
            return
        try:
            self._identify(False)  # from here on it is this run's, whatever happens
            with written_into(self.path, self.path) as staging:
                write(staging)
            if not keep:
                self._identify(True)
        except OSError as error:
            left = " Its checkpoints are there: resume it." if self.checkpoints.folder.is_dir() else ""
            raise unwritten(self.path, error, left) from error
        if not keep:
            self.checkpoints.clear()

    @contextmanager
    def under_way(self) -> Iterator[Path]:
        """A folder for what the parts of a run keep on the way to its result, each in a folder of its own. Whose it is
        is said first, and taken back where nothing is kept when the run fails."""
        self._identify(False)
        try:
            yield self.checkpoints.folder
        except BaseException:
            if not self.checkpoints.folder.is_dir() and not (self.path / self.result).is_file():
                (self.path / IDENTITY).unlink(missing_ok=True)
            raise

    def _identify(self, complete: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with written(self.path / IDENTITY) as file:
            file.write_text(self._identity(complete), encoding="utf-8")

    def _identity(self, complete: bool) -> str:
        return to_json({"identity": self.checkpoints.identity, "complete": complete})


def interval(every: float | str | None) -> tuple[float | None, int | None]:
    """(seconds, steps) between checkpoints: a whole number counts steps, another is seconds; "90s", "500 steps".

    Raises:
        ZooError: neither, or not above zero.
    """
    if every is None:
        return EVERY, None
    try:
        text = every if isinstance(every, str) else f"{every!r}{'s' * isinstance(every, float)}"
        number, unit = re.fullmatch(r"\s*([0-9.]+)\s*(s|steps)?\s*", text).groups()  # type: ignore[union-attr]
        if not float(number) > 0:
            raise ValueError
        return (float(number), None) if unit == "s" else (None, int(number))
    except (AttributeError, ValueError):
        raise ZooError(
            f"checkpoint_every expected seconds (90.0, '90s') or steps (500, '500 steps'), got {every!r}."
        ) from None


def check_identity(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise ZooError, naming what differs, unless a folder's run is the one asked for."""
    found, asked = _flat(found), _flat(json.loads(to_json(asked)))
    differing = [name for name in {**asked, **found} if found.get(name) != asked.get(name)]
    if differing:
        name = differing[0]
        values = f"{found.get(name)!r}, not {asked.get(name)!r}"
        raise ZooError(
            f"resume: {str(folder)!r} holds another run, of {' '.join(name.split('.'))} {values}. "
            "Repeat its command as it was, or choose another folder."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return found


def fingerprint(x: Data) -> str:
    """A short checksum of data: shapes, dtypes and values, and the plain values among a program's arguments."""
    digest = hashlib.sha256()
    if (stream := stream_of(x)) is not None:
        digest.update(f"{len(stream)}{stream.digest}".encode())
    for value in arguments(x) if stream is None else ():
        if isinstance(value, (bool, int, float, str)):
            digest.update(repr(value).encode())
    for value in [*(tensors(x) if stream is None else ()), *beside(x)]:
        digest.update(f"{tuple(value.shape)}{value.dtype}".encode())
        raw: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(raw)
    return digest.hexdigest()[:16]


# --- random numbers ---------------------------------------------------------------------------------------------------


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of every generator a run may draw from, as (plain values, tensors)."""
    drawn: Any = np.random.get_state()  # noqa: NPY002 (the one that programs share)
    _, keys, position, has_gauss, gauss = drawn
    version, words, following = random.getstate()
    values = {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.from_numpy(keys.astype(np.int64)),
        "random/python": torch.tensor(words, dtype=torch.int64),
    }
    if torch.cuda.is_initialized():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            values[f"random/cuda/{i}"] = state
    plain = {"numpy": [int(position), int(has_gauss), float(gauss)], "python": [version, following]}
    return plain, values


def set_random_state(plain: dict[str, Any], values: dict[str, Tensor]) -> None:
    """Set every generator to what :func:`random_state` gave."""
    torch.set_rng_state(values["random/torch"])
    position, has_gauss, gauss = plain["numpy"]
    keys = values["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, gauss))  # noqa: NPY002
    version, following = plain["python"]
    random.setstate((version, tuple(values["random/python"].tolist()), following))
    states = [values[f"random/cuda/{i}"] for i in range(torch.cuda.device_count()) if f"random/cuda/{i}" in values]
    if states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state_all(states)


# --- files ------------------------------------------------------------------------------------------------------------


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(stream)


def _slow(stream: Any) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
