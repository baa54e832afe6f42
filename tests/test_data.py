"""Loaders: every kind of file, every mistake a user's file can hold, and the named sets with their checksums."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
import math
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from zoo.data import DataInfo, _small, _text, list_data, load_data, read
from zoo.data import _sets as sets
from zoo.data._fetch import File
from zoo.data._music import read_rolls
from zoo.data.known_music import tables
from zoo.errors import ZooError

DATA = os.environ.get("ZOO_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="ZOO_DATA names no folder with the data files")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(text: str, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return to_file


def error(*args: object, **options: object) -> str:
    """The text of the error, which must be one line."""
    with pytest.raises(ZooError) as caught:
        load_data(*args, **options)  # type: ignore[call-overload]
    text = str(caught.value)
    assert "\n" not in text
    return text


def assert_rows(x: object, rows: list[list[float]]) -> None:
    assert isinstance(x, torch.Tensor)
    assert x.dtype == torch.float64
    torch.testing.assert_close(x, torch.tensor(rows, dtype=torch.float64), rtol=0, atol=0, equal_nan=True)


# --- CSV: what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv_delimiters_and_headers(write: Callable[..., Path], delimiter: str, header: bool, ending: str) -> None:
    lines = [["a", "b"]] * header + [["1", "2.5"], ["-3", "4e2"]]
    path = write(ending.join(delimiter.join(line) for line in lines) + ending)
    assert_rows(load_data(path), [[1.0, 2.5], [-3.0, 400.0]])
    assert_rows(load_data(str(path)), [[1.0, 2.5], [-3.0, 400.0]])


def test_csv_single_column_and_single_row(write: Callable[..., Path]) -> None:
    assert_rows(load_data(write("count\n3\n4\n")), [[3], [4]])
    assert_rows(load_data(write("3\n4\n")), [[3], [4]])
    assert_rows(load_data(write("3,4")), [[3, 4]])


def test_csv_byte_order_mark_blank_lines_and_spaces(write: Callable[..., Path]) -> None:
    path = write("\ufeffa, b\n\n1, 2\n\n  3 ,4\n\n")
    assert_rows(load_data(path), [[1, 2], [3, 4]])
    assert_rows(load_data(path, columns="a"), [[1], [3]])  # the mark is no part of the name


def test_csv_missing_cells_become_nan(write: Callable[..., Path]) -> None:
    nan = math.nan
    assert_rows(load_data(write("a,b\n1,\nNA,2\nnan,NaN\n")), [[1, nan], [nan, 2], [nan, nan]])
    assert_rows(load_data(write("a,b\n1,nan\n2,3\n")), [[1, nan], [2, 3]])


def test_csv_quoted_cells(write: Callable[..., Path]) -> None:
    path = write('"a","kind, of"\n"1","x, y"\n"2.5","x ""z"""\n')
    x, labels = load_data(path, labels="kind, of")
    assert_rows(x, [[1], [2.5]])
    assert labels.tolist() == [1, 0]
    assert_rows(load_data(write('"a","b"\n"1","2"\n')), [[1, 2]])
    assert_rows(load_data(write('"a\nb",c\n1,2\n')), [[1, 2]])


def test_csv_row_name_columns_are_skipped(write: Callable[..., Path]) -> None:
    for header in ("", '""', "rownames", "Unnamed: 0", "index"):
        assert_rows(load_data(write(f"{header},a\n1,5\n2,6\n")), [[5], [6]])
    assert_rows(load_data(write(",a\nMazda RX4,5\nDatsun,6\n")), [[5], [6]])
    assert_rows(load_data(write("index,a\n0,5\n1,6\n")), [[5], [6]])
    assert_rows(load_data(write("index,a\n101.5,5\n99,6\n")), [[101.5, 5], [99, 6]])  # a price index is data
    assert_rows(load_data(write("a,b\n1,5\n2,6\n")), [[1, 5], [2, 6]])  # 1..N alone is no row name
    assert_rows(load_data(write("rownames\n1\n2\n")), [[1], [2]])  # nor is the only column


def test_csv_columns_by_name_and_number(write: Callable[..., Path]) -> None:
    path = write("rownames,a,kind,b\n1,10,x,20\n2,11,y,21\n")
    assert_rows(load_data(path, columns=["b", "a"]), [[20, 10], [21, 11]])
    assert_rows(load_data(path, columns="b"), [[20], [21]])
    assert_rows(load_data(path, columns=[0, -1]), [[10, 20], [11, 21]])
    bare = write("10,x,20\n11,y,21\n")
    assert_rows(load_data(bare, columns=[0, 2]), [[10, 20], [11, 21]])


def test_csv_first_line_with_a_number_is_data(write: Callable[..., Path]) -> None:
    """A table of numbers and one label without a header must not lose its first row to a header."""
    x, labels = load_data(write("5.1,setosa\n4.9,virginica\n4.7,setosa\n"), labels=1)
    assert_rows(x, [[5.1], [4.9], [4.7]])
    assert labels.tolist() == [0, 1, 0]


def test_csv_labels(write: Callable[..., Path]) -> None:
    x, labels = load_data(write("a,k\n1,b\n2,c\n3,a\n4,c\n"), labels="k")
    assert_rows(x, [[1], [2], [3], [4]])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 2, 0, 2]
    _, labels = load_data(write("a,k\n1,7\n2,-1\n"), labels="k")
    assert labels.tolist() == [7, -1]  # whole numbers stay what they are


