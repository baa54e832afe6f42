"""Data beyond memory: what is read in pieces gives what the same data give in memory, and memory stays bounded."""

import gc
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.core import streams
from zoo.core.contract import prepared
from zoo.core.mapped import Mapped
from zoo.core.streams import BlockOrder, Stream
from zoo.estimators import find_estimator

MODELS = ["gaussian_mixture", "poisson_mixture", "factor_analysis", "gaussian_hmm", "vae", "conditional_vae"]


@pytest.fixture
def stream(tmp_path):
    """``stream(x)``: data in memory (a tensor, or a tuple or dict of them) as a stream of files."""

    def make(x):
        def put(name, values):
            np.save(tmp_path / f"{name}.npy", values.numpy())
            return zoo.open_data(tmp_path / f"{name}.npy").files

        if isinstance(x, dict):
            return Stream({name: put(name, values) for name, values in x.items()}, "x")
        return Stream(tuple(put(str(i), v) for i, v in enumerate(x)) if isinstance(x, tuple) else put("x", x), "x.npy")

    return make


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of a few numbers, so that small data are many pieces."""
    monkeypatch.setattr("zoo.core.memory.PIECE_NUMBERS", 64)


@pytest.fixture
def clusters():
    """2000 rows in three clusters of four features."""
    z = torch.randint(3, (2000,))
    return torch.tensor([[-4.0, 0, 2, 1], [4, 1, 0, 0], [0, 5, -3, 2]]).double()[z] + torch.randn(2000, 4).double()


def test_blocks_are_an_order_of_all_rows_that_can_be_taken_up_anywhere(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK", 16)
    monkeypatch.setattr(streams, "MIXED", 4)
    order = BlockOrder(1001, 7, seed=3)
    batches = list(order)
    assert len(batches) == len(order) == 143
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(1001))
    assert not torch.equal(torch.cat(batches), torch.cat(list(BlockOrder(1001, 7, seed=4))))
    for first in (0, 1, 9, 10, 142):
        assert all(map(torch.equal, order[first:], batches[first:]))
        assert len(order[first:]) == 143 - first
    assert torch.equal(order[60], batches[60])


def test_rows_are_those_of_the_file_whatever_its_kind(tmp_path, stream):
    x = np.random.default_rng(0).normal(size=(50, 3))
    for name, values in {
        "float32": x.astype("f4"), "big-endian": x.astype(">f8"), "fortran": np.asfortranarray(x),
        "bytes": (x > 0).astype("u1"), "unsigned": np.abs(x * 9).astype("u2"), "half": x.astype("f2"),
    }.items():  # fmt: skip
        np.save(tmp_path / f"{name}.npy", values)
        there = zoo.open_data(tmp_path / f"{name}.npy")
        assert np.array_equal(torch.cat(list(there.pieces(7))).double().numpy(), values.astype(float)), name
        index = torch.tensor([3, 49, 0, 3])
        assert np.array_equal(there.take(index).double().numpy(), values[index.numpy()].astype(float)), name
    mapped = np.load(tmp_path / "float32.npy", mmap_mode="r")
    part = Mapped.of_memmap(mapped[10:20])
    assert np.array_equal(part.raw(slice(2, 5)), mapped[12:15])
    assert Mapped.of_memmap(mapped[:, :2]) is None
    assert Mapped.of_memmap(np.zeros(3)) is None
    apart = stream(torch.arange(100.0)).without(torch.tensor([0, 1, 50, 99]))
    kept = [i for i in range(100) if i not in (0, 1, 50, 99)]
    assert apart.take(slice(0, None)).tolist() == kept
    assert apart.take(torch.tensor([95, 0, 48])).tolist() == [kept[95], kept[0], kept[48]]
    share = apart.part(30, 80).part(10, 50)
    assert [row for piece in share.pieces(7) for row in piece.tolist()] == kept[40:80]
    assert share.take(torch.tensor([39, 0])).tolist() == [kept[79], kept[40]]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_of_a_stream_what_it_says_of_the_data(name, stream, small_pieces):
    model, x = importlib.import_module(f"zoo.models.{name}").tiny()
    there = stream(x)
    estimator = "em" if hasattr(model, "e_step") else "svi"
    steps = {"max_iter": 3, "tol": 0} if estimator == "em" else {"max_epochs": 1, "warmup": 2}
    ours = zoo.fit(model, there, estimator=estimator, restarts=1, **steps)
    assert ours.num_data == len(there)
    assert ours.num_units == model.num_units(prepared(model, x))
    assert any("read in pieces" in note for note in ours.notes)
    if estimator == "em":
        theirs = zoo.fit(model, x, estimator="em", restarts=1, **steps)
        assert ours.history["objective"] == pytest.approx(theirs.history["objective"], rel=1e-12)
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    for answer in ("predict", "transform") if estimator == "svi" else ("predict", "score_samples"):
        if name == "factor_analysis" or answer != "transform":
            torch.testing.assert_close(getattr(ours, answer)(there), getattr(ours, answer)(x), rtol=1e-9, atol=1e-9)
    here, whole = zoo.evaluate(ours, there, num_samples=30), zoo.evaluate(ours, x, num_samples=30)
    assert here.log_likelihood == (None if estimator == "svi" else pytest.approx(whole.log_likelihood, rel=1e-12))
    if whole.elbo is not None:
        assert here.elbo == pytest.approx(whole.elbo, abs=6 * (whole.elbo_se + here.elbo_se) + 1e-9)


def test_em_begins_at_what_fits_a_sample_and_ends_where_it_does_in_memory(stream, clusters, monkeypatch):
    monkeypatch.setattr(streams, "SAMPLE", 300)
    model = zoo.GaussianMixture(3, 4)
    ours, theirs = zoo.fit(model, stream(clusters), seed=1), zoo.fit(model, clusters, seed=1)
    assert ours.estimator == "em"
    assert ours.status == "converged"
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-3)
    assert "2000 rows" in ours.notes[-1]
    assert "300 of them; begun where the best of" in ours.notes[-1]
    assert ours.options["init"] == theirs.options["init"]


@pytest.mark.parametrize("estimator", ["online_em", "svi", "eg"])
def test_batches_of_a_stream_climb_as_those_of_the_data_do(estimator, stream, clusters):
    model = zoo.GaussianMixture(3, 4)
    steps = {"max_epochs": 3, "batch_size": 100}
    ours = zoo.fit(model, stream(clusters.float()), estimator=estimator, **steps)
    theirs = zoo.fit(model, clusters.float(), estimator=estimator, **steps)
    assert ours.iterations == theirs.iterations == 3
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, abs=40)


def test_held_out_rows_are_none_of_those_that_are_fitted(stream, clusters):
    model, there = zoo.GaussianMixture(3, 4), stream(clusters)
    fit = zoo.fit(model, there, validation=0.1, estimator="em")
    assert fit.num_data == 1800
    assert len(fit.x) == 2000
    assert any("held-out" in note for note in fit.notes)


def test_weights_stand_beside_the_rows_of_a_stream(stream, clusters, small_pieces):
    model, weights = zoo.GaussianMixture(3, 4), torch.rand(2000) + 0.5
    steps = {"estimator": "em", "restarts": 1, "max_iter": 4, "tol": 0, "weights": weights}
    ours, theirs = zoo.fit(model, stream(clusters), **steps), zoo.fit(model, clusters, **steps)
    assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)


def test_what_is_no_data_is_named_by_its_row_in_the_file(stream, clusters, small_pieces):
    spoilt = clusters.clone()
    spoilt[1234, 2] = torch.nan
    with pytest.raises(zoo.ZooError, match=r"NaN in row 1234\b"):
        zoo.fit(zoo.GaussianMixture(3, 4), stream(spoilt))


def test_what_needs_all_data_at_once_says_so(stream, clusters):
    model, there = zoo.GaussianMixture(3, 4), stream(clusters)
    with pytest.raises(zoo.ZooError, match=r"nuts cannot fit this model: it takes all data at once, .* pieces\. Use"):
        zoo.fit(model, there, estimator="nuts")
    with pytest.raises(zoo.ZooError, match="log_marginal expected data in memory"):
        model.log_marginal(there)
    with pytest.raises(zoo.ZooError, match=r"optimizer='lbfgs' expected .* got data that stay in a file"):
        zoo.fit(model, there, estimator="svi", optimizer="lbfgs")


@pytest.mark.parametrize("name", ["ppca", "linear_vae"])
def test_a_closed_form_takes_one_pass(name, stream, clusters, small_pieces):
    """To the maximum that the same rows have in memory, which sums of pieces give to rounding."""
    model = zoo.PPCA(2, 4) if name == "ppca" else zoo.LinearVAE(4, 2)
    weights = (torch.arange(2000) % 3).double()
    for more in ({}, {"weights": weights}):
        ours = zoo.fit(model, stream(clusters), estimator="closed_form", **more)
        theirs = zoo.fit(model, clusters, estimator="closed_form", **more)
        assert ours.status == "converged"
        assert ours.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-13)
        for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)
        by_em = zoo.fit(model, clusters, estimator="em", **more) if name == "ppca" else theirs
        assert ours.log_likelihood >= by_em.log_likelihood - 1e-6


def test_a_memory_s_rule_takes_all_at_once(stream):
    patterns = (torch.randint(2, (300, 8)) * 2 - 1).double()
    with pytest.raises(
        zoo.ZooError, match=r"its closed_form takes all data at once, and the 300 rows of x\.npy are read"
    ):
        zoo.fit(zoo.HopfieldNetwork(8), stream(patterns), estimator="closed_form")


def test_a_file_that_changes_is_refused(stream, clusters, tmp_path):
    model, there = zoo.GaussianMixture(3, 4), stream(clusters)
    steps = {"estimator": "svi", "max_epochs": 2, "out": tmp_path / "run"}
    zoo.fit(model, there, **steps)
    assert zoo.fit(model, there, resume=True, **steps).iterations == 2
    other = clusters.clone()
    other[7, 1] += 1
    np.save(tmp_path / "x.npy", other.numpy())
    with pytest.raises(zoo.ZooError, match=r"x.npy expected as it was opened, got changed since"):
        zoo.fit(model, there, estimator="em")
    with pytest.raises(zoo.ZooError, match=r"resume: .* holds another run, of data"):
        zoo.fit(model, zoo.open_data(tmp_path / "x.npy"), resume=True, **steps)


def test_a_stream_s_gradient_run_resumes_to_the_same_bits(stream, clusters, tmp_path):
    model, there = zoo.GaussianMixture(3, 4), stream(clusters)
    steps = {"estimator": "svi", "max_epochs": 4, "batch_size": 64, "warmup": 0, "seed": 2}
    whole = zoo.fit(model, there, **steps)
    cut = zoo.fit(model, there, out=tmp_path / "run", max_seconds=1e-9, checkpoint_every=7, **steps)
    assert cut.iterations < 4
    resumed = zoo.fit(model, there, out=tmp_path / "run", resume=True, **steps)
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())


def test_memory_stays_bounded(tmp_path):
    rows, features = 1_600_000, 32
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (rows, features))  # 410 MB
    part = np.random.default_rng(0).normal(size=(100_000, features)) + 3.0 * np.arange(100_000)[:, None] % 2
    for begin in range(0, rows, len(part)):
        array[begin : begin + len(part)] = part
    array.flush()
    del array
    script = textwrap.dedent(f"""
        import threading, time
        import numpy as np
        import zoo
        import zoo.data.opening as opening
        opening.STREAMED = 2**20
        model = zoo.GaussianMixture(2, {features}, covariance_type="diag")
        zoo.fit(model, np.random.randn(30_000, {features}), max_iter=2, restarts=1)
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
        before, peak, over = resident(), [0.0], threading.Event()
        def watch():
            while not over.wait(0.002):
                peak[0] = max(peak[0], resident())
        watching = threading.Thread(target=watch)
        watching.start()
        fit = zoo.fit(model, np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r"), max_iter=1, tol=0, restarts=1)
        labels = fit.predict(fit.x)
        over.set()
        watching.join()
        print(peak[0] - before, len(labels), fit.num_data)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    growth, labels, fitted = map(float, done.stdout.split())
    assert labels == fitted == rows
    assert growth < 200, f"{growth:.0f} MB more than before, for 410 MB of data"


def test_estimators_that_stream_are_those_that_take_parts():
    parts = ("em", "auto_em", "hard_em", "online_em", "svi", "eg", "iwae")
    assert all(find_estimator(name).streams for name in parts)
    assert not any(find_estimator(name).streams for name in ("nuts", "advi", "mean_field"))


@pytest.fixture
def files(tmp_path, clusters, monkeypatch):
    """The same rows in every kind of file, which all count as large."""
    monkeypatch.setattr("zoo.data.opening.STREAMED", 10_000)
    x = clusters.numpy()
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    table = pd.DataFrame(x, columns=["a", "b", "c", "d"])
    table.assign(id=np.arange(len(x)) + 7).to_parquet(tmp_path / "x.parquet", row_group_size=300)
    for kind in ("arrays", "tables"):
        (tmp_path / kind).mkdir()
    for i in range(4):
        np.save(tmp_path / "arrays" / f"{i}.npy", x[500 * i : 500 * (i + 1)])
        table[500 * i : 500 * (i + 1)].to_parquet(tmp_path / "tables" / f"{i}.parquet")
    return tmp_path


class Rows(torch.utils.data.Dataset):
    """A map-style dataset of rows and labels."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], 3


class Lines(torch.utils.data.IterableDataset):
    """An iterable dataset of dicts."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter({"x": row} for row in self.x)


def laid_out():
    """Open files of this process that rows were laid out in."""
    there = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in there if "zoo-rows" in os.readlink(link)]


