"""The house holds its shape: floors, no circles, files of one idea."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from tests.printing import printed

ROOT = Path(__file__).resolve().parent.parent
#: Files over the limit, each with the reason.
LONG: dict[str, str] = {}
LIMIT, MEDIAN = 400, 140


@pytest.fixture(scope="module")
def floors() -> ModuleType:
    return printed("floors")


def test_no_import_goes_up_a_floor(floors):
    assert floors.climbing() == []


def test_no_two_files_import_each_other(floors):
    assert floors.circles() == []


def test_every_package_stands_on_a_floor(floors):
    rooms = {floors.package(module) for module in floors.files()} - {"zoo"}
    assert rooms == {name for names in floors.FLOORS for name in names}


def test_the_ground_floor_of_the_package_is_nearly_empty():
    flat = {path.name for path in (ROOT / "zoo").glob("*.py")} - {"__init__.py"}
    assert len(flat) <= 4, flat


def test_a_file_holds_one_idea(floors):
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in floors.files().values()
    }
    assert {name for name, lines in lengths.items() if lines > LIMIT} == set(LONG)
    assert statistics.median(lengths.values()) < MEDIAN


def test_models_are_all_that_is_listed_among_models():
    for path in (ROOT / "zoo" / "models").glob("*.py"):
        if path.name != "__init__.py":
            assert "\ndef tiny(" in path.read_text(encoding="utf-8"), f"{path.name} has no tiny()"


def test_the_picture_of_the_floors_is_of_today(floors):
    assert (ROOT / "docs" / "floors.svg").read_text(encoding="utf-8") == floors.drawn(), "run: python docs/floors.py"


def test_the_checks_see_a_climb_and_a_circle(floors, tmp_path):
    for name, text in {
        "zoo/__init__.py": "",
        "zoo/errors.py": "def f():\n    from zoo.core import data\n",
        "zoo/core/__init__.py": "",
        "zoo/core/data.py": "from zoo.errors import f\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert floors.climbing(tmp_path) == ["zoo.errors (errors) imports zoo.core.data (core)"]
    assert floors.circles(tmp_path) == [["zoo.core.data", "zoo.errors"]]


def test_the_names_for_type_checkers_are_of_today():
    names = printed("public_names")
    assert names.TARGET.read_text(encoding="utf-8") == names.stub(), "run: python docs/public_names.py"


#: What there is one of: words of code, and the one file that has them.
ONE_OF_EACH = {
    "json.dump": "zoo/storage/json.py",
    "mkdtemp(": "zoo/core/locks.py",
    "os.fsync(": "zoo/storage/folders.py",
    "iter_modules(": "zoo/core/found.py",
    "matplotlib.figure": "zoo/reporting/page.py",
    "rich.table": "zoo/reporting/tables.py",
    "rich.box": "zoo/reporting/tables.py",
    "pyplot as": None,
    "matplotlib.use(": None,
}


@pytest.mark.parametrize("words", ONE_OF_EACH)
def test_there_is_one_of_each(words, floors):
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in floors.files().values()}
    home = ONE_OF_EACH[words]
    assert {name for name, text in texts.items() if words in text} == (set() if home is None else {home})


def test_the_page_on_a_model_of_ones_own_is_of_today():
    page = printed("your_own_model")
    assert page.TARGET.read_text(encoding="utf-8") == page.page(), "run: python docs/your_own_model.py"
    assert set(page.OFFERS) <= set(re.findall(r"^\| `(\w+)\(", page.page(), re.M))
