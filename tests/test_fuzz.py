"""Hostile files: whatever is in them, a command ends with a result or with one line that says what is wrong.

Files are damaged at random, or hold extreme numbers (seeded, so that a failure comes again), and are given to ``zoo
fit`` in this process: exit code 0, 2 or 3, never 1, never more than one line of complaint. ``ZOO_FUZZ`` says how many
files; ``make fuzz`` takes 10 000.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import math
import os
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo.cli
from zoo.data import load_data
from zoo.errors import ZooError

FILES = int(os.environ.get("ZOO_FUZZ", "300"))
PARTS = 10
#: Seconds of work after which a file counts as one that hangs.
PATIENCE = 60

MODELS = (
    ("gaussian_mixture", "num_components=2"),
    ("gaussian_mixture", "num_components=1"),
    ("poisson_mixture", "num_components=2"),
    ("bernoulli_mixture", "num_components=2"),
    ("factor_analysis", "num_factors=1"),
    ("ppca", "num_factors=1"),
    ("gaussian_hmm", "num_states=2"),
    ("poisson_hmm", "num_states=2"),
    ("categorical_hmm", "num_states=2"),
)


#: For files whose numbers most models refuse.
SUITED = {"g.csv": MODELS[7], "h.csv": MODELS[8], "k.npy": MODELS[3], "m.npz": MODELS[7], "c.csv": MODELS[2]}


def files_of(x: np.ndarray, counts: np.ndarray) -> dict[str, Callable[[], bytes]]:
    """A file of every kind, by its name: what writes it, from numbers (12, 3) and counts (12, 2)."""

    def array(values: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, values)
        return stream.getvalue()

    def arrays(**named: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, **named)
        return stream.getvalue()

    def table(values: np.ndarray, delimiter: str, *names: str) -> bytes:
        stream = io.StringIO()
        np.savetxt(stream, values, fmt="%g", delimiter=delimiter, header=delimiter.join(names), comments="")
        return stream.getvalue().encode()

    def parquet() -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stream = io.BytesIO()
        pq.write_table(pa.table({"a": x[:, 0], "b": counts[:, 0], "kind": list("uvw" * 4)}), stream)
        return stream.getvalue()

    letters = "".join("ACGT"[int(value)] for value in np.nan_to_num(np.abs(counts)).ravel() % 4)
    files: dict[str, Callable[[], bytes]] = {
        "a.csv": lambda: table(x, ",", "a", "b", "c"),
        "b.csv": lambda: table(x, ";", "a", "b", "c").replace(b".", b","),
        "c.csv": lambda: table(counts, ",", "one", "two"),
        "d.tsv": lambda: table(x, "\t", "a", "b", "c"),
        "e.txt": lambda: table(x, " ", "a", "b", "c"),
        "f.csv.gz": lambda: gzip.compress(table(x, ",", "a", "b", "c"), mtime=0),
        "g.csv": lambda: table(np.column_stack([np.arange(12) // 4, counts]), ",", "sequence", "a", "b"),
        "h.csv": lambda: ("base\n" + "\n".join(letters) + "\n").encode(),
        "i.csv": lambda: b'name,"a, b",c\n' + b"".join(b'"x ""%d""",%g,NA\n' % (i, v) for i, v in enumerate(x[:, 0])),
        "j.npy": lambda: array(x),
        "k.npy": lambda: array((counts > 2).astype(np.uint8)),
        "l.npz": lambda: arrays(x=x),
        "m.npz": lambda: arrays(x=counts.reshape(4, 3, 2).astype(float), lengths=np.array([3, 1, 2, 3])),
        "n.parquet": parquet,
    }
    if importlib.util.find_spec("pyarrow") is None:
        del files["n.parquet"]
    return files


@functools.cache
def good_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = files_of(rng.normal(size=(12, 3)).round(3), rng.poisson(3.0, size=(12, 2)))
    return {name: write() for name, write in files.items()}


EXTREMES = np.array(
    [1e301, -1e308, 1e150, 1e99, -1e99, 1e-308, 5e-324, 1e30, 1e12, 2e9, 1e8, 1e-9, 0, -0.0, 1, 7, -3, np.nan, np.inf]
)


