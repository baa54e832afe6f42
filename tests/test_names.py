"""What columns are for: identifiers and times are left out, rows sorted by time; rows count as in the file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import Ran

import zoo
from zoo.data import read
from zoo.errors import LeftOut

RNG = np.random.default_rng(0)
HEIGHTS, WEIGHTS = RNG.normal(170, 8, 12).round(1), RNG.normal(70, 6, 12).round(1)
MIXTURE = ("fit", "gaussian_mixture", "--set", "num_components=2", "--set", "max_iter=2", "--no-report")
CHAIN = ("fit", "gaussian_hmm", "--set", "num_states=2", "--set", "max_iter=2", "--no-report", "--sequence", "subject")


def notes(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    return [line.removeprefix("note: ") for line in ran.err.splitlines()]


def left_out(frame: pd.DataFrame, path: Path, **options: str) -> dict[str, str]:
    frame.to_csv(path, index=False)
    return read(path, measured=True, **options).aside  # type: ignore[arg-type]


def people(**first: object) -> pd.DataFrame:
    return pd.DataFrame({**first, "height_cm": HEIGHTS, "weight_kg": WEIGHTS})


def test_an_identifier_is_left_out_and_the_run_knows(run: Callable[..., Ran]) -> None:
    people(id=np.arange(100, 112)).to_csv("p.csv", index=False)
    said = notes(run(*MIXTURE, "--data", "p.csv", "--out", "a"))
    assert said[0] == "read 12 rows x 2 columns: height_cm, weight_kg; left out: id (all different whole numbers)"
    assert said[1] == "keep id with --columns id,height_cm,weight_kg"
    assert zoo.load("a").columns == ("height_cm", "weight_kg")
    known = zoo.load("a").log_likelihood
    for words in (("evaluate", "a"), ("evaluate", "a", "--data", "p.csv")):  # the record; the columns by name
        assert json.loads(run(*words, "--json").out)["log_likelihood"] == pytest.approx(known, abs=1e-9)
    kept = notes(run(*MIXTURE, "--data", "p.csv", "--columns", "id,height_cm,weight_kg"))
    assert kept[0] == "read 12 rows x 3 columns: id, height_cm, weight_kg"


def test_a_program_of_ones_own_is_asked_about_its_columns(run: Callable[..., Ran]) -> None:
    Path("m.py").write_text(
        "import pyro, torch, pyro.distributions as dist\n"
        "def model(x):\n"
        "    loc = pyro.param('loc', torch.zeros(x.shape[1], dtype=x.dtype))\n"
        "    with pyro.plate('data', len(x)):\n"
        "        pyro.sample('x', dist.Normal(loc, 1.0).to_event(1), obs=x)\n"
    )
    people(id=range(12)).to_csv("p.csv", index=False)
    ran = run("fit", "m.py:model", "--data", "p.csv", "--no-report", "--out", "a")
    assert "left out: id" in notes(ran)[0]
    for words in (("evaluate", "a"), ("evaluate", "a", "--data", "p.csv")):
        assert "12 data" in run(*words, "--model", "m.py:model").out


def test_a_folder_of_an_earlier_version_keeps_the_column_it_was_fitted_to(run: Callable[..., Ran]) -> None:
    people(id=range(12)).to_csv("p.csv", index=False)
    assert run(*MIXTURE, "--data", "p.csv", "--columns", "0,1,2", "--out", "a").code == 0
    record = json.loads(Path("a/run.json").read_text())
    assert record.pop("time", "absent") is None  # what that version did not write
    Path("a/run.json").write_text(json.dumps({**record, "columns": None}))
    assert run("evaluate", "a").code == 0


def test_the_same_from_python_by_a_path(tmp_path: Path) -> None:
    people(id=range(12)).to_csv(tmp_path / "p.csv", index=False)
    words = r"^p\.csv: read 12 rows x 2 columns: height_cm, weight_kg; left out: id \(all different whole numbers\); k"
    with pytest.warns(LeftOut, match=words) as caught:
        fit = zoo.fit("gaussian_mixture", tmp_path / "p.csv", num_components=2)
    assert caught[0].filename == __file__
    for ask in (lambda: zoo.select("gaussian_mixture", tmp_path / "p.csv", grid={"num_components": [1]}, restarts=1),
                lambda: zoo.explain("gaussian_mixture", tmp_path / "p.csv", num_components=2)):  # fmt: skip
        with pytest.warns(LeftOut, match=words) as caught:
            ask()
        assert caught[0].filename == __file__
    assert fit.columns == ("height_cm", "weight_kg")
    assert zoo.load_data(tmp_path / "p.csv").shape == (12, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ({"nr": range(12)}, {"nr": "counts the rows"}),
        ({"nr": range(1, 13)}, {"nr": "counts the rows"}),
        ({"nr": range(2, 14)}, {}),  # numbers of people may be all different
        ({"count": [5, 3, 9, 1, 0, 2, 4, 6, 8, 7, 11, 10]}, {}),
        ({"who": [f"p{i}" for i in range(12)]}, {"who": "all different text"}),
        ({"Index": [0, 2, 3, 5, 7, 8, 11, 12, 15, 18, 19, 20]}, {"Index": "all different whole numbers"}),
        ({"index": [100, 99, 101, 97, 95, 104, 107, 92, 80, 110, 77, 60]}, {}),  # of prices
        ({"id": [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]}, {}),
        ({"id": HEIGHTS + 0.25}, {}),
        ({"patient_id": RNG.permutation(12) * 17}, {"patient_id": "all different whole numbers"}),
        ({"t": np.arange(12) / 4}, {"t": "a time that goes up"}),
        ({"t": np.arange(12)[::-1] / 4}, {}),
        ({"date": [f"2024-01-{day:02d}" for day in range(9, 21)]}, {"date": "all different text"}),
        ({"waited": np.arange(12) / 4}, {}),
    ],
)  # fmt: skip
def test_what_is_left_out(tmp_path: Path, first: dict[str, object], expected: dict[str, str]) -> None:
    assert left_out(people(**first), tmp_path / "p.csv") == expected


def test_the_only_column_stays(tmp_path: Path) -> None:
    for frame in (pd.DataFrame({"id": range(12)}), pd.DataFrame({"id": range(12), "t": range(12)})):
        assert left_out(frame, tmp_path / "p.csv") == {}
        assert read(tmp_path / "p.csv", measured=True).names == tuple(frame.columns)


def trials() -> pd.DataFrame:
    return pd.DataFrame(
        {"subject": np.repeat(["b", "a", "c"], 4), "t": np.tile([0.5, 2, 10, 11], 3), "speed": np.arange(12) / 8}
    )


def test_times_and_steps_of_sequences(tmp_path: Path) -> None:
    of = {"sequence": "subject"}
    assert left_out(trials(), tmp_path / "a.csv", **of) == {"t": "a time that goes up"}
    assert left_out(trials().rename(columns={"t": "pause"}), tmp_path / "b.csv", **of) == {}
    with pytest.raises(zoo.ZooError, match=r"got column 't' up and down\. Sort by it with time='t'"):  # no feature
        left_out(trials()[::-1], tmp_path / "c.csv", **of)
    long = pd.DataFrame({"subject": np.repeat([1, 2], 10), "nr": np.tile(range(10), 2), "x": RNG.normal(size=20)})
    assert left_out(long, tmp_path / "d.csv", **of) == {"nr": "counts the steps"}
    assert left_out(long.assign(nr=[*range(10), *range(1, 11)]), tmp_path / "e.csv", **of) == {}


def test_sequences_by_a_path_keep_the_names_of_their_columns(tmp_path: Path) -> None:
    trials().rename(columns={"subject": "sequence"}).to_csv(tmp_path / "s.csv", index=False)
    own = zoo.GaussianHMM(2, 1)
    for model, options in (("gaussian_hmm", {"num_states": 2}), (zoo.GaussianHMM(2), {}), (own, {})):
        with pytest.warns(LeftOut, match=r"3 sequences x 1 column: speed; left out: t \(a time that goes up\)"):
            fit = zoo.fit(model, tmp_path / "s.csv", max_iter=1, **options)
        assert fit.columns == ("speed",)
    assert own.schema is None


@pytest.mark.parametrize("dates", [False, True])
def test_rows_are_sorted_by_time_within_sequences(tmp_path: Path, dates: bool) -> None:
    frame = trials().assign(kind=list("xyxyxyxyxyxy"))
    if dates:  # as text, the tenth hour stands before the second
        frame["t"] = [
            f"2024-01-01T{int(2 * t):02d}:00+0{zone}:00" for t, zone in zip(frame["t"], [0, 1, 2, 0] * 3, strict=True)
        ]
    mixed = frame.iloc[[7, 0, 11, 3, 2, 9, 8, 1, 4, 6, 5, 10]]
    mixed.to_csv(tmp_path / "m.csv", index=False)
    options = {"sequence": "subject", "time": "t", "labels": "kind"}
    x, labels = zoo.load_data(tmp_path / "m.csv", **options)  # type: ignore[call-overload]
    assert x["x"][..., 0].tolist() == (np.array([[4, 5, 6, 7], [0, 1, 2, 3], [8, 9, 10, 11]]) / 8).tolist()
    assert labels.tolist() == [[0, 1, 0, 1]] * 3
    whole = zoo.load_data(tmp_path / "m.csv", time="t", columns=["t", "speed"] if not dates else "speed")
    assert isinstance(whole, torch.Tensor)
    if not dates:
        assert whole[:, 0].tolist() == sorted(frame["t"])


def test_sequences_sorted_on_the_command_line_are_those_of_a_sorted_file(run: Callable[..., Ran]) -> None:
    trials().to_csv("s.csv", index=False)
    mixed = trials().iloc[[3, 0, 2, 1, 7, 5, 4, 6, 8, 11, 10, 9]]
    mixed.to_csv("m.csv", index=False)
    said = notes(run(*CHAIN, "--data", "s.csv", "--out", "s"))
    assert said[0] == "read 3 sequences x 1 column: speed; left out: t (a time that goes up)"
    said = notes(run(*CHAIN, "--data", "m.csv", "--time", "t", "--out", "m"))
    assert said[0] == "read 3 sequences x 1 column: speed, sorted by t"
    assert zoo.load("m").log_likelihood == zoo.load("s").log_likelihood
    found = pd.read_csv("m/posterior.csv")  # in the order of time, by the rows of the file
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(run("predict", "m", "--proba").out)), found, rtol=1e-5)
    there = mixed.reset_index(drop=True).iloc[found["row"] - 1]
    assert there["t"].tolist() == [0.5, 2, 10, 11] * 3
    assert there["subject"].tolist() == list("bbbbaaaacccc")
    assert "row" not in pd.read_csv("s/posterior.csv")
    by_record = json.loads(run("evaluate", "s", "--data", "m.csv", "--time", "t", "--json").out)
    assert by_record["log_likelihood"] == pytest.approx(zoo.load("s").log_likelihood, abs=1e-9)
    assert json.loads(run("evaluate", "m", "--json").out)["log_likelihood"] == by_record["log_likelihood"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([*"abcdefghijkl"], "expected numbers or dates such as 2024-05-31 in column 't', got 'a'"),
        ([*range(5), np.nan, *range(6)], "expected a time in every row of column 't', got none in row 6"),
    ],
)
def test_times_that_are_none(tmp_path: Path, column: list[object], words: str) -> None:
    people(t=column).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(zoo.ZooError, match=words):
        zoo.load_data(tmp_path / "p.csv", time="t")
    with pytest.raises(zoo.ZooError, match="time= is for files"):
        zoo.load_data("iris", time="t")


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_a_file_count_from_one_and_say_their_lines(run: Callable[..., Ran]) -> None:
    frame = people()
    frame.loc[[2, 6], "weight_kg"] = np.nan
    text = frame.to_csv(index=False).splitlines()
    Path("p.csv").write_text("\n".join([text[0], "# a comment", "", *text[1:]]) + "\n")
    ran = run(*MIXTURE, "--data", "p.csv")
    assert "got NaN in rows 3, 7 (lines 6, 10). Drop or fill" in ran.err
    np.save("p.npy", frame.to_numpy())
    assert "got NaN in rows 3, 7. Drop or fill" in run(*MIXTURE, "--data", "p.npy").err
    with pytest.raises(zoo.ZooError, match=r"got NaN in rows 3, 7 \(lines 6, 10\)\."):
        zoo.fit("gaussian_mixture", "p.csv", num_components=2)
    with pytest.raises(zoo.ZooError, match=r"got NaN in rows 2, 6\. Drop or fill"):  # an array's count from 0
        zoo.fit(zoo.GaussianMixture(2, 2), frame)
    Path("p.csv").write_text(Path("p.csv").read_text().replace(text[4], "171,x"))
    assert "row 4 (line 7)" in run(*MIXTURE, "--data", "p.csv").err  # the reader's own words


def test_rows_of_sequences_say_their_lines(run: Callable[..., Ran]) -> None:
    counts = trials().assign(speed=[1, 2, 3, 4, 1, 2, -3, 4, 1, 2, 3, 4]).iloc[[4, 0, 1, 2, 3, 6, 5, 7, 8, 9, 10, 11]]
    counts.to_csv("c.csv", index=False)
    ran = run("fit", "poisson_hmm", *CHAIN[2:], "--data", "c.csv", "--time", "t")
    assert "sequence 1 of x expected counts 0, 1, 2, ..., got -3 in row 3 (line 7)" in ran.err


# --- y given x --------------------------------------------------------------------------------------------------------


def test_a_table_is_not_cut_in_two(run: Callable[..., Ran], tmp_path: Path) -> None:
    """Four columns are no image of two rows and two columns, but 64 that are numbered may be one."""
    fit = ("fit", "conditional_vae", "--set", "likelihood=gaussian", "--set", "max_epochs=1", "--no-report")
    people(waist_cm=WEIGHTS + 1, age=HEIGHTS - 120).to_csv("p.csv", index=False)
    ran = run(*fit, "--data", "p.csv")
    told = "ConditionalVAE: data expected columns of x and of y, got waist_cm, age, height_cm, weight_kg as one. Say "
    assert (ran.code, ran.err) == (2, f"zoo: {told}which are y: --targets.\n")
    with pytest.raises(zoo.ZooError, match=r"which are y: zoo\.load_data\(\.\.\., targets=\.\.\.\)\."):
        zoo.fit("conditional_vae", tmp_path / "p.csv")
    pixels = pd.DataFrame(RNG.normal(size=(5, 64)), columns=[f"pixel_{i // 8}_{i % 8}" for i in range(64)])
    pixels.to_csv("i.csv", index=False)
    assert run(*fit, "--data", "i.csv").code == 0


def test_draws_of_y_stand_beside_their_x(run: Callable[..., Ran]) -> None:
    """In the fit's units, by name: y is 2 x + 3 exactly here but for little noise, so each draw tells its x."""
    age = np.arange(40) % 10 + 20
    frame = pd.DataFrame({"dose": 2.0 * age + 3, "half": age / 2, "age": age})
    frame.to_csv("d.csv", index=False)
    words = ("--targets", "dose", "--set", "likelihood=gaussian", "--set", "latent_dim=0", "--set", "max_epochs=400")
    small = ("--set", "hidden_dims=[]", "--set", "learning_rate=0.03", "--no-report", "--out", "a")
    assert run("fit", "conditional_vae", "--data", "d.csv", *words, *small).code == 0
    assert run("sample", "a", "-n", "30", "--mean", "--out", "s.csv").code == 0
    assert Path("s.csv").read_text().splitlines()[0] == "half,age,dose"
    drawn = pd.read_csv("s.csv")
    assert drawn["age"].dtype.kind == "i"
    np.testing.assert_array_equal(drawn["half"], drawn["age"] / 2)
    assert len(set(drawn["age"])) > 3
    error = (drawn["dose"] - (2.0 * drawn["age"] + 3)).abs().max()
    assert error < 1.5, error


