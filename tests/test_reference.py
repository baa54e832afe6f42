"""What the API pages say: every public name explains its arguments, says what it raises, gives shapes and a source.

What a function raises is read off its code: its own ``raise`` of a ZooError, that of a private helper, and, where pages
show it, that of a function that it calls outside of any ``try``. Names are found, none is listed.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zoo
from zoo.core.contract import LatentVariableModel
from zoo.core.offers import ARGUMENTS, OFFERS
from zoo.estimators import estimator_classes
from zoo.models import model_classes

EXTENSIONS = Path(__file__).parent.parent / "docs" / "_extensions"
SECTIONS = ("Args", "Attributes", "Shapes", "Args of every method", "Args of every subclass", "Raises", "Example")
#: Of a shape: "(N,)", "(..., K)", "(num_samples, N, T)", "(M, 1 + D)", "()".
SIZE = r"(?:\.\.\.|\*?\w+'?(?: ?[-+*/^] ?\w+)*)"
SHAPE = re.compile(rf"\((?:{SIZE},|{SIZE}(?:, {SIZE})+|\.\.\.|)\)")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
#: What cannot meet the error of what it calls: it passes on the model's own names alone.
CANNOT = {"zoo.bayes.draws.Draws.inference_data"}
#: Of every class of Python's, of every distribution of torch's.
COMMON = {"self", "cls", "args", "kwargs", "validate_args"}


def extension() -> Any:
    """What writes the API pages."""
    sys.path.insert(0, str(EXTENSIONS))
    try:
        return importlib.import_module("reference")
    finally:
        sys.path.remove(str(EXTENSIONS))


@functools.cache
def shown() -> dict[str, Any]:
    """What the API pages and the models' pages show, by whole name; of classes with pages of members these too."""
    reference = extension()
    whole = [getattr(zoo, name) for name in zoo.__all__]
    whole += [getattr(importlib.import_module(m), name) for m, names in reference.PARTS.items() for name in names]
    for _, name in reference.MODULES.values():
        module = importlib.import_module(name)
        whole += [getattr(module, each) for each in module.__all__]
    made = [*model_classes().values(), *estimator_classes().values()]
    alone = [*made, *reference.bases(made, {LatentVariableModel})]
    found = {named(thing): thing for thing in [*whole, *alone] if ours(thing)}
    for cls in filter(inspect.isclass, whole):
        found |= {named(member): member for base in own_bases(cls) for member in members(base)}
    return found


@functools.cache
def inner() -> dict[str, Any]:
    """The methods of models and estimators, which the library calls: pages have them as what a model offers."""
    made = [*model_classes().values(), *estimator_classes().values()]
    found = {named(member): member for cls in made for base in own_bases(cls) for member in members(base)}
    return {name: thing for name, thing in found.items() if name not in shown()}


def ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in ("zoo", "guides")


def named(thing: Any) -> str:
    function = function_of(thing)
    return f"{function.__module__}.{function.__qualname__}"


def function_of(thing: Any) -> Any:
    """A function behind a property, a class method or decorators; a class as it is."""
    return inspect.unwrap(thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing))


def own_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if ours(base)]


def members(cls: type) -> Iterator[Any]:
    for name, value in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property | classmethod)):
            yield value


def class_of(thing: Any) -> type | None:
    """The class of a method or property; None of other things."""
    if inspect.isclass(thing):
        return None
    function = function_of(thing)
    name = function.__qualname__.rpartition(".")[0]
    return getattr(sys.modules[function.__module__], name) if name else None


def doc(thing: Any) -> str:
    """A thing's own docstring; without one that of what it overrides in the house, as the pages have it."""
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "") or next(iter(overridden(thing)), "")


def overridden(thing: Any) -> list[str]:
    cls, name = class_of(thing), function_of(thing).__name__
    bases = own_bases(cls)[1:] if cls is not None else []
    texts = [vars(base)[name].__doc__ for base in bases if name in vars(base)]
    return [inspect.cleandoc(text) for text in texts if text]


def is_torchs(thing: Any) -> bool:
    """Whether a method overrides one of torch's or Pyro's, which say what its arguments are."""
    cls, name = class_of(thing), function_of(thing).__name__
    return cls is not None and any(name in vars(base) for base in cls.__mro__ if not ours(base))


