"""A user's plain program, and its guide, as a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from guides.tables import DiscreteTables, OtherData
from zoo.core.boxes import Box, Keep, key_of, name_of
from zoo.core.checks import failed_on_data, fits_program
from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, call, num_data, plain, tensors
from zoo.core.isolation import kept_generators
from zoo.core.networks import Lender
from zoo.core.points import Drawn, Improper, Points, Prior, joint_with_latents, priors, sampled_parameters, supports
from zoo.core.readings import parameter_values
from zoo.core.sites import factors, noise
from zoo.core.turns import turn
from zoo.core.unchanged import Unchanged
from zoo.core.unsized import Unsized
from zoo.errors import ZooError

__all__ = ["FunctionModel", "as_model"]


class FunctionModel(LatentVariableModel):
    """A user's plain ``model(x)`` and ``guide(x)`` with ``pyro.param`` and ``pyro.module``, as a model.

    The first run creates the parameters; from then on they belong to this object, in the data's dtype, and both
    programs see only them: Pyro's store is swapped for a call. Networks registered with ``pyro.module`` stay the
    caller's own: their weights are replaced during a call. Modules (a PyroModule, an AutoGuide) are programs too.

    Without a guide, a continuous ``pyro.sample`` in no plate of the data is a parameter with a prior: it becomes a
    parameter (``NAME.mode``), estimated at its mode (MAP), and ``log_prior`` is its density, counted as Pyro counts it.
    It stays off the edges of its support (:mod:`zoo.core.edges`), where a density may be infinite.
    """

    trusted = splits = False

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any] | None = None, local: bool = False) -> None:
        super().__init__()
        self._kept = Keep((model, guide))
        # A box keeps PyroModule from renaming the caller's module as a child of this one.
        self._boxes = nn.ModuleList([Box(p) if isinstance(p, nn.Module) else nn.Module() for p in (model, guide)])
        self._local = local
        self.fields = getattr(model, "fields", self.fields)
        self._constraints: dict[str, Any] = {}
        self._nets: dict[str, Keep] = {}
        #: Names of the sites that are ``pyro.factor``: numbers that are no density of anything.
        self.factors: tuple[str, ...] = ()
        self._of_guide: frozenset[str] = frozenset()
        #: Names of the sample sites that are parameters with a prior.
        self.points: frozenset[str] = frozenset()
        #: Those of them whose prior depends on latents that are summed over: it stays inside the sum.
        self.joint_points: frozenset[str] = frozenset()
        self._last = Keep({})
        #: Whether they stand where they were drawn.
        self.drawn = False
        self._supports: dict[str, Any] = {}
        self._typical = Keep({})
        #: Their priors where no parameter enters these, else None: then the data, to run the program up to them.
        self._priors = Keep(None)
        self._seen = Keep(None)

    @property
    def name(self) -> str:  # type: ignore[override]
        program = self._kept.value[0]
        return getattr(program, "__name__", type(program).__name__)

    @property
    def normalized(self) -> bool:  # type: ignore[override]
        """What the program says of itself (its attribute ``normalized``), else whether it has no ``pyro.factor``, and
        no noise beside its latents."""
        said = getattr(self._kept.value[0], "normalized", None)
        return not (self.factors or self.noise_sites) if said is None else bool(said)

    def model(self, *args: Any, **kwargs: Any) -> Any:
        points = Points(self.points, self._supports, self.joint_points)
        with self._own_parameters(args, kwargs), points:
            result = self._program(0)(*args, **kwargs)
        self._last = Keep(points.values)
        return result

    def log_prior(self) -> Tensor:
        """ln p of the parameters that are sampled from a prior, nats, scaled and masked as in the program."""
        names = sorted(self.points - self.joint_points)
        if not names:
            return super().log_prior()
        met = self._priors.value
        if met is not None:
            values = {name: self.point(name) for name in self.points}
        else:
            now = self._priors_now()
            met, values = now.met, now.values
        self._last = Keep(values)
        return torch.stack([met[name].log_prob(values[name]).sum() for name in names]).sum()

    @property
    def last_values(self) -> dict[str, Tensor]:
        """By sample site, the parameters with a prior in the last run: what its result was computed from."""
        values: dict[str, Tensor] = self._last.value
        return values

    def point(self, name: str) -> Tensor:
        """The value of a parameter that has a prior, by its sample site's name."""
        full = name + ".mode"
        value: Tensor = transform_to(self._constraints[full])(self._parameters[key_of(full)])
        return value

    @torch.no_grad()
    def set_point(self, name: str, value: Tensor) -> None:
        """Set a parameter that has a prior; a value beyond the margin of its support goes to the margin."""
        full = name + ".mode"
        self._parameters[key_of(full)].copy_(transform_to(self._constraints[full]).inv(value))  # type: ignore[union-attr]

    def draw_points(self, x: Data) -> None:
        """Draw the parameters that have a prior anew, from torch's generator: some far apart, some near the middle."""
        args, kwargs = _arguments(x)
        number = (1, 1, 3, 15)[int(torch.randint(4, ()))]
        with self._own_parameters(args, kwargs):
            drawn = priors(lambda: self._program(0)(*args, **kwargs), Drawn(self.points, number))
        for name, value in drawn.values.items():
            self.set_point(name, value)

    def point_parameters(self) -> list[str]:
        """The names of the parameters that have a prior, as in ``named_parameters``."""
        return [key_of(name + ".mode") for name in sorted(self.points)]

    @property
    def typical_points(self) -> dict[str, Tensor]:
        """By sample site, a value in the middle of its prior."""
        values: dict[str, Tensor] = self._typical.value
        return values

    def constraint_of_point(self, name: str) -> Any:
        """The constraint of a parameter that has a prior, by its sample site's name."""
        return self._constraints[name + ".mode"]

    def _priors_now(self) -> Points:
        """The priors at the present parameters; of the program no more is run than they take."""
        args, kwargs = _arguments(self._seen.value)
        with self._own_parameters(args, kwargs):
            return priors(
                lambda: self._program(0)(*args, **kwargs),
                Points(self.points, self._supports, self.joint_points, until=True),
            )

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        with self._own_parameters(args, kwargs):
            try:
                return self._program(1)(*args, **kwargs)
            except OtherData as error:
                raise ZooError(
                    f"{self.name}: its guide is a table for the data it was fitted to ({error}). Fit to these data, or "
                    "pass a guide that reads its q off the data."
                ) from error

    @property
    def has_default_guide(self) -> bool:
        """Whether the guide is the table that :meth:`take_guide` made."""
        return isinstance(self._kept.value[1], DiscreteTables)

    def guide_knows(self, x: Data) -> bool:
        """Whether the guide has a q for these data: one of tables has none for others than those it was made for."""
        if self.has_default_guide:
            try:
                with kept_generators():
                    call(self.guide, x)
            except ZooError:
                return False
        return True

    def withholds(self) -> dict[str, str]:
        lacking = "it has no guide; pass guide=... (for instance a pyro.infer.autoguide)"
        return {"guide": lacking} if self._kept.value[1] is None else {}

    def of_program(self) -> set[str]:
        names = {n for n, _ in self.named_parameters() if not n.startswith("_boxes.1.")}
        return names - {key_of(name) for name in self._of_guide}

    def named_values(self, names: set[str] | None = None) -> dict[str, Tensor]:
        """Parameters as their author named them, constrained, those with a prior by site."""
        values: dict[str, Tensor] = {}
        for name, constraint in self._constraints.items():
            if names is None or key_of(name) in names:
                site = name.removesuffix(".mode")
                shown = site if site in self.points else name.replace("$$$", ".")
                values[shown] = transform_to(constraint)(self._parameters[key_of(name)])
        for i, box in enumerate(self._boxes):
            inside = None if names is None else {n.removeprefix(f"_boxes.{i}.") for n in names}
            values |= {n.removeprefix("program."): v for n, v in parameter_values(box, inside).items()}
        return values

    @property
    def label(self) -> str:
        return self.name

    def saved_as(self) -> dict[str, Any]:
        return {"model": self.name, "own_program": True, "config": {}, "guide_tables": self.guide_record()}

    def create(self, x: Data) -> None:
        self.initialize(x, "current")

    def take_guide(self, x: Data) -> None:
        """Give a program without a guide one over its discrete latents (tables), and create its parameters."""
        args, kwargs = _arguments(x)
        program = Points(self.points, self._supports, self.joint_points)(self._program(0))
        with self._own_parameters(args, kwargs), kept_generators():
            guide = DiscreteTables(program, *args, **kwargs)
        self._kept = Keep((self._kept.value[0], guide))
        self._constraints.clear()
        self._parameters.clear()
        self.initialize(x, "current")

    @contextmanager
    def in_its_dtype(self, x: Data) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(_floating_dtype(x))
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def guide_record(self) -> dict[str, list[str]] | None:
        """What :meth:`restore_guide` needs of a guide of tables, plain; None where there is no such guide."""
        guide = self._kept.value[1]
        return guide.parents if isinstance(guide, DiscreteTables) else None

    def restore_guide(self, record: dict[str, list[str]], state: dict[str, Tensor]) -> None:
        """Take the guide of tables that a saved fit had; its parameters are among ``state``."""
        guide = DiscreteTables.restored(
            Points(self.points, self._supports, self.joint_points)(self._program(0)), record
        )
        self._kept = Keep((self._kept.value[0], guide))
        for name in guide.parameter_names:
            if key_of(name) in state:
                self._constraints[name] = constraints.real
                self.register_parameter(key_of(name), nn.Parameter(torch.empty_like(state[key_of(name)])))

    def adopt(self, x: Data, given_alone: bool = False) -> Data:
        return self.fields.given_of(x) if given_alone else fits_program(self.name, self._program(0), x)

    def probe(self, x: Data) -> Data:
        return x  # a program of the user's own may not work on a part of its data

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Create the parameters by running guide and model once; later restarts draw them anew."""
        if restart:
            for name in self._constraints:
                del self._parameters[key_of(name)]
            self._constraints = {}
        if self._constraints:
            return
        try:
            self._create(x)
        except Exception as error:
            raise failed_on_data(self.name, error) from error

    def _create(self, x: Data) -> None:
        dtype, unchanged = _floating_dtype(x), Unchanged(x)
        if any(t.is_floating_point() and t.dtype != dtype for t in self._boxes.state_dict().values()):
            self._boxes = copy.deepcopy(self._boxes).to(dtype)  # the modules are the caller's
        own = {id(p) for p in (*self.parameters(), *self.buffers())}
        args, kwargs = _arguments(x)
        lender = Lender({}, {}, dtype, own)
        with self._own_parameters(args, kwargs, lender) as state, torch.no_grad():
            trace = pyro.poutine.trace(self._program(1)).get_trace(*args, **kwargs)
            replayed = pyro.poutine.replay(self._program(0), trace=trace)
            with unchanged, Improper():
                first = pyro.poutine.trace(replayed).get_trace(*args, **kwargs)
            unchanged.check(self.name)
            self.factors, self.noise_sites = factors(first), tuple(noise(trace, first))
            if not self.has_guide or self.has_default_guide:
                self.points = sampled_parameters(first, num_data(x))
                if self.points:
                    self._survey(lambda: self._program(0)(*args, **kwargs), first)
                    with Points(self.points, self._supports, self.joint_points):
                        self._program(0)(*args, **kwargs)
        self._nets = {name: Keep(net) for name, net in lender.networks.items()}
        for name, tensor in lender.made.items():
            if isinstance(tensor, nn.Parameter):
                self._constraints[name] = lender.limits[name]
                self.register_parameter(key_of(name), tensor)
            else:
                self.register_buffer(key_of(name), tensor)
        params = [{n for n, node in t.nodes.items() if node["type"] == "param"} for t in (trace, first)]
        self._of_guide = frozenset(params[0] - params[1])
        own = {id(p) for p in self.parameters()}
        for name, value in state["params"].items():
            if id(value) in own or name in self._constraints:
                continue  # a parameter of a module that this object holds by now
            self._constraints[name] = state["constraints"][name]
            moves = name not in lender.fixed
            if not isinstance(value, nn.Parameter):
                value.requires_grad_(False)  # Pyro sets it, on the caller's own tensor where no constraint copies it
            value = value.detach().clone()
            value = value.to(dtype) if value.is_floating_point() else value
            self.register_parameter(key_of(name), nn.Parameter(value, moves))
        if self.points:
            self.drawn = True
            self._keep_priors(x)

    def _survey(self, run: Callable[[], Any], trace: Any) -> None:
        """Learn where parameters with a prior may lie, and which priors depend on latents."""
        if not self._supports:
            self._supports, typical = supports(run, self.points)
            self._typical = Keep(typical)
            dims = [f.dim for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.vectorized]
            self.joint_points = joint_with_latents(run, self.points, max((-d for d in dims), default=0))

    def _keep_priors(self, x: Data) -> None:
        """Keep the priors, if they are the same at any parameters; else the data, without which they cannot be had."""
        self._priors, self._seen = Keep(None), Keep(x)
        with torch.enable_grad():
            now = self._priors_now()
            fixed = {name: not _moves(prior, now.values[name]) for name, prior in now.met.items()}
        if all(fixed[name] for name in self.points - self.joint_points):
            self._priors, self._seen = Keep(now.met), Keep(None)

    def _program(self, which: int) -> Callable[..., Any]:
        if "program" in self._boxes[which]._modules:
            return self._boxes[which]._modules["program"]  # type: ignore[return-value]
        return self._kept.value[which] or _empty_program

    @contextmanager
    def _own_parameters(self, args: Any, kwargs: Any, lender: Lender | None = None) -> Iterator[dict[str, Any]]:
        params = {name: self._parameters[key_of(name)] for name in self._constraints}
        state: dict[str, Any] = {"params": params, "constraints": dict(self._constraints)}
        if lender is None:
            lent = {name: self._lent(name) for name in self._nets}
            tensors = {key: tensor for of_net in lent.values() for key, tensor in of_net.items()}
            lender = Lender(tensors, {name: net.value for name, net in self._nets.items()}, None, self._held())
        with ExitStack() as stack:
            stack.enter_context(turn())
            stack.enter_context(pyro.settings.context(module_local_params=self._local))
            stack.enter_context(pyro.get_param_store().scope(state))  # type: ignore[arg-type]
            # Constants a program makes (torch.ones(3)) then have the dtype of its data.
            stack.enter_context(self.in_its_dtype((*args, *kwargs.values())))
            stack.enter_context(lender)
            yield state

    def _lent(self, network: str) -> dict[str, Tensor]:
        """By name, the tensors that are lent to a network."""
        prefix = f"{key_of(network)}$$$"
        held = {**self._parameters, **self._buffers}
        return {name_of(key): t for key, t in held.items() if t is not None and key.startswith(prefix)}

    def _held(self) -> set[int]:
        """The identities of the tensors of modules that are programs of this model."""
        return {id(t) for t in (*self._boxes.parameters(), *self._boxes.buffers())}

    def constraint_of(self, name: str) -> Any:
        if name.startswith("_boxes."):
            return super().constraint_of(name)
        return next((c for n, c in self._constraints.items() if key_of(n) == name), None)


def _moves(prior: Prior, value: Tensor) -> bool:
    """Whether a prior depends on parameters."""
    return bool(prior.log_prob(value.detach()).requires_grad)


def _empty_program(*args: Any, **kwargs: Any) -> None:
    """The guide of a program that has none: right for exact sums over every latent."""


def _arguments(x: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    x = plain(x)
    return ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})


def _floating_dtype(x: Data) -> torch.dtype:
    return next((t.dtype for t in tensors(x) if t.is_floating_point()), torch.get_default_dtype())


def as_model(model: Any, guide: Callable[..., Any] | None = None) -> LatentVariableModel:
    """A zoo model unchanged; a user's function (and guide) wrapped as one.

    Raises:
        ZooError: ``model`` is not callable, or a guide comes with a model that has its own.
    """
    if isinstance(model, LatentVariableModel):
        if guide is not None:
            raise ZooError(f"{type(model).__name__} has its own guide; got another. Subclass it and override guide(x).")
        return model
    if isinstance(model, type) and issubclass(model, LatentVariableModel):
        raise ZooError(f"model expected an instance, got the class {(n := model.__name__)}. Use {n}.from_data(x, ...).")
    if isinstance(model, Unsized):
        raise ZooError(f"model expected all its sizes, got {model!r}. Make it with model.from_data(x).")
    if not callable(model):
        got = f"got {type(model).__name__}. Pass a fit's .model, or a function"
        raise ZooError(f"model expected a zoo model or a function model(x), {got}.")
    return FunctionModel(model, guide, bool(pyro.settings.get("module_local_params")))
