"""From the words of a command to a model, its data and its options, all checked before any work."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.options import DEFAULTS, FIT_OPTIONS
from zoo.cli.output import word
from zoo.cli.programs import arguments_of, build_model, find, listed, load_object, read_off
from zoo.errors import ZooError, unknown_name

if TYPE_CHECKING:
    from zoo.data._loaded import Loaded

__all__ = ["Source", "Task", "prepare"]


@dataclass(frozen=True)
class Source:
    """Which part of the data is asked for, and how; the words of the options of those names."""

    columns: str | Sequence[str | int] | None = None
    labels: str | None = None
    targets: str | None = None
    split: str | None = None
    standardize: bool = False
    sequence: str | None = None
    decimal: str | None = None
    time: str | None = None
    drop_missing: bool = False

    def read(self, name: str, model: Any, measured: bool = False) -> Loaded:
        """A named data set or a file as a model takes it: its data, a pair (x, y) where there are targets, its labels
        and names; with ``measured`` without columns that only tell rows apart."""
        from zoo.core.places import read_from
        from zoo.data import read
        from zoo.runs.progress import waited_for

        targets = _columns(self.targets, "targets")
        labels: Any = None
        if self.labels is not None:
            labels = True if self.labels.lower() == "true" else _column(self.labels)
        prose = model.takes_sentences and Path(name.lower().removesuffix(".gz")).suffix == ".txt"
        try:
            with waited_for(None, "reading"):
                loaded = read(
                    name,
                    columns=_columns(self.columns, "columns"),
                    labels=labels,
                    targets=targets[0] if targets and len(targets) == 1 else targets,
                    sequence=None if self.sequence is None else _column(self.sequence),
                    time=None if self.time is None else _column(self.time),
                    decimal=self.decimal or ".",
                    symbols=model.takes_symbols,
                    sentences=prose,
                    vocabulary=_vocabulary(model) if prose else None,
                    split=self.split,
                    standardize=self.standardize,
                    drop_missing=self.drop_missing,
                    measured=measured,
                )
        except ZooError as error:
            raise type(error)(in_options(str(error))) if type(error) is ZooError else error from None
        read_from(loaded.line_of)
        return loaded

    def read_like(self, name: str, names: Sequence[str] | None, model: Any) -> Loaded:
        """The same, with the columns of these names where a file has a header and none are asked for."""
        from zoo.data import NoNames

        file = Path(name).suffix or Path(name).is_dir()
        if names is None or self.columns is not None or not file or len(set(names)) < len(names):
            return self.read(name, model)
        try:
            return dataclasses.replace(self, columns=list(names)).read(name, model)
        except NoNames:
            return self.read(name, model)

    def or_else(self, record: dict[str, Any]) -> Source:
        """What was recorded where nothing is asked for."""
        return Source(**{name: value or record.get(name) or value for name, value in dataclasses.asdict(self).items()})


def _vocabulary(model: Any) -> Any:
    """Which words of a text a model tells apart: those of its fit, or so many."""
    fitted = model.schema is not None and model.schema.symbols is not None
    return model.schema.symbols if model.vocabulary is not None and fitted else model.vocabulary


_OPTION = re.compile(
    r"""\b(columns|labels|targets|split|decimal|sequence|time|standardize)=(\[[^]]*\]|'[^']*'|"[^"]*"|\.\.\.|\w+)?"""
)


def in_options(message: str) -> str:
    """A message of ``load_data``, which speaks Python, in words of the command line."""

    def option(match: re.Match[str]) -> str:
        name, value = match[1], (match[2] or "").strip("'\"")
        if value.startswith("["):
            value = ",".join(map(str, ast.literal_eval(value)))
        if value in ("True", "...") or not value:
            value = "true" if (name, value) == ("labels", "True") else ""
        return f"--{name} {shlex.quote(value)}" if value else f"--{name}"

    return _OPTION.sub(option, message)


def _described(name: str, loaded: Loaded) -> list[str]:
    """What was read of a file, and how to keep the columns that were left out by themselves."""
    if not Path(name).suffix or loaded.names is None:
        return []
    if not loaded.aside:
        return [loaded.told]
    every = (*loaded.aside, *loaded.names)
    names = shlex.quote(",".join(every)) if len(every) <= 9 else "and all the names"
    return [loaded.told, f"keep {', '.join(loaded.aside)} with --columns {names}"]


