"""The README's and the guide's sessions run as printed, and what they say exists does."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.printing import printed

README = Path(__file__).parent.parent / "README.md"
GUIDE = README.parent / "docs" / "guide.md"
INDEX = README.parent / "docs" / "index.md"


@pytest.mark.parametrize(("page", "many"), [(README, 7), (GUIDE, 15), (INDEX, 4)], ids=["README", "guide", "index"])
def test_sessions_print_what_they_say(page, many, monkeypatch):
    monkeypatch.chdir(README.parent)
    result = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > many
    assert result.failed == 0


def test_the_readme_is_read_in_a_minute():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120


def test_the_small_files_are_those_that_are_drawn():
    drawn = printed("../examples/data/draw")
    for name, draw in drawn.FILES.items():
        assert (drawn.HERE / name).read_text(encoding="utf-8") == draw(np.random.default_rng(0))


def test_every_line_for_the_shell_can_be_typed(tmp_path, monkeypatch, capfd):
    """In the order they stand, with a step or two where they would climb for long."""
    from zoo.cli import main

    text = GUIDE.read_text(encoding="utf-8")
    block = text[text.index("From the shell") : text.index("A mistake gets one line")]
    lines = [shlex.split(line.strip(), comments=True)[1:] for line in block.splitlines() if line.startswith("    zoo ")]
    assert len(lines) > 15
    (tmp_path / "examples").symlink_to(README.parent / "examples")
    monkeypatch.chdir(tmp_path)
    for words in lines:
        if words[0] in ("reproduce", "bench", "models", "--install-completion"):
            continue  # they have tests of their own
        few = {"fit": ["--no-report"], "compare": ["--no-gradients"]}.get(words[0], [])
        network = words[0] == "fit" and words[1] in ("vae", "conditional_vae", "discrete_sequence_vae")
        few += ["--set", "max_epochs=1"] if network else []
        words = [word.replace("=1..8", "=1..2") for word in words]
        if words[0] == "compare":
            few += ["--set", "max_epochs=5", "--set", "warmup=2", "--seeds", "1"]
            words = [word for i, word in enumerate(words) if "--seeds" not in words[max(i - 1, 0) : i + 1]]
        assert main([*words, *few]) == 0, (words, capfd.readouterr().err)


def test_every_model_is_in_the_table_and_every_file_named_exists():
    from zoo.models import model_classes

    text = README.read_text()
    for cls in model_classes().values():
        assert f"| `{cls.__name__}`" in text
    for page in (README, GUIDE, README.parent / "CONTRIBUTING.md"):
        for name in re.findall(r"(?:`|\()((?:tests|docs|examples|notebooks)/[\w./]+)[`)]", page.read_text()):
            if "NAME" not in name:
                assert (README.parent / name).exists(), name


def test_step_overheads_are_those_of_the_recorded_run():
    root = README.parent
    found = json.loads((root / "results" / "bench_step_overhead.json").read_text())["results"]["step_overhead"]
    steps, text = found["ms_per_step"], (root / "docs" / "bayes.md").read_text()
    assert f"Adam | {steps['pyro']:.2f} |" in text
    assert f"in torch | {steps['log_marginal']:.2f} |" in text
    assert f"`lax.scan` | {steps['numpyro']:.4f} |" in text
    assert f"once | {1e3 * found['compile_seconds']:.0f} |" in text


def test_every_recorded_run_is_on_its_page():
    made = printed("reproduced")
    assert made.TARGET.read_text(encoding="utf-8") == made.page(), "run: python docs/reproduced.py"


def test_the_tables_of_models_are_of_today():
    models = printed("models")
    assert README.read_text(encoding="utf-8") == models.page(), "run: python docs/models.py"
    assert models.SERVED.read_text(encoding="utf-8") == models.served(), "run: python docs/models.py"
    assert models.PRINTED.read_text(encoding="utf-8") == models.descriptions(), "run: python docs/models.py"


def test_guides_offers_what_its_files_offer():
    import guides

    files = (importlib.import_module(f"guides.{path.stem}") for path in (README.parent / "guides").glob("[!_]*.py"))
    offered = {name: getattr(module, name) for module in files for name in module.__all__}
    kinds = {name for name, kind in offered.items() if inspect.isclass(kind) and not issubclass(kind, Exception)}
    assert set(guides.__all__) == kinds


def test_type_checkers_see_the_models(monkeypatch):
    api = pytest.importorskip("mypy.api")
    monkeypatch.chdir(README.parent)
    told, _, _ = api.run(["-c", "import zoo; reveal_type(zoo.GaussianMixture); reveal_type(zoo.fit)"])
    assert "num_components: int" in told
    assert "-> zoo.models.gaussian_mixture.GaussianMixture" in told
    assert "-> zoo.runs.result.Fit" in told
