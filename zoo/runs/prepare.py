"""From a model, data and options to what can be run: first runs, checks, starts, the usual estimators."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from zoo.automatic.checks import NOTHING_OBSERVED
from zoo.automatic.enumeration import remembered
from zoo.automatic.starts import choose_start
from zoo.components.questions import Question
from zoo.core import program
from zoo.core.checks import failed_on_data
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, at_hand, num_data, plain, stream_of, take, tensors, weights_of
from zoo.core.duplicates import duplicate
from zoo.core.functions import as_model
from zoo.core.isolation import isolated, kept_generators
from zoo.core.places import data_names
from zoo.core.problem import Problem
from zoo.core.rows import Rows
from zoo.core.sites import is_auxiliary, sample_sites
from zoo.core.streams import Stream
from zoo.errors import ZooError, unknown_name
from zoo.estimators import estimator_classes, find_estimator
from zoo.estimators.base import Estimator
from zoo.runs.beside import align_to_known, settled, with_beside

__all__ = [
    "check_guide",
    "check_moves",
    "check_serves",
    "drawn_apart",
    "first_run",
    "possible_rows",
    "serving",
    "start",
    "starting",
    "suits_auto_em",
    "unnormalised",
    "usual_estimators",
    "with_held_out",
]


#: What is taken, in this order, where nobody names an estimator.
DEFAULT_ESTIMATORS = ("em", "mean_field", "eg", "svi", "gumbel")


def with_held_out(estimator: Estimator, model: LatentVariableModel, x: Data, seed: int) -> tuple[Data, Estimator]:
    """The data to fit, and the estimator with the held-out ones: a fraction is drawn from the data by the seed.

    Raises:
        ZooError: no fraction between 0 and 1, or one that leaves no data on a side.
    """
    asked = vars(estimator).get("validation")  # an option of those that follow held-out data
    if asked is None:
        return x, estimator
    if isinstance(asked, (bool, str)):
        raise ZooError(f"{estimator.name}: validation expected a fraction or data, got {asked!r}. Take 0.1.")
    if not isinstance(asked, (int, float)):
        return x, replace(estimator, validation=possible_rows(model, prepared(model, asked))[0])  # type: ignore[call-arg]
    if not 0 < asked < 1:
        raise ZooError(f"{estimator.name}: validation expected a fraction between 0 and 1, got {asked}. Take 0.1.")
    rows = num_data(x)
    if round(asked * rows) >= rows or rows < 2:
        raise ZooError(
            f"{estimator.name}: validation={asked} expected data on both sides, got {rows} in all. "
            "Pass held-out data instead."
        )
    if (stream := stream_of(x)) is not None:
        fitted, apart = held_apart(x, stream, asked, seed)
    else:
        fitted, apart = (take(x, which.to(tensors(x)[0].device)) for which in drawn_apart(rows, asked, seed))
    return fitted, replace(estimator, validation=apart)  # type: ignore[call-arg]


def drawn_apart(rows: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the rows to fit, and of those held out, a share of them and at least one, drawn by the seed."""
    order, held = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)), max(1, round(share * rows))
    return order[held:].sort().values, order[:held].sort().values


def held_apart(x: Data, stream: Stream, share: float, seed: int) -> tuple[Data, Data]:
    """The rows of a stream to fit, and those held out, which are in memory and no more than a sample."""
    held = stream.drawn(max(1, round(share * len(stream))), seed)
    fitted = stream.without(held)
    if isinstance(x, Rows):
        keep = torch.ones(len(stream), dtype=torch.bool)
        keep[held] = False
        weights = None if x.weights is None else x.weights[keep]
        return replace(x, data=fitted, weights=weights, known={n: v[keep] for n, v in x.known.items()}), take(x, held)
    return fitted, take(x, held)


def possible_rows(model: LatentVariableModel, x: Data) -> tuple[Data, list[str]]:
    """The data without the rows that no parameters make possible, and a note that counts and names these.

    Raises:
        ZooError: no row is possible.
    """
    if lacks(model, "leaves_out") is not None or stream_of(x) is not None:
        return x, []
    hopeless, why = model.leaves_out(x)
    which = hopeless.nonzero().flatten().tolist()
    if not which:
        return x, []
    if len(which) == len(hopeless):
        raise ZooError(f"{model.name}: expected data that the model can make, got none: {why}. Pass others.")
    named = f"{len(which)} of {len(hopeless)} data ({data_names(which)})"
    note = f"{named} left out, as probability zero whatever the fit: {why}"
    return take(x, (~hopeless).nonzero().flatten()), [note]


def start(
    model: LatentVariableModel,
    x: Data,
    init: str,
    restart: int = 0,
    searched: bool = True,
    spare: bool = False,
) -> LatentVariableModel:
    """A copy of the model at a starting point: fresh guide, parameters from the data (both from torch's generator).

    Args:
        searched: whether parameters that have a prior go to the best of a few draws.
        spare: whether nobody needs the model afterwards: it then starts itself, where it can.
    """
    x = at_hand(x)
    candidate = _begun(model, init, spare)
    candidate.initialize(x, init, restart)
    return _ready(candidate, model, x, init, restart, searched)