def test_csv_sequences(write: Callable[..., Path]) -> None:
    path = write("sequence,a,b,state\nz,1,2,on\nz,3,4,off\ny,5,6,on\nz,7,8,on\n")
    data, states = load_data(path, columns=["a", "b"], labels="state")
    assert isinstance(data, dict)
    assert_rows(data["x"].flatten(1), [[1, 2, 3, 4, 7, 8], [5, 6, 0, 0, 0, 0]])
    assert data["x"].shape == (2, 3, 2)
    assert data["lengths"].tolist() == [3, 1]
    assert states.tolist() == [[1, 0, 1], [1, -1, -1]]
    numbered = load_data(write("a,sequence\n1,20\n2,3\n3,20\n"))
    assert isinstance(numbered, dict)
    assert_rows(numbered["x"][:, :, 0], [[1, 3], [2, 0]])  # in order of appearance, not of number


table = st.tuples(st.integers(1, 6), st.integers(2, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(
            st.one_of(st.floats(allow_infinity=False, width=64), st.integers(-1000, 1000).map(float)),
            min_size=shape[1],
            max_size=shape[1],
        ),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=table,
    delimiter=st.sampled_from(",;\t"),
    header=st.booleans(),
    missing=st.sampled_from(["", "NA", "nan"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_csv_round_trip(
    tmp_path: Path, rows: list[list[float]], delimiter: str, header: bool, missing: str, quoting: int
) -> None:
    if not header and not missing:  # a last column without a name or a cell is a delimiter too many at lines' ends
        assume(not all(math.isnan(row[-1]) for row in rows))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    if header:
        writer.writerow([f"c{i}" for i in range(len(rows[0]))])
    writer.writerows([[missing if math.isnan(value) else repr(value) for value in row] for row in rows])
    path = tmp_path / "round.csv"
    path.write_text(text.getvalue())
    assert_rows(load_data(path), rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "Zs", "P"]), min_size=1), min_size=1))
def test_csv_labels_round_trip(tmp_path: Path, kinds: list[str]) -> None:
    path = tmp_path / "labels.csv"
    kinds = [f"k{kind}" for kind in kinds]  # never a word for "missing"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["a", "kind"], *([i, kind] for i, kind in enumerate(kinds))])
    _, labels = load_data(path, labels="kind")
    code = {kind: i for i, kind in enumerate(sorted({kind.strip() for kind in kinds}))}
    assert labels.tolist() == [code[kind.strip()] for kind in kinds]


