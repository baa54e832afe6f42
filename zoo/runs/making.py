"""What a person says for a model and data, made into a model and data: names, classes, paths of files."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.core.contract import LatentVariableModel
from zoo.core.data import as_data, at_hand, call
from zoo.core.duplicates import duplicate
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.places import read_from
from zoo.core.schema import Schema
from zoo.core.streams import Stream
from zoo.core.unsized import Unsized
from zoo.data.opening import Streamed, opened
from zoo.errors import ELSEWHERE, ZooError, unknown_name, warn_caller
from zoo.estimators import option_names
from zoo.models import find_model

__all__ = ["check_told", "is_source", "made", "one_column"]


#: The fewest columns of a table that are taken for the pixels of an image.
PIXELS = 64


def made(model: Any, x: Any, options: dict[str, Any], guide: Callable[..., Any] | None = None) -> tuple[Any, Any]:
    """A model and its data, of a name or a class and the path of a file.

    Args:
        model: a model, a program; the name of a model of the zoo, a class, or one whose sizes are open: its sizes are
            then read off the data.
        x: data, or a path or name that :func:`zoo.load_data` knows.
        options: of these, arguments of the class are taken out.

    Raises:
        ZooError: a name that is not known; arguments or a file that cannot be read.
    """
    kind = find_model(model) if isinstance(model, str) else model
    declared = kind.kind if isinstance(kind, Unsized) else kind
    names: tuple[str, ...] | None = None
    x = opened(x, pair=bool(_kind_of(declared).fields.given), measured=True)
    if isinstance(x, Path) or (isinstance(x, str) and is_source(x, declared)):
        x, names = _read(x, declared)
        if callable(kind) and not inspect.isclass(kind) and not isinstance(x, Stream):
            x = one_column(kind, guide, x)
    if isinstance(kind, Unsized):
        return _named(kind.from_data(as_data(at_hand(x), symbols=declared.takes_symbols)), names), x
    if not (inspect.isclass(kind) and issubclass(kind, LatentVariableModel)):
        _refuse_arguments(kind, options)
        return _named(duplicate(kind), names) if names and isinstance(kind, LatentVariableModel) else kind, x
    known = inspect.signature(kind).parameters
    arguments = {ELSEWHERE.get(name, name): name for name in options if ELSEWHERE.get(name, name) in known}
    for name, word in arguments.items():
        if word != name:
            raise ZooError(f"{kind.__name__}: argument {word!r} is not known. Did you mean {name!r}?")
    taken = {name: options.pop(name) for name in arguments}
    for name in options.keys() - option_names():
        if difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise unknown_name(f"{kind.__name__}: argument", name, known)
    return _named(kind.from_data(as_data(at_hand(x), symbols=kind.takes_symbols), **taken), names), x


def _named(model: Any, names: tuple[str, ...] | None) -> Any:
    """The model, knowing what the columns of its data are called, where they are no frame that says so."""
    if names:
        model.schema = Schema({"": names}, None if model.schema is None else model.schema.symbols)
    return model


def _kind_of(declared: Any) -> Any:
    """What says which data are taken: a model or its class; the base class where it is a function."""
    return declared if isinstance(declared, LatentVariableModel) or inspect.isclass(declared) else LatentVariableModel


def is_source(text: str, declared: Any) -> bool:
    """Whether a text says where data are; a model of symbols takes any other for the symbols themselves."""
    from zoo.data import list_data

    named = Path(text).suffix or any(text == info.name for info in list_data())
    return bool(named) or not _kind_of(declared).takes_symbols


def _read(path: str | Path, declared: Any) -> tuple[Any, tuple[str, ...] | None]:
    """A file or named set as the model takes it: a data frame where columns have names; of sequences these apart."""
    from zoo.data import read

    kind = _kind_of(declared)
    prose = kind.takes_sentences and str(path).lower().removesuffix(".gz").endswith(".txt")
    try:
        loaded = read(
            path,
            symbols=kind.takes_symbols,
            sentences=prose,
            vocabulary=kind.vocabulary if prose else None,
            measured=True,
        )
    except ZooError as error:
        if type(error) is not ZooError or not re.search(r"\b(columns|decimal|sequence|time)=", str(error)):
            raise
        raise ZooError(f"{error} So loaded: x=zoo.load_data({str(path)!r}, ...).") from None
    read_from(loaded.line_of)
    check_told(kind, loaded, "zoo.load_data(..., targets=...)")
    if loaded.aside:
        keep = f"keep {', '.join(loaded.aside)} with x=zoo.load_data(...)"
        warn_caller(f"{Path(path).name}: {loaded.told}; {keep}")
    if (
        isinstance(loaded, Streamed)
        or loaded.names is None
        or loaded.lengths is not None
        or loaded.targets is not None
        or loaded.x.ndim != 2
    ):
        return loaded.data, loaded.names if loaded.lengths is not None else None
    import pandas

    return pandas.DataFrame(loaded.x, columns=list(loaded.names)), None


def check_told(kind: Any, loaded: Any, how: str) -> None:
    """Refuse a table whose columns are not told apart, for a model of y given x: it is no image to be cut in two.

    Args:
        loaded: what :func:`zoo.data.read` gives.
        how: what says which columns are y.
    """
    given, names = kind.fields.given, loaded.names
    if not given or names is None or loaded.targets is not None or loaded.lengths is not None:
        return
    stems = {re.sub(r"\d+", "", name) for name in names}
    if len(names) < PIXELS or len(stems) > 1:  # pixels are many, and numbered
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ZooError(
            f"{kind.__name__ if inspect.isclass(kind) else type(kind).__name__}: data expected columns of x and of y, "
            f"got {shown} as one. Say which are y: {how}."
        )


def _refuse_arguments(model: Any, options: dict[str, Any]) -> None:
    """An argument of the model among the options of its fit: it is set where the model is made."""
    if not isinstance(model, LatentVariableModel):
        return
    names = inspect.signature(type(model)).parameters
    for name in options:
        argument = ELSEWHERE.get(name, name)
        if argument in names and argument not in option_names():
            raise ZooError(
                f"{name} expected where the model is made, got it at the fit. "
                f"Make it with {type(model).__name__}({argument}=...)."
            )


def one_column(model: Any, guide: Callable[..., Any] | None, x: Any) -> Any:
    """A table of one column as a vector, for a user's program that takes one: it is tried, and else left a column."""
    from pyro import poutine

    base = duplicate(as_model(model, guide))
    kind = type(base)
    sized = "num_features" in inspect.signature(kind).parameters or kind.__module__.startswith("zoo.models")
    if (base.trusted and sized) or getattr(x, "ndim", 0) != 2 or x.shape[1] != 1:
        return x
    vector = as_data(x).reshape(-1)
    with isolated(0):
        try:
            base.initialize(base.validate(vector), "current")
            poutine.trace(lambda: call(base.model, vector)).get_trace().compute_log_prob()
        except Exception:  # the program is the user's: whatever it says, it does not take a vector
            return x
    return vector
