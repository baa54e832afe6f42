"""What MODEL and --guide name: a class of the zoo, or a class or function of a user's file; and how it is built."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, unknown_name

__all__ = ["arguments_of", "build_model", "find", "listed", "load_object", "read_off"]

#: Modules made of users' files are named so; an error raised in one is the user's.
USER_MODULE = "_zoo_user_"


def find(spec: str) -> Any:
    """What MODEL names: a class of the zoo, or a class, function or module of a user's file."""
    path, _, _ = _split(spec)
    if path is not None:
        return load_object(spec, "model")
    from zoo.models import find_model

    return find_model(spec)


def _split(spec: str) -> tuple[Path | None, str, str]:
    """(path, name, text) of ``file.py:Name``; no path where it is a plain name."""
    head, colon, name = spec.rpartition(":")
    if colon and head.endswith(".py"):
        return Path(head), name, spec
    if spec.endswith(".py") or os.sep in spec:
        return Path(spec), "", spec
    return None, spec, spec


def load_object(spec: str, kind: str) -> Any:
    """A model or guide from a user's file, which is run once for both."""
    path, name, _ = _split(spec)
    if path is None or path.suffix != ".py":
        raise ZooError(f"--{kind} expected path/to/file.py:name, got {spec!r}. Name a file that ends in .py.")
    module = _run_file(path)
    if name:
        if not hasattr(module, name):
            public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise (
                unknown_name(f"name in {path}", name, public)
                if public
                else ZooError(
                    f"{path}: expected {name!r} in it, got a file without functions and classes. Define it there."
                )
            )
        return getattr(module, name)
    candidates = _candidates(module, kind)
    if len(candidates) != 1:
        got = ", ".join(candidates) or "none"
        example = next(iter(candidates), "name")
        raise ZooError(f"{path}: expected one {kind} in it, got {got}. Say which: {path}:{example}.")
    return next(iter(candidates.values()))


def _candidates(module: Any, kind: str) -> dict[str, Any]:
    import inspect

    from zoo.core.contract import LatentVariableModel

    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
    if kind == "model":
        classes = {n: v for n, v in own.items() if inspect.isclass(v) and issubclass(v, LatentVariableModel)}
        if classes:
            return classes
    functions = {n: v for n, v in own.items() if inspect.isfunction(v) and not n.startswith("_")}
    named = {n: v for n, v in functions.items() if ("guide" in n) == (kind == "guide") and n != "main"}
    exact = {n: v for n, v in named.items() if n == kind}
    return exact or named


def _run_file(path: Path) -> Any:
    import importlib.util

    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1, cutoff=0.5)
        hint = f"Did you mean {str(path.parent / near[0])!r}?" if near else "Correct the path."
        raise ZooError(f"model file expected at {str(path)!r}, but there is none. {hint}")
    full = path.resolve()
    name = f"{USER_MODULE}{full.stem}_{abs(hash((str(full), full.stat().st_mtime_ns)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(full.parent))  # as for a script: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        del sys.modules[name]
        where = f"line {error.lineno}" if error.filename == str(full) else f"{error.filename}, line {error.lineno}"
        raise ZooError(
            f"{path} expected to be Python, got a syntax error in {where}: {error.msg}. Correct it."
        ) from None
    except BaseException as error:
        del sys.modules[name]
        lines = _lines_in(error, str(full))
        where = f" in line {lines[-1]}" if lines else ""
        raise ZooError(f"{path} failed{where}: {type(error).__name__}: {error}. Run it by itself first.") from error
    finally:
        sys.path.remove(str(full.parent))
    from zoo.core.parcels import carry

    carry(module, str(full.parent))
    return module


def _lines_in(error: BaseException, file: str) -> list[int]:
    trace, lines = error.__traceback__, []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines


def arguments_of(build: Any) -> dict[str, bool]:
    """The arguments of a class's constructor, and whether each must be given; a function has none to set."""
    import inspect

    if not inspect.isclass(build):
        return {}
    return {
        p.name: p.default is p.empty
        for p in inspect.signature(build).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }


def _is_number(build: Any, name: str) -> bool:
    import inspect

    default = inspect.signature(build).parameters[name].default
    return isinstance(default, (int, float)) and not isinstance(default, bool)


def listed(build: Any, key: str, value: Any) -> Any:
    """What was given for an argument that takes several numbers: 200,100 (or [200,100], or one) as a list."""
    import inspect

    if not isinstance(inspect.signature(build).parameters[key].default, tuple) or isinstance(value, list):
        return value
    parts = [part.strip() for part in str(value).split(",") if part.strip()]
    if isinstance(value, (bool, float)) or not all(part.lstrip("-").isdecimal() for part in parts):
        raise ZooError(
            f"--set {key} expected whole numbers with commas, got {value}. For instance --set {key}=200,100."
        )
    return [int(part) for part in parts]


def build_model(build: Any, x: Any, arguments: dict[str, Any]) -> Any:
    import inspect

    from zoo.core.contract import LatentVariableModel
    from zoo.core.data import as_data

    if not inspect.isclass(build):
        return build
    try:
        if issubclass(build, LatentVariableModel):
            return build.from_data(as_data(x), **arguments)
        return build(**arguments)
    except ZooError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        words = [name for name, value in arguments.items() if isinstance(value, str) and _is_number(build, name)]
        if words:
            raise ZooError(
                f"--set {words[0]} expected a number, got {arguments[words[0]]!r}. See `zoo models`."
            ) from None
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items()) or "no arguments"
        raise ZooError(
            f"{build.__name__} cannot be built with {given}: {error}. Check them with `zoo models`."
        ) from error


def read_off(built: Any, given: dict[str, Any]) -> list[tuple[str, Any]]:
    """Arguments with a default for which the data suggested another value."""
    import inspect

    from zoo.core.contract import LatentVariableModel

    if not isinstance(built, LatentVariableModel):
        return []
    parameters = inspect.signature(type(built)).parameters
    return [
        (key, value)
        for key, value in built.config.items()
        if key in parameters and key not in given and parameters[key].default not in (parameters[key].empty, value)
    ]
