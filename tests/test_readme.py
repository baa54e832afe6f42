"""The README's sessions run as printed, and what it says exists does."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"


def test_sessions_print_what_the_readme_says():
    result = doctest.testfile(str(README), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 15
    assert result.failed == 0


def test_the_small_files_are_those_that_are_drawn():
    drawn = printed("../examples/data/draw")
    for name, draw in drawn.FILES.items():
        assert (drawn.HERE / name).read_text(encoding="utf-8") == draw(np.random.default_rng(0))


def test_every_line_for_the_shell_can_be_typed(tmp_path, monkeypatch, capfd):
    """In the order they stand, with a step or two where they would climb for long."""
    from zoo.cli import main

    text = README.read_text(encoding="utf-8")
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
    for name in re.findall(r"`((?:tests|docs|examples)/[\w./]+)`", text):
        assert (README.parent / name).exists(), name


def test_speed_figures_are_those_of_the_recorded_runs():
    results = README.parent / "results"
    mixture = json.loads((results / "bench_gaussian_mixture.json").read_text())["results"]["gaussian_mixture"][
        "systems"
    ]
    chain = json.loads((results / "bench_hmm.json").read_text())["results"]["hmm"]
    expected = [("scikit-learn", mixture["scikit-learn"]["ratio"]), ("pomegranate", mixture["pomegranate"]["ratio"])]
    for part in chain["em"]:
        ratios = {name: system["ratio"] for name, system in part["systems"].items()}
        expected += [("hmmlearn", min(ratios["hmmlearn scaling"], ratios["hmmlearn log"]))]
        expected += [("dynamax", ratios["dynamax"])]
    expected += [(name, chain["gradient"]["systems"][name]["ratio"]) for name in ("DiscreteHMM", "TraceEnum_ELBO")]
    text = README.read_text()
    table = text[text.index("## Speed") : text.index("## Notation")]
    found = re.findall(r"\| (scikit-learn|pomegranate|hmmlearn|dynamax|DiscreteHMM|TraceEnum_ELBO) ([\d.]+)", table)
    assert found == [(name, f"{ratio:.1f}") for name, ratio in expected]
    systems = chain["em"][1]["systems"]
    slow = chain["auto_em"]["generic_seconds"] / systems["ours"]["median"]
    assert f"recognised {systems['auto_em']['ratio']:.1f} | not recognised {slow:.0f} |" in table


def test_vae_step_is_that_of_the_recorded_run():
    found = json.loads((README.parent / "results" / "bench_vae.json").read_text())["results"]["vae"]["systems"]
    text = README.read_text().replace("\n", " ")
    assert f"takes {found['zoo svi']['ratio_to_hand']:.2f} of the time of the same network" in text
    assert f"takes {found['pyro.infer.SVI']['ratio_to_ours']:.2f} of ours" in text
    theirs = found["pythae's trainer"]["ratio_to_ours"]
    assert f"pythae's trainer takes {theirs:.2f} of ours" in text
    ratio = found["Pyro's ELBO module"]["ratio_to_ours"]
    assert f"in a loop of one's own {ratio:.2f}." in text


def test_sums_and_steps_of_sequences_are_those_of_the_recorded_runs():
    names = ("ctc", "pcfg", "sequences")
    found = {
        name: json.loads((README.parent / "results" / f"bench_{name}.json").read_text())["results"][name]
        for name in names
    }
    text = README.read_text().replace("\n", " ")
    single = [row["times_faster"] for row in found["ctc"]["rows"] if row["dtype"] == "float32"]
    assert f"take 1/{single[0]:.1f} of the time of torch's `ctc_loss`" in text
    assert f"and 1/{single[1]:.1f} at 1000 × 8" in text
    trees = [row["times_faster"] for row in found["pcfg"]["rows"]]
    assert f"take 1/{trees[0]:.1f} and 1/{trees[1]:.1f} of torch-struct's at 20 and 40 words" in text
    chain = next(row["times_faster"] for row in found["sequences"]["rows"] if row["states"] == 512)
    step = found["sequences"]["deep_markov"][0]
    assert f"takes 1/{chain:.1f} of a forward algorithm in torch" in text
    assert f"of a deep Markov model {step['zoo_ms'] / step['pyro_ms']:.2f} of the time" in text


def test_images_a_second_are_those_of_the_recorded_run():
    found = json.loads((README.parent / "results" / "bench_rbm.json").read_text())["results"]["rbm"]
    text, times = README.read_text().replace("\n", " "), found["times_faster_than"]
    assert f"goes through {times['torch_loop']:.2f} times as many images a second as a plain torch loop" in text
    assert f"{times['sklearn_float64']:.2f} and {times['sklearn_float32']:.2f} times as many as scikit-learn's" in text
    assert f"at {100 * found['share_of_floor']:.0f} % of what the products" in text


def test_step_overheads_are_those_of_the_recorded_run():
    root = README.parent
    found = json.loads((root / "results" / "bench_step_overhead.json").read_text())["results"]["step_overhead"]
    steps, text = found["ms_per_step"], (root / "docs" / "bayes.md").read_text()
    assert f"Adam | {steps['pyro']:.2f} |" in text
    assert f"in torch | {steps['log_marginal']:.2f} |" in text
    assert f"`lax.scan` | {steps['numpyro']:.4f} |" in text
    assert f"once | {1e3 * found['compile_seconds']:.0f} |" in text


def test_published_tables_are_those_of_the_recorded_runs():
    text = README.read_text()
    part = text[text.index("## Published tables") : text.index("## Speed")]
    rows = re.findall(
        r"^\| `(\w+)`(, full)? \| (.+?) \| (-?[\d.]+) \| (-?[\d.]*) \| (.*?) \|$", part, flags=re.MULTILINE
    )
    assert len(rows) > 10
    for table, full, name, value, theirs, note in rows:
        budget = "full" if full else "quick"
        record = json.loads((README.parent / "results" / f"reproduce_{table}_{budget}.json").read_text())
        row = next(r for r in record["rows"] if r["name"] == name)
        assert (value, note) == (f"{row['value']:.3f}", row.get("note", ""))
        # What is known by hearsay only is no published figure.
        published = {
            p["name"]: f"{p['value']:.2f}" for p in record["published"] if "value" in p and "recalled" not in str(p)
        }
        assert theirs == published.get(name, "")


def test_every_recorded_run_is_on_its_page():
    made = printed("reproduced")
    assert made.TARGET.read_text(encoding="utf-8") == made.page(), "run: python docs/reproduced.py"


def printed(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", README.parent / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_models_are_of_today():
    models = printed("models")
    assert README.read_text(encoding="utf-8") == models.page(), "run: python docs/models.py"
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
