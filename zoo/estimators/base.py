"""What an estimator is: options, a reason to refuse a model, and a way to improve its parameters in place."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import numbers
from zoo.core.problem import Problem
from zoo.core.ranks import present
from zoo.core.rows import Rows
from zoo.errors import ZooError, unknown_name
from zoo.storage.checkpoint import Checkpoint, Checkpoints, random_state

__all__ = ["Estimator", "Outcome", "Run", "options_from", "taken"]

#: The columns of every history. Where what is climbed is another bound than the ELBO there is a column "bound" too.
COLUMNS: tuple[str, ...] = ("objective", "log_likelihood", "elbo", "seconds")

#: Called after every iteration or epoch with its row of the history and the fraction done (None if unknown).
Callback = Callable[[dict[str, Any], float | None], None]


@runtime_checkable
class Ticked(Protocol):
    """A callback that is told how far a long epoch has come."""

    def tick(self, fraction: float) -> None: ...


@runtime_checkable
class Staged(Protocol):
    """A callback that is told how far a stage before the climb has come."""

    def stage(self, name: str, fraction: float) -> None: ...


@dataclass
class Run:
    """One run's clock, history and budget. ``record`` is called once an iteration or epoch.

    Args:
        callback: sees every row.
        max_seconds: budget on the run's own clock, or None.
        track: evaluates the exact log-likelihood off the clock, for estimators that do not see it themselves.
        track_every: every how many rows.
        checkpoints: where to write checkpoints, or None.
        resumed: the checkpoint to go on from, or None.
        warmup: what went before the first row, if anything: ``steps``, ``seconds``, the ``objective`` reached.
        cut_short: whether the time was over before that was done.
    """

    callback: Callback | None = None
    max_seconds: float | None = None
    track: Callable[[], float] | None = None
    track_every: int = 1
    checkpoints: Checkpoints | None = None
    resumed: Checkpoint | None = None
    history: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    warmup: dict[str, Any] | None = None
    cut_short: bool = False
    _started: float = field(default_factory=time.perf_counter)
    _off: float = 0.0
    _paused: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of work so far, tracking and callbacks left out."""
        return (self._paused or time.perf_counter()) - self._started - self._off

    def pause(self) -> None:
        """Stop the clock while another run works."""
        self._paused = self._paused or time.perf_counter()

    def go_on(self) -> None:
        """Let the clock run again."""
        if self._paused is not None:
            self._off += time.perf_counter() - self._paused
        self._paused = None

    def charge(self, seconds: float) -> None:
        """Count what was done for this run while its clock stood still."""
        self._off -= seconds

    @property
    def reserved(self) -> tuple[str, ...]:
        """Names of columns that mean the same in every run."""
        return (*COLUMNS, "bound", "validation", "gradient")

    @property
    def iterations(self) -> int:
        return len(self.history["objective"])

    @property
    def out_of_time(self) -> bool:
        """Whether the budget is spent; of a fit in several processes by the first one's clock."""
        if self.max_seconds is None:
            return False
        budget = self.max_seconds
        return present().from_first(lambda: self.seconds > budget)

    def record(
        self,
        objective: float | None,
        *,
        log_likelihood: float | None = None,
        elbo: float | None = None,
        fraction: float | None = None,
        **columns: float | None,
    ) -> None:
        """Add a row to the history (totals over the data, nats); ``columns`` are further ones: ``bound``, a total
        like the ELBO, where another bound is climbed; all others nats per datum."""
        seconds, now = self.seconds, time.perf_counter()
        if log_likelihood is None and self.track is not None and self.iterations % self.track_every == 0:
            log_likelihood = self.track()
        row = {"objective": objective, "log_likelihood": log_likelihood, "elbo": elbo, "seconds": seconds, **columns}
        count, history = self.iterations, self.history
        if row.keys() == history.keys():
            for name, value in row.items():
                history[name].append(value)
        else:
            for name in {**history, **row}:
                history.setdefault(name, [None] * count).append(row.get(name))
        if self.callback is not None:
            self.callback(row, fraction)
        if self._paused is None:
            self._off += time.perf_counter() - now

    def tick(self, fraction: float, stage: str | None = None) -> None:
        """Tell a callback that wants to know how far a long epoch, or a stage before the climb, has come."""
        if stage is None and isinstance(self.callback, Ticked):
            self.callback.tick(fraction)
        elif stage is not None and isinstance(self.callback, Staged):
            self.callback.stage(stage, fraction)

    def due(self) -> bool:
        """Count a step; whether a checkpoint is to be written after it."""
        return self.checkpoints is not None and not self.cut_short and self.checkpoints.due()

    def save(self, stage: str, record: dict[str, Any], groups: Mapping[str, Mapping[str, Tensor] | None]) -> None:
        """Write a checkpoint: plain values, and tensors in named groups; history, clock and generators go with them."""
        assert self.checkpoints is not None
        plain, values = random_state()
        for prefix, group in groups.items():
            values.update({f"{prefix}/{name}": value for name, value in (group or {}).items()})
        beside = {"history": self.history, "seconds": self.seconds, "warmup": self.warmup, "random": plain}
        self.checkpoints.save({"stage": stage, **record, **beside}, values)

    @property
    def stage(self) -> str | None:
        """The stage that the checkpoint to go on from was written in."""
        if self.resumed is None:
            return None
        name: str = self.resumed.record["stage"]
        return "warm-up" if name == "warmup" else name  # as it was written once

    def resume(self, stage: str) -> Checkpoint | None:
        """The checkpoint to go on from, if it was written in this stage; history and clock go on from there."""
        found = self.resumed
        if found is None or self.stage != stage:
            return None
        self.resumed = None
        self.take_over(found.record)
        return found

    def take_over(self, record: dict[str, Any]) -> None:
        """Go on with the history and the clock of a checkpoint."""
        self.history, self.warmup = record["history"], record.get("warmup")
        self._started, self._off = (self._paused or time.perf_counter()) - record["seconds"], 0.0