def test_csv_of_a_million_rows(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    block = "".join(f"{i}.25,{i * 3},-0.5,1e-3\n" for i in range(1000))
    path.write_text("a,b,c,d\n" + block * 1000)
    x = load_data(path)
    assert isinstance(x, torch.Tensor)
    assert x.shape == (1_000_000, 4)
    assert x[-1].tolist() == [999.25, 2997.0, -0.5, 1e-3]


# --- CSV: what is refused ---------------------------------------------------------------------------------------------


def test_missing_file_offers_the_nearest(write: Callable[..., Path]) -> None:
    path = write("1\n", "measured.csv")
    assert "Did you mean 'measured.csv'?" in error(path.with_name("mesured.csv"))
    assert "no file 'q.csv'" in error(path.with_name("q.csv"))
    assert "no folder" in error(path.parent / "none" / "q.csv")
    assert "Expected a file, got the folder" in error(path.parent)


def test_missing_file_in_the_current_folder(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("1\n", "measured.csv")
    monkeypatch.chdir(path.parent)
    assert "in the current folder. Did you mean 'measured.csv'?" in error("measured.cvs")


def test_empty_files(write: Callable[..., Path]) -> None:
    assert "empty (0 bytes)" in error(write(""))
    assert "only blank lines" in error(write("\n \n\n"))
    assert "a header and no rows" in error(write("a,b\n"))
    assert "empty (0 bytes)" in error(write("", "t.npy"))


def test_text_in_a_numeric_column(write: Callable[..., Path]) -> None:
    text = error(write("a,b\n1,2\n\n3,oops\n"))
    assert "column 'b', row 2 (line 4), got 'oops'" in text
    assert "empty the cell where it stands for a gap, or choose with columns=" in text
    text = error(write("1,2\n3,oops\n"))
    assert "column number 1, row 2 (line 2), got 'oops'" in text
    assert "read it as labels=1" in error(write("1,ups\n3,oops\n"))
    assert "got '1_000'" in error(write("a,b\n1,1_000\n"))  # Python's own spelling is no number in a file
    assert "row 2 (line 3), got 'oops'" in error(write("count\n3\noops\n"))  # one bad cell, not a column of text
    assert "Write decimals with a point" in error(write("a;b\n1,5;2,5\n3,5;4,5\n"))


def test_ragged_rows(write: Callable[..., Path]) -> None:
    text = error(write("a,b\n1,2\n3\n"))
    assert "expected 2 cells in every row, as in the header, got 1 in row 2 (line 3)" in text
    assert "got 3 in row 2 (line 2)" in error(write("1,2\n3,4,5\n"))
    assert "got 3 in row 1" in error(write("a,b\n1,2,3\n4,5,6\n"), columns=["a"])


def test_unknown_columns(write: Callable[..., Path]) -> None:
    path = write("width,height\n1,2\n")
    assert "Did you mean 'width'?" in error(path, columns=["widht"])
    assert "There are: 'width', 'height'." in error(path, columns="zzz")
    assert "2 columns, got number 2" in error(path, columns=[2])
    assert "Did you mean 'height'?" in error(path, labels="heigth")
    assert "picked by name or number" in error(path, columns=[1.5])
    assert "empty list" in error(path, columns=[])
    assert "no column names" in error(write("1,2\n"), columns="a")
    assert "2 columns called 'a'" in error(write("a,a\n1,2\n"), columns="a")


def test_no_numeric_columns(write: Callable[..., Path]) -> None:
    assert "no numeric columns" in error(write("a,b\nx,y\nu,v\n"))
    assert "no numeric columns" in error(write("k\n1\n2\n"), labels="k")


def test_gaps_among_labels_and_rows_with_gaps(write: Callable[..., Path]) -> None:
    path = write("a,k,b,n\n1,x,5,7\n,y,6,\n3,,7,9\n4,x,,8\n")
    assert load_data(path, columns="b", labels="k")[1].tolist() == [0, 1, -1, 0]
    assert load_data(path, columns="b", labels="n")[1].tolist() == [7, -1, 9, 8]
    x, labels = load_data(path, columns=["a", "b"], labels="k", drop_missing=True)
    assert (x.tolist(), labels.tolist()) == ([[1, 5], [3, 7]], [0, -1])
    (one, two) = load_data(path, columns="a", targets="b", drop_missing=True)
    assert (one.tolist(), two.tolist()) == ([[1], [3]], [[5], [7]])
    assert load_data(path, columns="b", drop_missing=True).tolist() == [[5], [6], [7]]
    found = read(path, columns=["a", "b"], drop_missing=True)
    assert (found.kept.tolist(), found.line_of(1)) == ([0, 2], 4)
    assert found.told == "read 2 rows x 2 columns: a, b; left out: 2 rows with gaps"
    assert "expected a row without a gap" in error(write("a,b\n1,\n,2\n"), drop_missing=True)
    assert "got sequences" in error(write("sequence,b\n1,\n1,2\n"), drop_missing=True)


def test_bad_labels(write: Callable[..., Path]) -> None:
    path = write("a,k,f\n1,,0.5\n2,,1\n")
    assert "expected labels in column 'k', got none" in error(path, labels="k")
    assert "expected whole numbers or strings as labels in column 'f', got 0.5 in row 1" in error(
        path, columns="a", labels="f"
    )
    assert "labels=True is for the named data sets" in error(path, labels=True)


def test_a_sequence_column_with_gaps(write: Callable[..., Path]) -> None:
    assert "none in row 2" in error(write("a,sequence\n1,1\n2,\n"))
    assert "none in row 1" in error(write("a,sequence\n1,\n2,s\n"))


def test_infinite_entries_say_which_rows(write: Callable[..., Path]) -> None:
    text = error(write("a,b\n1,inf\n2,3\n-inf,4\n"))
    assert "infinite ones in rows 1, 3 (counted from 1)" in text
    assert "rows 1, 2, 3, 4, 5 and 4 more" in error(write("inf\n" * 9))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes("größe\n1\n".encode("latin-1"))
    assert "UTF-8, got byte 0xf6" in error(path)


def test_a_cell_beyond_csv_limits(write: Callable[..., Path]) -> None:
    assert "no readable CSV" in error(write('a,b\n1,"' + "x" * 200_000))


def test_unknown_suffix(write: Callable[..., Path]) -> None:
    text = error(write("1\n", "t.docx"))
    assert "Expected a file ending in .csv, .tsv, .txt, .dat, .data, .mrg, .npy, .npz, .parquet, .tsp, .xlsx" in text
    assert "got 't.docx'" in text
    assert "got 'x.npy.gz'" in error(write("1\n", "x.npy.gz"))
    assert "got 'plain'" in error(write("1\n", "plain"))


@pytest.mark.skipif(sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root reads all")
def test_unreadable_file(write: Callable[..., Path]) -> None:
    path = write("1\n")
    path.chmod(0)
    assert "could not be read" in error(path)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, np.bool_])
def test_npy_of_every_real_kind(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "x.npy", np.array([[0, 1], [1, 1]], dtype=dtype))
    assert_rows(load_data(tmp_path / "x.npy"), [[0, 1], [1, 1]])
    np.save(tmp_path / "v.npy", np.array([1, 0], dtype=dtype))
    assert_rows(load_data(tmp_path / "v.npy"), [[1], [0]])


def test_npy_columns_and_labels_by_number(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.5, 2, 3], [4.5, 5, 6]]))
    x, labels = load_data(tmp_path / "x.npy", columns=[2, 0], labels=1)
    assert_rows(x, [[3, 1.5], [6, 4.5]])
    assert labels.tolist() == [2, 5]
    assert "no column names" in error(tmp_path / "x.npy", columns="a")


def test_npz_vectors_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=[[1.0, 2.0], [3.0, 4.0]], y=["b", "a"], whole=[4.0, 5.0], part=[0.5, 1.0])
    x, labels = load_data(tmp_path / "d.npz", labels="y")
    assert_rows(x, [[1, 2], [3, 4]])
    assert labels.tolist() == [1, 0]
    assert load_data(tmp_path / "d.npz", labels="whole")[1].tolist() == [4, 5]
    assert "expected whole numbers or strings" in error(tmp_path / "d.npz", labels="part")
    assert "no array 'z' for labels. Its arrays are: 'x', 'y'" in error(tmp_path / "d.npz", labels="z")
    assert_rows(load_data(tmp_path / "d.npz", columns=1), [[2], [4]])