def _other_arrays(path: str, source: Source) -> list[str]:
    """Arrays of an .npz file beside x that nothing asks for; none where there is no such file to look into."""
    if source.targets is not None or not path.endswith(".npz"):
        return []
    try:
        with zipfile.ZipFile(path) as content:
            names = [Path(name).stem for name in content.namelist()]
    except Exception:  # a damaged archive fails in many ways; the loader says what is wrong with it
        return []
    taken = ("x", "lengths", "target_lengths", source.labels)
    return [name for name in names if name not in taken] if "x" in names else []


def _columns(text: str | Sequence[str | int] | None, option: str) -> list[str | int] | None:
    if text is None or not isinstance(text, str):
        return None if text is None else list(text)
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise ZooError(f"--{option} expected names or numbers, got {text!r}. For instance --{option} 0,2.")
    return [_column(name) for name in names]


def _column(name: str) -> str | int:
    return int(name) if name.isdecimal() else name


@dataclass
class Task:
    """A model, its data and the options, all checked; nothing has been fitted yet.

    ``rows``: which rows of the file the data are, from 0, where some were left out or moved.
    """

    model: Any
    guide: Any
    x: Any
    data_name: str
    labels: Any
    classes: Sequence[str] | None
    estimators: list[str]
    options: dict[str, dict[str, Any]]
    fit_options: dict[str, Any]
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    rows: Any = None