KINDS = ["x.npy", "x.npz", "packed.npz", "x.parquet", "arrays", "tables"]


@pytest.mark.filterwarnings("ignore:.*left out. id")
@pytest.mark.parametrize("name", [*KINDS, "map-style", "iterable"])
def test_large_files_folders_and_datasets_are_read_in_pieces(name, files, clusters, monkeypatch):
    source = {"map-style": Rows(clusters), "iterable": Lines(clusters)}.get(name, str(files / name))
    fit = zoo.fit("gaussian_mixture", source, num_components=3, estimator="em", restarts=1, max_iter=5, tol=0)
    theirs = zoo.fit(zoo.GaussianMixture(3, 4), clusters, estimator="em", restarts=1, max_iter=5, tol=0)
    assert "read in pieces" in fit.notes[-1]
    assert fit.log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    assert fit.columns == (("a", "b", "c", "d") if name in ("x.parquet", "tables") else None)
    assert torch.equal(fit.predict(source), theirs.predict(clusters))
    assert zoo.evaluate(fit, source).log_likelihood == pytest.approx(theirs.log_likelihood, rel=1e-12)
    assert bool(laid_out()) == (name not in ("x.npy", "x.npz"))
    del fit
    gc.collect()
    assert not laid_out(), "what was laid out goes away with the data"