def test_targets_are_set_apart(write: Callable[..., Path], tmp_path: Path) -> None:
    """y by name or number in a table, by array in .npz; x is the rest, or what columns= says; x alone is scaled."""
    table = write("a,b,c,kind\n1,2,3,u\n4,5,7,v\n")
    (x, y), labels = load_data(table, targets=["c", 0], labels="kind")
    assert x.tolist() == [[2.0], [5.0]]
    assert y.tolist() == [[3.0, 1.0], [7.0, 4.0]]
    assert labels.tolist() == [0, 1]
    x, y = load_data(table, targets="c", columns="a", standardize=True)
    assert x.tolist() == [[-1.0], [1.0]]
    assert y.tolist() == [[3.0], [7.0]]
    np.save(tmp_path / "m.npy", np.arange(6.0).reshape(2, 3))
    x, y = load_data(tmp_path / "m.npy", targets=1)
    assert x.tolist() == [[0.0, 2.0], [3.0, 5.0]]
    assert y.tolist() == [[1.0], [4.0]]
    np.savez(tmp_path / "p.npz", x=np.eye(2), y=np.array([5, 6]), more=np.zeros(3))
    x, y = load_data(tmp_path / "p.npz", targets="y")
    assert x.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert y.tolist() == [[5.0], [6.0]]


@pytest.mark.parametrize(
    ("name", "targets", "says"),
    [
        ("t.csv", "z", "has no column 'z'"),
        ("t.csv", [], "targets= should name at least one column"),
        ("t.csv", "kind", "expected a number in column 'kind'"),
        ("s.csv", "b", "got sequences"),
        ("p.npz", "z", "has no array 'z' for targets. Its arrays are: 'x', 'y', 'deep', 'words', 'inf'"),
        ("p.npz", "y", r"expected targets of shape \(2, D_y\)"),
        ("p.npz", "deep", r"got shape \(2, 1, 1\)"),
        ("p.npz", "words", "expected real numbers in the targets, got text"),
        ("p.npz", "inf", "expected finite numbers, got infinite ones in row 2"),
        ("s.npz", "y", r"expected targets of shape \(2, D_y\)"),
        ("iris", "species", "targets= is for files"),
    ],
)
def test_bad_targets(write: Callable[..., Path], name: str, targets: str | list[str], says: str) -> None:
    write("a,b,kind\n1,2,u\n4,5,v\n")
    folder = write("sequence,a,b\n1,2,3\n1,4,5\n2,6,7\n", "s.csv").parent
    x = np.eye(2)
    np.savez(
        folder / "p.npz", x=x, y=np.zeros(3), deep=np.zeros((2, 1, 1)), words=np.array(["a", "b"]),
        inf=np.array([0.0, np.inf]),
    )  # fmt: skip
    np.savez(folder / "s.npz", x=x, lengths=np.array([1, 2]), y=np.zeros(3))
    with pytest.raises(ZooError, match=says):
        load_data(name if name == "iris" else folder / name, targets=targets)
    with pytest.raises(ZooError, match="column 'a' in both"):
        load_data(folder / "t.csv", columns="a", targets="a")


def test_npz_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", [[1.0, 2.0]])
    assert_rows(load_data(tmp_path / "d.npz"), [[1, 2]])
    np.savez(tmp_path / "e.npz", a=[1.0], b=[2.0])
    assert "should hold an array 'x', its arrays are: 'a', 'b'" in error(tmp_path / "e.npz")