def whole_file(name: str, rng: np.random.Generator) -> bytes:
    """A file with nothing wrong but its numbers: some are extreme, or columns are constant, or rows the same."""
    x, counts = rng.normal(size=(12, 3)).round(3), rng.poisson(3.0, size=(12, 2)).astype(float)
    for values in (x, counts):
        chosen = EXTREMES[: rng.integers(4, len(EXTREMES) + 1)] if rng.random() < 0.5 else EXTREMES[3:-2]
        for _ in range(int(rng.integers(0, 4))):
            values[rng.integers(0, 12), rng.integers(0, values.shape[1])] = rng.choice(chosen)
        kind = rng.integers(0, 8)
        if kind == 0:
            values[:, 0] = rng.choice(chosen)
        elif kind == 1:
            values[:] = values[0]
        elif kind == 2:
            values *= rng.choice([1e99, 1e30, 1e-30, 1e-150, 1e-300])
        elif kind == 3:
            values[:, 1] = values[:, 0]
    return files_of(x, counts)[name]()


HOSTILE = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b",", b";", b"\t", b" ", b"\n", b"\r", b"\n\n", b'"', b"'", b"#",
    b"-", b"e", b"inf", b"nan", b"-inf", b"NA", b"1e301", b"-1e308", b"1e308", b"1e-308", b"1e150", b"1e99", b"1e400",
    b"9" * 30, b"9" * 400, b"0x1F", b"1_000", b"1,5", b"(", b")", b"{", b"}", b"[", b"\x80", b"PK\x03\x04",
    b"\x93NUMPY", b"PAR1", b"True", b"sequence", b"index", b"," * 50, b"a" * 3000, b"<f8", b"<i8", b"|O", b"<c16",
    b"<M8[D]", b"<U8", "\u0661\u2028\U0001f600".encode(), b"\x1f\x8b", b"1e12", b"2147483648", b"-0", b"0",
    b"1\n" * 5, b"99999999999",
)  # fmt: skip


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one to four damages: bytes changed, cut out, doubled, put in; ends cut off; lines moved; cells."""
    data = bytearray(content)
    binary = b"\0" in content
    for _ in range(int(rng.integers(1, 5))):
        kind = rng.choice(9, p=_BINARY if binary else _TEXT)
        at = int(rng.integers(0, len(data) + 1))
        more = at + int(rng.integers(0, 40))
        if kind == 0:
            data[at : at + 1] = bytes([rng.integers(0, 256)])
        elif kind == 1:
            del data[at:more]
        elif kind == 2:
            data[at:at] = data[at:more]
        elif kind in (3, 4, 5):
            piece = HOSTILE[rng.integers(0, len(HOSTILE))]
            data[at : at + (len(piece) if kind == 3 else 0)] = piece
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
        else:  # a cell of a table becomes another: a number as often as not
            cells = re.split(rb"([,;\t\n ])", bytes(data))
            many = rng.random() < 0.5
            cells[2 * rng.integers(0, (len(cells) + 1) // 2)] = (NUMBERS if many else HOSTILE)[
                rng.integers(0, len(NUMBERS if many else HOSTILE))
            ]
            data = bytearray(b"".join(cells))
    return bytes(data)


#: How often each kind of damage is done: most of them leave no table to read, cells and moved lines do.
_BINARY = (0.3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0)
_TEXT = (0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.15, 0.5)
NUMBERS = (
    b"1e301", b"-1e308", b"1e150", b"1e99", b"1e-308", b"1e12", b"2147483648", b"-0", b"0", b"1", b"7", b"-3", b"2.5",
    b"NA", b"", b"1e30", b"1e8", b"99999999999", b"1e-9", b"True",
)  # fmt: skip


def hostile(name: str, rng: np.random.Generator) -> bytes:
    return damaged(good_files()[name], rng) if rng.random() < 0.5 else whole_file(name, rng)


class Hang(BaseException):
    """No Exception, so that nothing on the way takes it for a failure of its own."""


def _give_up(*_: object) -> None:
    raise Hang


def trouble(arguments: list[str], capture: Callable[[], tuple[str, str]]) -> str | None:
    """What is wrong with how a command ended, if anything is."""
    before = signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        code = zoo.cli.main(arguments)
    except Hang:
        return "hangs"
    except BaseException as error:
        return f"raises {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    _, err = capture()
    if code not in (0, 2, 3):
        return f"exit {code}: {err.strip()[-300:]}"
    if "Traceback" in err or "internal error" in err or (code == 2 and err.count("\n") != 1):
        return f"exit {code}, but says: {err.strip()[-300:]}"
    return None


def command(path: Path, rng: np.random.Generator) -> list[str]:
    model, size = MODELS[rng.integers(0, len(MODELS))]
    if path.name in SUITED and rng.random() < 0.8:
        model, size = SUITED[path.name]
    options = ["--decimal", ","] if rng.random() < 0.1 else []
    options += ["--standardize"] if rng.random() < 0.1 else []
    options += ["--columns", "0"] if rng.random() < 0.1 else []
    options += (
        ["--labels", "kind" if path.suffix == ".parquet" else "name"] if path.name in ("i.csv", "n.parquet") else []
    )
    options += ["--decimal", ","] if path.name == "b.csv" and not options else []
    return ["fit", model, "--data", str(path), "--set", size, "--set", "max_iter=2", "--json", *options]


@pytest.mark.parametrize("part", range(PARTS))
def test_no_file_ends_in_an_error_of_ours(
    part: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.runs.progress.SILENCE", math.inf)  # one command after the other is no long silence
    monkeypatch.chdir(tmp_path)
    names = sorted(good_files())
    codes = []
    for number in range(part, FILES, PARTS):
        rng = np.random.default_rng(number)
        name = names[rng.integers(0, len(names))]
        path = tmp_path / name
        with np.errstate(all="ignore"):
            path.write_bytes(hostile(name, rng))
        arguments = command(Path(name), rng)

        def capture() -> tuple[str, str]:
            shown = capsys.readouterr()
            return shown.out, shown.err

        problem = trouble(arguments, capture)
        if problem is not None:
            codes.append(f"file {number}, {' '.join(arguments)}: {problem}")
        path.unlink()
    assert not codes, "\n".join(codes)


def test_a_hang_or_an_error_of_ours_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: commands that end as none may."""

    def broken(arguments: list[str]) -> int:
        if arguments == ["raise"]:
            raise ValueError("broken")
        return 1

    monkeypatch.setattr(zoo.cli, "main", broken)
    assert trouble(["raise"], lambda: ("", "")) == "raises ValueError: broken"
    assert trouble(["end"], lambda: ("", "zoo: internal error, ValueError")) is not None
    monkeypatch.setattr(zoo.cli, "main", lambda arguments: 2)
    assert trouble([], lambda: ("", "one\ntwo\n")) is not None
    assert trouble([], lambda: ("", "one\n")) is None


