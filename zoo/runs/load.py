"""Reading a fit back; nothing found in a file is ever imported or run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch

from zoo.bayes.draws import Draws
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.schema import Schema
from zoo.core.state import restore
from zoo.core.turns import exclusive
from zoo.errors import ZooError
from zoo.models import find_model
from zoo.runs.result import FORMAT, SAVED, SAVED_LATER, Fit
from zoo.runs.templates import expanded
from zoo.storage.tensors import read_tensors

__all__ = ["load"]


def template_from(description: Any) -> Data:
    if description is None or "value" in description:
        return None if description is None else description["value"]
    if "dict" in description:
        return {name: template_from(d) for name, d in description["dict"].items()}
    if "tuple" in description:
        return tuple(template_from(d) for d in description["tuple"])
    return torch.zeros(description["shape"], dtype=getattr(torch, description["dtype"]))


def _rebuilt(kind: Callable[..., Any], config: dict[str, Any]) -> Any:
    try:
        return kind(**config)
    except (TypeError, RuntimeError) as error:
        name = getattr(kind, "__name__", "the class")
        raise ZooError(
            f"load: {name} cannot be built as it was saved: {error}. Pass the class it was fitted with."
        ) from None


def _created(model: Any, guide: Callable[..., Any] | None, rows: Data) -> LatentVariableModel:
    """A program with its parameters, made by a run on data of the shapes it was fitted to, which are not kept.

    Zeros are data for most programs. One that starts where its data are (at their standard deviation) has to see some
    that differ: whole numbers, as they are counts, too.
    """
    failure: ZooError | None = None
    for draw in (torch.zeros_like, _uneven):
        built = as_model(model, guide)
        try:
            with isolated(0), pyro.validation_enabled(False):
                built.create(_filled(rows, draw))
            return built
        except ZooError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _filled(x: Data, draw: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(x, dict):
        return {name: _filled(value, draw) for name, value in x.items()}
    if isinstance(x, tuple):
        return tuple(_filled(value, draw) for value in x)
    return draw(x) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def _uneven(x: torch.Tensor) -> torch.Tensor:
    return torch.randint(1, 10, x.shape).to(x)


@exclusive
def load(folder: str | Path, model: Any = None, guide: Callable[..., Any] | None = None) -> Fit:
    """Read a fit back. Nothing found in a file is ever imported or run.

    Args:
        folder: what :meth:`Fit.save` wrote.
        model: for a fit of a user's own: the program, or the class, which is built from its recorded arguments, as a
            zoo model is.
        guide: of a program that was fitted with one.

    Raises:
        ZooError: the folder, or a file in it, is missing or damaged; a user's own program is not given.

    Example:
        >>> fit = zoo.fit("poisson_hmm", "earthquakes", num_states=2)
        >>> zoo.load(fit.save("kept")).parameters["rates"].round(2)
        array([[26.02],
               [15.42]])
    """
    path = Path(folder)
    if not (path / "fit.json").is_file():
        if (path / "checkpoints").is_dir():
            raise ZooError(f"load: expected a finished fit, got {str(path)!r} with checkpoints alone. Resume that run.")
        near = [p.parent.name for p in path.parent.glob("*/fit.json")] if path.parent.is_dir() else []
        hint = f"There are: {', '.join(sorted(near)[:5])}." if near else "Save one with fit.save(folder)."
        raise ZooError(f"load: expected a folder with fit.json, got {str(path)!r}. {hint}")
    broken = "fit.json"
    try:
        record = json.loads((path / "fit.json").read_text())
        broken = "model.safetensors"
        state = read_tensors(path / broken)
        broken = "fit.json"
        if record["format"] != FORMAT:
            raise ZooError(f"load: {str(path)!r} was written by another version. Fit and save again.")
        description = record["template"]
        record.setdefault("exact_q", record["elbo_se"] == 0 and record["elbo"] == record["log_likelihood"])
        saved = {name: record[name] for name in SAVED} | {name: record.get(name) for name in SAVED_LATER}
    except ZooError:
        raise
    except Exception:  # what safetensors and json make of broken files differs from version to version
        raise ZooError(f"load: {broken} in {str(path)!r} is damaged or cut short. Fit and save again.") from None
    template = template_from(description)
    if inspect.isclass(model):
        model = _rebuilt(model, record["config"])
    if record["own_program"] or model is not None:
        if model is None:
            raise ZooError(
                f"load: {str(path)!r} holds the program {record['model']!r} of a user; pass model=... to load it."
            )
        # Parameters may be as many as the data.
        built = _created(model, guide, expanded(template, (record.get("data") or {}).get("rows", record["num_data"])))
        if isinstance(record.get("guide_tables"), dict) and not built.has_guide:
            built.restore_guide(record["guide_tables"], state)
    else:
        try:
            kind = find_model(record["model"])
        except ZooError:
            raise ZooError(
                f"load: {str(path)!r} holds the class {record['model']!r} of a user; pass model=... to load it."
            ) from None
        built = kind(**record["config"])
    own = built.state_dict()
    if {n: tuple(v.shape) for n, v in own.items()} != {n: tuple(v.shape) for n, v in state.items()}:
        raise ZooError(
            f"load: {str(path)!r} expected the parameters of {record['model']}, got others. "
            "Pass the model it was fitted with."
        )
    saved_as = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(saved_as) == 1:  # a network may have been fitted in double precision
        built.to(dtype=saved_as.pop())
    restore(built, state)
    for name in record.get("fixed", ()):
        built.get_parameter(name).requires_grad_(False)
    if record.get("schema"):
        columns, symbols = record["schema"]["columns"], record["schema"]["symbols"]
        built.schema = Schema({k: tuple(v) for k, v in columns.items()}, None if symbols is None else tuple(symbols))
    return Fit(model=built.eval(), template=template, draws=Draws.read(path), **saved)