def test_npz_sequences(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(2, 3, 2)
    x[1, 1:] = np.nan  # whatever lies in the padding must not reach the model
    np.savez(tmp_path / "s.npz", x=x, lengths=[3, 1], y=[[1, 2, 3], [4, 0, 0]])
    data, states = load_data(tmp_path / "s.npz", labels="y")
    assert isinstance(data, dict)
    assert_rows(data["x"].flatten(1), [[0, 1, 2, 3, 4, 5], [6, 7, 0, 0, 0, 0]])
    assert data["lengths"].tolist() == [3, 1]
    assert data["lengths"].dtype == torch.int64
    assert states.shape == (2, 3)
    one = load_data(tmp_path / "s.npz", columns=[1])
    assert isinstance(one, dict)
    assert one["x"].shape == (2, 3, 1)
    np.savez(tmp_path / "c.npz", x=[[1, 2, 0]], lengths=[2])
    symbols = load_data(tmp_path / "c.npz")
    assert isinstance(symbols, dict)
    assert_rows(symbols["x"], [[1, 2, 0]])


def test_npz_bad_lengths(tmp_path: Path) -> None:
    x = np.ones((2, 3, 1))
    for lengths, words in [
        ([3], "expected lengths of shape (2,)"),
        ([3, 4], "expected lengths from 1 to 3, got 4 in row 2"),
        ([0, 3], "got 0 in row 1"),
        ([1.5, 3], "got 1.5 in row 1"),
        (["1", "2"], "one whole number a sequence"),
    ]:
        np.savez(tmp_path / "s.npz", x=x, lengths=lengths)
        assert words in error(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", x=[1.0, 2.0], lengths=[1, 1])
    assert "expected sequences x of shape (N, T, D) or (N, T)" in error(tmp_path / "s.npz")
    x[1, 0] = np.inf
    np.savez(tmp_path / "s.npz", x=x, lengths=[3, 1], y=[1, 2, 3])
    assert "infinite ones in sequence row 2" in error(tmp_path / "s.npz")
    assert "expected labels of shape (2,) or (2, 3), got (3,)" in error(tmp_path / "s.npz", labels="y")


def test_arrays_of_the_wrong_shape_or_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array, words in [
        (np.ones((2, 3, 4)), "Save images as x.reshape(len(x), -1), sequences as .npz with arrays x and lengths"),
        (np.array(1.0), "got 0 dimensions"),
        (np.ones((0, 3)), "expected a row and a column at least, got shape (0, 3)"),
        (np.ones((2, 2)) * 1j, "got complex numbers (dtype complex128)"),
        (np.array([["a"]]), "got text"),
        (np.array([(1, 2.0)], dtype="i4,f8"), "got a structured array"),
    ]:
        np.save(path, array)
        assert words in error(path)
    np.save(path, np.array([[1.0], [np.inf]]))
    assert "infinite ones in row 2 (counted" in error(path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "holds pickled objects" in error(path)
    path.write_bytes(pickle.dumps([1.0, 2.0]))
    assert "holds pickled objects" in error(path)
    np.savez(tmp_path / "x.npz", x=np.array([[1.0], [1.0, 2.0]], dtype=object))
    assert "holds pickled objects" in error(tmp_path / "x.npz")


def test_arrays_cut_short(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((50, 3)))
    np.savez(tmp_path / "x.npz", x=np.ones((50, 3)))
    for name in ("x.npy", "x.npz"):
        whole = (tmp_path / name).read_bytes()
        for keep in (4, len(whole) // 2, len(whole) - 8):
            (tmp_path / name).write_bytes(whole[:keep])
            assert "that numpy cannot read" in error(tmp_path / name)
    (tmp_path / "x.npy").write_text("1,2\n3,4\n")
    assert "that numpy cannot read" in error(tmp_path / "x.npy")


def test_split_is_for_named_sets(write: Callable[..., Path]) -> None:
    assert "split= is for named data sets" in error(write("1\n"), split="train")


# --- parquet ----------------------------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow, which reads parquet, is optional")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    columns = {
        "__index_level_0__": ["r", "s"],
        "i": [1, None],
        "f": [0.5, 1.5],
        "flag": [True, False],
        "digits": ["7", None],
        "kind": pa.array(["b", "a"]).dictionary_encode(),
        "code": pa.array([10, 2]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), path)
    x, labels = load_data(path, labels="kind")
    assert_rows(x, [[1, 0.5, 1, 7, 10], [math.nan, 1.5, 0, math.nan, 2]])
    assert labels.tolist() == [1, 0]
    assert load_data(path, columns="f", labels="code")[1].tolist() == [10, 2]
    assert_rows(load_data(path, columns=["f"]), [[0.5], [1.5]])
    assert "column 'kind', row 1, got 'b'" in error(path)
    assert "Did you mean 'flag'?" in error(path, columns=["flags"])
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), path)
    assert "has 0 rows" in error(path)
    path.write_bytes(b"PAR1 no more")
    assert "no readable parquet file" in error(path)


def test_parquet_without_pyarrow(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'latent-zoo[parquet]'" in error(write("x", "t.parquet"))


# --- standardize ------------------------------------------------------------------------------------------------------


def test_standardize_divides_by_n(write: Callable[..., Path]) -> None:
    x = load_data(write("a,b\n1,0.1\n3,0.1\n8,0.1\n"), standardize=True)
    assert isinstance(x, torch.Tensor)
    expected = (np.array([1, 3, 8]) - 4) / math.sqrt((9 + 1 + 16) / 3)
    np.testing.assert_allclose(x[:, 0], expected, rtol=1e-14)
    assert x[:, 1].tolist() == [0, 0, 0]  # constant: centred, never blown up from rounding


def test_standardize_passes_over_missing_values(write: Callable[..., Path]) -> None:
    x = load_data(write("a,b\n1,NA\nNA,NA\n3,NA\n"), standardize=True)
    assert_rows(x, [[-1, math.nan], [math.nan, math.nan], [1, math.nan]])


def test_standardize_passes_over_padding(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=[[[1.0], [3.0]], [[5.0], [99.0]]], lengths=[2, 1])
    data = load_data(tmp_path / "s.npz", standardize=True)
    assert isinstance(data, dict)
    scale = math.sqrt(8 / 3)
    np.testing.assert_allclose(data["x"][:, :, 0], [[-2 / scale, 0], [2 / scale, 0]], rtol=1e-14)
    np.savez(tmp_path / "s.npz", x=[[1.0, 3.0]], lengths=[2])
    data = load_data(tmp_path / "s.npz", standardize=True)
    assert isinstance(data, dict)
    assert_rows(data["x"], [[-1, 1]])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 130))
def test_standardize_many_columns(tmp_path_factory: pytest.TempPathFactory, seed: int, columns: int) -> None:
    """Blocks of columns meet without seams: mean 0 and sd 1 in every one."""
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("wide") / "x.npy"
    np.save(path, rng.normal(rng.normal(size=columns), 10 ** rng.uniform(-3, 3, columns), (20, columns)))
    x = load_data(path, standardize=True)
    assert isinstance(x, torch.Tensor)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(x.std(0, unbiased=False), 1, rtol=1e-9)


# --- named sets -------------------------------------------------------------------------------------------------------