def sections(text: str) -> dict[str, str]:
    """The text of each section, and "" what stands outside of them."""
    found: dict[str, list[str]] = {}
    place = ""
    for line in text.splitlines():
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            place = line[:-1]
        else:
            place = place if not line or line.startswith(" ") else ""
            found.setdefault(place, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def entries(text: str, places: tuple[str, ...] = SECTIONS[:5]) -> str:
    found = sections(text)
    return "\n".join(found.get(place, "") for place in places)


def is_entry(name: str, text: str) -> bool:
    """Whether a section says what a name is: "name: ...", also in a row, "rows, columns: ... name: ..."."""
    return re.search(rf"(?:^|[.;,] |\s)\*{{0,2}}{name}(?:, \w+)*(?: \([^)]*\))?:", text) is not None


# Arguments ------------------------------------------------------------------------------------------------------------


def unexplained(thing: Any) -> list[str]:
    """Arguments of which neither the docstring, nor those that it inherits from, nor the class's sections speak."""
    if isinstance(thing, property) or not callable(function_of(thing)) or is_torchs(thing):
        return []
    cls, text = class_of(thing), doc(thing)
    around = [text, *overridden(thing)]
    for base in own_bases(cls or (thing if inspect.isclass(thing) else object)):
        around.append(inspect.cleandoc(base.__doc__ or ""))
    said = "\n".join(entries(each) for each in around)
    try:
        signature = inspect.signature(function_of(thing))
    except ValueError:  # of an exception without a constructor of its own
        return []
    arguments = [a for a in signature.parameters if not a.startswith("_") and a not in COMMON]
    known = ARGUMENTS if cls is not None and issubclass(cls, LatentVariableModel) else {}
    return [a for a in arguments if a not in known and not is_entry(a, said) and not in_prose(a, text)]


def in_prose(name: str, text: str) -> bool:
    """Whether a sentence takes an argument by its name: in code quotes, or with its shape, "x (N, D)"; where there
    is no section of arguments, by any word."""
    found = sections(text)
    word = rf"``{name}``|\b{name} \(" if "Args" in found or len(name) < 5 else rf"\b{name}\b"
    return re.search(word, found.get("", "")) is not None


def test_every_argument_is_explained() -> None:
    lacking = {name: missing for name, thing in {**inner(), **shown()}.items() if (missing := unexplained(thing))}
    assert not lacking
    assert len(shown()) > 300
    assert len(inner()) > 500


# Errors ---------------------------------------------------------------------------------------------------------------


@functools.cache
def definitions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions and methods of a file, by qualified name; of a property its getter."""
    found: dict[str, ast.FunctionDef] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        inner = [(f"{node.name}.", each) for each in node.body] if isinstance(node, ast.ClassDef) else [("", node)]
        for prefix, each in inner:
            if isinstance(each, ast.FunctionDef):
                found.setdefault(prefix + each.name, each)
    return found


def names_of(node: ast.expr, module: str, cls: type | None) -> Any:
    """What of the house an expression in a function names: f, module.f, self.f; None where it is something else."""
    inside = sys.modules[module]
    if isinstance(node, ast.Name):
        return getattr(inside, node.id, None)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = cls if node.value.id in ("self", "cls") else getattr(inside, node.value.id, None)
        return inspect.getattr_static(owner, node.attr, None) if owner is not None else None
    return None


def raises(function: Any, cls: type | None = None, depth: int = 1, seen: tuple[Any, ...] = ()) -> bool:
    """Whether the code of a function raises a ZooError: itself, by a private helper, or by calls ``depth`` deep.

    Args:
        cls: what ``self`` is. seen: the functions that it is called from.
    """
    module = getattr(function, "__module__", None)
    node = definitions(module).get(function.__qualname__) if module in sys.modules and ours(function) else None
    if node is None:
        return False
    caught = {id(part) for each in ast.walk(node) for body in guarded(each) for part in ast.walk(body)}
    for part in ast.walk(node):
        if id(part) in caught:
            continue
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
            made = names_of(part.exc.func, module, cls)
            if made is zoo.ZooError or "ZooError" in str(getattr(made, "__annotations__", {}).get("return")):
                return True
        called = part.func if isinstance(part, ast.Call) else part if isinstance(part, ast.Attribute) else None
        other = names_of(called, module, cls) if called is not None else None
        if other is None or inspect.isclass(other) or (called is part and not isinstance(other, property)):
            continue
        behind = function_of(other)
        private, own = (
            getattr(behind, "__name__", "").startswith("_"),
            ast.unparse(called).startswith(("self.", "cls.")),
        )
        if not ours(behind) or behind in seen or not (private or (depth and not own)):
            continue  # a public method says by itself what it raises
        mine = cls if own else None
        if (not own and tells(other)) or raises(behind, mine, depth if private else 0, (*seen, function)):
            return True
    return False


def guarded(node: ast.AST) -> list[ast.stmt]:
    """Statements whose errors are caught."""
    if isinstance(node, ast.Try) and any(
        handler.type is None or re.search("ZooError|ValueError|Exception", ast.unparse(handler.type))
        for handler in node.handlers
    ):
        return node.body
    if isinstance(node, ast.With) and "suppress" in ast.unparse(node.items[0].context_expr):
        return node.body
    return []


def tells(thing: Any) -> bool:
    return "ZooError:" in sections(doc(thing)).get("Raises", "")


def silent(thing: Any) -> bool:
    """Whether a thing may raise a ZooError and does not say so; a class by its constructor, its own or inherited."""
    if not inspect.isclass(thing):
        return raises(function_of(thing), class_of(thing)) and not tells(thing)
    begun = [
        raises(vars(base)[name], base)
        for base in own_bases(thing)
        for name in ("__init__", "__post_init__")
        if inspect.isfunction(vars(base).get(name))
    ]
    return any(begun) and not any(map(tells, own_bases(thing)))


def test_what_can_raise_says_so() -> None:
    lacking = {name for name, thing in shown().items() if silent(thing)}
    assert lacking == CANNOT
    for name, thing in inner().items():
        told = tells(thing) or any("ZooError:" in text for text in overridden(thing))
        assert told or not raises(function_of(thing), class_of(thing), depth=0), name
    assert sum(map(tells, shown().values())) > 100


# Shapes and sources ---------------------------------------------------------------------------------------------------


def shapeless(thing: Any) -> bool:
    """Whether a function takes or gives tensors, and nothing says of which shape."""
    if inspect.isclass(thing) or "Tensor" not in str(function_of(thing).__annotations__):
        return False
    cls, name = class_of(thing), function_of(thing).__name__
    texts = [doc(thing), *overridden(thing)]
    if cls is not None and is_torchs(thing):
        texts += [base.__doc__ or "" for base in own_bases(cls)]  # torch says how they go together
    texts += [OFFERS[name].says] if name in OFFERS else []
    return not any(SHAPE.search(text) for text in texts)


def test_shapes_are_given_wherever_tensors_come_or_go() -> None:
    lacking = [name for name, thing in shown().items() if callable(function_of(thing)) and shapeless(thing)]
    assert not lacking


def test_every_model_has_shapes_and_a_source() -> None:
    for name, cls in model_classes().items():
        shapes = [entries(inspect.cleandoc(base.__doc__ or ""), ("Shapes",)) for base in own_bases(cls)[:-1]]
        assert SHAPE.search("\n".join(shapes)), name
        assert YEAR.search(getattr(cls, "reference", "")), f"{name}: no paper or textbook, with a year"


def test_every_estimator_has_a_source() -> None:
    lacking = [name for name, cls in estimator_classes().items() if not YEAR.search(cls.__doc__ or "")]
    assert not lacking


# On the page ----------------------------------------------------------------------------------------------------------


def test_what_shares_a_line_has_one_of_its_own_on_the_page() -> None:
    lines = ["Rows: N. x: D.", "Args:", "    rows: N. columns: D. None: any.", "        All. seed: of them."]
    extension().apart(None, "class", "zoo.Some", None, None, lines)
    assert lines == [
        *(
            "Rows: N. x: D.",
            "Args:",
            "    rows: N\\.",
            "    columns: D\\. None: any.",
            "        All.",
            "    seed: of them.",
        ),
    ]
