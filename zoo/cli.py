"""The command line. Everything heavy is imported inside the commands, so that help comes at once.

Exit codes: 0 done, 2 the user's mistake (one line on stderr), 1 ours, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.errors import LikelihoodDecreased, ZooError, unknown_name

if TYPE_CHECKING:
    from zoo.results import Fit

__all__ = ["app", "main"]

app = typer.Typer(
    name="zoo",
    no_args_is_help=True,
    add_completion=False,
    help="Latent-variable models, each fitted by any estimator and compared on the same data and start.\n\n"
    "Example: zoo compare gaussian_mixture --data iris --seeds 5 --out runs/iris",
)

#: What a model that asks for a size gets when nobody names one.
DEFAULTS: dict[str, Any] = {"num_components": 3, "num_factors": 2, "num_states": 3, "latent_dim": 2}
#: Options of ``fit`` itself with a value of their kind; ``--set`` takes them too.
FIT_OPTIONS: dict[str, Any] = {"init": "kmeans++", "restarts": 1, "max_seconds": 1.0, "device": "cpu"}
#: Name of the record of what a run was made of, beside the fit.
RECORD = "run.json"
#: Modules made of users' files are named so; an error raised in one is the user's.
USER_MODULE = "_zoo_user_"

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name from `zoo models`, or file.py:ClassOrFunction.")
]
DataName = Annotated[
    str | None, typer.Option("--data", help="A name from `zoo data`, or a .csv, .npy, .npz or .parquet file.")
]
Columns = Annotated[str | None, typer.Option(help="Columns to use, by name or number: 0,2 or length,width.")]
Labels = Annotated[
    str | None, typer.Option(help="Column of known classes, left out of the fit; `true` for those of a named set.")
]
Split = Annotated[str | None, typer.Option(help="Part of a named data set: train, valid, test.")]
Standardize = Annotated[bool, typer.Option("--standardize", help="Scale each column to mean 0 and sd 1.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE, an option of model or estimator; again for more. See `zoo models MODEL`."),
]
Guide = Annotated[str | None, typer.Option(help="file.py:function, the guide of a program of your own.")]
Out = Annotated[Path | None, typer.Option(help="A new folder for the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what it returns is the exit code."""
    debug = bool(os.environ.get("ZOO_DEBUG"))
    # OpenMP's idle threads spin for a long time by default, and on a busy machine every small operation then waits
    # for a time slice; this short spin costs nothing on a quiet one.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        try:
            code = typer.main.get_command(app).main(args=arguments, prog_name="zoo", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            return _complain("interrupted before there was anything to save.", 130)
        except BrokenPipeError:  # `zoo models | head`
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except ZooError as error:
            if debug:
                raise
            return _complain(str(error), 2)
        except Exception as error:
            if debug:
                raise
            return _explain(error)


def _explain(error: Exception) -> int:
    """One line for what is not a ZooError, and whose mistake it is."""
    message = getattr(error, "format_message", None)
    if callable(message):  # a usage error; its class lives in click or in typer, depending on the version
        return _complain(_usage(error, str(message())), 2)
    name = type(error).__name__
    trace, place = error.__traceback__, None
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(USER_MODULE):
            place = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
        trace = trace.tb_next
    if place is not None:
        return _complain(f"your program failed in {place}: {name}: {error}. Run it by itself first.", 2)
    if isinstance(error, OSError) and error.filename is not None:
        return _complain(f"{error.filename}: {error.strerror}. Check the path and its permissions.", 2)
    return _complain(f"internal error, {name}: {error}. Set ZOO_DEBUG=1 to see where.", 1)


def _usage(error: Exception, message: str) -> str:
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or "zoo"
    message = " ".join(message.split()).rstrip(".")
    if "ossible options" not in message and "id you mean" not in message:
        option = getattr(error, "option_name", None)
        known = [o for p in getattr(getattr(context, "command", None), "params", []) for o in p.opts]
        near = difflib.get_close_matches(str(option), known, n=1, cutoff=0.4) if option else []
        message += f". Did you mean {near[0]}?" if near else ""
    return f"{message.rstrip('.?') + ('?' if message.endswith('?') else '.')} See '{path} --help'."


def _complain(message: str, code: int) -> int:
    print("zoo:", " ".join(message.split()), file=sys.stderr)
    return code


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("latent-zoo")
        except PackageNotFoundError:
            from zoo import __version__ as number
        print(f"zoo {number}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of `zoo` itself."""


# --- what there is ----------------------------------------------------------------------------------------------------


@app.command()
def models(
    model: Annotated[str | None, typer.Argument(help="Show this one in full, with all options.")] = None,
    as_json: Json = False,
) -> None:
    """List the models, with their arguments, the estimators that can serve them, and where they come from.

    Example: zoo models gaussian_mixture
    """
    from zoo.models import find_model, model_classes

    if model is not None:
        found = _describe_model(model, find_model(model))
        print(_dumps(found) if as_json else _model_page(found))
        return
    rows = [_describe_model(name, cls) for name, cls in model_classes().items()]
    if as_json:
        print(_dumps({"models": rows}))
        return
    print(
        _grid(
            ("model", "arguments", "estimators", "default data", "reference"),
            [
                (
                    row["model"],
                    ", ".join(_argument(a) for a in row["arguments"]),
                    ", ".join(row["estimators"]),
                    row["default_data"] or "-",
                    row["reference"],
                )
                for row in rows
            ],
        )
    )


@app.command()
def data(as_json: Json = False) -> None:
    """List the data sets by name; a path to a file of your own goes wherever a name does.

    Example: zoo data
    """
    from zoo.data import list_data

    rows = list_data()
    if as_json:
        print(_dumps({"data": [dataclasses.asdict(row) for row in rows]}))
        return
    print(
        _grid(
            ("data", "shape", "labels", "what", "where"),
            [(r.name, r.shape, "yes" if r.labelled else "-", r.about, r.location) for r in rows],
        )
    )


def _describe_model(name: str, cls: Any) -> dict[str, Any]:
    import inspect

    from zoo.batch import map_tensors
    from zoo.estimators import estimator_classes
    from zoo.fitting import serving
    from zoo.model import prepared

    arguments = [
        {"name": p.name, "default": None if p.default is p.empty else p.default, "required": p.default is p.empty}
        for p in inspect.signature(cls).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    module: Any = sys.modules[cls.__module__]
    instance, x = module.tiny()
    able: list[str] = []
    if type(instance) is cls:
        able = serving(instance, prepared(instance, map_tensors(lambda t: t, x)))
    options = {each: {f.name: f.default for f in dataclasses.fields(estimator_classes()[each])} for each in able}
    about = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return {
        "model": name,
        "about": " ".join(about.split()),
        "arguments": arguments,
        "inits": list(getattr(cls, "inits", ())),
        "estimators": able,
        "estimator_options": options,
        "default_data": getattr(cls, "default_data", None),
        "reference": getattr(cls, "reference", ""),
    }


def _argument(argument: dict[str, Any]) -> str:
    return argument["name"] if argument["required"] else f"{argument['name']}={_word(argument['default'])}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else _dumps(value) if value is not None else "null"


def _model_page(row: dict[str, Any]) -> str:
    lines = [row["model"], f"  {row['about']}", f"  {row['reference']}", "", "arguments (--set NAME=VALUE):"]
    for argument in row["arguments"]:
        given = argument["name"] in DEFAULTS
        if not argument["required"]:
            default = f"default {_word(argument['default'])}"
        elif given:
            default = f"{DEFAULTS[argument['name']]} unless set"
        else:
            default = "read off the data"
        lines.append(f"  {argument['name']:<20} {default}")
    lines += ["", f"starts: init={', '.join(row['inits'])}", f"data without --data: {row['default_data'] or '-'}", ""]
    lines.append("estimators and their options (--set NAME=VALUE, or --set ESTIMATOR.NAME=VALUE in compare):")
    for name, options in row["estimator_options"].items():
        lines.append(f"  {name:<20} {', '.join(f'{k}={_word(v)}' for k, v in options.items())}")
    return "\n".join(lines)


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    import io
    import shutil

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    width = max(100, shutil.get_terminal_size((140, 24)).columns)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


# --- what is asked for ------------------------------------------------------------------------------------------------


@dataclass
class _Task:
    """A model, its data and the options, all checked; nothing has been fitted yet."""

    model: Any
    guide: Any
    x: Any
    data_name: str
    labels: Any
    estimators: list[str]
    options: dict[str, dict[str, Any]]
    fit_options: dict[str, Any]
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def _prepare(
    model: str,
    data: str | None,
    estimators: list[str] | None,
    settings: list[str] | None,
    guide: str | None,
    source: dict[str, Any],
    many: bool,
) -> _Task:
    from zoo.estimators import estimator_classes, find_estimator
    from zoo.estimators.base import check_option

    given = _parse(settings)
    for name in estimators or ():
        find_estimator(name)
    build = _find(model)
    program_guide = _load_object(guide, "guide") if guide is not None else None
    takes = _takes(build)
    names = estimators or list(estimator_classes())
    known = {name: {f.name for f in dataclasses.fields(find_estimator(name))} for name in names}
    arguments: dict[str, Any] = {}
    fit_options: dict[str, Any] = {}
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        first, _, rest = key.partition(".")
        if rest:
            if first not in known:
                find_estimator(first)
                raise ZooError(f"--set {key}: expected one of the estimators {', '.join(names)}, got {first!r}.")
            if rest not in known[first]:
                raise unknown_name(f"option of {first}", rest, known[first])
            own.setdefault(first, {})[rest] = value
        elif key in takes:
            arguments[key] = _listed(build, key, value)
        elif key in FIT_OPTIONS:
            if many and key == "restarts":
                raise ZooError("--set restarts: expected in `zoo fit`, got it in compare. Use --seeds there.")
            check_option("--set", key, FIT_OPTIONS[key], value)
            fit_options[key] = value
        elif any(key in fields for fields in known.values()):
            common[key] = value
        else:
            raise unknown_name("--set option", key, {*takes, *FIT_OPTIONS, *set().union(*known.values())})
    notes: list[str] = []
    source_name: str | None = data or getattr(build, "default_data", None)
    if source_name is None:
        raise ZooError(f"{model}: --data expected, as this model has no data of its own. See `zoo data`.")
    if data is None:
        notes.append(f"data {source_name}; another with --data")
    x, labels = _read(source_name, source)
    for key in takes:
        if takes[key] and key not in arguments and key in DEFAULTS:
            arguments[key] = DEFAULTS[key]
            notes.append(f"{key}={DEFAULTS[key]}; another with --set {key}=...")
    built = _build(build, x, arguments)
    notes += [f"{key}={_word(v)}, by the data; another with --set {key}=..." for key, v in _read_off(built, arguments)]
    x = _one_column(built, program_guide, x)
    if not estimators:
        estimators = _fitting_estimators(built, program_guide, x, many, {*own})
        notes.append(f"estimator{'s' if many else ''} {','.join(estimators)}; others with --estimator{'s' * many}")
    unused = [key for key in common if not any(key in known[each] for each in estimators)]
    if unused:
        raise unknown_name(
            f"option of {', '.join(estimators)}", unused[0], set().union(*(known[e] for e in estimators))
        )
    options = {
        each: {**{k: v for k, v in common.items() if k in known[each]}, **own.get(each, {})} for each in estimators
    }
    title = Path(source_name).name if Path(source_name).suffix else source_name
    record = {"model": model, "guide": guide, "data": source_name, **source, "settings": given}
    return _Task(built, program_guide, x, title, labels, estimators, options, fit_options, record, notes)


def _one_column(model: Any, guide: Any, x: Any) -> Any:
    """A table of one column as a vector, for a program that takes one: it is tried, and otherwise left a column."""
    import copy

    from pyro import poutine

    from zoo.batch import call
    from zoo.isolation import isolated
    from zoo.model import FunctionModel, as_model

    base = copy.deepcopy(as_model(model, guide))
    if not isinstance(base, FunctionModel) or getattr(x, "ndim", 0) != 2 or x.shape[1] != 1:
        return x
    vector = x.reshape(-1)
    with isolated(0):
        try:
            base.initialize(vector, "current")
            poutine.trace(lambda: call(base.model, vector)).get_trace().compute_log_prob()
        except Exception:  # the program is the user's: whatever it says, it does not take a vector
            return x
    return vector


def _parse(settings: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` pairs; a value is JSON, or else a word."""

    def word(value: str) -> Any:
        raise ValueError(value)  # NaN and Infinity are no JSON

    found: dict[str, Any] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ZooError(f"--set expected NAME=VALUE, got {text!r}. For instance --set num_components=3.")
        try:
            found[name] = json.loads(value, parse_constant=word)
        except ValueError:
            found[name] = value
        if isinstance(found[name], float) and not math.isfinite(found[name]):
            raise ZooError(f"--set {name} expected a finite number, got {value}. Choose a smaller one.")
    return found


def _find(spec: str) -> Any:
    """What MODEL names: a class of the zoo, or a class, function or module of a user's file."""
    path, _, _ = _split(spec)
    if path is not None:
        return _load_object(spec, "model")
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


def _load_object(spec: str, kind: str) -> Any:
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

    from zoo.model import LatentVariableModel

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
    return module


def _lines_in(error: BaseException, file: str) -> list[int]:
    trace, lines = error.__traceback__, []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines


def _takes(build: Any) -> dict[str, bool]:
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


def _listed(build: Any, key: str, value: Any) -> Any:
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


def _build(build: Any, x: Any, arguments: dict[str, Any]) -> Any:
    import inspect

    from zoo.batch import as_data
    from zoo.model import LatentVariableModel

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


def _read_off(built: Any, given: dict[str, Any]) -> list[tuple[str, Any]]:
    """Arguments with a default for which the data suggested another value."""
    import inspect

    config = getattr(built, "config", None)
    if not isinstance(config, dict):
        return []
    parameters = inspect.signature(type(built)).parameters
    return [
        (key, value)
        for key, value in config.items()
        if key in parameters and key not in given and parameters[key].default not in (parameters[key].empty, value)
    ]


def _read(name: str, source: dict[str, Any]) -> tuple[Any, Any]:
    """(x, labels or None) of a named data set or a file."""
    from zoo.data import load_data

    columns = _columns(source["columns"])
    labels = source["labels"]
    wanted: Any = None if labels is None else True if labels.lower() == "true" else _column(labels)
    common: dict[str, Any] = {"columns": columns, "split": source["split"], "standardize": source["standardize"]}
    if wanted is None:
        return load_data(name, **common), None
    x, known = load_data(name, labels=wanted, **common)
    return x, known


def _columns(text: str | None) -> list[str | int] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ZooError(f"--columns expected names or numbers, got {text!r}. For instance --columns 0,2.")
    return [_column(name) for name in names]


def _column(name: str) -> str | int:
    return int(name) if name.isdecimal() else name


def _fitting_estimators(model: Any, guide: Any, x: Any, many: bool, wanted: set[str]) -> list[str]:
    """The usual estimators that can serve the model; without --estimators nobody asked for one that cannot."""
    import copy

    from zoo.comparison import DEFAULT_ESTIMATORS
    from zoo.fitting import first_run, serving
    from zoo.isolation import isolated
    from zoo.model import FunctionModel, as_model, prepared

    with isolated(0):
        base = copy.deepcopy(as_model(model, guide))
        ready = prepared(base, x)
        if isinstance(base, FunctionModel):
            first_run(base, ready)
        able = serving(base, ready)
    if not able:
        raise ZooError("no estimator can serve this model: it has neither an exact sum nor a guide. Pass --guide.")
    usual = [name for name in DEFAULT_ESTIMATORS if name in able] or able
    return list(dict.fromkeys([*usual, *sorted(wanted)])) if many else usual[:1]


def _check_out(out: Path | None, resume: bool = False) -> None:
    """Refuse a folder that cannot take the result, before any work."""
    if out is None:
        return
    from zoo.results import check_free

    if not resume:
        check_free(out)
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ZooError(f"--out expected a place to write to, got {str(parent)!r}, which is not. Choose another.")


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise ZooError(f"--seed expected a whole number of at least 0, got {seed}. Take 0, 1, 2, ...")
    return seed


# --- commands that compute --------------------------------------------------------------------------------------------


@app.command()
def fit(
    model: ModelName,
    data: DataName = None,
    estimator: Annotated[str | None, typer.Option(help="How to fit; by default em where it can serve.")] = None,
    seed: Annotated[int, typer.Option(help="Where every random number comes from.")] = 0,
    settings: Settings = None,
    guide: Guide = None,
    columns: Columns = None,
    labels: Labels = None,
    split: Split = None,
    standardize: Standardize = False,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; give the other options as they were.")
    ] = False,
    checkpoint_every: Annotated[
        str | None, typer.Option(help="With --out: 90s or 500 (steps) between checkpoints; by default 60s.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit one model to data by one estimator.

    With --out a long run writes checkpoints there; after a crash the same command with --resume goes on.

    Example: zoo fit gaussian_mixture --data iris --estimator em --set num_components=3 --set tol=1e-8 --out runs/a
    """
    if out is None and (resume or checkpoint_every is not None):
        raise ZooError(f"--{'resume' if resume else 'checkpoint-every'} expected --out with it. Pass the run's folder.")
    _check_out(out, resume)
    _check_seed(seed)
    source = {"columns": columns, "labels": labels, "split": split, "standardize": standardize}
    failure, drawn = None, list[str]()
    with _stdout_for_result(as_json):
        task = _prepare(model, data, None if estimator is None else [estimator], settings, guide, source, False)
        import zoo

        name = task.estimators[0]
        try:
            this = zoo.fit(
                task.model, task.x, estimator=name, guide=task.guide, seed=seed, progress=None, out=out,
                checkpoint_every=checkpoint_every, resume=resume, **task.fit_options, **task.options[name],
            )  # fmt: skip
        except LikelihoodDecreased as error:
            if error.fit is None:
                raise
            failure, this = error, error.fit
        rows = [_row(this, task)]
        if out is not None:
            _write_record(out, task, {"command": "fit", "seed": seed})
            if this.status not in ("interrupted", "diverged"):
                from zoo.latent_plots import plot_latents

                drawn = [path.name for path in plot_latents(this, task.x, out)]
    _tell(task.notes)
    if as_json:
        from zoo.results import model_name

        print(
            _dumps({"model": model_name(this.model), "data": task.data_name, "num_data": this.num_data, "rows": rows})
        )
    else:
        print(this)
        _print_agreement(rows)
        if out is not None:
            print(f"saved in {out}{': ' if drawn else ''}{', '.join(drawn)}")
    if failure is not None:
        raise typer.Exit(_complain(f"{failure}", 1))
    _stop_if_interrupted([this], out)


@app.command()
def compare(
    model: ModelName,
    data: DataName = None,
    estimators: Annotated[str | None, typer.Option(help="Names with commas; by default em,eg,svi,gumbel.")] = None,
    seeds: Annotated[int, typer.Option(help="How many starts; each estimator gets the same ones.")] = 1,
    settings: Settings = None,
    guide: Guide = None,
    columns: Columns = None,
    labels: Labels = None,
    split: Split = None,
    standardize: Standardize = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Fit one model by several estimators from the same starts, and set the results side by side.

    Options of one estimator alone: --set svi.learning_rate=0.01. With --out: all fits, pictures and report.html.

    Example: zoo compare gaussian_mixture --data iris --estimators em,eg,svi,gumbel --seeds 5 --out runs/iris
    """
    _check_out(out)
    if seeds < 1:
        raise ZooError(f"--seeds expected a number of at least 1, got {seeds}. Take --seeds 5.")
    names = None
    if estimators is not None:
        names = list(dict.fromkeys(part.strip() for part in estimators.split(",") if part.strip()))
        if not names:
            raise ZooError(f"--estimators expected names with commas, got {estimators!r}. Take em,svi.")
    source = {"columns": columns, "labels": labels, "split": split, "standardize": standardize}
    with _stdout_for_result(as_json):
        task = _prepare(model, data, names, settings, guide, source, True)
        import zoo

        template = task.model
        device = task.fit_options.pop("device", None)
        if device is not None:
            template = _onas_device(template, task.guide, device)
            task.guide = None
        # The options are sorted out already; what is common has been handed to each estimator.
        made = zoo.compare(
            template, task.x, estimators=task.estimators, seeds=seeds, guide=task.guide, options=task.options,
            progress=None, data_name=task.data_name, **task.fit_options,
        )  # fmt: skip
        rows = [_row(this, task) for this in made.fits]
        if out is not None:
            made.save(out)
            _write_record(out, task, {"command": "compare", "seeds": seeds})
    _tell(task.notes)
    if as_json:
        print(_dumps({**made.to_dict(), "rows": rows}))
    else:
        print(made)
        _print_agreement(rows)
        if out is not None:
            print(f"saved in {out}; open {out / 'report.html'}")
    _stop_if_interrupted(made.fits, out)


@app.command()
def explain(
    model: ModelName,
    data: DataName = None,
    settings: Settings = None,
    guide: Guide = None,
    columns: Columns = None,
    labels: Labels = None,
    split: Split = None,
    standardize: Standardize = False,
    as_json: Json = False,
) -> None:
    """Show what auto_em would do with a program: its sites, the update of each parameter and why, the cost.

    Example: zoo explain my_model.py:model --data counts.csv
    """
    source = {"columns": columns, "labels": labels, "split": split, "standardize": standardize}
    with _stdout_for_result(as_json):
        task = _prepare(model, data, ["auto_em"], settings, guide, source, False)
        import zoo

        found = zoo.explain(task.model, task.x, guide=task.guide)
    _tell(task.notes)
    print(_dumps(found.to_dict()) if as_json else found)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote.")],
    data: DataName = None,
    model: Annotated[str | None, typer.Option(help="file.py:function, for a fit of your own program.")] = None,
    guide: Guide = None,
    samples: Annotated[int, typer.Option(help="Draws from the guide a datum.")] = 1000,
    seed: Annotated[int, typer.Option(help="Where the draws come from.")] = 0,
    columns: Columns = None,
    split: Split = None,
    standardize: Standardize = False,
    as_json: Json = False,
) -> None:
    """Score a saved fit on data: exact log-likelihood, importance-weighted bound, ELBO and the k̂ of the guide.

    Without --data: on the data it was fitted to. --standardize scales by the data given, not by those fitted to.

    Example: zoo evaluate runs/a --data iris
    """
    _check_seed(seed)
    if samples < 2:
        raise ZooError(f"--samples expected a number of at least 2, got {samples}. Take 1000.")
    with _stdout_for_result(as_json):
        this, record = _load(folder, model, guide)
        source = {"columns": columns, "labels": None, "split": split, "standardize": standardize}
        if data is None:
            name, x = _fitted_data(folder, this, record, source)
        else:
            name, (x, _) = data, _read(data, source)
        import zoo
        from zoo.results import model_name

        found = zoo.evaluate(this, x, num_samples=samples, seed=seed)
    shown = Path(name).name if Path(name).suffix else name
    if as_json:
        print(_dumps({"model": model_name(this.model), "data": shown, **found.to_dict()}))
    else:
        print(f"{model_name(this.model)} ({this.estimator}) on {shown}: {found}")


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `zoo fit --out` wrote.")],
    n: Annotated[int, typer.Option("-n", "--num", help="How many.")] = 64,
    out: Annotated[Path, typer.Option(help="A new file: .png (a picture), .csv or .npy.")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(help="Where the draws come from.")] = 0,
    model: Annotated[str | None, typer.Option(help="file.py:function, for a fit of your own program.")] = None,
    guide: Guide = None,
    mean: Annotated[
        bool, typer.Option("--mean", help="Draw z, and write the mean of x given z: no noise of single pixels.")
    ] = False,
) -> None:
    """Draw new data from a saved fit; from one of y given x, at rows of the data it was fitted to.

    Example: zoo sample runs/a -n 64 --out samples.png
    """
    _check_seed(seed)
    if n < 1:
        raise ZooError(f"-n expected a number of at least 1, got {n}. Take -n 64.")
    if out.suffix.lower() not in (".png", ".csv", ".npy"):
        raise ZooError(f"--out expected a name ending in .png, .csv or .npy, got {out.name!r}. Rename it.")
    if out.exists():
        raise ZooError(f"--out expected a new file, but {str(out)!r} exists. Choose another name.")
    if not out.absolute().parent.is_dir():
        raise ZooError(f"--out expected a folder that exists, got {str(out.parent)!r}. Make it first.")
    this, record = _load(folder, model, guide)
    from zoo.batch import tensors
    from zoo.latent_plots import draw

    given = hasattr(this.model, "num_inputs")  # p(y | x)
    if given or mean:
        x = _fitted_data(folder, this, record)[1] if given else None
        drawn: Any = draw(this, n, seed, x=x, means=mean)
    else:
        drawn = this.sample(n, seed)
    if len(tensors(drawn)) != 1:
        raise ZooError(f"sample: expected one observed variable, got {len(tensors(drawn))}. Use fit.sample in Python.")
    staging = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        _write_draws(drawn, staging)
        staging.replace(out)
    finally:
        staging.unlink(missing_ok=True)
    print(f"{n} draws in {out}")


def _write_draws(drawn: Any, path: Path) -> None:
    if path.suffix.lower() == ".png":
        from zoo.plots import plot_samples

        plot_samples(drawn, path)
        return
    import numpy as np

    values = drawn.detach().cpu().numpy()
    if path.suffix.lower() == ".npy":
        np.save(path, values, allow_pickle=False)
        return
    import csv

    whole = bool((values == np.round(values)).all())
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        sequences = values.ndim == 3
        flat = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(-1, 1)
        writer.writerow((["sequence"] if sequences else []) + [f"x{i}" for i in range(flat.shape[1])])
        for i, row in enumerate(flat):
            cells = [int(v) if whole else float(v) for v in row]
            writer.writerow(([i // values.shape[1]] if sequences else []) + cells)


@app.command()
def reproduce(
    table: Annotated[str | None, typer.Argument(help="Which table; without it, a list.")] = None,
    budget: Annotated[str, typer.Option(help="quick (minutes on two cores) or full (the paper's schedule).")] = "quick",
    seed: Annotated[int, typer.Option(help="Where every random number comes from.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the record.")] = None,
    as_json: Json = False,
) -> None:
    """Run a published table, and print ours beside theirs.

    Example: zoo reproduce iwae --budget quick
    """
    from zoo.reproduce import reproduce as run
    from zoo.reproduce import tables

    if table is None:
        known = tables()
        if as_json:
            print(_dumps({"tables": [{"table": name, "about": module.ABOUT} for name, module in known.items()]}))
        else:
            print("\n".join(f"{name:<12}{module.ABOUT}" for name, module in known.items()))
        return
    _check_seed(seed)
    if out is not None and out.suffix != ".json":
        raise ZooError(f"--out expected a .json file, got {str(out)!r}. Name one.")
    with _stdout_for_result(as_json):
        found = run(table, budget, seed, say=lambda line: print(line, file=sys.stderr, flush=True))
        if out is not None:
            found.save(out)
    print(_dumps(found.record) if as_json else found)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Which one; all of them without.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, to see that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="A .json file that records the run (replaced if there).")] = None,
) -> None:
    """Measure speed beside other packages; needs a checkout of the project.

    Example: zoo bench gaussian_mixture --quick
    """
    import importlib
    import platform

    import zoo
    from zoo.results import to_json

    root = Path(zoo.__file__).resolve().parent.parent
    files = sorted(p.stem for p in (root / "benchmarks").glob("*.py") if not p.stem.startswith("_"))
    if not (root / "benchmarks" / "__init__.py").is_file() or not files:
        raise ZooError(
            "bench expected a checkout, but benchmarks/ is not installed. Clone it, `pip install -e .[bench]`."
        )
    if name is not None and name not in files:
        raise unknown_name("benchmark", name, files)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    record: dict[str, Any] = {
        "command": f"zoo bench{f' {name}' if name else ''}{' --quick' if quick else ''}",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "results": {},
    }
    for each in files if name is None else [name]:
        try:
            record["results"][each] = importlib.import_module(f"benchmarks.{each}").run(quick=quick)
        except ModuleNotFoundError as error:
            raise ZooError(
                f"benchmark {each} expected the package {error.name!r}. Run `pip install latent-zoo[bench]`."
            ) from error
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(to_json(record))


# --- what the commands share ------------------------------------------------------------------------------------------


def _load(folder: Path, model: str | None, guide: str | None) -> tuple[Fit, dict[str, Any]]:
    """A saved fit, and the record of how it was made where there is one."""
    import zoo

    if (folder / "comparison.json").is_file():
        inside = sorted(p.parent.name for p in folder.glob("fits/*/fit.json"))
        raise ZooError(
            f"{folder} holds a comparison, expected one fit. Take one of its own, {folder / 'fits' / inside[0]}."
            if inside
            else f"{folder} holds a comparison without fits, expected one fit."
        )
    record: dict[str, Any] = {}
    for place in (folder, folder.parent.parent):  # a fit of a comparison lies two levels below its record
        if (place / RECORD).is_file():
            with contextlib.suppress(ValueError):
                record = json.loads((place / RECORD).read_text(encoding="utf-8"))
            break
    built = None
    if model is not None:
        build = _find(model)
        import inspect

        # A class is built from its recorded arguments; a function is the program itself.
        if inspect.isclass(build):
            with contextlib.suppress(OSError, ValueError):
                config = json.loads((folder / "fit.json").read_text(encoding="utf-8")).get("config", {})
                built = _build_as(build, config)
        built = build if built is None else built
    return zoo.load(folder, built, _load_object(guide, "guide") if guide is not None else None), record


def _fitted_data(
    folder: Path, this: Fit, record: dict[str, Any], source: dict[str, Any] | None = None
) -> tuple[str, Any]:
    """Name and values of the data a saved fit was made of, other columns or another part where these are asked for."""
    name = record.get("data") or getattr(type(this.model), "default_data", None)
    if name is None:
        raise ZooError(f"{folder}: --data expected, as the folder does not say what was fitted.")
    keys = ("columns", "labels", "split", "standardize")
    source = {key: (source or {}).get(key) or record.get(key) for key in keys}
    source["standardize"] = bool(source["standardize"])
    return name, _read(name, source)[0]


def _build_as(build: Any, config: dict[str, Any]) -> Any:
    try:
        return build(**config)
    except (TypeError, RuntimeError) as error:
        raise ZooError(
            f"{build.__name__} cannot be built as it was saved: {error}. Pass the class it was fitted with."
        ) from error


def _onas_device(model: Any, guide: Any, device: str) -> Any:
    import copy

    from zoo.fitting import as_device
    from zoo.model import as_model

    return copy.deepcopy(as_model(model, guide)).to(as_device(device))


def _row(this: Fit, task: _Task) -> dict[str, Any]:
    row = this.summary()
    if task.labels is not None:
        row["adjusted_rand_index"] = _agreement(this, task)
    return row


def _agreement(this: Fit, task: _Task) -> float | None:
    """Adjusted Rand index of predicted components against the known classes, where a component is predicted."""
    from sklearn.metrics import adjusted_rand_score

    try:
        predicted = this.predict(task.x)
    except (ZooError, NotImplementedError):
        return None
    if predicted.is_floating_point() or predicted.shape != task.labels.shape:
        return None
    seen = task.labels.flatten() >= 0
    return float(adjusted_rand_score(task.labels.flatten()[seen].numpy(), predicted.cpu().flatten()[seen].numpy()))


def _print_agreement(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row.get("adjusted_rand_index") is not None:
            print(
                f"{row['estimator']}, seed {row['seed']}: adjusted Rand index {row['adjusted_rand_index']:.4f} "
                "against the labels"
            )


def _write_record(folder: Path, task: _Task, more: dict[str, Any]) -> None:
    from zoo.report import versions

    record = {**more, **task.record, "estimators": task.estimators, "versions": versions()}
    (folder / RECORD).write_text(_dumps(record, indent=1), encoding="utf-8")


def _stop_if_interrupted(fits: Sequence[Fit], out: Path | None) -> None:
    if any(this.status == "interrupted" for this in fits):
        where = f"what was reached is in {out}" if out is not None else "nothing was saved, for want of --out"
        raise typer.Exit(_complain(f"interrupted; {where}.", 130))


def _tell(notes: list[str]) -> None:
    # After the work, so that a mistake found during it is the one line on stderr.
    for note in notes:
        print("note:", note, file=sys.stderr)


@contextlib.contextmanager
def _stdout_for_result(as_json: bool) -> Iterator[None]:
    """With --json, whatever a user's program prints goes to stderr."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Only what JSON knows: NaN and infinities become null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else getattr(value, "__name__", repr(value))


if __name__ == "__main__":
    sys.exit(main())