def test_sets_that_come_with_packages() -> None:
    iris, kinds = load_data("iris", labels=True)
    assert isinstance(iris, torch.Tensor)
    assert iris.shape == (150, 4)
    assert iris[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert torch.bincount(kinds).tolist() == [50, 50, 50]
    assert_rows(load_data("iris", columns=["petal width (cm)", 0])[:1], [[0.2, 5.1]])  # type: ignore[index]
    wine, cultivars = load_data("wine", labels=True)
    assert isinstance(wine, torch.Tensor)
    assert wine.shape == (178, 13)
    assert torch.bincount(cultivars).tolist() == [59, 71, 48]
    digits, numbers = load_data("digits", labels=True)
    assert isinstance(digits, torch.Tensor)
    assert digits.shape == (1797, 64)
    assert (digits.min(), digits.max(), numbers.unique().tolist()) == (0, 16, list(range(10)))


def test_earthquakes_have_the_published_moments() -> None:
    x = load_data("earthquakes")
    assert isinstance(x, torch.Tensor)
    assert x.shape == (107, 1)
    assert x.mean().item() == pytest.approx(19.364, abs=5e-4)
    assert x.var().item() == pytest.approx(51.573, abs=5e-4)
    # The log-likelihood of one Poisson, as Zucchini and MacDonald (2009) print it.
    assert torch.distributions.Poisson(x.mean()).log_prob(x).sum().item() == pytest.approx(-391.9189, abs=5e-5)


@needs_data
def test_embedded_earthquakes_equal_the_file() -> None:
    x = load_data(Path(str(DATA)) / "tabular" / "earthquakes.csv", columns="count")
    torch.testing.assert_close(x, load_data("earthquakes"), rtol=0, atol=0)


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "shape", "mean"),
    [
        ("faithful", None, (272, 2), None),
        ("nile", None, (100, 1), 919.35),
        ("lynx", None, (114, 1), None),
        ("discoveries", None, (100, 1), 3.1),
        ("coal", None, (191, 1), None),
        ("mnist", "test", (10000, 784), 0.1325),
        ("binarized_mnist", "train", (50000, 784), 0.130562),
        ("binarized_mnist", "valid", (10000, 784), 0.131127),
        ("binarized_mnist", "test", (10000, 784), 0.132512),
        ("freyfaces", None, (1965, 560), 154.46 / 255),
        ("low_dim_gauss_mix", None, (1000, 1), None),
        ("hmm_example", None, (100, 1), None),
        ("bball_drive", None, (416, 2), None),
    ],
)
def test_sets_in_files(name: str, split: str | None, shape: tuple[int, int], mean: float | None) -> None:
    x = load_data(name, split=split)
    assert isinstance(x, torch.Tensor)
    assert x.shape == shape
    assert x.dtype == (torch.float32 if shape[1] > 500 else torch.float64)
    assert torch.isfinite(x).all()
    if mean is not None:
        assert x.mean(dtype=torch.float64).item() == pytest.approx(mean, abs=5e-5)


@needs_data
def test_columns_of_a_set_in_a_zip() -> None:
    x = load_data("bball_drive", columns="v")
    assert isinstance(x, torch.Tensor)
    assert (round(x.min().item(), 2), round(x.max().item(), 2)) == (5.18, 48.92)


@needs_data
def test_faithful_gives_the_known_likelihood() -> None:
    x = load_data("faithful")
    assert isinstance(x, torch.Tensor)
    assert x[0].tolist() == [3.6, 79.0]  # eruptions, waiting; the row names are gone
    normal = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    assert normal.log_prob(x).sum().item() == pytest.approx(-1289.797, abs=5e-4)
    assert_rows(load_data("faithful", columns="waiting")[:1], [[79]])  # type: ignore[index]


@needs_data
def test_mnist_trains_by_default_and_has_labels() -> None:
    x, labels = load_data("mnist", labels=True)
    assert isinstance(x, torch.Tensor)
    assert x.shape == (60000, 784)
    assert x.mean(dtype=torch.float64).item() == pytest.approx(0.1307, abs=5e-5)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert torch.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@needs_data
@pytest.mark.parametrize(
    ("split", "sequences", "steps", "longest", "notes"),
    [("train", 229, 13807, 129, 3.90), ("valid", 76, 4602, 144, 3.87), ("test", 77, 4725, 160, 3.89)],
)
def test_chorales(split: str, sequences: int, steps: int, longest: int, notes: float) -> None:
    data = load_data("jsb", split=split)
    assert isinstance(data, dict)
    assert data["x"].shape == (sequences, longest, 88)
    assert data["lengths"].sum().item() == steps
    assert data["x"].sum().item() / steps == pytest.approx(notes, abs=5e-3)
    assert data["x"].unique().tolist() == [0, 1]
    played = data["x"].flatten(0, 1).any(0).nonzero().flatten()
    assert (played.min().item() + 21, played.max().item() + 21) >= (43, 0)
    assert played.max().item() + 21 <= 96
    inside = torch.arange(longest) < data["lengths"][:, None]
    assert data["x"][~inside].sum() == 0


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "sequences", "steps", "longest", "notes"),
    [
        ("nottingham", "test", 170, 44463, 1793, 3.990),
        ("piano_midi", "train", 87, 75911, 3857, 3.044),
        ("piano_midi", "valid", 12, 8540, 1637, 3.235),
        ("muse_data", "test", 124, 64339, 4273, 3.293),
    ],
)
def test_rolls(name: str, split: str, sequences: int, steps: int, longest: int, notes: float) -> None:
    """The published numbers of sequences, steps and notes a step."""
    data = load_data(name, split=split)
    assert isinstance(data, dict)
    x, lengths = data["x"], data["lengths"]
    assert x.shape == (sequences, longest, 88)
    assert lengths.sum().item() == steps
    assert x.sum().item() / steps == pytest.approx(notes, abs=5e-4)
    assert {x.min().item(), x.max().item()} == {0, 1}
    assert not x[torch.arange(longest) >= lengths[:, None]].any()