def test_data_of_probability_zero_count_as_rows_do(run: Callable[..., Ran]) -> None:
    np.savez("seen.npz", x=RNG.integers(0, 2, (6, 5)), lengths=np.full(6, 5))
    np.savez("new.npz", x=[[0, 1, 1], [0, 1, 2], [1, 0, 1], [2, 0, 0]], lengths=[3, 2, 3, 3])
    fit = ("fit", "categorical_hmm", "--data", "seen.npz", "--set", "num_symbols=3", "--set", "num_states=2")
    assert run(*fit, "--set", "max_iter=2", "--no-report", "--out", "a").code == 0
    assert "1 of 4 data (number 4) has probability zero" in run("evaluate", "a", "--data", "new.npz").out
    x = {name: torch.as_tensor(values) for name, values in np.load("new.npz").items()}
    assert "1 of 4 data (index 3) has probability zero" in str(zoo.evaluate(zoo.load("a"), x))


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_as_strings_say_the_same_as_numbers() -> None:
    codes = torch.arange(40) % 2
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) + 8.0 * codes[:, None]
    fit = zoo.fit(zoo.GaussianMixture(2, 2), x)
    turned = zoo.align(fit, 1 - fit.predict(x), x)
    names = np.array(["cat", "dog"])[codes.numpy()]
    some = [*[None] * 21, *names[21:]]
    for labels in (codes, names, list(names), tuple(names), pd.Series(names), pd.Categorical(names), some):
        assert torch.equal(zoo.align(turned, labels, x).predict(x), codes)
    for labels in (1 - codes, ["b" if name == "cat" else "a" for name in names]):
        assert torch.equal(zoo.align(turned, labels, x).predict(x), 1 - codes)
