"""What a fit says of every datum's latents, as a table: labels and their probabilities, states, scores, codes, trees.

What stands in it depends on what a model offers and declares, never on which model it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributions

from zoo.core.contract import lacks, prepared
from zoo.core.data import Data
from zoo.core.sequences import in_steps
from zoo.errors import ZooError
from zoo.reporting.page import array
from zoo.reporting.subjects import Fitted

__all__ = ["Columns", "latent_table", "with_rows", "write_columns"]

#: By name, columns of one length.
Columns = dict[str, NDArray[Any]]


def latent_table(fit: Fitted, x: Any, *, proba: bool = True, scores: bool = False) -> Columns:
    """A row a datum, of sequences a row a step, in the order of the data.

    A discrete latent has a column named after what it is (``component``, ``state``), and ``p_0``, ``p_1``, ... with the
    probabilities of its values; a path of states is the most probable one as a whole. A continuous latent has its
    posterior means (``factor_0``, ``code_0``) and, where these are known, standard deviations (``factor_0_sd``).
    Sequences are numbered from 0 by ``sequence``, where there are several, their steps by ``step``; sentences that are
    parsed have a ``tree``.

    Args:
        proba: whether to give the probabilities and standard deviations.
        scores: whether to add ``log_likelihood``, nats: of each datum, or of the sequence that a step is of.

    Raises:
        ZooError: the latents are not to be had, see ``fit.predict``; or ln p(x) is not.
    """
    model = fit.model
    given_alone = bool(model.fields.given) and lacks(model, "predict") is None
    data = prepared(model, x, given_alone=given_alone)
    if lacks(model, "parse") is None:
        trees = [None if tree is None else str(tree) for tree in model.parse(data)]
        made: Columns = {"tree": np.array(trees, dtype=object)}
    elif lacks(model, "encoded") is None:
        made = _numbered("code", array(fit.transform(x)))
    elif lacks(model, "posterior_means") is None and lacks(model, "posterior") and lacks(model, "predict"):
        made = _numbered(_kind(fit, ("hidden unit", "code"), "z"), array(fit.transform(x)))
    else:
        made = _of(fit, x, data, fit.predict(x), proba)
    if scores:
        each = array(fit.score_samples(x))
        made["log_likelihood"] = each[made["sequence"]] if "sequence" in made else np.broadcast_to(each, _rows(made))
    return made


def _rows(made: Columns) -> int:
    return len(next(iter(made.values())))


def _kind(fit: Fitted, kinds: tuple[str, ...], otherwise: str) -> str:
    """What the model calls its latent: the first of these words among those of its axes."""
    words = {word for axes in fit.model.named_axes().values() for word in axes}
    return next((kind.replace(" ", "_") for kind in kinds if kind in words), otherwise)


def _of(fit: Fitted, x: Any, data: Data, found: Any, proba: bool) -> Columns:
    if isinstance(found, dict):
        steps = in_steps(found)
        if steps is not None:
            return _by_step(data, {"": steps}, _kind(fit, ("state", "code"), "z"))
        if all(value.dim() == 0 for value in found.values()):
            return _by_site(fit, x, found, proba)
        made: Columns = {}
        for name, value in found.items():
            made.update({name: _values(value)} if value.dim() == 1 else _numbered(name, _values(value)))
        return made
    chain = lacks(fit.model, "viterbi") is None or lacks(fit.model, "state_probs") is None
    if chain and found.dim() == 2:
        parts = {"": found} | ({"p": fit.predict_proba(x)} if proba else {})
        return _by_step(data, parts, _kind(fit, ("state",), "state"))
    values = _values(found)
    if found.is_floating_point():
        word = _kind(fit, ("factor", "code"), "z")
        return _numbered(word, values) | (_deviations(fit, x, word) if proba else {})
    if values.ndim > 1:
        return _symbols(fit, values) if fit.model.fields.given else _numbered("z", values)
    made = {_kind(fit, ("component", "state"), "label"): values}
    if proba:
        probabilities = fit.predict_proba(x)
        made |= _numbered("p", array(probabilities)) if probabilities.dim() == 2 else {}
    return made


def _by_site(fit: Fitted, x: Any, found: dict[str, Tensor], proba: bool) -> Columns:
    """Latents in no plate of the data, a row each: a program's chain over all of them, z_0, z_1, ..., by its steps."""
    values = _values(torch.stack(list(found.values())))
    stems = {name.rstrip("0123456789") for name in found}
    if len(stems) == 1 and [*stems] != [*found]:
        word = stems.pop().rstrip("_")
        made: Columns = {
            "step": np.array([int(name[len(name.rstrip("0123456789")) :]) for name in found]),
            word: values,
        }
    else:
        made = {"site": np.array(list(found), dtype=object), "value": values}
    posterior = fit.posterior(x) if proba else {}
    probs: list[Any] = [getattr(posterior[name], "probs", None) for name in found if name in posterior]
    if len(probs) == len(found) and len({None if p is None else p.shape for p in probs}) == 1 and probs[0] is not None:
        made |= _numbered("p", array(torch.stack(probs))) if probs[0].dim() == 1 else {}
    return made