def test_known_chords_have_the_likelihood_that_their_table_says() -> None:
    """A plain forward recursion, by numpy, under the tables that they were drawn from."""
    initial, transition, probs = tables()
    assert transition.sum(1) == pytest.approx(np.ones(7))
    data = load_data("known_chords")
    assert isinstance(data, dict)
    total = 0.0
    for roll, length in zip(data["x"].numpy(), data["lengths"].tolist(), strict=True):
        assert not roll[length:].any()
        state = initial
        for t in range(length):
            state = (state @ transition if t else state) * np.where(roll[t] > 0, probs, 1 - probs).prod(1)
            total += np.log(state.sum())
            state = state / state.sum()
    steps = int(data["lengths"].sum())
    assert steps == 8396
    about = {info.name: info.about for info in list_data()}["known_chords"]
    assert f"{-total / steps:.4f} nats a step" in about


@needs_data
def test_both_published_forms_of_the_chorales_agree() -> None:
    """One reader knows notes by name, the other keys by place: the same music."""
    path = Path(str(DATA)) / "polyphonic" / "JSB_Chorales.mat"
    for split in ("train", "valid", "test"):
        rolls = read_rolls({split: path})
        data = load_data("jsb", split=split)
        assert isinstance(data, dict)
        assert rolls.lengths is not None
        assert rolls.lengths.tolist() == data["lengths"].tolist()
        assert (rolls.x == data["x"].numpy()).all()


