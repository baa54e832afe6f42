"""Sequences of tokens on the command line: beginnings that are gone on with, files of words, of probabilities."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["beginnings", "cut", "write_probs", "write_sequences"]


def symbols_of(model: Any) -> tuple[str, ...] | None:
    """What the codes 0, 1, ... stand for; None where tokens are numbers."""
    return model.schema.symbols if model.schema is not None else None


def end_of(model: Any) -> int | None:
    """The code of the token that ends a sentence, if there is one."""
    from zoo.core.schema import END

    symbols = symbols_of(model)
    return symbols.index(END) if symbols is not None and END in symbols else None


def beginnings(x: Any, model: Any) -> Any:
    """Sentences without the token that ends each: they are gone on with."""
    end = end_of(model)
    if end is None:
        return x
    data = model.prepare(x)
    last = data["x"].reshape(len(data["x"]), -1)[range(len(data["x"])), data["lengths"] - 1]
    lengths = data["lengths"] - (last == end).long()
    if bool((lengths < 1).any()):
        raise ZooError("--data expected a word in every line, got an empty one. Leave it out.")
    return {"x": data["x"], "lengths": lengths}


def cut(rows: Tensor, model: Any) -> list[Tensor]:
    """Rows of tokens (M, T), each up to the one that ends a sentence."""
    end = end_of(model)
    if end is None:
        return list(rows)
    ends = (rows == end).cumsum(-1)
    return [row[: int((seen == 0).sum()) + 1] for row, seen in zip(rows, ends, strict=True)]


def named(codes: Any, model: Any) -> list[Any]:
    """What codes stand for; whole numbers where that is themselves."""
    return list(model.schema.decode(codes)) if symbols_of(model) is not None else codes.tolist()


def write_sequences(rows: list[Any], path: Path, model: Any) -> None:
    """Sequences of symbols: as text one a line, in a table one symbol a row, as an array padded with -1."""
    import numpy as np

    if path.suffix.lower() == ".npy":
        padded = np.full((len(rows), max(map(len, rows))), -1)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        np.save(path, padded, allow_pickle=False)
        return
    cells = [named(row, model) for row in rows]
    if path.suffix.lower() == ".txt":
        path.write_text("".join(" ".join(map(str, row)) + "\n" for row in cells), encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sequence", "x0"))
        writer.writerows((i, cell) for i, row in enumerate(cells) for cell in row)


def write_probs(probs: Tensor, path: Path, model: Any, number: int) -> None:
    """Probabilities (N, T, V): as an array all, in a table the ``number`` likeliest of each step."""
    import numpy as np

    if path.suffix.lower() == ".npy":
        np.save(path, probs.cpu().numpy(), allow_pickle=False)
        return
    values, codes = probs.cpu().topk(min(number, probs.shape[-1]))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sequence", "step", "token", "probability"))
        for i, (rows, steps) in enumerate(zip(codes, values.tolist(), strict=True)):
            for step, (row, each) in enumerate(zip(rows, steps, strict=True)):
                writer.writerows((i, step, token, p) for token, p in zip(named(row.numpy(), model), each, strict=True))