def starting(
    model: LatentVariableModel, x: Data, init: str, restart: int = 0, spare: bool = False
) -> Generator[Question, Any, LatentVariableModel]:
    """:func:`start`, which asks for what others may want too where the model does."""
    candidate = _begun(model, init, spare)
    if lacks(candidate, "starting") is None:
        yield from candidate.starting(x, init, restart)
    else:
        candidate.initialize(x, init, restart)
    return _ready(candidate, model, x, init, restart)


def _begun(model: LatentVariableModel, init: str, spare: bool) -> LatentVariableModel:
    free = all(p.requires_grad for p in model.parameters())  # what is to stay is put back from the model
    candidate = model if spare and free else duplicate(model)
    if init != "current":
        candidate.reset_guide()
    return candidate


def _ready(
    candidate: LatentVariableModel, model: LatentVariableModel, x: Data, init: str, restart: int, searched: bool = True
) -> LatentVariableModel:
    """The candidate, with what its start has left to be done, and what stays as in the model."""
    if weights_of(x) is not None and lacks(candidate, "measure") is None:
        candidate.measure(x)
    if init != "current":
        align_to_known(candidate, x)
    if candidate is not model:
        with torch.no_grad():
            for name, staying in model.named_parameters():
                if not staying.requires_grad and name in dict(candidate.named_parameters()):
                    candidate.get_parameter(name).copy_(staying)
    if searched:
        choose_start(candidate, x, first=restart == 0)
    return candidate


def first_run(model: LatentVariableModel, x: Data, wants_guide: bool = False) -> Problem:
    """Create a program's parameters, and look it up; what its data cannot do is the user's to hear in one line.

    A model that is trusted has its parameters. A program with discrete latents only, and no guide where one is wanted,
    gets one of tables.
    """
    problem = Problem(model, x)
    if model.trusted:
        return problem
    try:
        model.create(x)
        if wants_guide and not model.has_guide:
            latents = program.latent_sites(model, x)
            if latents and all(site.discrete for site in latents):
                model.take_guide(x)
        if model.has_guide:
            check_guide(problem)
    except Exception as error:
        raise failed_on_data(model.name, error) from error
    if not problem.program.observes:
        raise ZooError(f"{model.name}: {NOTHING_OBSERVED}. Give a sample statement obs=...")
    return problem


def unnormalised(model: LatentVariableModel) -> str:
    """The note on a fit whose objective is no log-likelihood."""
    if (reason := model.withholds().get("log_marginal")) is not None:
        bound = ", and no bound on one" if model.trusted and model.has_guide else ""
        if lacks(model, "annealed_log_partition") is None:
            return f"{reason}: it has no exact log-likelihood; evaluate gives a bracket by annealing"
        return f"{reason}: it has no log-likelihood{bound}"
    if model.noise_sites:
        return (
            f"site {model.noise_sites[0]!r} is noise beside the latents: what was climbed depends on it and is no "
            f"bound on a log-likelihood. If it is one all the same, say so: {model.name}.normalized = True"
        )
    what = f"site {model.factors[0]!r} is a pyro.factor, so the program" if model.factors else "the program"
    fix = "" if model.trusted else (
        f". If its factors are log-densities of data, say so: {model.name}.normalized = True"
    )  # fmt: skip
    return (
        f"{what} is a density only up to a factor Z that is not known: what was climbed is no log-likelihood, and "
        f"there is none{fix}"
    )


def check_moves(estimator: Estimator, problem: Problem) -> None:
    """Raise ZooError where an estimator has no parameter to fit."""
    model = problem.model
    moving = [name for name, p in model.named_parameters() if p.requires_grad]
    if moving and not model.trusted and model.has_guide and not estimator.uses_guide:
        moving = list(problem.program.theta)
    if not moving:
        some = any(True for _ in model.parameters())
        what = "all its parameters are to stay (requires_grad=False)" if some else "it has no parameters"
        raise ZooError(
            f"{model.name}: nothing is to be fitted: {what}. Score it by zoo.evaluate(model, x), decode it by "
            "zoo.discrete_posterior(model, x)."
        )


def check_guide(problem: Problem) -> None:
    """Raise ZooError where a user's guide draws what the program does not have, leaves out what it needs, or draws it
    in another shape. A discrete latent may be left out: it can be summed over."""
    model, found, sites = problem.model, sample_sites(problem.program.guide), sample_sites(problem.program.model)
    latents = [name for name, site in sites.items() if not site["is_observed"]]
    strange = [name for name, site in found.items() if name not in latents and not is_auxiliary(site)]
    if strange:
        known = ", ".join(map(repr, latents)) or "none"
        raise ZooError(
            f"the guide expected to draw the latents of the program {model.name!r}, {known}, got {strange[0]!r}. "
            "Give it the name the program has."
        )
    for name in latents:
        if name in found:
            ours, theirs = (one[name]["fn"].event_dim for one in (found, sites))
            if ours != theirs:
                raise ZooError(
                    f"site {name!r} expected as many event dimensions in the guide as in the program, got {ours} and "
                    f"{theirs}. Put both in the plate, or end both with .to_event(n)."
                )
        elif not getattr(sites[name]["fn"], "has_enumerate_support", False):
            raise ZooError(
                f"the guide expected to draw every continuous latent of the program {model.name!r}, got none for "
                f"{name!r}. Sample {name!r} in it."
            )


