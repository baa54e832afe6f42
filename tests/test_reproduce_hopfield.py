"""The table of Hopfield networks, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.reproduce import hopfield, reproduce


def test_the_table_runs_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(hopfield.SETTINGS, "quick", hopfield.Setting(((200, 2),), (0.138, 0.4)))
    done = reproduce("hopfield", say=lambda line: None)
    found = {row["name"]: row["value"] for row in done.record["rows"]}
    assert found[hopfield.held(200, "hebbian")] == found[hopfield.held(200, "pseudo_inverse")] == 1
    assert 0 < found[hopfield.named(200, "hebbian", 0.138)] < 0.1 < found[hopfield.named(200, "hebbian", 0.4)]
    assert found[hopfield.named(200, "pseudo_inverse", 0.4)] == 0
    assert found[hopfield.named(200, "storkey", 0.4)] < found[hopfield.named(200, "hebbian", 0.4)] / 5
    published = {row["name"]: row["value"] for row in done.record["published"]}
    assert published[hopfield.held(200, "hebbian")] == 1
    assert "9 patterns, N / (4 ln N)" in hopfield.held(200, "hebbian")
    assert published[hopfield.named(200, "hebbian", 0.12)] == pytest.approx(0.0034, abs=1e-4)
    assert done.save(tmp_path / "a.json").with_suffix(".png").stat().st_size > 10_000
