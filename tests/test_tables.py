"""Tables as people have them: delimiters, headers, missing entries, codings and packings; each value checked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.data import load_data, read
from zoo.errors import ZooError

NAN = math.nan
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ZooError) as caught:
        load_data(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


SQUARE = [[1.0, 2.5], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("t.tsv", "a\tb\n1\t2.5\n3\t4\n", {}, SQUARE),
        ("t.txt", "a b\n1 2.5\n3 4\n", {}, SQUARE),
        ("t.txt", "  1   2.5 \n3\t4\n", {}, SQUARE),
        ("t.dat", "a|b\n1|2.5\n3|4\n", {}, SQUARE),
        ("r.csv", '"a","b"\n"1",1,2.5\n"2",3,4\n', {}, SQUARE),
        ("r.txt", '"a" "b"\n"Mazda RX4" 1 2.5\n"Datsun" 3 4\n', {}, SQUARE),
        ("r.tsv", "a\tb\n1\t1\t2.5\n2\t3\t4\n", {}, SQUARE),
        ("c.csv", "# by hand\n\na,b\n1,2.5\n# in between\n3,4\n", {}, SQUARE),
        ("c.csv", "# a, b\n1,2.5\n3,4\n", {"columns": ["a", "b"]}, SQUARE),
        ("c.csv", "#,a,b\n1,1,2.5\n2,3,4\n", {}, SQUARE),
        ("n.csv", "a,b\n1,None\n#N/A,4\nnA ,<NA>\nNULL,n/a\n", {}, [[1, NAN], [NAN, 4], [NAN, NAN], [NAN, NAN]]),
        ("e.csv", "a,b,\n1,2.5,\n3,4,\n", {}, SQUARE),
        ("e.csv", "1,2.5,\n3,4,\n", {}, SQUARE),
        ("e.csv", "a,b\n1,2.5,\n3,4,\n", {}, SQUARE),
        ("e.csv", "a,b,\n1,2.5\n3,4\n", {}, SQUARE),
        ("e.csv", "a,b,,,\n1,2.5,,,\n3,4,,,\n", {}, SQUARE),
        ("e.csv", "a,b,c\n1,2.5,\n3,4,\n", {}, [[1, 2.5, NAN], [3, 4, NAN]]),  # what has a name stays
        ("d.csv", "a;b\n1;2,5\n3,0;4\n", {"decimal": ","}, SQUARE),
        ("d.txt", "1 2,5\n3,0 4\n", {"decimal": ","}, SQUARE),
        ("d.csv", '"1","2,5"\n"3","4"\n', {"decimal": ","}, SQUARE),
        ("b.csv", "\ufeffa,b\r\n1,2.5\r\n3,4\r\n", {"columns": ["a", "b"]}, SQUARE),
        ("u.csv", "a,b\n1,2.5\n3,4\n".encode("utf-16"), {}, SQUARE),
        ("m.csv", "a,b\r1,2.5\r3,4\r", {}, SQUARE),
        ("q.csv", '"1","2.5"\n"3" , "4"\n', {}, SQUARE),
        ("q.csv", "h,w\n5'10\",1\n6'1\",2.5\n", {"columns": "w"}, [[1], [2.5]]),
        ("t.csv", "True,1\nFALSE,2.5\n", {}, [[1, 1], [0, 2.5]]),
        ("g.csv", "9007199254740993,1\n99999999999999999999,2\n", {}, [[9007199254740992, 1], [1e20, 2]]),
        ("z.csv.gz", gzip.compress(b"a,b\n1,2.5\n3,4\n", mtime=0), {}, SQUARE),
        ("z.tsv.bz2", bz2.compress(b"1\t2.5\n3\t4\n"), {}, SQUARE),
        ("z.txt.xz", lzma.compress(b"1 2.5\n3 4\n"), {}, SQUARE),
    ],
)  # fmt: skip
def test_everyday_tables(
    write: Write, name: str, content: str | bytes, options: dict[str, Any], expected: list[list[float]]
) -> None:
    x = load_data(write(content, name), **options)
    assert isinstance(x, torch.Tensor)
    torch.testing.assert_close(x, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("d.csv", "a;b\n1,5;2\n", {}, """got '1,5'. Write decimals with a point, or pass decimal="," for a comma."""),
        ("d.csv", "a;b\n1.234,5;2\n", {"decimal": ","}, "got '1.234,5'. Write numbers without marks between thousands"),
        ("d.csv", "a;b\n1,234.5;2\n", {}, "got '1,234.5'. Write numbers without marks between thousands"),
        ("d.csv", "a\n1\n", {"decimal": ";"}, "decimal= expected '.' or ','"),
        (
            "m.csv",
            "n,c,k,v\n1,DE,x,3\n2,FR,y,4\n",
            {},
            "got text in 2 columns: 'c' ('DE'), 'k' ('x'). Choose with columns=['n', 'v'], or read it as labels='c'",
        ),
        ("m.csv", "n,v\n1,3\n2,unknown\n", {}, "got 'unknown'. Write a number, empty the cell where it stands for"),
        ("m.csv", "n,d\n1,2024-05-01\n2,2023-05-01\n", {}, "with columns=, or sort by it with time='d'."),
        ("m.csv", "n,v\n1,3\n", {"columns": ["n", 0]}, "columns= expected each column once, got column 'n' again."),
        ("m.csv", "n\n1\n", {"columns": 3}, "m.csv has 1 column, got number 3. Columns are counted from 0."),
        ("p.csv", "a\n5%\n6\n", {}, "got '5%'. Write numbers without units"),
        ("w.txt", "1 2 3\n4 5\n", {}, "expected 3 cells in every row, as in the first row, got 2 in row 2 (line 2)"),
        ("w.csv", "1,2\n3\n4,5,6\n", {}, "got 1 in row 2 (line 2)"),  # as many delimiters as in whole rows
        ("w.csv", '"a,b",2\n3\n', {}, "got 1 in row 2 (line 2)"),
        ("n.csv", b"a,b\n1,\x002\n", {}, "NUL bytes"),
        ("n.csv", "a,b\n1,2\n".encode("utf-16-le"), {}, "NUL bytes"),
        ("z.csv.gz", gzip.compress(b"1,2\n" * 100, mtime=0)[:20], {}, "z.csv.gz cannot be unpacked"),
        ("z.csv.gz", b"junk", {}, "cannot be unpacked"),
        ("z.csv.bz2", b"junk", {}, "cannot be unpacked"),
        ("z.csv.xz", b"junk", {}, "cannot be unpacked"),
        ("z.csv.zip", b"junk", {}, "cannot be unpacked"),
        ("z.csv.gz", gzip.compress(b"", mtime=0), {}, "0 bytes unpacked"),
        ("t.csv", "k,n\nA,1\n", {"symbols": True}, "numbers alone or symbols alone, got both, symbols in column 'k'"),
        ("t.csv", "k\nA\n", {"symbols": True, "standardize": True}, "standardize=True expected numbers"),
        ("t.csv", "a\n1\n", {"sequence": "b"}, "has no column 'b'"),
    ],
)  # fmt: skip
def test_what_is_refused(write: Write, name: str, content: str | bytes, options: dict[str, Any], says: str) -> None:
    assert says in refusal(write(content, name), **options)


def test_zip_of_one_file_and_of_two(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", "1,2\n")
    assert load_data(path).tolist() == [[1, 2]]  # type: ignore[union-attr]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("u.csv", "1,2\n")
    assert "Multiple files" in refusal(path)


@pytest.mark.parametrize("width", [1999, 2001, 70_000])
def test_wide_tables(write: Write, width: int) -> None:
    """Beyond 2000 columns cells are parsed one a line; text, gaps and short rows are told all the same."""
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(3, width))
    lines = [[repr(float(value)) for value in row] for row in rows]
    lines[1][width // 2], rows[1, width // 2] = "", np.nan

    def text(lines: list[list[str]]) -> str:
        return "".join(",".join(line) + "\n" for line in lines)

    np.testing.assert_array_equal(load_data(write(text(lines))), rows)  # type: ignore[arg-type]
    lines[2][1] = "oops"
    assert "column number 1, row 3 (line 3), got 'oops'" in refusal(write(text(lines)))
    lines[2].pop()
    assert f"got {width - 1} in row 3 (line 3)" in refusal(write(text(lines)))


def test_sequences_by_a_column_of_any_name(write: Write) -> None:
    path = write("subject,t,a\nz,1,5\nz,2,6\ny,1,7\n")
    data = load_data(path, sequence="subject", columns="a")
    assert isinstance(data, dict)
    assert data["x"].tolist() == [[[5], [6]], [[7], [0]]]
    assert data["lengths"].tolist() == [2, 1]
    assert "sequence= is for tables" in refusal(write("x", "x.npy"), sequence="s")


def test_text_as_symbols(write: Write, tmp_path: Path) -> None:
    x: Any = load_data(write("base\nA\nC\n\nNA\n"), symbols=True)
    assert x.tolist() == [["A"], ["C"], [None]]
    data: Any = load_data(write("s,base\n1,A\n1,C\n2,G\n"), symbols=True, sequence="s")
    assert data["x"][..., 0].tolist() == [["A", "C"], ["G", None]]
    assert data["lengths"].tolist() == [2, 1]
    bare: Any = load_data(write("A\nC\nA\n"), symbols=True)
    assert bare.tolist() == [["A"], ["C"], ["A"]]  # what comes again is no header
    pairs: Any = load_data(write("A,x\nC,y\nA,x\n"), symbols=True)
    assert pairs.tolist() == [["A", "x"], ["C", "y"], ["A", "x"]]
    numbers: Any = load_data(write("a\n1\n2\n"), symbols=True)
    assert numbers.tolist() == [[1], [2]]
    np.savez(tmp_path / "s.npz", x=np.array([["A", "C"], ["G", ""]]), lengths=[2, 1])
    packed: Any = load_data(tmp_path / "s.npz", symbols=True)
    assert packed["x"].tolist() == [["A", "C"], ["G", None]]


def test_padding_that_no_memory_holds_is_refused(write: Write) -> None:
    lines = [f"{i if i < 20_000 else 0},{i}" for i in range(40_000)]
    assert "expected sequences of like lengths" in refusal(write("sequence,a\n" + "\n".join(lines)))


def test_every_dtype_of_a_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None], dtype="Int64"),
            "part": pd.array([1.5, None], dtype="Float32"),
            "truth": pd.array([True, None], dtype="boolean"),
            "code": pd.Categorical([7, 9]),
            "small": np.array([1, 2], dtype=np.uint8),
            "large": np.array([1, 2**63 + 2**62], dtype=np.uint64),
        },
        index=["r", "s"],
    )
    frame.to_parquet(tmp_path / "t.parquet")
    x: Any = load_data(tmp_path / "t.parquet")
    expected = [[1, 1.5, 1, 7, 1, 1], [NAN, NAN, NAN, 9, 2, 2.0**63 + 2.0**62]]
    np.testing.assert_array_equal(x, expected)
    frame.assign(day=pd.Timestamp("2020-01-01")).to_parquet(tmp_path / "t.parquet")
    assert "expected a number in column 'day', row 1, got '2020-01-01" in refusal(tmp_path / "t.parquet")


def test_excel_without_its_reader_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "needs openpyxl, which is not installed. Run: pip install openpyxl" in refusal(write("x", "t.xlsx"))


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="openpyxl, which reads .xlsx, is optional")
    path = tmp_path / "t.xlsx"
    pd.DataFrame({"a": [1.5, None], "kind": ["u", "v"]}).to_excel(path)
    x, labels = load_data(path, labels="kind")
    np.testing.assert_array_equal(x, [[1.5], [NAN]])  # type: ignore[arg-type]
    assert labels.tolist() == [0, 1]
    pd.DataFrame([[1.5, 2]]).to_excel(path, header=False, index=False)
    assert load_data(path).tolist() == [[1.5, 2]]  # type: ignore[union-attr]
    path.write_bytes(b"PK\x03\x04 junk")
    assert "no readable Excel file" in refusal(path)


def test_what_was_read_says_which_columns_never_change(write: Write) -> None:
    assert read(write("a,v,b\n1,7,2\n2,7,2\n3,7,3\n")).told == "read 3 rows x 3 columns: a, v, b; constant: v"
    assert "constant" not in read(write("v\n7\n7\n")).told
    steps = read(write("sequence,a,v\n1,1,7\n1,2,7\n2,3,7\n"))  # the padding of the second is no value
    assert steps.told == "read 2 sequences x 2 columns: a, v; constant: v"


def test_a_data_frame_is_read_as_a_file_of_its_columns(write: Write) -> None:
    path = write("who,t,n,k\nb,2,5,u\na,1,3,v\nb,1,4,u\na,2,,u\nb,3,6,v\n")
    frame = pd.read_csv(path)
    for options in ({"sequence": "who", "time": "t", "columns": "n"}, {"columns": ["n", "t"], "drop_missing": True}):
        for labels in (None, "k"):
            of_file, of_frame = (load_data(source, labels=labels, **options) for source in (path, frame))  # type: ignore[call-overload]
            torch.testing.assert_close(of_frame, of_file, equal_nan=True, rtol=0, atol=0)
    assert load_data(frame, sequence="who", time="t", columns="n")["x"][0, :, 0].tolist() == [4, 5, 6]  # type: ignore[index]
    for options, says in (
        ({}, "the data frame: expected numbers, got text in 2 columns: 'who' ('b'), 'k' ('u')"),
        ({"columns": "m"}, "the data frame has no column 'm'"),
        ({"decimal": ","}, "decimal= is for files"),
        ({"split": "train"}, "split= is for named data sets"),
        ({"labels": True}, "Pass the column's name"),
    ):
        with pytest.raises(ZooError, match=re.escape(says)):
            load_data(frame, **options)  # type: ignore[call-overload]


def test_lists_of_numbers_of_unequal_length_are_sequences_of_one_feature() -> None:
    counts = [[3, 4, 0], [1, 9], [0, 0, 2, 8]]
    fit = zoo.fit("poisson_hmm", counts, num_states=2, max_iter=3)
    assert fit.model.num_features == 1
    columns = [torch.tensor(row).reshape(-1, 1) for row in counts]
    assert zoo.fit("poisson_hmm", columns, num_states=2, max_iter=3).log_likelihood == fit.log_likelihood
