"""The benchmark of sequence models: it runs, and both systems do the same work."""

from __future__ import annotations

import pytest

from benchmarks import sequences


def test_quick_run_returns_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = sequences.run(quick=True)
    row = next(row for row in found["rows"] if row["model"] == "neural HMM")
    assert row["zoo_ms"] > 0
    assert 0 < row["near"] < 1
    assert row["off_by"]["value"] < 1e-6
    assert row["off_by"]["gradient"] < 1e-3
    assert found["growth"]["slope"] > 0
    assert found["deep_markov"][0]["difference"] < 1e-5
    assert "times faster" in capsys.readouterr().out
