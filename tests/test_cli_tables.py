"""Tables on the command line: columns by name, symbols, sequences, a decimal comma; messages in the command's words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import zoo.cli
from zoo.cli.task import in_options

DNA = "GATTACACATTAGGATACCA"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = zoo.cli.main(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_symbols_from_a_file_to_draws(capsys: pytest.CaptureFixture[str]) -> None:
    Path("dna.csv").write_text("at,base\n" + "".join(f"{i % 7},{base}\n" for i, base in enumerate(DNA)))
    Path("new.txt").write_text("\n".join("TTAGC"))
    settings = ("--set", "num_states=2", "--set", "max_iter=3", "--no-report")
    fit = run(
        capsys,
        "fit",
        "categorical_hmm",
        "--data",
        "dna.csv",
        "--columns",
        "base",
        *settings,
        "--no-report",
        "--out",
        "a",
    )
    assert fit[0] == 0
    assert "read 20 rows x 1 column: base" in fit[2]
    assert zoo.load("a").symbols == ("A", "C", "G", "T")
    code, out, _ = run(capsys, "evaluate", "a", "--data", "new.txt", "--json")
    assert code == 0
    assert json.loads(out)["log_likelihood"] == pytest.approx(zoo.load("a").score("TTAGC"), abs=1e-9)
    assert run(capsys, "sample", "a", "-n", "1", "--out", "s.csv")[0] == 0
    header, *rows = Path("s.csv").read_text().split()
    assert header == "sequence,base"
    assert {row.split(",")[1] for row in rows} <= {"A", "C", "G", "T"}
    code, _, err = run(capsys, "fit", "categorical_hmm", "--data", "dna.csv", *settings)
    assert (code, err.count("\n")) == (2, 1)
    assert "symbols in column 'base'. Choose with --columns." in err


def test_columns_by_name_and_names_in_draws(capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2)).round(3)
    Path("a.csv").write_text("id,h,w\n" + "".join(f"{i},{h},{w}\n" for i, (h, w) in enumerate(rows)))
    Path("b.csv").write_text("w,kind,h\n" + "".join(f"{w},k,{h}\n" for h, w in rows))
    settings = ("--set", "num_components=2", "--set", "max_iter=2")
    code, _, err = run(capsys, "fit", "gaussian_mixture", "--data", "a.csv", *settings)
    assert code == 0
    assert "read 30 rows x 2 columns: h, w; left out: id (all different whole numbers)\n" in err
    assert "keep id with --columns id,h,w\n" in err
    assert (
        run(
            capsys,
            "fit",
            "gaussian_mixture",
            "--data",
            "a.csv",
            "--columns",
            "h,w",
            *settings,
            "--no-report",
            "--out",
            "f",
        )[0]
        == 0
    )
    scores = [
        json.loads(run(capsys, "evaluate", "f", "--data", data, "--json")[1])["log_likelihood"]
        for data in ("a.csv", "b.csv")
    ]
    assert scores[0] == scores[1] == pytest.approx(zoo.load("f").log_likelihood, abs=1e-9)
    assert run(capsys, "sample", "f", "-n", "2", "--out", "s.csv")[0] == 0
    assert Path("s.csv").read_text().startswith("h,w\n")


def test_sequences_and_a_decimal_comma(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    lines = [f"s{i // 6};{str(round(rng.normal(), 3)).replace('.', ',')}\n" for i in range(24)]
    Path("s.csv").write_text("subject;a\n" + "".join(lines))
    settings = ("--set", "num_states=2", "--set", "max_iter=2")
    words = ("fit", "gaussian_hmm", "--data", "s.csv", "--sequence", "subject", *settings)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "or pass --decimal , for a comma" in err
    code, out, err = run(capsys, *words, "--decimal", ",", "--json")
    assert code == 0
    assert json.loads(out)["num_data"] == 4
    assert "read 4 sequences x 1 column: a" in err
    code, _, err = run(capsys, "fit", "gaussian_mixture", "--data", "iris", "--sequence", "a")
    assert code == 2
    assert "--sequence is for files" in err


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("Choose with columns=['a', 'my kind', 3].", "Choose with --columns 'a,my kind,3'."),
        ("Leave it out with columns=, or labels='my kind'.", "Leave it out with --columns, or --labels 'my kind'."),
        ("got split='trian' with t.csv.", "got --split trian with t.csv."),
        ("labels=True is for named sets, labels=... for files", "--labels true is for named sets, --labels for files"),
        ("targets= expected one row a datum", "--targets expected one row a datum"),
    ],
)  # fmt: skip
def test_messages_speak_the_command_line(python: str, words: str) -> None:
    assert in_options(python) == words