def taken(found: Checkpoint, prefix: str, model: LatentVariableModel) -> dict[str, Tensor]:
    """A group of a checkpoint that is a state of the model, on the model's device.

    Raises:
        ZooError: it is of other parameters.
    """
    own, values = model.state_dict(), found.part(prefix)
    if values and {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in values.items()}:
        raise ZooError("resume: the checkpoint expected other parameters than this model's. Use the model it had.")
    return {name: value.to(own[name].device) for name, value in values.items()}


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: "converged", "stalled", "max_iter", "diverged" or "interrupted".
        objective: what was climbed, at the parameters kept; total, nats.
        notes: one line for each thing a user should know.
        degenerate: whether a constraint (a covariance floor) acts at the parameters kept.
        elbo: the bound where the estimator knows it exactly; None to have it evaluated with the guide.
        exact_q: whether the E step is exact, so that bound and evidence coincide.
        log_likelihood: ln p(x) at the parameters kept, total, nats, where the model's own E step was taken there; None
            to have it evaluated.
        draws: of the parameters, where they are sampled and not estimated (:class:`zoo.bayes.draws.Draws`).
    """

    status: str
    objective: float
    notes: list[str] = field(default_factory=list)
    degenerate: bool = False
    elbo: float | None = None
    exact_q: bool = False
    log_likelihood: float | None = None
    draws: Any = None


@dataclass(frozen=True)
class Estimator:
    """Base class: a frozen set of options. Subclasses live one a file and are found by being there.

    Args of every method:
        problem: the model, the data as it takes them and what is known of its programs.
        run: where a run tells how it goes, keeps checkpoints and learns that its time is over.
    """

    name: ClassVar[str]
    #: How it chooses q, and how it moves θ: its row in the table of ``docs/design.md``.
    about_e: ClassVar[str]
    about_m: ClassVar[str]
    #: Whether a row of its history holds the exact log-likelihood anyway.
    sees_evidence: ClassVar[bool] = False
    #: Whether a guide given for this fit alone is a mistake.
    takes_no_guide: ClassVar[bool] = False
    #: What a row of its history stands for, a word.
    unit: ClassVar[str] = "iterations"
    #: Whether q is the model's guide.
    uses_guide: ClassVar[bool] = False
    #: Whether its runs write checkpoints; one that does not starts anew after a crash.
    writes_checkpoints: ClassVar[bool] = True
    #: Whether its runs divide their rows among the processes of ``torch.distributed``.
    spreads: ClassVar[bool] = False
    #: Whether it takes its data a part at a time, so that they need not fit into memory.
    streams: ClassVar[bool] = False

    def refuses(self, problem: Problem) -> str | None:
        """Why this estimator cannot serve the model: a phrase to follow "because"; None where it can.

        Raises:
            ZooError: an option outside its range, or that this model does not go with.
        """
        raise NotImplementedError

    def rehearse(self, problem: Problem) -> None:
        """What a process does only once (thread pools, compilers) is done here, off the clock. Changes nothing."""

    def elements(self, problem: Problem) -> int:
        """How many numbers a step works on: too few, and more than one thread does harm."""
        return numbers(problem.data)

    def run(self, problem: Problem, run: Run) -> Outcome:
        """Improve the model's parameters in place, starting from where they are."""
        raise NotImplementedError


