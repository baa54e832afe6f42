"""Data to fit: well-known sets by name, or a file of the user's own, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.turns import kept_random
from zoo.data._data_set import DataSet
from zoo.data._fetch import File, find, locate
from zoo.data._files import check_exists, read_file
from zoo.data._frames import SOURCE, is_frame, read_frame
from zoo.data._loaded import Loaded
from zoo.data._sets import DATA_SETS
from zoo.data._table import Column, NoNames, pick, rows_text
from zoo.data._treebank import read_mrg
from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Data", "DataInfo", "NoNames", "list_data", "load_data", "load_trees", "read"]

Data = Tensor | dict[str, Tensor] | tuple[Tensor, Tensor]
"""Vectors (N, D), sequences ``{"x": (N, T, D), "lengths": (N,)}``, or a pair (x, y) of vectors."""


@dataclass(frozen=True)
class DataInfo:
    """What ``list_data`` says of one named data set.

    Attributes:
        name: what ``load_data`` takes.
        shape: of the default split, as text: ``"150 x 4"``.
        about: what the numbers are.
        splits: the parts ``split=`` takes, the default one first; empty for a set in one part.
        labelled: whether ``labels=True`` works.
        source: where the data were published.
        licence: as stated there, or what is known.
        location: the package or folder that holds the data, or ``"needs a download"``, or ``"needs a file"`` where
            there is no download that could be verified.
        available: whether it loads without a download.
    """

    name: str
    shape: str
    about: str
    splits: tuple[str, ...]
    labelled: bool
    source: str
    licence: str
    location: str
    available: bool


def list_data() -> list[DataInfo]:
    """All named data sets, sorted by name, with where each would be taken from; nothing is read or downloaded.

    Example:
        >>> "iris" in [row.name for row in zoo.list_data()]
        True
    """
    return [_info(name, DATA_SETS[name]) for name in sorted(DATA_SETS)]


def _info(name: str, known: DataSet) -> DataInfo:
    if known.provider:
        location, available = f"in {known.provider}", True
    else:
        wanted: list[tuple[File, ...]] = [forms for roles in known.files.values() for forms in roles.values()]
        found = [find(forms) for forms in wanted]
        here = [path for path in found if path is not None]
        available = len(here) == len(found)
        if available:
            location = str(here[0].parent)
        elif any(file.urls for file in wanted[0]):
            location = "needs a download"
        else:
            location = "needs a file"
    return DataInfo(
        name, known.shape, known.about, known.splits, known.labelled, known.source, known.licence, location, available
    )


@overload
def load_data(
    name_or_path: str | Path | DataFrame,
    *,
    columns: Column | Sequence[Column] | None = None,
    labels: None = None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    decimal: str = ".",
    symbols: bool = False,
    split: str | None = None,
    standardize: bool = False,
    sentences: bool = False,
    vocabulary: int | Sequence[str] | None = None,
    drop_missing: bool = False,
) -> Data: ...


@overload
def load_data(
    name_or_path: str | Path | DataFrame,
    *,
    columns: Column | Sequence[Column] | None = None,
    labels: Column,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    decimal: str = ".",
    symbols: bool = False,
    split: str | None = None,
    standardize: bool = False,
    sentences: bool = False,
    vocabulary: int | Sequence[str] | None = None,
    drop_missing: bool = False,
) -> tuple[Data, Tensor]: ...


@kept_random()
def load_data(
    name_or_path: str | Path | DataFrame,
    *,
    columns: Column | Sequence[Column] | None = None,
    labels: Column | bool | None = None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    decimal: str = ".",
    symbols: bool = False,
    split: str | None = None,
    standardize: bool = False,
    sentences: bool = False,
    vocabulary: int | Sequence[str] | None = None,
    drop_missing: bool = False,
) -> Data | tuple[Data, Tensor]:
    """Loads a named data set, a file, or what a data frame holds.

    A name is looked up in the folder that the environment variable ``ZOO_DATA`` names, in the cache (``ZOO_CACHE``
    moves it), and is downloaded last; every file is held against its checksum. ``list_data`` says what there is.

    A file is one of

    - ``.csv``, ``.tsv``, ``.txt``, ``.dat``, ``.data``: delimiter comma, semicolon, ``|``, tab or blanks; a header or
      none, also R's, which is one name short; lines that begin with ``#`` are passed over; empty cells, ``NA``,
      ``#N/A``, ``None``, ``null`` and ``NaN`` become NaN, truth values 1 and 0. A column of row names (header empty,
      ``rownames``, ``Unnamed: 0``, or ``index`` over 0, 1, 2 ...) is skipped, and so is an empty one without a name
      at the end. With a column ``sequence``, each row is a time step of the sequence it names. Compressed too:
      ``.csv.gz``, ``.bz2``, ``.xz``, ``.zip``, with zstandard ``.zst``.
    - ``.parquet``, which needs pyarrow, and the first sheet of ``.xlsx``, which needs openpyxl: the same, typed.
    - ``.mrg``: parse trees in brackets, read as the tags of their sentences; see :func:`load_trees`.
    - with ``sentences=True``, a text of one sentence a line, its words between blanks.
    - ``.tsp``: distances between cities, (n, n), from a problem of TSPLIB.
    - ``.npy``: one array (N,) or (N, D).
    - ``.npz``: an array ``x``; with ``lengths`` (N,) beside it, x (N, T) or (N, T, D) holds padded sequences. The
      ``targets`` of sequences are symbols (N, U), padded with 0; ``target_lengths`` (N,) may stand beside them.

    Args:
        name_or_path: a name from ``list_data``, a path, or a data frame, which is read as a file of its columns.
        columns: the columns to read, by name or by number from 0 (row names not counted), in this order.
        labels: ``True`` for the labels of a named set; for a file the column (in ``.npz`` the array) of labels.
        targets: for a model of y given x: the columns of a file (in ``.npz`` the array) that are y.
        sequence: the column of a file whose values tell sequences apart; None for the one called ``sequence``, if any.
        time: the column of a file by which its rows, or those of each sequence, are sorted: numbers, or dates in ISO
            8601. It is then no column of x, unless ``columns`` names it. None leaves the file's order.
        decimal: what stands before decimals in a file of text, a point or ``","``.
        symbols: whether x may be text, where a file has no numbers in its columns: symbols for a categorical model.
            Of a named set of sentences: whether x is their words as text, or these coded 0, 1, ... in sorted order.
        sentences: whether a text file is one of sentences, and no table; x is then text.
        vocabulary: of such a file, for language models: how many words to tell apart, ``<unk>`` and ``<eos>`` among
            them, or the words. A sentence then ends with ``<eos>``; words that come once, and those beyond the most
            frequent ones, are ``<unk>``. None leaves the words as they are.
        drop_missing: leave out rows with a gap in a column of x or y.
        split: the part of a named set that comes in parts; by default the training part.
        standardize: subtract each column's mean and divide by its standard deviation (with N, not N - 1). A constant
            column becomes 0. Missing values, padding and targets take no part.

    Returns:
        x (N, D) in float64, images in float32; with ``targets`` a pair (x, y), y (N, D_y).
        Sequences: ``{"x": (N, T, D), "lengths": (N,)}``, padded with zeros; with symbols that they spell also
        ``"y": (N, U)``, 1, 2, ..., padded with 0, and ``"target_lengths": (N,)``. With ``labels``: ``(x, labels)``,
        labels (N,) int64, for sequences in a table (N, T) padded with -1, as gaps are; strings are coded in sorted
        order.
        With ``symbols``, text is an object array of numpy's, None where it is missing.

    Raises:
        ZooError: an unknown name, a file that is missing or not what it should be, a failed download. The text says
            what was expected, what came, and one way out.

    Example:
        >>> x, species = zoo.load_data("iris", labels=True)
        >>> x.shape, species.bincount()
        (torch.Size([150, 4]), tensor([50, 50, 50]))
    """
    loaded = read(
        name_or_path, columns=columns, labels=labels, targets=targets, sequence=sequence, time=time,
        decimal=decimal, symbols=symbols, split=split, standardize=standardize, sentences=sentences,
        vocabulary=vocabulary, drop_missing=drop_missing, whole=True,
    )  # fmt: skip
    return loaded.data if labels is None or labels is False else (loaded.data, loaded.codes)


def read(
    name_or_path: str | Path | DataFrame,
    *,
    columns: Column | Sequence[Column] | None = None,
    labels: Column | bool | None = None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    decimal: str = ".",
    symbols: bool = False,
    split: str | None = None,
    standardize: bool = False,
    sentences: bool = False,
    vocabulary: int | Sequence[str] | None = None,
    drop_missing: bool = False,
    measured: bool = False,
    whole: bool = False,
) -> Loaded:
    """What :func:`load_data` loads, with the names of the columns, and those that were left out.

    Args:
        measured: of a file where ``columns`` names none, whether to leave out columns that tell rows apart, or say
            when they were taken: numbers of rows, identifiers, times that go up. The others of :func:`load_data`.
        whole: whether to read a large file into memory, too; else it is a :class:`~zoo.data.opening.Streamed`.
    """
    if isinstance(name_or_path, str) and name_or_path in DATA_SETS:
        for option, value in (("sequence", sequence), ("time", time), ("decimal", None if decimal == "." else decimal)):
            if value is not None:
                raise ZooError(
                    f"{option}= is for files, got {value!r} with the data set {name_or_path!r}. Leave it out."
                )
        if vocabulary is not None:
            raise ZooError(f"vocabulary= is for files, got it with the data set {name_or_path!r}. Leave it out.")
        if targets is not None:
            raise ZooError(f"targets= is for files, got {targets!r} with the data set {name_or_path!r}. Leave it out.")
        loaded = _read_named(name_or_path, columns, labels, split)
        if loaded.x.dtype == object and not symbols:
            loaded.x = _coded(loaded.x, loaded.symbols)
        source = f"Data set {name_or_path!r}"
    elif is_frame(name_or_path):
        if split is not None:
            raise ZooError(f"split= is for named data sets in parts, got {split!r} with a data frame. Leave it out.")
        loaded = read_frame(
            name_or_path, columns=columns, labels=labels, targets=targets, sequence=sequence, time=time,
            symbols=symbols, measured=measured, decimal=decimal, sentences=sentences, vocabulary=vocabulary,
        )  # fmt: skip
        source = SOURCE
    else:
        path = _as_path(name_or_path)
        if split is not None:
            raise ZooError(f"split= is for named data sets in parts, got {split!r} with {path.name}. Leave it out.")
        if not whole:
            from zoo.data.opening import streamed

            asked = {"labels": labels, "standardize": standardize, "drop_missing": drop_missing}
            large = streamed(
                path, asked, columns=columns, targets=targets, sequence=sequence, time=time, measured=measured
            )
            if large is not None:
                return large
        loaded = read_file(
            path, columns, labels, targets, sequence, decimal, symbols, sentences, vocabulary, time, measured
        )
        source = path.name
    _refuse_infinite(source, loaded)
    if drop_missing:
        loaded.drop_missing(source)
    if standardize:
        _standardize(loaded)
    return loaded


def load_trees(name_or_path: str | Path) -> list[ParseTree]:
    """The parse trees of a named set of sentences, one a row of its data, or of a file in brackets (``.mrg``, NLTK's).

    Empty categories, punctuation and currency signs are dropped, labels are stripped of function tags.

    Args:
        name_or_path: a name from ``list_data``, or the path of a file.

    Raises:
        ZooError: an unknown name, a set or file without trees, brackets that do not match (with the line).

    Example:
        >>> print(zoo.load_trees("known_grammar")[0])
        (S (NP (DT every) (NN cat)) (VP (VT hears) (PRP she)))
    """
    if isinstance(name_or_path, str) and name_or_path in DATA_SETS:
        known = DATA_SETS[name_or_path]
        if known.trees is None:
            having = ", ".join(sorted(name for name, each in DATA_SETS.items() if each.trees is not None))
            raise ZooError(f"Data set {name_or_path!r} has no parse trees, expected one of {having}.")
        roles = known.files.get("", {})
        return known.trees({role: locate(name_or_path, forms, known.otherwise) for role, forms in roles.items()})
    path = _as_path(name_or_path)
    check_exists(path)
    return read_mrg(path)


def _coded(text: NDArray, symbols: tuple[str, ...] | None) -> NDArray[np.int64]:
    """Symbols as their places among those given, or in sorted order; 0 where there is none."""
    given = sorted({symbol for symbol in text.flat if symbol is not None}) if symbols is None else symbols
    place: dict[str | None, int] = {None: 0, **{symbol: i for i, symbol in enumerate(given)}}
    return np.array([place[symbol] for symbol in text.flat], dtype=np.int64).reshape(text.shape)


def _as_path(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, Path):
        return name_or_path.expanduser()
    if not isinstance(name_or_path, str):
        raise ZooError(
            f"load_data expects a data set's name, a path or a data frame, got {type(name_or_path).__name__}. "
            "A tensor needs no loading: pass it to fit as it is."
        )
    path = Path(name_or_path).expanduser()
    if not path.suffix and path.name == name_or_path and not path.exists():
        raise unknown_name("Data set", name_or_path, DATA_SETS)
    return path


def _read_named(
    name: str, columns: Column | Sequence[Column] | None, labels: Column | bool | None, split: str | None
) -> Loaded:
    known = DATA_SETS[name]
    title = f"Data set {name!r}"
    if split is not None and not known.splits:
        raise ZooError(f"{title} comes in one part, got split={split!r}. Leave split out.")
    if split is not None and split not in known.splits:
        raise unknown_name(f"Split of {name!r}", str(split), known.splits)
    if labels is not None and labels is not False:
        if not known.labelled:
            raise ZooError(f"{title} has no labels, got labels={labels!r}. Leave labels out.")
        if labels is not True:
            raise ZooError(f"{title} has one kind of labels, got labels={labels!r}. Pass labels=True.")
    roles = known.files[split or known.splits[0] if known.splits else ""] if known.files else {}
    loaded = known.read({role: locate(name, forms, known.otherwise) for role, forms in roles.items()})
    if columns is not None:
        wanted = [columns] if isinstance(columns, (int, str)) else list(columns)
        width = loaded.x.shape[-1]
        indices = [pick(title, loaded.names, width, column) for column in wanted]
        loaded.x = loaded.x[..., indices]
    return loaded


def _refuse_infinite(source: str, loaded: Loaded) -> None:
    if loaded.x.dtype == object:
        return
    bad = np.isinf(loaded.x).reshape(len(loaded.x), -1).any(axis=1)
    if loaded.targets is not None:
        bad |= np.isinf(loaded.targets).any(axis=1)
    if not bad.any():
        return
    rows = np.flatnonzero(bad)
    kind = "sequence " if loaded.lengths is not None else ""
    raise ZooError(
        f"{source}: expected finite numbers, got infinite ones in {kind}{rows_text(rows)} (counted from 1). "
        "Remove them, or mark them missing with NaN."
    )


def _standardize(loaded: Loaded) -> None:
    """Centres and scales columns in place of ``loaded.x``, over all rows, or over the steps within the lengths."""
    x = loaded.x
    if x.dtype == object:
        raise ZooError("standardize=True expected numbers, got text. Leave it out.")
    if loaded.lengths is None:
        inside = np.ones(x.shape[:1], dtype=bool)
    else:
        x = x if x.ndim == 3 else x[:, :, None]
        inside = np.arange(x.shape[1]) < loaded.lengths[:, None]
    scaled = np.zeros(x.shape, dtype=x.dtype)
    for first in range(0, x.shape[-1], 64):  # in blocks, as each takes several float64 copies
        scaled[inside, first : first + 64] = _standard(x[inside, first : first + 64])
    loaded.x = scaled.reshape(loaded.x.shape)


def _standard(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    seen = ~np.isnan(rows)
    count = np.maximum(seen.sum(axis=0), 1)
    lowest = np.where(seen, rows, np.inf).min(axis=0)
    constant = lowest == np.where(seen, rows, -np.inf).max(axis=0)
    # Of a constant column the mean may be off by rounding, which a division by its own sd would blow up to size 1.
    mean = np.where(constant, lowest, np.where(seen, rows, 0.0).sum(axis=0, dtype=np.float64) / count)
    centred = rows - mean
    sd = np.sqrt(np.where(seen, centred**2, 0.0).sum(axis=0) / count)
    return centred / np.where(sd > 0, sd, 1.0)
