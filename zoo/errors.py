"""The errors a user can meet, each one line: what was expected, what came, one fix."""

from __future__ import annotations

import difflib
import sys
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["LeftOut", "LikelihoodDecreased", "RankLost", "ZooError", "one_line", "unknown_name", "warn_caller"]

#: Names that other packages have for what is meant here.
ELSEWHERE = {
    "epochs": "max_epochs",
    "lr": "learning_rate",
    "n_components": "num_components",
    "n_epochs": "max_epochs",
    "n_init": "restarts",
    "n_iter": "max_iter",
    "n_jobs": "jobs",
    "n_states": "num_states",
    "n_steps": "max_epochs",
    "num_epochs": "max_epochs",
    "num_iter": "max_iter",
    "random_state": "seed",
    "verbose": "progress",
}


class ZooError(ValueError):
    """A mistake in what the user passed in. The command line prints it as one line and exits with 2; a notebook shows
    the caller's own lines above it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints: no lines of the zoo, which did what it was asked to."""
        here, shells = str(Path(__file__).parent), {"IPython", "ipykernel"}
        frames = [f for f in traceback.extract_tb(self.__traceback__) if not shells & set(Path(f.filename).parts)]
        own = [f"line {frame.lineno}: {frame.line}" for frame in frames if not frame.filename.startswith(here)]
        return [*own, f"{type(self).__name__}: {self}"]


class RankLost(ConnectionError):
    """Another process of a fit in several has ended, or does not answer: this one cannot go on."""


class LeftOut(UserWarning):
    """What was passed over: a file of the zoo that cannot be imported, columns of a table; the rest goes on."""


def warn_caller(message: str) -> None:
    """Warn of what was left out, at the line of the caller outside of the zoo."""
    here, level = str(Path(__file__).parent), 1
    frame = sys._getframe()
    between = ("contextlib", "functools")  # of decorators
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(here) or frame.f_globals.get("__name__") in between
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, LeftOut, stacklevel=level)


class LikelihoodDecreased(RuntimeError):
    """EM's objective fell by more than rounding, which a correct E and M step cannot do.

    Attributes:
        iteration: the iteration, counted from 1, whose E step showed the fall.
        decrease: by how many nats (total) the objective fell; positive.
        rounding: what rounding could have taken from it at most, as measured on these data, nats.
        cause: what is to blame for it, a sentence's beginning.
        fit: the best fit so far, status ``"diverged"``.
    """

    def __init__(
        self,
        iteration: int,
        decrease: float,
        fit: Any = None,
        *,
        rounding: float = 0.0,
        cause: str = "The model's m_step does not maximise what its e_step measures",
    ) -> None:
        super().__init__(
            f"EM's objective fell by {decrease:.3g} nats at iteration {iteration}, where rounding explains no more "
            f"than {rounding:.1g}. {cause}; the fit up to there is in this exception's `fit`."
        )
        self.iteration, self.decrease, self.rounding, self.cause = iteration, decrease, rounding, cause
        self.fit = fit

    def __reduce__(self) -> tuple[Any, ...]:
        told = {name: value for name, value in vars(self).items() if name not in ("iteration", "decrease")}
        return _fell, (type(self), self.iteration, self.decrease, self.rounding, self.cause), told


def _fell(
    kind: type[LikelihoodDecreased], iteration: int, decrease: float, rounding: float, cause: str
) -> LikelihoodDecreased:
    return kind(iteration, decrease, rounding=rounding, cause=cause)


def one_line(error: BaseException) -> str:
    """An error in one line: its first, with its kind where it is not a :class:`ZooError`."""
    first = (str(error).strip().splitlines() or [""])[0]
    return (
        first if isinstance(error, ZooError) else f"{type(error).__name__}: {first}" if first else type(error).__name__
    )


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> ZooError:
    """The error for a name that is not one of ``choices``; it offers the one that is meant, or else the nearest one.

    What is meant: the same name in another case or with its letters in another order, or what another package calls it.
    """
    names = sorted(choices)
    lower = str(name).lower()
    near = [known for known in names if known in (lower, ELSEWHERE.get(lower))]
    near += [known for known in names if sorted(known) == sorted(lower)]
    near += difflib.get_close_matches(lower, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(names)}."
    return ZooError(f"{kind} {name!r} is not known. {hint}")
