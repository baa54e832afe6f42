"""The contract: what a model is, what it may offer beyond that, and how plain functions become models."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from guides.tables import DiscreteTables, OtherData
from zoo.batch import Data, as_data, call, map_tensors, num_data, take, tensors
from zoo.checks import failed_on_data, magnitudes, rows
from zoo.edges import is_simplex
from zoo.errors import ZooError
from zoo.isolation import forked_rng
from zoo.networks import Lender
from zoo.points import Drawn, Improper, Points, Prior, joint_with_latents, priors, sampled_parameters, supports
from zoo.readings import TAKES_DATA, computing, plain, property_of_numbers, takes_arrays
from zoo.schema import Schema
from zoo.turns import turn
from zoo.unchanged import Unchanged

__all__ = ["FunctionModel", "Half", "LatentVariableModel", "as_model", "can", "parameter", "prepared", "read_by"]


class LatentVariableModel(PyroModule):
    """Base class of every model: a Pyro program ``model(x)`` for p(x, z) and one ``guide(x)`` for q(z | x).

    Write ``model`` (data batch first, inside ``pyro.plate("data", ...)``) and ``guide``; parameters are
    ``PyroParam``, ``nn.Parameter`` or networks created in ``__init__``. Optional methods unlock more:

    ===========================  ==============================================================
    ``log_marginal(x)``          exact ln p(x) of each datum, (N,) nats: ``eg`` on the fast path
    ``posterior(x)``             exact p(z | x), a distribution of batch shape (N,)
    ``elbo(x)``                  the guide's bound on each ln p(x), (N,), summed exactly: fast ``svi``
    ``e_step(x, hard=False)``    expected :class:`~zoo.statistics.Statistics`; they add: ``em``
    ``m_step(statistics)``       sets the parameters; returns notes on any constraint that acted
    ``prior(x)``                 by parameter, its prior, a Pyro distribution: ``advi``
    ``numpyro_model(x)``         the joint of data and parameters as a NumPyro program: ``nuts``
    ===========================  ==============================================================

    What the base class does for its subclasses: a constructor leaves the caller's random numbers alone
    and records its arguments (for ``save``); ``model`` and ``guide`` keep their parameters to themselves
    instead of in Pyro's global store; an assignment to a parameter is checked for shape and support.

    Of a model in ``eval()`` mode, as a fitted one is, ``model.NAME`` reads as plain numbers; in ``train()`` mode, and
    in the model's own methods, as part of torch's graph. ``reads_as`` says what users know a parameter by.

    A subclass that overrides ``model`` or ``guide`` leaves behind what it inherits in their place (an exact sum, a fast
    bound): see :func:`can`. It may define these anew.
    """

    #: Attributes that users read instead of a parameter: its name by theirs.
    reads_as: ClassVar[dict[str, str]] = {}
    #: Starting points that ``initialize`` knows, the default one first.
    inits: tuple[str, ...] = ("current",)
    #: Whether ``model`` is a density of the data, so that its sum over the latents is a likelihood. Where it is not (an
    #: energy, a penalty), no score is called one.
    normalized: bool = True
    #: What the model wants of its data's dtype; exact models compute in float64.
    dtype: torch.dtype = torch.float64
    #: Name of the data set that the command line takes when none is given.
    default_data: str | None = None
    #: Whether data may be text: symbols, which are coded 0, 1, ...
    takes_symbols: bool = False
    #: Names of columns and symbols of the data it was fitted to, if it was.
    schema: Schema | None = None
    #: Paper or textbook, for `zoo models`.
    reference: str = ""
    #: Constructor arguments, as given; what ``save`` writes.
    config: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _wrap_init(cls.__dict__["__init__"])  # type: ignore[method-assign]
        for name, value in list(cls.__dict__.items()):
            if name in ("model", "guide"):
                setattr(cls, name, computing(_wrap_program(value)))
            elif isinstance(value, property):
                setattr(cls, name, property_of_numbers(value))
            elif inspect.isfunction(value) and not name.startswith("__"):
                made = computing(value)
                setattr(cls, name, takes_arrays(made) if name in TAKES_DATA else made)

    def __init__(self) -> None:
        with turn(), pyro.settings.context(module_local_params=True):
            super().__init__()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As every module, and ``dtype`` follows its parameters (``model.float()``)."""
        super()._apply(*args, **kwargs)
        self.dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), self.dtype)
        return self

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """p(x, z), a Pyro program."""
        raise NotImplementedError(f"{type(self).__name__} does not define model(x).")

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """q(z | x), a Pyro program over the same latent sites."""
        raise NotImplementedError(f"{type(self).__name__} does not define guide(x).")

    def validate(self, x: Data) -> Data:
        """The data as this model takes them, or a ZooError. The base class refuses what is not finite."""
        for value in tensors(x):
            if value.is_floating_point() and not value.isfinite().all():
                kind = "NaN" if value.isnan().any() else "infinite entries"
                raise ZooError(
                    f"{type(self).__name__}: data expected finite numbers, got {kind} in {rows(~value.isfinite())}. "
                    "Drop or fill those rows first."
                )
        return x

    def in_its_dtype(self, x: Data) -> AbstractContextManager[None]:
        """Inside, log-probabilities of the programs may be taken: what Pyro makes anew has the right dtype."""
        return nullcontext()

    def probe(self, x: Data) -> Data:
        """A little of the data, enough to see how the programs are made: the first rows."""
        return take(x, slice(0, 16))

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Set a starting point from the data; draws come from torch's generator, which ``fit`` has seeded.

        Args:
            init: one of :attr:`inits`.
            restart: 0 for the first start; later ones should differ in kind where one kind is not enough.
        """

    def datum_size(self, x: Data) -> int:
        """About how many numbers a datum needs while it is worked on: itself, or a network's widest layer."""
        layers = [max(m.in_features, m.out_features) for m in self.modules() if isinstance(m, nn.Linear)]
        convolves = any(isinstance(m, nn.Conv2d) for m in self.modules())
        maps = [16 * t.shape[-1] for t in tensors(x)] if convolves else []
        return max([1, *layers, *maps, *(t[0].numel() for t in tensors(x) if t.dim())])

    def reset_guide(self) -> None:
        """Draw new starting weights for every network in the model (submodules with ``reset_parameters``)."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()

    def parameter_scales(self, x: Data) -> dict[str, Tensor]:
        """By parameter name (as in ``named_parameters``): the size of a unit step, for gradient estimators.

        Parameters measured in the data's units would otherwise need a learning rate of their own.
        """
        return {}

    def log_prior(self) -> Tensor:
        """ln p(θ) up to a constant, nats; EM climbs likelihood plus this. Zero: maximum likelihood."""
        return torch.zeros((), dtype=self.dtype)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Build the model with the sizes that can be read off the data (``num_features``) filled in.

        Raises:
            ZooError: an argument the constructor does not have, or one it needs is missing.
        """
        parameters = inspect.signature(cls).parameters
        first = tensors(as_data(x, symbols=cls.takes_symbols))[:1]
        if "num_features" in parameters and "num_features" not in arguments and first:
            arguments["num_features"] = first[0].shape[-1] if first[0].dim() > 1 else 1
        missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
        if missing:
            raise ZooError(f"{cls.__name__}: expected {missing[0]}, got nothing for it. Pass {missing[0]}=...")
        return cls(**arguments)

    def num_free_parameters(self, names: Iterable[str]) -> int:
        """Degrees of freedom of the named parameters, for AIC and BIC: one less a simplex, half a Cholesky factor."""
        total = 0
        for name in names:
            parameter, constraint = self.get_parameter(name), self.constraint_of(name)
            total += parameter.numel()
            if is_simplex(constraint):
                total -= parameter.shape[:-1].numel()
            elif "Cholesky" in type(constraint).__name__:
                total -= parameter.shape[:-2].numel() * parameter.shape[-1] * (parameter.shape[-1] - 1) // 2
        return total

    def constraint_of(self, name: str) -> Any:
        """The constraint behind an entry of ``named_parameters``; None where it is free."""
        *path, leaf = name.split(".")
        owner = self.get_submodule(".".join(path))
        declared = owner.__dict__.get("_pyro_params", {})
        return declared.get(leaf.removesuffix("_unconstrained"), (None, None))[0]

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value if name in self.__dict__["_parameters"] else plain(self, value)

    def __dir__(self) -> list[str]:
        declared = self.__dict__.get("_pyro_params", {})
        return sorted({*super().__dir__(), *declared} - {f"{name}_unconstrained" for name in declared})

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_pyro_params", {}) and not isinstance(value, PyroParam):
            value = self._checked(name, value)
        super().__setattr__(name, value)

    def _checked(self, name: str, value: Any) -> Tensor:
        """An assigned parameter value as a tensor of the right shape inside the parameter's support."""
        constraint, _ = self._pyro_params[name]
        current = getattr(self, name)
        who = f"{type(self).__name__}.{name}"
        try:
            new = torch.as_tensor(value, dtype=current.dtype, device=current.device)
        except (TypeError, ValueError, RuntimeError):
            raise ZooError(f"{who} expected a tensor or an array, got {type(value).__name__}.") from None
        if new.shape != current.shape:
            raise ZooError(f"{who} expected shape {tuple(current.shape)}, got {tuple(new.shape)}. Reshape it first.")
        if not constraint.check(new.detach()).all():
            raise ZooError(
                f"{who} expected values in the support {constraint}, got {_brief(new)}. Normalise or clip it."
            )
        return new


