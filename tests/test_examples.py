"""Every script in examples/ runs, returns finite figures, and draws a picture where --out says.

Small, but at full size with ZOO_EXAMPLES=full (``make examples``): then each also keeps to the time that it promises,
is not silent for long, and its pictures stay in the folder ZOO_PICTURES.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import math
import os
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
FULL = os.environ.get("ZOO_EXAMPLES") == "full"
#: Half a minute: it draws from three posteriors.
SLOW = {"posteriordb"}
#: Those that draw in every run of the tests; the others when the slow ones run.
DRAWN = {"boltzmann_machine", "factor_analysis", "hopfield_tsp", "poisson_mixture"}
#: Seconds of processor time: without a line, and beyond the promise by which a busy machine is slower.
SILENCE, SLACK = 10.0, 2.0

every_example = pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW)) for p in EXAMPLES]
)


class Stamped(io.StringIO):
    """A stream that is no terminal, and at which processor times whole lines came out of it."""

    def __init__(self, stamps: list[tuple[float, str]]) -> None:
        super().__init__()
        self.stamps, self.unread = stamps, ""

    def write(self, text: str) -> int:
        self.unread += text
        return super().write(text)

    def flush(self) -> None:
        if "\n" in self.unread:
            self.stamps.append((time.process_time(), self.unread.strip().splitlines()[-1]))
            self.unread = ""


def example(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def promised(path: Path) -> float:
    """The seconds that an example's first lines speak of."""
    found = re.search(r"in about (\d+) (seconds|minutes)\b", example(path).__doc__ or "")
    assert found is not None, f"{path.name} says nowhere that it takes 'in about N seconds' (or minutes)"
    return float(found[1]) * (60 if found[2] == "minutes" else 1)


def ran(path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run an example in an empty folder; at full size the longest silence and the time are held to what is promised."""
    stamps = [(time.process_time(), "the beginning")]
    out = Stamped(stamps)
    empty = folder / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", Stamped(stamps))
    metrics: dict[str, Any] = example(path).main([*arguments, *([] if FULL else ["--smoke"])])
    monkeypatch.undo()
    stamps.append((time.process_time(), "the end"))
    assert out.getvalue().strip()
    assert not list(empty.iterdir()), "an example writes files only where --out says"
    if FULL:
        silence, before, after = max((b - a, before, after) for (a, before), (b, after) in itertools.pairwise(stamps))
        assert silence < SILENCE, f"a line at least every ten seconds, not only {before!r} and then {after!r}"
        assert stamps[-1][0] - stamps[0][0] < SLACK * promised(path)
    return metrics


def check(metrics: dict[str, Any]) -> None:
    numbers = [value for value in metrics.values() if isinstance(value, (int, float))]
    assert numbers
    assert all(math.isfinite(value) for value in numbers)


@every_example
@pytest.mark.skipif(FULL, reason="at full size every example draws")
def test_example_runs_and_returns_finite_figures(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if path.stem in DRAWN:
        pytest.skip("it draws, below")
    check(ran(path, monkeypatch, tmp_path))


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem not in DRAWN)) for p in EXAMPLES],
)
def test_example_draws_a_picture(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import Image

    kind = "gif" if "gif" in (example(path).__doc__ or "") and path.stem != "hopfield_tsp" else "png"
    kept = os.environ.get("ZOO_PICTURES")
    place = (Path(kept).absolute() / path.stem if kept else tmp_path / "drawn") / f"picture.{kind}"
    place.parent.mkdir(parents=True, exist_ok=True)
    metrics = ran(path, monkeypatch, tmp_path, "--out", str(place))
    check(metrics)
    files = (p for p in place.parent.rglob("*") if p.is_file())
    pictures = [p for p in files if p.suffix in (".png", ".gif")]
    if not pictures and "skipped" in metrics:
        pytest.skip("its data are not at hand")
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            shades = image.convert("L").getextrema()
            assert min(image.size) >= 100
            assert shades[1] - shades[0] > 100, "more than paper"


def test_every_example_says_how_long_it_takes() -> None:
    for path in EXAMPLES:
        assert 5 <= promised(path) <= 300


def test_every_model_has_an_example() -> None:
    from zoo.models import model_classes

    assert set(model_classes()) <= {path.stem for path in EXAMPLES}