def prepare(
    model: str,
    data: str | None,
    estimators: list[str] | None,
    settings: list[str] | None,
    guide: str | None,
    source: Source,
    many: bool,
    fixed: Sequence[str] = (),
    program: tuple[Any, Any] | None = None,
) -> Task:
    """Read, build and check.

    Args:
        many: whether several estimators are asked for.
        program: a program and its guide, or None, in the place of what MODEL names.
    """
    from zoo.core.contract import LatentVariableModel
    from zoo.core.data import as_data, at_hand
    from zoo.core.schema import Schema
    from zoo.core.streams import Stream
    from zoo.data import list_data
    from zoo.estimators import estimator_classes, find_estimator, option_names
    from zoo.estimators.base import check_option
    from zoo.runs.making import check_told, one_column
    from zoo.runs.prepare import usual_estimators
    from zoo.runs.variants import variant

    given = _parse(settings)
    for text in estimators or ():
        find_estimator(variant(text).estimator if many else text)
    build, program_guide = (find(model), None) if program is None else program
    if guide is not None:
        program_guide = load_object(guide, "guide")
    takes = arguments_of(build)
    might = estimators or (estimator_classes() if given else ())  # where there are options to tell whose they are
    names = list(dict.fromkeys(text.partition(":")[0].strip() for text in might))
    known = {name: option_names(name) for name in names}
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
            arguments[key] = listed(build, key, value)
        elif key in FIT_OPTIONS:
            if many and key == "restarts":
                raise ZooError("--set restarts: expected in `zoo fit`, got it in compare. Use --seeds there.")
            check_option("--set", key, FIT_OPTIONS[key], value)
            fit_options[key] = value
        elif any(key in fields for fields in known.values()):
            common[key] = value
        else:
            owners = [name for name in estimator_classes() if key in option_names(name)]
            if owners:
                raise ZooError(
                    f"--set {key}: expected an option of {', '.join(names)}, got one of {', '.join(sorted(owners))}. "
                    "Leave it out."
                )
            raise unknown_name("--set option", key, {*takes, *FIT_OPTIONS, *set().union(*known.values())})
    notes: list[str] = []
    declared = build if isinstance(build, type) and issubclass(build, LatentVariableModel) else LatentVariableModel
    source_name: str | None = data or declared.default_data
    if source_name is None:
        raise ZooError(f"{model}: --data expected, as this model has no data of its own. See `zoo data`.")
    if data is None:
        notes.append(f"data {source_name}; another with --data")
    others = _other_arrays(source_name, source)
    if "y" in others and "y" in declared.fields.observed:
        source = dataclasses.replace(source, targets="y")
        notes.append("targets y; another array with --targets")
    elif others:
        notes.append(f"left out of the file: {', '.join(others)}; see --targets and --labels")
    takes_symbols = declared.takes_symbols
    loaded = source.read(source_name, declared, measured=True)
    if loaded.aside and loaded.names:
        kept = len(set(loaded.names)) == len(loaded.names)
        source = dataclasses.replace(source, columns=list(loaded.names)) if kept else source
    check_told(declared, loaded, "--targets")
    notes += _described(source_name, loaded)
    named = {"": loaded.names, "1": loaded.target_names}
    schema = Schema({place: names for place, names in named.items() if names})
    x = as_data(loaded.data, schema, takes_symbols)
    labels = None if source.labels is None else loaded.codes
    for key in takes:
        if takes[key] and key not in arguments and key in DEFAULTS:
            arguments[key] = DEFAULTS[key]
            notes.append(f"{key}={DEFAULTS[key]}; another with --set {key}=...")
    try:
        built = build_model(build, at_hand(x), arguments)
    except ZooError as error:
        many_values = (f"{key}={value}" for key, value in arguments.items() if _SEVERAL.fullmatch(str(value)))
        if (several := next(many_values, None)) is None:
            raise
        raise ZooError(f"{error} To try several: zoo select {model} --grid {several}.") from None
    notes += [f"{key}={word(v)}, by the data; another with --set {key}=..." for key, v in read_off(built, arguments)]
    if isinstance(built, LatentVariableModel) and schema:
        built.schema = schema
    x = x if isinstance(x, Stream) else one_column(built, program_guide, x)
    if not estimators:
        usual = usual_estimators(built, at_hand(x), program_guide, first=not many, fixed=fixed)
        estimators = list(dict.fromkeys([*usual, *sorted(own)])) if many else usual[:1]
        notes.append(f"estimator{'s' if many else ''} {','.join(estimators)}; others with --estimator{'s' * many}")
    variants = [variant(text) for text in estimators]
    stray = next((name for name in own if name not in {each.estimator for each in variants}), None)
    if stray is not None:
        raise ZooError(
            f"--set {stray}.{next(iter(own[stray]))}: expected an option of {', '.join(estimators)}, "
            f"got one of {stray}. Pass --estimator {stray}, or leave it out."
        )
    unused = [key for key in common if not any(key in known[each.estimator] for each in variants)]
    if unused:
        raise unknown_name(
            f"option of {', '.join(estimators)}", unused[0], set().union(*(known[v.estimator] for v in variants))
        )
    options = {}
    for each in variants:
        taken = {key: value for key, value in common.items() if key in known[each.estimator]}
        options[each.label] = {**taken, **own.get(each.estimator, {}), **each.options}
    estimators = [each.label for each in variants]
    title = Path(source_name).name if Path(source_name).suffix else source_name
    record = {"model": model, "guide": guide, "data": source_name, **dataclasses.asdict(source), "settings": given}
    if Path(source_name).exists() and source_name not in {info.name for info in list_data()}:
        record["file"] = str(Path(source_name).absolute())
    return Task(
        built,
        program_guide,
        x,
        title,
        labels,
        loaded.classes,
        estimators,
        options,
        fit_options,
        record,
        notes,
        loaded.places(),
    )


#: Numbers where one was expected.
_SEVERAL = re.compile(r"\d+(,\d+)+|\d+(\.\.|-)\d+")


def _parse(settings: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` pairs; a value is JSON, or else a word."""

    def refuse(value: str) -> Any:
        raise ValueError(value)  # NaN and Infinity are no JSON

    found: dict[str, Any] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ZooError(f"--set expected NAME=VALUE, got {text!r}. For instance --set num_components=3.")
        if name in found:
            raise ZooError(f"--set {name} expected once, got it again with {value!r}. Keep one of them.")
        try:
            found[name] = json.loads(value, parse_constant=refuse)
        except ValueError:
            found[name] = value
        if isinstance(found[name], float) and not math.isfinite(found[name]):
            raise ZooError(f"--set {name} expected a finite number, got {value}. Choose a smaller one.")
    return found
