"""A thousand fits in one process: memory, objects, files and threads stay as they were after the first hundred."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

import zoo
from zoo.errors import ZooError

MODELS = ("gaussian_mixture", "poisson_mixture", "gaussian_hmm", "factor_analysis", "bernoulli_mixture", "vae")
ESTIMATORS: dict[str, dict[str, Any]] = {
    "em": {"max_iter": 5},
    "auto_em": {"max_iter": 3},
    "online_em": {"max_epochs": 2},
    "eg": {"max_epochs": 3},
    "svi": {"max_epochs": 3, "warmup": 2},
}


def standing() -> dict[str, float]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "objects": len(gc.get_objects()),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "parameters of Pyro's": len(pyro.get_param_store()),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="read in /proc")
def test_a_thousand_fits_leave_nothing_behind(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    kinds = []
    for name in MODELS:
        model, x = importlib.import_module(f"zoo.models.{name}").tiny()
        for estimator, options in ESTIMATORS.items():
            try:
                zoo.fit(model, x, estimator=estimator, **options)
            except ZooError:  # it cannot serve the model
                continue
            kinds.append((model, x, {"estimator": estimator, **options}))
    assert len(kinds) > 20
    before: dict[str, float] = {}
    for number in range(1000):
        model, x, options = kinds[number % len(kinds)]
        out = tmp_path / str(number) if number % 10 == 0 else None  # every tenth writes a run
        zoo.fit(model, x, seed=number, out=out, checkpoint_every=None if out is None else 2, **options)
        if number == 99:
            before = standing()
    after = standing()
    print(f"after 100 fits: {before}\nafter 1000 fits: {after}")
    assert after["resident MB"] < before["resident MB"] + 15
    assert after["objects"] < before["objects"] * 1.01
    for name in ("files", "threads", "parameters of Pyro's"):
        assert after[name] == before[name], name