def test_small_datasets_and_folders_are_read_into_memory(files, clusters, monkeypatch):
    monkeypatch.setattr("zoo.data.opening.STREAMED", 2**30)
    for source in (Rows(clusters), str(files / "arrays"), str(files / "tables")):
        fit = zoo.fit("gaussian_mixture", source, num_components=3, max_iter=2, restarts=1)
        assert isinstance(fit.x, torch.Tensor)
        assert torch.equal(fit.x, clusters)


def test_sequences_and_pairs_come_from_npz(tmp_path, monkeypatch):
    model, x = importlib.import_module("zoo.models.gaussian_hmm").tiny()
    x = prepared(model, x)
    np.savez(tmp_path / "s.npz", y=x["x"][:, 0].numpy(), **{name: values.numpy() for name, values in x.items()})
    there = zoo.open_data(tmp_path / "s.npz")
    steps = {"estimator": "em", "restarts": 1, "max_iter": 2, "tol": 0}
    assert zoo.fit(model, there, **steps).log_likelihood == pytest.approx(zoo.fit(model, x, **steps).log_likelihood)
    assert isinstance(zoo.open_data(tmp_path / "s.npz", targets="y").take(slice(0, 2)), dict)


def test_what_cannot_be_opened_is_said_in_a_line(files, monkeypatch):
    class Ragged(Rows):
        def __getitem__(self, index):
            return torch.zeros(1 + index % 2)

    (files / "mixed").mkdir()
    np.save(files / "mixed" / "a.npy", np.zeros(3))
    pd.DataFrame({"a": [1.0]}).to_parquet(files / "mixed" / "b.parquet")
    (files / "cut.npy").write_bytes((files / "x.npy").read_bytes()[:5000])
    np.save(files / "words.npy", np.array(["a", "b"]))
    pd.DataFrame({"a": ["u", "v"], "b": [1.0, 2]}).to_parquet(files / "words.parquet")
    for source, words in {
        files / "mixed": "expected a folder of .npy files, or of .parquet files",
        files / "cut.npy": "cut.npy: expected 64000 bytes of rows, got a file of 5000",
        files / "words.npy": "words.npy: expected numbers in rows, got dtype <U1",
        files / "words.parquet": "words.parquet: expected a number in column 'a', row 1, got 'u'",
        files / "no.npy": "There is no file 'no.npy'",
        files / "x.csv": "There is no file",
        Ragged(torch.zeros(9)): "Ragged: expected items of one shape, got",
        3: "open_data expected a path, a mapped array or a torch dataset, got a int",
    }.items():
        with pytest.raises(zoo.ZooError, match=re.escape(words)):
            zoo.open_data(source)
    monkeypatch.setattr("zoo.data._spool.SMALL", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(zoo.ZooError, match=r"x.parquet: expected .* GiB of free disk in .* to lay out its rows, got"):
        zoo.open_data(files / "x.parquet")
    with pytest.raises(zoo.ZooError, match=r"x.npy: drop_missing= expected a file that is read whole"):
        zoo.data.read(files / "x.npy", drop_missing=True)
    assert zoo.load_data(files / "x.npy").shape == (2000, 4)


def test_the_command_line_fits_scores_and_predicts_in_pieces(run, files, monkeypatch):
    monkeypatch.setattr("zoo.core.memory.PIECE_NUMBERS", 2**14)
    command = ("fit", "gaussian_mixture", "--data", str(files / "x.parquet"), "--set", "num_components=3", "--out", "a")
    done = run(*command)
    assert done.code == 0, done.err
    assert "read 2000 rows x 4 columns" in done.err
    assert "GiB, read in pieces; begun where the best of 10 starts on these ended" in done.out
    done = run("predict", "a", "--data", str(files / "x.parquet"), "--out", "p.parquet", "--proba", "--scores")
    assert done.code == 0, done.err
    made = pd.read_parquet("p.parquet")
    fit = zoo.load("a")
    x = torch.from_numpy(np.load(files / "x.npy"))
    assert made["component"].tolist() == fit.predict(x).tolist()
    assert made["log_likelihood"].to_numpy() == pytest.approx(fit.score_samples(x).numpy())
    assert made[["p_0", "p_1", "p_2"]].to_numpy() == pytest.approx(fit.predict_proba(x).numpy())
    assert run("predict", "a", "--data", str(files / "x.npy"), "--out", "p.csv").code == 0
    assert pd.read_csv("p.csv")["component"].tolist() == made["component"].tolist()
    printed = run("predict", "a", "--data", str(files / "x.npy"))
    assert printed.out.count("component") == 1
    assert len(printed.out.splitlines()) == 2001
    refused = run("predict", "a", "--data", str(files / "x.npy"), "--out", "p.json")
    assert refused.code == 2
    assert "expected a name ending in .csv, .tsv, .parquet" in refused.err
    scored = run("evaluate", "a", "--data", str(files / "x.npy"), "--json")
    assert json.loads(scored.out)["log_likelihood"] == pytest.approx(fit.log_likelihood)


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "arrays"])
def test_a_fit_of_a_stream_finds_its_data_again(name, run, files, monkeypatch):
    hold_out = ("--hold-out", "0.1") if name == "x.npy" else ()
    options = ("--set", "num_components=3", "--set", "max_iter=2", "--set", "restarts=1", "--no-report", *hold_out)
    done = run("fit", "gaussian_mixture", "--data", name, "--out", "a", *options)
    assert done.code == 0, done.err
    fit, rows = zoo.load("a"), 1800 if hold_out else 2000
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    done = run("predict", "../a", "--out", "p.csv", "--scores")
    assert done.code == 0, done.err
    assert "read in pieces" in done.out
    made = pd.read_csv("p.csv")
    assert len(made) == fit.num_data == rows
    assert made["log_likelihood"].sum() == pytest.approx(fit.log_likelihood)
    scored = json.loads(run("evaluate", "../a", "--json").out)
    assert scored["log_likelihood"] == pytest.approx(fit.log_likelihood)
    changed = files / "arrays" / "2.npy" if name == "arrays" else files / name
    other = pd.read_parquet(changed).to_numpy() if name == "x.parquet" else np.load(changed)
    other[7, 1] += 1
    if name == "x.parquet":
        pd.DataFrame(other, columns=["a", "b", "c", "d", "id"]).to_parquet(changed)
    else:
        np.save(changed, other)
    for command in ("predict", "evaluate"):
        refused = run(command, "../a")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "expected the data it was fitted to, but" in refused.err
    shutil.move(files / name, files / "moved")
    refused = run("evaluate", "../a")
    assert f"expected the data it was fitted to in {files / name}, got no such file. Pass --data." in refused.err
