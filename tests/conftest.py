"""What every test starts from and must leave as it was."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from command_line import Ran

from zoo.data import list_data, load_data


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """Fixed seeds, one thread, validation on; fails a test that leaves a parameter or a default dtype behind."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that scikit-learn and users share
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pyro.enable_validation(True)
    pyro.clear_param_store()
    dtype = torch.get_default_dtype()
    yield
    left, now = sorted(pyro.get_param_store().keys()), torch.get_default_dtype()
    pyro.clear_param_store()
    torch.set_default_dtype(dtype)
    assert not left, f"the test left parameters in Pyro's global store: {left}"
    assert now == dtype, f"the test left torch's default dtype at {now}"


@pytest.fixture
def zoo_data() -> Callable[..., Any]:
    """``zoo_data(name, **options)``: a named data set; skips where its files are not at hand."""
    available = {info.name: info for info in list_data()}

    def get(name: str, **options: Any) -> Any:
        if not available[name].available:
            pytest.skip(f"the files of {name!r} are not at hand ({available[name].location})")
        return load_data(name, **options)

    return get


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in an empty folder."""
    from zoo.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_DEBUG", raising=False)
    monkeypatch.setattr("zoo.runs.progress.SILENCE", math.inf)  # stderr is the same on a slow machine

    def call(*arguments: str) -> Ran:
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call
