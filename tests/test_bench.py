"""``zoo bench``: what it records, and what is left where it is stopped."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import small
from benchmarks._parts import keeping, kept
from zoo.cli import main
from zoo.core.machine import machine

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a run in the place of that of ``zoo bench ctc``."""

    def place(run: Run) -> None:
        module = ModuleType("toy")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "benchmarks.ctc", module)

    return place


def test_a_part_is_written_as_soon_as_it_is_measured(toy: Callable[[Run], None], tmp_path: Path) -> None:
    out, part = tmp_path / "deep" / "ctc.json", tmp_path / "deep" / "ctc.part.json"
    seen = []

    def run(quick: bool) -> dict[str, Any]:
        assert quick
        for name, ratio in (("one", 2.0), ("two", 3.0)):
            assert kept(name, {"ratio": ratio}) == {"ratio": ratio}
            seen.append(json.loads(part.read_text()))
        assert not out.exists()
        return {"whole": 1}

    toy(run)
    assert main(["bench", "ctc", "--quick", "--out", str(out)]) == 0
    assert [each["results"]["ctc"] for each in seen] == [
        {"one": {"ratio": 2.0}},
        {"one": {"ratio": 2.0}, "two": {"ratio": 3.0}},
    ]
    record = json.loads(out.read_text())
    assert record == {**seen[0], "results": {"ctc": {"whole": 1}}}
    assert record["command"] == "zoo bench ctc --quick"
    assert [path.name for path in out.parent.iterdir()] == ["ctc.json"]
    assert main(["bench", "ctc", "--quick", "--out", str(tmp_path / "ctc.txt")]) == 2


def test_what_was_measured_outlives_a_stop(
    toy: Callable[[Run], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ctc.json"
    out.write_text("an earlier record")

    def run(quick: bool) -> dict[str, Any]:
        kept("one", 2.0)
        raise KeyboardInterrupt

    toy(run)
    assert main(["bench", "ctc", "--out", str(out)]) == 130
    assert capfd.readouterr().err == f"zoo: interrupted; what was measured is in {tmp_path / 'ctc.part.json'}.\n"
    assert json.loads((tmp_path / "ctc.part.json").read_text())["results"] == {"ctc": {"one": 2.0}}
    assert out.read_text() == "an earlier record"
    assert main(["bench", "ctc"]) == 130
    assert "before there was anything to save" in capfd.readouterr().err


def test_parts_of_the_small_benchmark_are_kept_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in (("_climbs", "climbs"), ("_restarts", "measure"), ("_climbs", "steps")):
        monkeypatch.setattr(getattr(small, name), function, lambda *_, told=function: told)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(small._busy, "measure", stop)
    told = dict[str, Any]()
    with keeping(told.__setitem__), pytest.raises(KeyboardInterrupt):
        small.run()
    assert told == {"climbs": "climbs", "restarts": "measure", "steps": "steps"}


def test_a_record_names_the_processor() -> None:
    found = machine()
    assert found["python"] == platform.python_version()
    assert found["cores"] >= 1
    told = Path("/proc/cpuinfo")
    if told.exists() and "model name" in told.read_text():
        assert f": {found['processor']}\n" in told.read_text()
    else:
        assert found["processor"] in (platform.processor(), platform.machine())
