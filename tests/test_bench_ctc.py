"""The benchmark of alignments: it runs, and both systems do the same work."""

from __future__ import annotations

import pytest
import torch

from benchmarks import ctc


def test_quick_run_returns_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = ctc.run(quick=True)
    assert [row["dtype"] for row in found["rows"]] == ["float32", "float64"]
    for row in found["rows"]:
        assert row["times_faster"] == row["torch_ms"] / row["zoo_ms"]
        assert row["off_by"]["value"] < 1e-6
        assert row["off_by"]["gradient"] < 1e-5
    assert found["rows"][1]["off_by"]["gradient"] < 1e-9
    assert all(row["finite"] and row["off_by"]["value"] < 1e-6 for row in found["hard"])
    assert "times faster" in capsys.readouterr().out


def test_both_systems_do_the_same_work() -> None:
    logits, targets = ctc.make_data(ctc.Shape(12, 3, 4, 5))
    for ours, theirs in zip(ctc.ours(logits, targets), ctc.theirs(logits, targets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not ctc.ours(logits, targets)[1].equal(torch.zeros_like(logits))