@needs_data
def test_binarized_mnist_reads_the_published_plain_form_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is plain text with its own checksum; what we keep is compressed."""
    packed = Path(str(DATA)) / "binarized_mnist" / "binarized_mnist_test.amat.gz"
    plain = tmp_path / "binarized_mnist" / "binarized_mnist_test.amat"
    plain.parent.mkdir()
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    expected = load_data("binarized_mnist", split="test")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    torch.testing.assert_close(load_data("binarized_mnist", split="test"), expected, rtol=0, atol=0)


def test_mistakes_with_named_sets() -> None:
    assert "Did you mean 'iris'?" in error("irsi")
    assert "Did you mean 'train'?" in error("mnist", split="trian")
    assert "comes in one part" in error("iris", split="train")
    assert "has no labels" in error("earthquakes", labels=True)
    assert "Pass labels=True" in error("iris", labels="species")
    assert "4 columns, got number 7" in error("iris", columns=[7])
    assert "Did you mean 'petal width (cm)'?" in error("iris", columns=["petal width"])
    assert "got Tensor" in error(torch.zeros(3, 2))


def test_every_row_of_the_table_is_complete() -> None:
    infos = {info.name: info for info in list_data()}
    assert list(infos) == sorted(sets.DATA_SETS)
    for name, row in sets.DATA_SETS.items():
        info = infos[name]
        assert isinstance(info, DataInfo)
        assert info.shape
        assert info.source
        assert info.licence
        assert bool(row.provider) != bool(row.files)
        for roles in row.files.values():
            for forms in roles.values():
                for file in forms:
                    assert len(file.sha256) == 64
                    assert file.size > 0
    assert infos["iris"].location == "in scikit-learn"
    assert infos["mnist"].splits == ("train", "test")


# --- where files come from --------------------------------------------------------------------------------------------

CONTENT = b"rownames,value\n1,5\n2,7\n"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path, list[str]]]:
    """A data set ``lynx`` of two rows that a real server on this machine offers, an empty ZOO_DATA and cache."""
    served, user, cache = tmp_path / "served", tmp_path / "user", tmp_path / "cache"
    for folder in (served, user):
        folder.mkdir()
    (served / "lynx.csv").write_bytes(CONTENT)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    file = File("tabular/lynx.csv", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), (f"{host}/lynx.csv",))
    small = dataclasses.replace(sets.DATA_SETS["lynx"], files={"": {"x": (file,)}})
    monkeypatch.setitem(sets.DATA_SETS, "lynx", small)
    monkeypatch.setattr("zoo.data._fetch.SAFE", host)
    monkeypatch.setenv("ZOO_DATA", str(user))
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    yield user, cache, asked
    server.shutdown()
    server.server_close()
    thread.join()


def lynx_info() -> DataInfo:
    return next(info for info in list_data() if info.name == "lynx")


def test_download_once_then_cache(elsewhere: tuple[Path, Path, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    _, cache, asked = elsewhere
    assert (lynx_info().location, lynx_info().available) == ("needs a download", False)
    log = pooch.get_logger()
    log.addHandler(caplog.handler)  # it stands outside the tree of loggers
    assert_rows(load_data("lynx"), [[5], [7]])
    log.removeHandler(caplog.handler)
    assert_rows(load_data("lynx"), [[5], [7]])
    assert asked == ["/lynx.csv"]
    assert (cache / "tabular" / "lynx.csv").read_bytes() == CONTENT
    assert (lynx_info().location, lynx_info().available) == (str(cache / "tabular"), True)
    assert not caplog.records  # pooch would announce the download on stderr


def test_the_users_folder_goes_first(elsewhere: tuple[Path, Path, list[str]]) -> None:
    user, _, asked = elsewhere
    (user / "tabular").mkdir()
    (user / "tabular" / "lynx.csv").write_bytes(CONTENT)
    assert_rows(load_data("lynx"), [[5], [7]])
    assert asked == []
    assert lynx_info().location == str(user / "tabular")


def test_a_wrong_or_shortened_file_is_refused(elsewhere: tuple[Path, Path, list[str]]) -> None:
    user, _, asked = elsewhere
    (user / "tabular").mkdir()
    path = user / "tabular" / "lynx.csv"
    other = CONTENT.replace(b"7", b"8")
    path.write_bytes(other)
    text = error("lynx")
    assert str(path) in text
    assert f"expected sha256 {hashlib.sha256(CONTENT).hexdigest()}" in text
    assert f"got {hashlib.sha256(other).hexdigest()}" in text
    path.write_bytes(CONTENT[:-5])
    assert f"is cut short: expected {len(CONTENT)} bytes" in error("lynx")
    assert f"got {len(CONTENT) - 5} bytes" in error("lynx")
    assert asked == []


def test_a_damaged_cache_is_downloaded_again(elsewhere: tuple[Path, Path, list[str]]) -> None:
    _, cache, asked = elsewhere
    load_data("lynx")
    (cache / "tabular" / "lynx.csv").write_bytes(CONTENT[:-5])
    assert_rows(load_data("lynx"), [[5], [7]])
    assert len(asked) == 2


def test_a_download_with_the_wrong_content_is_refused(elsewhere: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    _, cache, _ = elsewhere
    (tmp_path / "served" / "lynx.csv").write_bytes(b"<html>moved</html>")
    text = error("lynx")
    assert "could not be downloaded" in text
    assert "/lynx.csv gave ValueError" in text
    assert f"Put the file at {cache / 'tabular' / 'lynx.csv'}, or set ZOO_DATA" in text
    assert not (cache / "tabular" / "lynx.csv").exists()


def test_a_download_that_fails_says_what_to_do(elsewhere: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "served" / "lynx.csv").unlink()
    text = error("lynx")
    assert "gave HTTPError: 404" in text
    assert "set ZOO_DATA to a folder that holds tabular/lynx.csv" in text


def test_the_second_address_is_tried(elsewhere: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    row = sets.DATA_SETS["lynx"]
    file = row.files[""]["x"][0]
    gone = dataclasses.replace(file, urls=(file.urls[0].replace("lynx", "gone"), *file.urls))
    monkeypatch.setitem(sets.DATA_SETS, "lynx", dataclasses.replace(row, files={"": {"x": (gone,)}}))
    assert_rows(load_data("lynx"), [[5], [7]])


def test_no_server_at_all(elsewhere: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    row = sets.DATA_SETS["lynx"]
    nowhere = dataclasses.replace(row.files[""]["x"][0], urls=("https://127.0.0.1:9/lynx.csv",))
    monkeypatch.setattr("zoo.data._fetch.SAFE", "https://")
    monkeypatch.setitem(sets.DATA_SETS, "lynx", dataclasses.replace(row, files={"": {"x": (nowhere,)}}))
    assert "gave ConnectionError" in error("lynx")


def test_a_set_without_a_download(elsewhere: tuple[Path, Path, list[str]]) -> None:
    assert "has no download with a known checksum" in error("freyfaces")
    assert next(info for info in list_data() if info.name == "freyfaces").location == "needs a file"


def test_zoo_data_must_be_a_folder(elsewhere: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA", "/no/such/folder")
    assert "ZOO_DATA should name a folder, got '/no/such/folder'" in error("lynx")


def test_importing_the_loaders_imports_no_heavy_package() -> None:
    heavy = "{'sklearn', 'pooch', 'pandas', 'pyarrow', 'requests'}"
    code = f"import sys, zoo.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_small_tables_of_numbers_are_read_as_pandas_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, and in the same dtype, whatever way numbers are written."""
    draw = random.Random(0)
    odd = ["007", "+5", "-0", "0", "1e5", "1E-3", "5.", ".5", "-.5", "+.5e2", "1e-400", "4.9e-324"]
    odd += ["9223372036854775807", "9223372036854775808", "1e400"]

    def cell(whole: bool) -> str:
        kind = draw.random()
        if kind < 0.05:
            return draw.choice([*odd, "1e", "--1", "e5", "1-2", "-", "", "."])
        if whole:
            return str(draw.randrange(-50, 10 ** draw.randrange(1, 19)))
        return repr(draw.uniform(-1, 1) * 10 ** draw.randrange(-320, 309)) if kind < 0.3 else f"{draw.gauss(0, 3):.17f}"

    taken = 0
    for _ in range(600):
        width, height, separator = draw.randrange(1, 4), draw.randrange(1, 5), draw.choice(",;\t ")
        whole = [draw.random() < 0.5 for _ in range(width)]
        lines = [separator.join(cell(each) for each in whole) for _ in range(height)]
        body = ("\n".join(lines) + draw.choice(["", "\n", "\n\n"])).encode()
        ours = _small.numbers(body, separator.encode(), width)
        if ours is None:
            continue
        taken += 1
        with monkeypatch.context() as patch:
            patch.setattr(_text, "numbers", lambda *_: None)
            theirs = _text._fast(body, _text._Layout(separator, None, 0, width, 0), ".")
        assert theirs is not None, body
        assert [c.dtype for c in ours] == [c.dtype for c in theirs], body
        assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True)), body
    assert taken > 300
    assert _small.numbers(b'1,"2"\n', b",", 2) is None
    assert _small.numbers(b"1,2\n3\n", b",", 2) is None
    assert _small.numbers(b"1,2\n" * (1 << 18), b",", 2) is not None
    assert _small.numbers(b"1,2\n" * ((1 << 18) + 1), b",", 2) is None
