"""The command line with networks: a fit and its pictures, draws, scores, and one line for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Ran

import zoo
from zoo.core.contract import prepared
from zoo.core.problem import Problem
from zoo.core.state import snapshot
from zoo.estimators.base import Run
from zoo.estimators.svi import SVI

SMALL = ("--set", "max_epochs=1", "--set", "hidden_dims=6")


@pytest.fixture(autouse=True)
def images(run: Callable[..., Ran]) -> None:
    """Some files of images, in the empty folder that commands run in."""
    grey = zoo.load_data("digits").numpy()[:40]
    bits = (grey > 8).astype(float)
    np.save("bits.npy", bits)
    np.save("one.npy", bits[:1])
    np.save("grey.npy", grey / 16)
    np.save("counts.npy", grey)
    np.save("wide.npy", np.hstack([bits, bits]))
    np.save("odd.npy", bits[:, :63])
    np.savez("whole.npz", x=bits)
    content = Path("whole.npz").read_bytes()
    Path("cut.npz").write_bytes(content[: len(content) // 2])


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_fit_its_pictures_draws_and_scores(run: Callable[..., Ran]) -> None:
    """As a new user goes about it; widths as a list with commas, and what the data suggested is said."""
    command = ("fit", "vae", "--data", "counts.npy", "--set", "max_epochs=1", "--set", "hidden_dims=9, 5", "--out", "a")
    ran = run(*command)
    assert ran.code == 0, ran.err
    assert "white=16.0" in ran.err
    assert "binarization=dynamic" in ran.err
    pictures = {path.name for path in Path("a").glob("*.png")}
    assert pictures == {"reconstructions.png", "samples.png", "manifold.png", "traversals.png"}
    assert all(name in ran.out for name in pictures)
    assert zoo.load("a").model.config["hidden_dims"] == [9, 5]
    assert zoo.load("a").options["warmup"] is None
    again = run(*command, "--resume")
    assert again.code == 0, again.err
    for more in ((), ("--mean",)):
        assert run("sample", "a", "-n", "6", "--out", f"s{len(more)}.png", *more).code == 0
        assert Path(f"s{len(more)}.png").read_bytes().startswith(b"\x89PNG")
    assert run("sample", "a", "-n", "6", "--out", "s.npy", "--mean").code == 0
    means = np.load("s.npy")
    assert means.shape == (6, 64)
    assert ((means > 0) & (means < 16)).all(), "in the units of the data"
    scored = run("evaluate", "a", "--samples", "30")
    assert "active units" in scored.out
    assert "by the draws" in scored.out
    found = json.loads(run("evaluate", "a", "--samples", "30", "--json").out)
    assert found["nll"] == pytest.approx(-found["importance_bound"] / 40)
    assert 0 < found["nll_se"] < found["data_se"] < 2
    assert 0 <= found["active_units"] <= found["num_units"] == 20


def test_a_conditional_model_completes(run: Callable[..., Ran]) -> None:
    assert run("fit", "conditional_vae", "--data", "bits.npy", *SMALL, "--out", "c").code == 0
    assert {path.name for path in Path("c").glob("*.png")} == {"completions.png", "codes.png"}
    assert run("sample", "c", "-n", "5", "--out", "c.npy").code == 0
    assert np.load("c.npy").shape == (5, 64)


def test_a_conditional_model_of_a_table_of_ones_own(run: Callable[..., Ran]) -> None:
    """y by --targets, remembered by the run for evaluate and sample; without it, one line that names the option."""
    rows = zoo.load_data("iris").numpy()
    header = "sepal_length,sepal_width,petal_length,petal_width"
    np.savetxt("own.csv", rows, delimiter=",", header=header, comments="")
    np.savetxt("other.csv", rows[:9], delimiter=",", header=header, comments="")
    fit = ("fit", "conditional_vae", "--data", "own.csv", "--set", "likelihood=gaussian", *SMALL)
    made = run(*fit, "--targets", "petal_length,petal_width", "--out", "t")
    assert made.code == 0, made.err
    scored = run("evaluate", "t", "--samples", "5", "--json")
    assert json.loads(scored.out)["num_data"] == 150
    assert json.loads(run("evaluate", "t", "--data", "other.csv", "--samples", "5", "--json").out)["num_data"] == 9
    assert run("sample", "t", "-n", "3", "--out", "s.csv").code == 0
    assert np.loadtxt("s.csv", delimiter=",", skiprows=1).shape == (3, 4)
    np.savez("own.npz", x=rows[:, :2], y=rows[:, 2:])
    own = run(
        "fit",
        "conditional_vae",
        "--data",
        "own.npz",
        "--set",
        "likelihood=gaussian",
        *SMALL,
        "--no-report",
        "--out",
        "n",
    )
    assert "targets y" in own.err
    assert json.loads(Path("n/fit.json").read_text())["config"]["num_features"] == 2
    other = run("fit", "vae", "--data", "own.npz", "--set", "likelihood=gaussian", *SMALL)
    assert "left out of the file: y" in other.err
    lost = run(*fit, "--columns", "0,1,2")
    assert (lost.code, lost.err.count("\n")) == (2, 1)
    assert "--targets" in lost.err


@pytest.mark.parametrize("model", ["vae", "gaussian_mixture_vae", "conditional_vae", "categorical_vae"])
def test_one_datum_is_a_batch(run: Callable[..., Ran], model: str) -> None:
    ran = run("fit", model, "--data", "one.npy", *SMALL, "--no-report", "--out", "f")
    assert ran.code == 0, ran.err
    ran = run("evaluate", "f", "--samples", "30", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["nll"] > 0


def test_fewer_data_than_a_batch_are_one(run: Callable[..., Ran]) -> None:
    ran = run("fit", "vae", "--data", "bits.npy", *SMALL, "--set", "batch_size=100")
    assert ran.code == 0, ran.err
    assert "batch_size=100 is more than the 40 data" in ran.out


def test_networks_take_small_batches_and_no_warm_up(run: Callable[..., Ran]) -> None:
    """Unless they are asked to: a decoder as drawn is no start to be kept."""
    x = zoo.load_data("digits")[:200]
    model = zoo.VAE.from_data(x, latent_dim=2, hidden_dims=(4,))
    data = prepared(model, x)
    for options, moved in ({}, False), ({"warmup": 2}, True):
        before = snapshot(model)
        SVI(**options).warm_up(Problem(model, data), Run())
        assert any(not torch.equal(before[name], value) for name, value in snapshot(model).items()) == moved
    assert SVI().plan(Problem(model, data)).resolve(200)[1] == 128
    assert SVI(batch_size=50).plan(Problem(model, data)).resolve(200)[1] == 50
    assert SVI().plan(Problem(zoo.PPCA(2, 64), data)).resolve(200)[1] == 200


def test_bounds_of_different_estimators_are_compared_by_the_same_one(run: Callable[..., Ran]) -> None:
    ran = run("compare", "vae", "--data", "bits.npy", *SMALL, "--estimators", "svi,iwae", "--out", "c")
    assert ran.code == 0, ran.err
    assert "100 draws" in ran.out
    svi = next(line.split() for line in ran.out.splitlines() if line.split()[:1] == ["svi"])
    assert float(svi[4]) > float(svi[3])


# --- mistakes ---------------------------------------------------------------------------------------------------------

VAE = ("fit", "vae", "--data", "bits.npy")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "argument": ((*VAE, "--set", "hidden_dim=5"), "'hidden_dims'"),
    "likelihood": ((*VAE, "--set", "likelihood=bernouli"), "'bernoulli'"),
    "binarization": ((*VAE, "--set", "binarization=dynamc"), "'dynamic'"),
    "activation": ((*VAE, "--set", "activation=relux"), "'relu'"),
    "flow": ((*VAE, "--set", "flow=plana"), "'planar'"),
    "layers": ((*VAE, "--set", "num_layers=3"), "1, 2"),
    "widths of words": ((*VAE, "--set", "hidden_dims=50,wide"), "hidden_dims=200,100"),
    "half a width": ((*VAE, "--set", "hidden_dims=5.5"), "hidden_dims=200,100"),
    "width of zero": ((*VAE, "--set", "hidden_dims=0,5"), "at least 1"),
    "no latent": ((*VAE, "--set", "latent_dim=0"), "latent_dim"),
    "beta of words": ((*VAE, "--set", "beta=big"), "beta expected a number"),
    "negative beta": ((*VAE, "--set", "beta=-1"), "positive"),
    "white of words": ((*VAE, "--set", "white=grey"), "white expected a number"),
    "warm-up": ((*VAE, "--set", "warmup=often"), "warmup"),
    "batch": ((*VAE, "--set", "batch_size=0"), "batch_size"),
    "estimator": ((*VAE, "--estimator", "svii"), "'svi'"),
    "estimator that cannot serve": ((*VAE, "--estimator", "em"), "svi"),
    "grey pixels": (("fit", "vae", "--data", "grey.npy", "--set", "binarization=null"), "binarization='dynamic'"),
    "what white is": (("fit", "vae", "--data", "digits", "--set", "white=1"), "white=16"),
    "no pixels at all": (("fit", "vae", "--data", "iris"), "likelihood='gaussian'"),
    "image size": ((*VAE, "--set", "num_features=784"), "(N, 784)"),
    "image for convolutions": (
        ("fit", "vae", "--data", "odd.npy", "--set", "architecture=conv"),
        "architecture='mlp'",
    ),
    "image for quadrants": (
        ("fit", "conditional_vae", "--data", "odd.npy"),
        "whole images to cut, got one array (40, 63)",
    ),
    "an option of another estimator": (
        ("fit", "vae", "--data", "bits.npy", "--estimator", "iwae", "--set", "anneal_epochs=2"),
        "expected an option of iwae, got one of svi. Leave it out.",
    ),
    "no y": (
        ("fit", "conditional_vae", "--data", "bits.npy", "--set", "num_inputs=10", "--set", "num_features=54"),
        "Say which columns are y: --targets",
    ),
    "cut file": (("fit", "vae", "--data", "cut.npz"), "cut.npz"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Callable[..., Ran], mistake: str) -> None:
    arguments, said = MISTAKES[mistake]
    before = sorted(Path().rglob("*"))
    ran = run(*arguments, "--out", "new/run")
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert said in ran.err
    assert sorted(Path().rglob("*")) == before


def test_mistakes_with_a_saved_fit(run: Callable[..., Ran]) -> None:
    """Another size, another model, the folder of another run."""
    assert run(*VAE, *SMALL, "--out", "f").code == 0
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    cases: list[tuple[tuple[str, ...], str]] = [
        (("evaluate", "f", "--data", "wide.npy"), "(N, 64)"),
        (("evaluate", "f", "--data", "grey.npy"), "binarization"),
        ((*VAE, "--set", "hidden_dims=7", "--out", "f", "--resume"), "hidden_dims '[6]', not '[7]'"),
        (("fit", "categorical_vae", "--data", "bits.npy", *SMALL, "--out", "f", "--resume"), "'categorical_vae'"),
        ((*VAE, *SMALL, "--out", "f"), "new or empty"),
    ]
    for arguments, said in cases:
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
        assert ran.err.count("\n") == 1, ran.err
        assert said in ran.err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_named_set_with_a_wrong_checksum(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.data._sets import DATA_SETS

    file = DATA_SETS["faithful"].files[""]["x"][0]
    path = Path("own") / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * file.size)
    monkeypatch.setenv("ZOO_DATA", "own")
    ran = run("fit", "vae", "--data", "faithful", "--no-report", "--out", "f")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "another file" in ran.err
    assert not Path("f").exists()
