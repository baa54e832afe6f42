"""Sequences of tables that are read in pieces are those of the table read whole."""

import numpy as np
import pandas as pd
import pytest
import torch

import zoo


@pytest.fixture
def table(monkeypatch):
    """Sequences of 1 to 40 steps of two features, their steps in disorder."""
    monkeypatch.setattr("zoo.data._row_groups.PART", 50)
    monkeypatch.setattr("zoo.core.memory.PIECE_NUMBERS", 1024)
    random = np.random.default_rng(0)
    parts = []
    for i, length in enumerate([3, 40, 1, 17, 17, 2, *random.integers(1, 30, 60)]):
        z = 4.0 * (np.arange(length) // 5 % 2)
        part = pd.DataFrame({"who": f"s{i}", "day": np.arange(length), "a": z + random.normal(size=length)})
        parts.append(part.assign(b=random.normal(size=length)).sample(frac=1, random_state=i))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_sequences_are_those_of_the_table_read_whole(where, table, tmp_path, monkeypatch, run):
    table.to_csv(tmp_path / "t.csv", index=False)
    path = tmp_path / ("t.parquet" if where == "file" else "d")
    if where == "file":
        table.to_parquet(path, row_group_size=70)
    else:
        path.mkdir()
        for i in range(4):  # sequences go on in the next file
            table[170 * i :][: 170 if i < 3 else None].to_parquet(path / f"{i}.parquet")
    options = {"sequence": "who", "time": "day"}
    whole, there = zoo.load_data(tmp_path / "t.csv", **options), zoo.open_data(path, **options)
    expected = zoo.core.data.as_data(whole)
    taken = there.take(slice(None))
    assert torch.equal(taken["lengths"], expected["lengths"].long())
    assert torch.equal(taken["x"], expected["x"])
    assert there.columns == ("a", "b")
    monkeypatch.setattr("zoo.data.opening.STREAMED", 1000)
    settings = ("num_states=2", "max_iter=3", "tol=0", "restarts=1")
    words = ["--no-report", *(word for setting in settings for word in ("--set", setting))]
    done = run("fit", "gaussian_hmm", "--data", str(path), "--sequence", "who", "--time", "day", *words, "--out", "a")
    assert done.code == 0, done.err
    assert "read in pieces" in done.out
    fit = zoo.load("a")
    model = zoo.GaussianHMM(2, 2)
    theirs = zoo.fit(model, whole, max_iter=3, tol=0, restarts=1)
    assert fit.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    assert run("predict", "a", "--out", "p.csv").code == 0
    assert len(pd.read_csv("p.csv")) == len(table)


def test_what_cannot_be_read_so_is_said_in_a_line(table, tmp_path):
    mixed = pd.concat([table[5:], table[:5]])
    mixed.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(zoo.ZooError, match=r"the rows of each sequence side by side, .* got those of 's1' apart. Sort"):
        zoo.open_data(tmp_path / "t.parquet", sequence="who", time="day")
    table.assign(who=table["who"].where(table.index != 60)).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(zoo.ZooError, match="expected every row to say its sequence"):
        zoo.open_data(tmp_path / "t.parquet", sequence="who", time="day")
    table.drop(columns="who").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(zoo.ZooError, match=r"time= expected sequences, .* got rows to read in pieces"):
        zoo.open_data(tmp_path / "t.parquet", time="day")
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    with pytest.raises(zoo.ZooError, match="sequence= and time= are for tables"):
        zoo.open_data(tmp_path / "x.npy", sequence="who")
