"""The benchmark of trees: it runs, and where torch-struct is installed both systems do the same work."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import pcfg


def test_quick_run_returns_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = pcfg.run(quick=True)["rows"]
    assert row["zoo_ms"] > 0
    assert 0 < row["efficiency"] < 1
    assert "efficiency" in capsys.readouterr().out
    if importlib.util.find_spec("torch_struct") is not None:
        assert set(row["off_by"]) == {"value", "gradient", "marginals", "best_weight", "best_tree"}
        assert all(off < 1e-9 for off in row["off_by"].values())
