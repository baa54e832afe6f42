"""Data that stay in their files, to be read in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.mapped import Mapped
from zoo.core.passes import passing
from zoo.core.sequences import inside
from zoo.core.streams import Stream
from zoo.data._files import check_exists
from zoo.data._loaded import Loaded
from zoo.data._mapping import mapped_npy, mapped_npz
from zoo.data._row_groups import parquet_size, spooled_items, spooled_parquet
from zoo.data._spool import Spool
from zoo.data._table import Column, NoNames
from zoo.errors import ZooError

__all__ = ["STREAMED", "Streamed", "open_data", "opened", "streamed"]

#: Bytes from which on data that lie in a file stay there.
STREAMED = 2**30
#: Kinds of files that can be read in pieces.
KINDS = (".npy", ".npz", ".parquet")


def open_data(
    source: Any,
    *,
    columns: Column | Sequence[Column] | None = None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    pair: bool = False,
    measured: bool = False,
) -> Stream:
    """Data that stay in their files: rows come into memory when they are worked on.

    What ``zoo.fit`` does by itself with files of more than a GiB is done here with any. A ``.npy`` file and the arrays
    of a ``.npz`` file that is not compressed are read where they lie. Anything else is written once, in pieces, into
    temporary files (``TMPDIR``), which go away with the data.

    Args:
        source: the path of a ``.npy``, ``.npz`` (``x``, or with ``lengths`` sequences) or ``.parquet`` file, or of a
            folder of ``.npy`` or of ``.parquet`` files, one after the other in the order of their names; what
            ``numpy.load(path, mmap_mode="r")`` gives; a map-style or iterable dataset of PyTorch, whose items are
            tensors or dicts of these; of tuples the first is taken.
        columns: of a table, as for :func:`zoo.load_data`. targets: of a table, and of ``.npz`` the array's name; the
            data are then pairs (x, y).
        sequence, time: of a table of sequences, as for :func:`zoo.load_data`; the rows of each have to be side by side.
        pair: whether the first two of a dataset's tuples are a pair (x, y).
        measured: whether to leave out columns that tell rows apart or say when they were taken.

    Returns:
        Data for ``fit``, ``evaluate`` and what a fit answers; ``take(slice(0, 100))`` gives rows in memory.

    Raises:
        ZooError: a file that cannot be read, or is of another kind; too little free disk.

    Example:
        >>> import numpy
        >>> numpy.save("rows.npy", zoo.load_data("iris"))
        >>> rows = zoo.open_data("rows.npy")
        >>> round(zoo.fit("gaussian_mixture", rows, num_components=3).log_likelihood, 4)
        -180.1855
    """
    if isinstance(source, Stream):
        return source
    if isinstance(source, np.memmap) and (mapped := Mapped.of_memmap(source)) is not None:
        return Stream(mapped, Path(mapped.path).name)
    if isinstance(source, torch.utils.data.Dataset):
        name = type(source).__name__
        if isinstance(source, torch.utils.data.IterableDataset):
            return _stream(spooled_items(source, name, pair), name)
        count = len(source)  # type: ignore[arg-type]  # a map-style dataset has a length
        return _stream(spooled_items(map(source.__getitem__, range(count)), name, pair, count), name)
    if not isinstance(source, (str, Path)):
        raise ZooError(
            f"open_data expected a path, a mapped array or a torch dataset, got a {type(source).__name__}. "
            "What is in memory needs no opening."
        )
    path = Path(source).expanduser()
    if not path.is_dir():
        check_exists(path)
    paths, kind = [path], path.suffix.lower()
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in KINDS and not p.name.startswith("."))
        kind = paths[0].suffix.lower() if paths else ""
        if kind == ".npz" or len({p.suffix.lower() for p in paths}) != 1:
            raise ZooError(
                f"{path} expected a folder of .npy files, or of .parquet files, got others. Sort them apart."
            )
    if kind == ".parquet":
        arrays, loaded = spooled_parquet(paths, columns, targets, sequence, time, measured)
        return replace(
            _stream(arrays, path.name),
            columns=loaded.names,
            target_columns=loaded.target_names,
            aside={**dict.fromkeys(loaded.dropped, "row names"), **loaded.aside},
        )
    if kind not in KINDS:
        raise ZooError(f"open_data expected a file ending in {', '.join(KINDS)}, got {path.name!r}. Save it so.")
    if any(each is not None for each in (columns, sequence, time)) or (targets is not None and kind == ".npy"):
        raise NoNames(
            f"{path.name}: columns=, targets=, sequence= and time= are for tables where rows are read in pieces, got "
            "an array. Leave them out, or save x with these columns."
        )
    if kind == ".npz":
        return _of_arrays(mapped_npz(path), path, targets)
    return Stream(mapped_npy(path) if len(paths) == 1 else _joined(paths, path.name), path.name)


def opened(x: Any, pair: bool = False, **options: Any) -> Any:
    """A mapped array, a dataset or a folder as data: a stream if large, else in memory; others as they are.

    Args:
        pair, options: of :func:`open_data`.
    """
    if isinstance(x, np.memmap):
        large = x.nbytes >= STREAMED and Mapped.of_memmap(x) is not None
        return open_data(x) if large else x
    folder = isinstance(x, (str, Path)) and Path(x).expanduser().is_dir()
    if not folder and not isinstance(x, torch.utils.data.Dataset):
        return x
    stream = open_data(x, pair=pair, **options)
    return stream if stream.size >= STREAMED else _in_memory(stream)


class Streamed(Loaded):
    """What a reader returns of a large file: ``x`` and ``targets`` are a sample, ``data`` all."""

    stream: Stream

    @property
    def told(self) -> str:
        return super().told.replace(f"read {len(self.x)} rows", f"read {len(self.stream)} rows", 1)

    @property
    def constant(self) -> list[str]:
        """None: a column may begin with equal values."""
        return []

    @property
    def data(self) -> Any:
        return self.stream


def streamed(path: Path, asked: dict[str, Any], **options: Any) -> Loaded | None:
    """A file of a GiB or more as it is read in pieces, or a folder, which is in memory if it is smaller; None of other
    files.

    Args:
        asked: by name, what a file that is read in pieces cannot be asked for, with what was asked.
        options: of :func:`open_data`.

    Raises:
        ZooError: as :func:`open_data`; something that is asked for.
    """
    kind, folder = path.suffix.lower(), path.is_dir()
    if not folder and (kind not in KINDS or not path.is_file()):
        return None
    size = 0 if folder else parquet_size(path) if kind == ".parquet" else path.stat().st_size
    if not folder and size < STREAMED:
        return None
    name, value = next(((n, v) for n, v in asked.items() if v not in (None, False)), (None, None))
    if name is not None:
        which = "a folder" if folder else f"one of {size / 2**30:.3g} GiB"
        raise ZooError(
            f"{path.name}: {name}= expected a file that is read whole, got {name}={value!r} with {which}, which is "
            "read in pieces. Leave it out, or prepare the file."
        )
    stream = open_data(path, **options)
    large = stream.size >= STREAMED or not folder
    rows = stream.sample if large else stream.take(slice(0, None))
    pair, of_sequences = isinstance(rows, tuple), isinstance(rows, dict)
    found = (Streamed if large else Loaded)(
        (rows[0] if pair else rows["x"] if of_sequences else rows).numpy(),
        names=stream.columns,
        targets=rows[1].numpy() if pair else None,
        lengths=rows["lengths"].numpy() if of_sequences else None,
        aside=stream.aside,
        target_names=stream.target_columns,
    )
    if isinstance(found, Streamed):
        found.stream = stream
    return found


def _in_memory(stream: Stream) -> Any:
    data = stream.take(slice(0, None))
    if stream.columns is None or not isinstance(data, Tensor):
        return data
    import pandas

    return pandas.DataFrame(data.numpy(), columns=list(stream.columns))


def _stream(arrays: dict[str, Mapped], name: str) -> Stream:
    """Fields as a model takes them: x alone, a pair (x, y), or a dict."""
    if set(arrays) == {"x"}:
        return Stream(arrays["x"], name)
    return Stream((arrays["x"], arrays["y"]) if set(arrays) == {"x", "y"} else arrays, name)


def _of_arrays(arrays: dict[str, Mapped], path: Path, targets: Any) -> Stream:
    if targets is not None and targets not in arrays:
        raise ZooError(f"{path.name} has no array {targets!r}. Its arrays are: {', '.join(map(repr, arrays))}.")
    others = [name for name in arrays if name not in ("lengths", targets)]
    if "x" not in arrays and len(others) == 1:
        arrays = {"x" if name == others[0] else name: array for name, array in arrays.items()}
    if "x" not in arrays:
        raise ZooError(f"{path.name} should hold an array 'x', its arrays are: {', '.join(arrays)}. Name the data 'x'.")
    names = ["x", *(n for n in ("lengths", "target_lengths") if n in arrays and "lengths" in arrays)]
    fields = {name: arrays[name] for name in names} | ({} if targets is None else {"y": arrays[targets]})
    sizes = {name: len(array) for name, array in fields.items()}
    if len(set(sizes.values())) > 1:
        raise ZooError(f"{path.name}: expected as many rows in each array, got {sizes}. Save them so.")
    stream = _stream(fields, path.name)
    return stream.then(_blank) if "lengths" in fields else stream


def _blank(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sequences with zeros beyond their lengths: whatever was there must not reach a sum as 0 * nan."""
    x, lengths = data["x"], data["lengths"]
    beyond = ~inside(x, lengths)
    return {**data, "x": x.masked_fill(beyond.reshape(*beyond.shape, *[1] * (x.dim() - 2)), 0)}


def _joined(paths: list[Path], name: str) -> Mapped:
    """The rows of several arrays one after the other."""
    arrays = [mapped_npy(path) for path in paths]
    spool = Spool(name, sum(array.size for array in arrays))
    with passing(sum(map(len, arrays))) as told:
        for array in arrays:
            rows = max(1, 2**24 * len(array) // max(1, array.size))
            for begin in range(0, len(array), rows):
                spool.add({"x": array.raw(slice(begin, begin + rows))})
                told(spool.rows)
    return spool.arrays()["x"]