def check_init(model: LatentVariableModel, init: str | None) -> None:
    """Raise ZooError for a start that the model does not know; None is its first one."""
    if init is not None and init not in {*model.inits, "current"}:
        raise unknown_name("init", init, {*model.inits, "current"})


def check_serves(estimator: Estimator, problem: Problem) -> None:
    """Raise ZooError if the estimator cannot serve the model, naming the ones that can."""
    reason = _refuses(estimator, problem)
    if reason is not None:
        able = serving(problem)
        fix = f"Use {', '.join(able)}." if able else "No estimator can."
        raise ZooError(f"{estimator.name} cannot fit this model: {reason}. {fix}")


def serving(problem: Problem, among: Iterable[str] | None = None) -> list[str]:
    """The names of the estimators that can serve a problem, of all or in the order of those asked for."""
    with kept_generators():
        return [n for n in among or sorted(estimator_classes()) if _refuses(find_estimator(n)(), problem) is None]


def _refuses(estimator: Estimator, problem: Problem) -> str | None:
    """Why an estimator cannot serve a problem, a phrase; None where it can."""
    stream = stream_of(problem.data)
    if stream is not None and not estimator.streams:
        return f"it takes all data at once, and the {len(stream)} rows of {stream.name} are read in pieces"
    return estimator.refuses(problem)


def usual_estimators(
    model: Any,
    x: Any,
    guide: Callable[..., Any] | None = None,
    for_fit: bool = False,
    *,
    first: bool = False,
    in_pieces: bool = False,
    weights: Any = None,
    known: Mapping[str, Any] | None = None,
    fixed: str | Iterable[str] = (),
) -> list[str]:
    """Which estimators to take where nobody says: those of em, mean_field, eg, svi, gumbel that can serve the model.

    In the place of em stands auto_em where the model has no M step of its own and the program's is closed form, or
    climbs a few numbers only: steps along the gradient take hundreds of times as long there.
    Where only one of them can, iwae and rws come beside it, so that there is something to compare; where none can, all
    others that can. Never empty.

    Args:
        for_fit: whether one fit is to be made, in which a guide that was given must have a part.
        first: whether the first alone is wanted. Where that is em, no program need be run to tell.
        in_pieces: whether the data stand for more, which are read in pieces: no parameter may climb then in auto_em.
        weights: as for ``fit``, like ``known`` and ``fixed``.

    Raises:
        ZooError: no estimator can serve the model.
    """
    with isolated(0), remembered():
        base = duplicate(as_model(model, guide))
        ready = prepared(base, x, new=True)
        rows = with_beside(base, ready, weights, known)
        problem = first_run(base, plain(rows))
        problem, _ = settled(problem, rows, fixed)
        if first and problem.lacks("recall") is not None and (usual := serving(problem, DEFAULT_ESTIMATORS[:1])):
            return usual
        usual = serving(problem, DEFAULT_ESTIMATORS)
        given_guide = for_fit and not base.trusted and base.has_guide
        energy = problem.lacks("annealing_path") is None  # every update would be a climb through its ln Z
        if "em" not in usual and not given_guide and not energy and suits_auto_em(problem, in_pieces):
            usual.insert(0, "auto_em")
        if problem.lacks("recall") is None:  # a memory stores by its rule, whatever else might learn
            usual = [*serving(problem, ("closed_form",)), *usual]
        if len(usual) == 1:
            usual += serving(problem, ("iwae", "rws"))
        usual = usual or serving(problem)
        why = "" if usual else find_estimator("eg")().refuses(problem)
    if not usual:
        raise ZooError(
            f"no estimator can serve this model: it has no guide, and no exact sum, because {why}. Pass a guide."
        )
    return usual


def suits_auto_em(problem: Problem, in_pieces: bool = False) -> bool:
    """Whether auto_em can serve a problem, and its updates are closed forms but for a few numbers, or for none."""
    from zoo.automatic.newton import NEWTON_SIZE
    from zoo.automatic.plan import make_plan

    if not serving(problem, ("auto_em",)):
        return False
    model, x = problem.model, problem.data
    ready = start(model, x, model.inits[0])
    try:
        with kept_generators():
            plan = make_plan(ready, x)
    except ZooError:
        return False
    return sum(plan.space.raw[name].numel() for name in plan.numeric) <= (0 if in_pieces else NEWTON_SIZE)