def parameter(value: Tensor, constraint: Any = constraints.real) -> Any:
    """A ``PyroParam``, in a form that type checkers take for the tensor that reading it gives."""
    return PyroParam(value, constraint)


#: Optional methods that stand in for the programs, and which programs they would have to change with; a method of which
#: that is not so says it itself, by :func:`stands_for`.
STANDS_FOR: dict[str, tuple[str, ...]] = {
    "log_marginal": ("model",),
    "posterior": ("model",),
    "predict": ("model",),
    "viterbi": ("model",),
    "sample_like": ("model",),
    "sample_posterior": ("model",),
    "e_step": ("model",),
    "prior": ("model",),
    "numpyro_model": ("model",),
    "elbo": ("model", "guide"),
    "elbo_parts": ("model", "guide"),
    "log_weights": ("model", "guide"),
    "posterior_means": ("guide",),
}


def stands_for(*programs: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a method that would have to change with other programs than :data:`STANDS_FOR` has for its name."""

    def marked(method: Callable[..., Any]) -> Callable[..., Any]:
        method.stands_for = programs  # type: ignore[attr-defined]
        return method

    return marked


def can(model: LatentVariableModel, *methods: str) -> bool:
    """Whether the model offers all of these optional methods.

    One that stands in for a program does not count where a subclass has overridden that program and not the method:
    what it computes is then not what the program says.
    """
    return all(callable(getattr(type(model), name, None)) and not _left_behind(type(model), name) for name in methods)


def _left_behind(cls: type, method: str) -> bool:
    """Whether a class below the one that defines a method has replaced a program the method was written for."""

    def definers(name: str) -> list[int]:
        return [i for i, c in enumerate(cls.__mro__) if name in c.__dict__ and c is not LatentVariableModel]

    for name in getattr(getattr(cls, method, None), "stands_for", STANDS_FOR.get(method, ())):
        own, programs = definers(method), definers(name)
        # A base class that leaves the program itself to its subclasses (no definer above it) is written for theirs.
        if own and programs and programs[0] < own[0] <= programs[-1]:
            return True
    return False


def _brief(value: Tensor) -> str:
    flat = value.detach().flatten()[:6].tolist()
    return "[" + ", ".join(f"{v:.4g}" for v in flat) + (", ...]" if value.numel() > 6 else "]")


def _wrap_init(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapped(self: LatentVariableModel, *args: Any, **kwargs: Any) -> None:
        # A fixed seed: the caller's generator is untouched and two new models of one kind are equal.
        with forked_rng(0), pyro.settings.context(module_local_params=True):
            init(self, *args, **kwargs)
        if type(self).__init__ is wrapped:  # the outermost constructor that runs
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = list(bound.arguments.items())[1:]
            self.config = {
                key: value
                for name, given in arguments
                for key, value in (
                    given.items() if signature.parameters[name].kind.name == "VAR_KEYWORD" else [(name, given)]
                )
            }

    return wrapped


def _wrap_program(program: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(program)
    def wrapped(self: LatentVariableModel, *args: Any, **kwargs: Any) -> Any:
        with turn(), pyro.settings.context(module_local_params=True), self._pyro_context:
            return program(self, *args, **kwargs)

    return wrapped


class Half(nn.Module):
    """``model`` or ``guide`` of an owner as a module, so that an ELBO module finds the owner's parameters."""

    def __init__(self, owner: LatentVariableModel, which: str, handler: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.owner, self.which, self.handler = owner, which, handler

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        program = getattr(self.owner, self.which)
        return (self.handler(program) if self.handler else program)(*args, **kwargs)


class FunctionModel(LatentVariableModel):
    """A user's plain ``model(x)`` and ``guide(x)`` with ``pyro.param`` and ``pyro.module``, as a model.

    The first run creates the parameters; from then on they belong to this object, in the dtype of the
    data, and both programs see only them: Pyro's store is swapped for the duration of a call. Networks
    registered with ``pyro.module`` stay the caller's own: their weights are replaced during a call only.
    Modules (a PyroModule, an AutoGuide) are programs too.

    Without a guide, a continuous ``pyro.sample`` in no plate of the data is a parameter with a prior: it becomes a
    parameter (``NAME.mode``), estimated at its mode (MAP), and ``log_prior`` is its density, counted as Pyro counts it.
    It stays off the edges of its support (:mod:`zoo.edges`), where a density may be infinite.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any] | None = None, local: bool = False) -> None:
        super().__init__()
        self._kept = _Keep((model, guide))
        # A box keeps PyroModule from renaming the caller's module as a child of this one.
        self._boxes = nn.ModuleList([_Box(p) if isinstance(p, nn.Module) else nn.Module() for p in (model, guide)])
        self._local = local
        self._constraints: dict[str, Any] = {}
        self._nets: dict[str, _Keep] = {}
        #: Names of the sites that are ``pyro.factor``: numbers that are no density of anything.
        self.factors: tuple[str, ...] = ()
        self._of_guide: frozenset[str] = frozenset()
        #: Names of the sample sites that are parameters with a prior.
        self.points: frozenset[str] = frozenset()
        #: Those of them whose prior depends on latents that are summed over: it stays inside the sum.
        self.joint_points: frozenset[str] = frozenset()
        self._last = _Keep({})
        #: Whether they stand where they were drawn.
        self.drawn = False
        self._supports: dict[str, Any] = {}
        self._typical = _Keep({})
        #: Their priors where no parameter enters these, else None: then the data, to run the program up to them.
        self._priors = _Keep(None)
        self._seen = _Keep(None)

    @property
    def name(self) -> str:
        program = self._kept.value[0]
        return getattr(program, "__name__", type(program).__name__)

    @property
    def normalized(self) -> bool:  # type: ignore[override]
        """What the program says of itself (its attribute ``normalized``), else whether it has no ``pyro.factor``."""
        said = getattr(self._kept.value[0], "normalized", None)
        return not self.factors if said is None else bool(said)

    @property
    def has_guide(self) -> bool:
        return self._kept.value[1] is not None

    def model(self, *args: Any, **kwargs: Any) -> Any:
        points = Points(self.points, self._supports, self.joint_points)
        with self._own_parameters(args, kwargs), points:
            result = self._program(0)(*args, **kwargs)
        self._last = _Keep(points.values)
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
        self._last = _Keep(values)
        return torch.stack([met[name].log_prob(values[name]).sum() for name in names]).sum()

    @property
    def last_values(self) -> dict[str, Tensor]:
        """By sample site, the parameters with a prior in the last run: what its result was computed from."""
        values: dict[str, Tensor] = self._last.value
        return values

    def point(self, name: str) -> Tensor:
        """The value of a parameter that has a prior, by its sample site's name."""
        full = name + ".mode"
        value: Tensor = transform_to(self._constraints[full])(self._parameters[_key(full)])
        return value

    @torch.no_grad()
    def set_point(self, name: str, value: Tensor) -> None:
        """Set a parameter that has a prior; a value beyond the margin of its support goes to the margin."""
        full = name + ".mode"
        self._parameters[_key(full)].copy_(transform_to(self._constraints[full]).inv(value))  # type: ignore[union-attr]

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
        return [_key(name + ".mode") for name in sorted(self.points)]

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
                with torch.random.fork_rng(devices=[]):
                    call(self.guide, x)
            except ZooError:
                return False
        return True

    def named_values(self, guide: bool = True) -> dict[str, Tensor]:
        """Parameters as their author named them, constrained, those with a prior by site; the guide's if asked for."""
        values: dict[str, Tensor] = {}
        for name, constraint in self._constraints.items():
            if guide or name not in self._of_guide:
                site = name.removesuffix(".mode")
                shown = site if site in self.points else name.replace("$$$", ".")
                values[shown] = transform_to(constraint)(self._parameters[_key(name)])
        for box in [*self._boxes][: 2 if guide else 1]:
            program = box._modules.get("program")
            for full in [n for n, _ in program.named_parameters()] if program is not None else ():
                *path, leaf = full.split(".")
                leaf = leaf.removesuffix("_unconstrained")
                values[".".join((*path, leaf))] = getattr(program.get_submodule(".".join(path)), leaf)
        return values

    def take_guide(self, x: Data) -> None:
        """Give a program without a guide one over its discrete latents (tables), and create its parameters."""
        args, kwargs = _arguments(x)
        program = Points(self.points, self._supports, self.joint_points)(self._program(0))
        with self._own_parameters(args, kwargs), torch.random.fork_rng(devices=[]):
            guide = DiscreteTables(program, *args, **kwargs)
        self._kept = _Keep((self._kept.value[0], guide))
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
        self._kept = _Keep((self._kept.value[0], guide))
        for name in guide.parameter_names:
            if _key(name) in state:
                self._constraints[name] = constraints.real
                self.register_parameter(_key(name), nn.Parameter(torch.empty_like(state[_key(name)])))

    def validate(self, x: Data) -> Data:
        return x  # a program of the user's own gets its data as they are

    def probe(self, x: Data) -> Data:
        return x  # a program of the user's own may not work on a part of its data

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Create the parameters by running guide and model once; later restarts draw them anew."""
        if restart:
            for name in self._constraints:
                del self._parameters[_key(name)]
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
            self.factors = _factors(first)
            if not self.has_guide or self.has_default_guide:
                self.points = sampled_parameters(first, num_data(x))
                if self.points:
                    self._survey(lambda: self._program(0)(*args, **kwargs), first)
                    with Points(self.points, self._supports, self.joint_points):
                        self._program(0)(*args, **kwargs)
        self._nets = {name: _Keep(net) for name, net in lender.networks.items()}
        for name, tensor in lender.made.items():
            if isinstance(tensor, nn.Parameter):
                self._constraints[name] = lender.limits[name]
                self.register_parameter(_key(name), tensor)
            else:
                self.register_buffer(_key(name), tensor)
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
            self.register_parameter(_key(name), nn.Parameter(value, moves))
        if self.points:
            self.drawn = True
            self._keep_priors(x)

    def _survey(self, run: Callable[[], Any], trace: Any) -> None:
        """Learn where parameters with a prior may lie, and which priors depend on latents."""
        if not self._supports:
            self._supports, typical = supports(run, self.points)
            self._typical = _Keep(typical)
            dims = [f.dim for s in trace.nodes.values() for f in s.get("cond_indep_stack", ()) if f.vectorized]
            self.joint_points = joint_with_latents(run, self.points, max((-d for d in dims), default=0))

    def _keep_priors(self, x: Data) -> None:
        """Keep the priors, if they are the same at any parameters; else the data, without which they cannot be had."""
        self._priors, self._seen = _Keep(None), _Keep(x)
        with torch.enable_grad():
            now = self._priors_now()
            fixed = {name: not _moves(prior, now.values[name]) for name, prior in now.met.items()}
        if all(fixed[name] for name in self.points - self.joint_points):
            self._priors, self._seen = _Keep(now.met), _Keep(None)

    def _program(self, which: int) -> Callable[..., Any]:
        if "program" in self._boxes[which]._modules:
            return self._boxes[which]._modules["program"]  # type: ignore[return-value]
        return self._kept.value[which] or _empty_program

    @contextmanager
    def _own_parameters(self, args: Any, kwargs: Any, lender: Lender | None = None) -> Iterator[dict[str, Any]]:
        params = {name: self._parameters[_key(name)] for name in self._constraints}
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
        prefix = f"{_key(network)}$$$"
        held = {**self._parameters, **self._buffers}
        return {_name(key): t for key, t in held.items() if t is not None and key.startswith(prefix)}

    def _held(self) -> set[int]:
        """The identities of the tensors of modules that are programs of this model."""
        return {id(t) for t in (*self._boxes.parameters(), *self._boxes.buffers())}

    def constraint_of(self, name: str) -> Any:
        if name.startswith("_boxes."):
            return super().constraint_of(name)
        return next((c for n, c in self._constraints.items() if _key(n) == name), None)


def _moves(prior: Prior, value: Tensor) -> bool:
    """Whether a prior depends on parameters."""
    return bool(prior.log_prob(value.detach()).requires_grad)


def _factors(trace: Any) -> tuple[str, ...]:
    """The observed sites of a trace that are plain numbers (``pyro.factor``, ``dist.Unit``)."""
    names = []
    for name, site in trace.nodes.items():
        fn = site.get("fn")
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        if site["type"] == "sample" and site["is_observed"] and type(fn).__name__ == "Unit":
            names.append(name)
    return tuple(names)


def _empty_program(*args: Any, **kwargs: Any) -> None:
    """The guide of a program that has none: right for exact sums over every latent."""


def _arguments(x: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(x, dict):
        return (), x
    return (x if isinstance(x, tuple) else (x,)), {}


def _floating_dtype(x: Data) -> torch.dtype:
    return next((t.dtype for t in tensors(x) if t.is_floating_point()), torch.get_default_dtype())


def _has_own_model(module: nn.Module) -> bool:
    return isinstance(module, AutoGuide) and getattr(module, "_model", None) is not None


class _Box(nn.Module):
    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.add_module("program", program)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Box:
        program: Any = self._modules["program"]
        # Pyro's AutoGuide forgets its model when copied, in the copy and in the original.
        guides = [
            (path, module, module._model[0]) for path, module in program.named_modules() if _has_own_model(module)
        ]
        copied: Any = copy.deepcopy(program, memo)
        for path, module, model in guides:
            module._model = (model,)
            copied.get_submodule(path)._model = (copy.deepcopy(model, memo),)
        return _Box(copied)


class _Keep:
    """A reference that ``deepcopy`` copies as a reference."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> _Keep:
        return self


def _key(name: str) -> str:
    return "param/" + name.replace(".", "/")  # torch allows no dots in a parameter's name


def _name(key: str) -> str:
    """The name behind a key; of a network's tensors, whose names have no slashes of their own."""
    return key.removeprefix("param/").replace("/", ".")


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
        raise ZooError(
            f"model expected an instance, got the class {model.__name__}. Use {model.__name__}.from_data(x, ...)."
        )
    if not callable(model):
        raise ZooError(f"model expected a zoo model or a function model(x), got {type(model).__name__}.")
    return FunctionModel(model, guide, bool(pyro.settings.get("module_local_params")))


def read_by(model: LatentVariableModel, x: Any) -> Data:
    """Data as tensors, by the names of columns and the symbols of the model's fit; not checked."""
    return as_data(x, copy.deepcopy(model.schema), model.takes_symbols)


def prepared(model: LatentVariableModel, x: Any, new: bool = False) -> Data:
    """Data checked by the model, in its dtype and on its device.

    Args:
        new: whether the model is to be fitted to them: it then takes their names of columns and symbols for its own,
            and would read them by those of an earlier fit otherwise.

    Raises:
        ZooError: what is no data for the model; columns or symbols that are not those of its fit.
    """
    schema = Schema() if new or model.schema is None else copy.deepcopy(model.schema)
    x = as_data(x, schema, model.takes_symbols)
    if new and schema:
        model.schema = schema
    if isinstance(model, FunctionModel):
        return x
    like = next(model.parameters(), torch.zeros((), dtype=model.dtype))
    return magnitudes(model.validate(map_tensors(lambda t: t.to(like.device, like.dtype), x)), type(model).__name__)