def test_every_good_file_is_read(tmp_path: Path) -> None:
    for name, content in good_files().items():
        path = tmp_path / name
        path.write_bytes(content)
        if name == "n.parquet":
            load_data(path, labels="kind")
        elif name == "i.csv":
            load_data(path, labels="name")
        else:
            load_data(path, symbols=True, decimal="," if name == "b.csv" else ".")


def refusal(path: Path, **options: bool) -> str:
    """Why a file is refused, "" where it is read; any other error goes on to the test."""
    try:
        load_data(path, **options)  # type: ignore[call-overload]
    except ZooError as error:
        return str(error)
    return ""


CELLS = st.one_of(
    st.floats(width=64).map(repr),
    st.integers().map(str),
    st.sampled_from(["", "NA", "x", '"', "a,b", "#", "1;2", "True", " ", "\\N", "1e999"]),
    st.text(max_size=6),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELLS, max_size=5), max_size=6),
    delimiter=st.sampled_from([",", ";", "\t", " ", "|"]),
    suffix=st.sampled_from([".csv", ".tsv", ".txt"]),
    symbols=st.booleans(),
)
def test_any_text_is_read_or_refused(
    tmp_path: Path, rows: list[list[str]], delimiter: str, suffix: str, symbols: bool
) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes("\n".join(delimiter.join(row) for row in rows).encode("utf-8", "surrogatepass"))
    assert "\n" not in refusal(path, symbols=symbols)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"\x93NUMPY\x01\x00v\x00", b"PK\x03\x04"]),
    body=st.one_of(
        st.binary(max_size=200),
        st.text("{}()':,descrfotanhpe_ <>f8i4|O1290", max_size=120).map(str.encode),
        st.sampled_from(
            [
                b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }\n",
                b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }\n",
                b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2), }\n",
                b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n        ",
                b"(" * 90,
            ]
        ),
    ),
    suffix=st.sampled_from([".npy", ".npz"]),
)
def test_any_bytes_as_an_array_are_read_or_refused(tmp_path: Path, head: bytes, body: bytes, suffix: str) -> None:
    if head.endswith(b"\x00") and len(head) == 8 and len(body) < 65536:
        head += len(body).to_bytes(2 if head[6] == 1 else 4, "little")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(head + body)
    assert "\n" not in refusal(path)


@pytest.mark.parametrize("member", ["x.npy", "lengths.npy"])
def test_objects_in_an_archive_are_never_opened(tmp_path: Path, member: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("x.npy", "lengths.npy"):
            archive.writestr(name, stream.getvalue() if name == member else good_files()["j.npy"])
    with pytest.raises(ZooError, match="pickled objects"):
        load_data(tmp_path / "x.npz")
