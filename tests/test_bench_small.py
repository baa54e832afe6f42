"""The benchmark of small data, busy machines and the first second: its parts run and find the same optima."""

from __future__ import annotations

import pytest
import torch

from benchmarks import _busy, _climbs, _first_second, _mixture_types, _restarts, small
from benchmarks._turns import in_turns, summary


def test_systems_take_turns_and_the_first_are_not_counted() -> None:
    calls: list[str] = []
    seconds = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    rows = summary({"a": [1.0, 2.0, 4.0], "b": [6.0]}, "a")
    assert rows["a"]["median"] == 2
    assert rows["a"]["quartiles"] == [1.5, 3]
    assert rows["b"]["ratio"] == 3


def test_restarts_find_what_the_peers_find() -> None:
    found = _restarts.measure(1, 2)
    assert set(found) == {"iris", "earthquakes", "wine"}
    for problem in ("iris", "wine"):  # hmmlearn's two random starts need not
        zoo, peer = (found[problem][name]["log_likelihood"] for name in ("zoo", "scikit-learn"))
        assert zoo == pytest.approx(peer, abs=0.05)


def test_types_of_covariance_are_started_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    found = _mixture_types.measure(x, x[:2].clone(), 1)
    assert set(found) == {"full", "tied", "diag", "spherical"}
    for systems in found.values():
        values = {name: row["log_likelihood"] for name, row in systems.items()}
        assert values["zoo"] == pytest.approx(values["scikit-learn"], abs=1e-12)
        assert values["zoo float32"] == pytest.approx(values["zoo"], abs=1e-5)


def test_busy_processes_end() -> None:
    with _busy.busy() as count:
        pass
    assert count >= 1


@pytest.mark.slow
def test_a_whole_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    """All sections, processes from their start and gradient fits among them."""
    pytest.importorskip("hmmlearn")
    found = small.run(quick=True)
    assert set(found["climbs"]["times_faster_than_adam"]) == {"eg", "svi"}
    assert set(found["first_second"]["seconds"]) == set(_first_second.COMMANDS)
    assert found["steps"]["ms_a_step"]["zoo svi"] > 0
    assert _climbs.STEPS > 0
    assert "From the start of a process" in capsys.readouterr().out