def options_from(cls: type[Estimator], options: dict[str, Any], more: Iterable[str] = ()) -> Estimator:
    """Build an estimator from options by name.

    Args:
        more: what the caller takes besides: named where an option is not known.

    Raises:
        ZooError: an option it does not have (the nearest is offered), or a value of the wrong kind.
    """
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name, value in options.items():
        if name not in known:
            raise unknown_name(f"option of {cls.name}", name, {*known, *more})
        check_option(cls.name, name, known[name].default, value)
    return cls(**options)


def check_option(who: str, name: str, default: Any, value: Any) -> None:
    """Numbers must be numbers, finite and not negative; words must be words; None stands for "decide for me"."""
    if value is None or callable(value):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not (math.isfinite(value) and value >= 0):
        raise ZooError(f"{who}: {name} expected a finite number of at least 0, got {value}.")
    if isinstance(default, str) and not isinstance(value, str):
        raise ZooError(f"{who}: {name} expected a word such as {default!r}, got {value!r}.")
    if isinstance(default, (int, float)) and not isinstance(default, bool) and not number:
        raise ZooError(f"{who}: {name} expected a number such as {default}, got {value!r}.")
    if isinstance(default, int) and not isinstance(default, bool) and number and value != int(value):
        raise ZooError(f"{who}: {name} expected a whole number, got {value}.")


def at_least(who: str, least: int, **options: Any) -> None:
    """Raise ZooError for an option that is not a whole number of at least ``least``."""
    for name, value in options.items():
        if not (_finite(value) and value == int(value) and value >= least):
            raise ZooError(f"{who}: {name} expected a whole number of at least {least}, got {value!r}.")


def above_zero(who: str, **options: Any) -> None:
    """Raise ZooError for an option that is not a finite number above 0."""
    for name, value in options.items():
        if not (_finite(value) and value > 0):
            raise ZooError(f"{who}: {name} expected a finite number above 0, got {value!r}.")


def from_zero(who: str, **options: Any) -> None:
    """Raise ZooError for an option that is not a finite number of at least 0."""
    for name, value in options.items():
        if not (_finite(value) and value >= 0):
            raise ZooError(f"{who}: {name} expected a finite number of at least 0, got {value!r}.")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def given(estimator: Estimator, *names: str) -> dict[str, Any]:
    """Those of an estimator's options that are not None, which stands for "decide for me"."""
    return {name: value for name in names if (value := getattr(estimator, name)) is not None}


def needs_statistics(problem: Problem) -> str | None:
    """The reason, if any, why closed-form EM cannot serve a problem."""
    return problem.lacks("e_step", "m_step") or moves_all(problem.model, "m_step", kept(problem.model))


def kept(model: LatentVariableModel) -> set[str]:
    """The parameters that a model's ``m_step`` can leave as they are."""
    return {name for cls in type(model).__mro__ for name in cls.__dict__.get("keeps", ())}


def moves_all(model: LatentVariableModel, what: str, kept: Iterable[str] = ()) -> str | None:
    """The reason, if any, why something that sets every parameter (but those ``kept``) cannot serve the model: some are
    to stay."""
    staying = [name.removesuffix("_unconstrained") for name, p in model.named_parameters() if not p.requires_grad]
    moved = [name for name in staying if name not in kept and not (kept and "." in name)]  # no M step sets a guide's
    if moved:
        return f"{moved[0]!r} is to stay (requires_grad=False), and its {what} sets every parameter"
    return None


def of_rows_alone(problem: Problem) -> str | None:
    """The reason, if any, why an estimator of the data alone cannot serve a problem: something stands beside them."""
    if not isinstance(problem.data, Rows):
        return None
    what = "counts every row once" if problem.data.weights is not None else "knows nothing of any latent"
    return f"its joint density of parameters and data {what}"