def _numbered(word: str, values: NDArray[Any]) -> Columns:
    values = values.reshape(len(values), -1)
    return {f"{word}_{i}": values[:, i] for i in range(values.shape[1])}


def _values(found: Tensor) -> NDArray[Any]:
    """Labels as whole numbers, the rest in double precision."""
    return array(found) if found.is_floating_point() else found.detach().cpu().long().numpy()


def _deviations(fit: Fitted, x: Any, word: str) -> Columns:
    posterior = fit.posterior(x)
    if not isinstance(posterior, distributions.Distribution):
        return {}
    try:
        scale = array(posterior.stddev)
    except NotImplementedError:
        return {}
    return {f"{name}_sd": value for name, value in _numbered(word, scale).items()}


def _by_step(data: Data, parts: dict[str, Tensor], word: str) -> Columns:
    """Values (N, T), or (N, T, ...), a row for each step that is there."""
    first = array(next(iter(parts.values())))
    n, t = first.shape[:2]
    lengths = data.get("lengths") if isinstance(data, dict) else None
    there = np.arange(t) < (np.full((n, 1), t) if lengths is None else array(lengths)[:, None])
    sequence, step = (index[there] for index in np.indices((n, t)))
    made: Columns = ({"sequence": sequence} if n > 1 else {}) | {"step": step}
    for name, value in parts.items():
        rows = _values(value)[there]
        made |= {word: rows} if rows.ndim == 1 else _numbered(name or word, rows)
    return made


def with_rows(made: Columns, rows: NDArray[np.intp] | None) -> Columns:
    """The same behind a column ``row``: which rows of a file they are of, counted there from 1.

    Args:
        rows: (M,), from 0; None where they are as in the file. Tables of another length (a row a sequence) stay.
    """
    return made if rows is None or len(rows) != _rows(made) else {"row": rows + 1, **made}


def _symbols(fit: Fitted, values: NDArray[Any]) -> Columns:
    """Sequences of symbols, padded with 0, as text with spaces."""
    return {"symbols": np.array([" ".join(str(int(v)) for v in row if v) for row in values], dtype=object)}


def write_columns(made: Columns, path: Path) -> Path:
    """A table into a file that the suffix tells: .csv (.csv.gz too), .tsv, .parquet, .json (a list of rows), .npy.

    Raises:
        ZooError: another suffix; a package that is missing; columns that are no numbers in an .npy.
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise ZooError(f"output expected a name ending in one of {known}, got {path.name!r}. Rename it.")
    _WRITERS[suffix](made, path)
    return path


def _csv(made: Columns, path: Path) -> None:
    _frame(made).to_csv(path, index=False)


def _tsv(made: Columns, path: Path) -> None:
    _frame(made).to_csv(path, index=False, sep="\t")


def _parquet(made: Columns, path: Path) -> None:
    try:
        _frame(made).to_parquet(path, index=False)
    except ImportError:
        raise ZooError(f"{path.name} expected the package pyarrow. Install it, or name a .csv.") from None


def _json(made: Columns, path: Path) -> None:
    _frame(made).to_json(path, orient="records")


def _npy(made: Columns, path: Path) -> None:
    if any(v.dtype == object for v in made.values()):
        raise ZooError(f"{path.name} expected numbers, got the text of {', '.join(made)}. Name a .csv.")
    np.save(path, np.column_stack(list(made.values())), allow_pickle=False)


def _frame(made: Columns) -> Any:
    import pandas as pd

    return pd.DataFrame(made)


_WRITERS: dict[str, Callable[[Columns, Path], None]] = {
    ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet, ".json": _json, ".npy": _npy,
}  # fmt: skip
