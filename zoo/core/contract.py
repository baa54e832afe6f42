"""The contract: what a model is, what it may offer beyond that, and how plain functions become models."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pyro
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from zoo.core.checks import assigned, in_brief, magnitudes, rows
from zoo.core.data import Data, Fields, as_data, count, map_tensors, num_data, num_features_of, take, tensors
from zoo.core.data import plain as plain_data
from zoo.core.edges import is_simplex
from zoo.core.found import snake_case
from zoo.core.offers import OFFERS
from zoo.core.preparing import prepared, read_by
from zoo.core.readings import (
    Axes,
    computing,
    declared,
    method_of_data,
    parameter_values,
    plain,
    property_of_numbers,
)
from zoo.core.schema import Schema
from zoo.core.turns import turn
from zoo.core.unsized import of_constructor, unsized
from zoo.core.wrapping import takes_data_whole, wrap_init, wrap_program
from zoo.errors import ZooError

__all__ = ["Axes", "LatentVariableModel", "lacks", "parameter", "prepared", "read_by"]


class LatentVariableModel(PyroModule):
    """Base class of every model: a Pyro program ``model(x)`` for p(x, z) and one ``guide(x)`` for q(z | x).

    Write ``model`` (data batch first, inside ``pyro.plate("data", ...)``) and ``guide``; parameters are
    ``PyroParam``, ``nn.Parameter`` or networks created in ``__init__``. What a model may offer beyond these, and what
    that unlocks, is ``OFFERS`` of ``zoo/core/offers.py``; ``lacks`` asks for it.

    What the base class does for its subclasses: a constructor leaves the caller's random numbers alone
    and records its arguments (for ``save``); ``model`` and ``guide`` keep their parameters to themselves
    instead of in Pyro's global store; an assignment to a parameter is checked for shape and support.

    Of a model in ``eval()`` mode, as a fitted one is, ``model.NAME`` reads as plain numbers; in ``train()`` mode, and
    in the model's own methods, as part of torch's graph. ``reads_as`` says what users know a parameter by.

    Args of every method:
        x: data as the class says under Shapes: N rows of a tensor, or of each tensor in a tuple or dict. What other
            arguments are, ``ARGUMENTS`` of ``zoo/core/offers.py`` says.
    """

    #: Attributes that users read instead of a parameter: its name by theirs.
    reads_as: ClassVar[dict[str, str]] = {}
    #: By the name that users read, what each axis runs over: ("component", "feature"). A name that is no parameter's is
    #: computed from some, and told among them.
    axes: ClassVar[Axes] = {}
    #: Parameters that ``m_step`` can leave as they are (:meth:`stays`), at the maximum in the others; each class's own.
    keeps: tuple[str, ...] = ()
    #: Starting points that ``initialize`` knows, the default one first.
    inits: tuple[str, ...] = ("current",)
    #: Whether ``model`` is a density of the data, so that its sum over the latents is a likelihood. Where it is not (an
    #: energy, a penalty, a bound that depends on noise), no score is called one.
    normalized: bool = True
    #: What to call the model in a message: its class, or a program's own name.
    name: str
    #: Whether the programs observe data, suit each other and take several draws at once; a user's own are tried first.
    trusted: bool = True
    #: Whether the programs may be given a part of their data.
    splits: bool = True
    #: Whether its ``copies`` take the steps of a single start more cheaply than ``e_step`` and ``m_step``.
    copies_of_one: bool = False
    #: Rows a step of gradient estimators where their options do not say; None: as usual.
    batch_size: int | None = None
    #: Steps of the guide alone before the climb where the options do not say; None: as usual.
    warmup: int | None = None
    #: Names of the parameters that have a row for each component; None where there are no components.
    per_component: tuple[str, ...] | None = None
    #: Names of the sites of a program that are parameters with a prior.
    points: frozenset[str] = frozenset()
    #: Names of those that are ``pyro.factor``.
    factors: tuple[str, ...] = ()
    #: Names of those that a program draws beside its latents.
    noise_sites: tuple[str, ...] = ()
    #: What its data are called: p(observed | given).
    fields: Fields = Fields()
    #: What the model wants of its data's dtype; exact models compute in float64.
    dtype: torch.dtype = torch.float64
    #: Methods that take many data piece by piece themselves, in memory bounded beyond the answer.
    in_pieces: tuple[str, ...] = ()
    #: Name of the data set that the command line takes when none is given.
    default_data: str | None = None
    #: Whether data may be text: symbols, which are coded 0, 1, ...
    takes_symbols: bool = False
    #: Whether a file of text is one of sentences, a line each, and no table.
    takes_sentences: bool = False
    #: How many words of such a file it tells apart, by the rule of ``load_data``; None: all, and sentences have no end.
    vocabulary: int | None = None
    #: Names of columns and symbols of the data it was fitted to, if it was.
    schema: Schema | None = None
    #: Paper or textbook, for `zoo models`.
    reference: str = ""
    #: How often the KL counts in the bound of ``elbo_parts`` (the β of a β-VAE).
    kl_weight: float = 1.0
    #: Share of a climb by `svi` over which that weight rises, and the share of it that it begins with, where the
    #: options do not say.
    annealing: float = 0.0
    annealing_start: float = 0.0
    #: Constructor arguments, as given; what ``save`` writes.
    config: dict[str, Any]
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if "__init__" in cls.__dict__:
            cls.__init__ = wrap_init(cls.__dict__["__init__"])  # type: ignore[method-assign]
        takes_data_whole(cls)
        cls.__signature__ = of_constructor(cls)  # as __new__ takes anything
        for name, value in list(cls.__dict__.items()):
            if name in ("model", "guide"):
                setattr(cls, name, computing(wrap_program(value)))
            elif isinstance(value, property):
                setattr(cls, name, property_of_numbers(value))
            elif inspect.isfunction(value) and not name.startswith("__"):
                setattr(cls, name, method_of_data(name, value))

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """A stand-in until there are data, where sizes alone are missing: no constructor runs then."""
        stand_in = unsized(cls, args, kwargs) if args or kwargs else None  # copies are made without any
        return super().__new__(cls) if stand_in is None else stand_in

    def __init__(self) -> None:
        with turn(), pyro.settings.context(module_local_params=True):
            super().__init__()
        self.config = {}  # of a class without a constructor of its own

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As every module, and ``dtype`` follows its parameters (``model.float()``)."""
        super()._apply(*args, **kwargs)
        self.dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), self.dtype)
        return self

    def model(self, *args: Any, **kwargs: Any) -> Any:
        """p(x, z), a Pyro program.

        Raises:
            ZooError: the class does not define it.
        """
        raise ZooError(f"{type(self).__name__}: expected a method model(self, x), got none. Write p(x, z) there.")

    def guide(self, *args: Any, **kwargs: Any) -> Any:
        """q(z | x), a Pyro program over the same latent sites; not every class has one."""
        raise NotImplementedError(f"{type(self).__name__} does not define guide(x).")

    @property
    def has_guide(self) -> bool:
        """Whether the model comes with a guide, and keeps it."""
        return lacks(self, "guide") is None

    def guide_knows(self, x: Data) -> bool:
        """Whether the guide has a q for these data: one of tables has none for others than those it was made for."""
        return True

    def stays(self, name: str) -> bool:
        """Whether a parameter is to stay as it is: it requires no gradient."""
        raw = f"{name}_unconstrained" if name in self.__dict__.get("_pyro_params", {}) else name
        held = self._parameters.get(raw)
        return held is not None and not held.requires_grad

    def withholds(self) -> dict[str, str]:
        """By name, the offers that this instance does not keep, each with the reason: a phrase to follow "because"."""
        return {}

    def validate(self, x: Data) -> Data:
        """The data as this model takes them.

        Raises:
            ZooError: data of another shape, or outside the support; of the base class, entries that are not finite.
        """
        for value in tensors(x):
            if value.is_floating_point() and not value.isfinite().all():
                kind = "NaN" if value.isnan().any() else "infinite entries"
                raise ZooError(
                    f"{type(self).__name__}: data expected finite numbers, got {kind} in {rows(~value.isfinite())}. "
                    "Drop or fill those rows first."
                )
        return x

    def validate_given(self, x: dict[str, Any]) -> Data:
        """As :meth:`validate`, of the given fields alone: what predictions are made from.

        Raises:
            ZooError: as there.
        """
        return LatentVariableModel.validate(self, x)

    def in_its_dtype(self, x: Data) -> AbstractContextManager[None]:
        """Inside, log-probabilities of the programs may be taken: what Pyro makes anew has the right dtype."""
        return nullcontext()

    def prepare(self, x: Any, given_alone: bool = False) -> Data:
        """What ``fit`` does with data, for methods that are called with arrays, frames or text.

        Raises:
            ZooError: what is no data for the model; columns or symbols that are not those of its fit.
        """
        return prepared(self, x, given_alone=given_alone)

    def adopt(self, x: Data, given_alone: bool = False) -> Data:
        """Tensors as this model computes with them: in its dtype, on its device, checked.

        Raises:
            ZooError: what :meth:`validate` refuses; numbers so large that sums of squares may overflow.
        """
        first = next(self.parameters(), None)
        like = torch.zeros((), dtype=self.dtype) if first is None else first
        x = map_tensors(lambda t: t.to(like.device, like.dtype), x)
        return magnitudes(self.validate_given(self.fields.given_of(x)) if given_alone else self.validate(x), self.name)

    def quantity(self, name: str) -> Tensor | None:
        """A parameter, (K, D) say, or what is computed from some, as users know it; None where there is none."""
        value = getattr(self, name, None)
        return value if isinstance(value, Tensor) else None

    def probe(self, x: Data) -> Data:
        """A little of the data, enough to see how the programs are made: the first rows."""
        return take(plain_data(x), slice(0, 16))

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Set a starting point from the data; draws come from torch's generator, which ``fit`` has seeded."""

    def create(self, x: Data) -> None:
        """Create the parameters that only a run of the programs makes, if they are not there yet."""

    def num_units(self, x: Data) -> float:
        """What ``tol`` is per: data, or time steps where there are such; each as often as its row counts."""
        return count(x)

    def num_rows(self, x: Data) -> int:
        """Rows that networks pass for these data: as many as data, or as there are steps in them."""
        return num_data(x)

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
        """By parameter name (as in ``named_parameters``): the size of a unit step, (), (D,) or as the parameter.

        Parameters measured in the data's units would otherwise need a learning rate of their own.
        """
        return {}

    def log_prior(self) -> Tensor:
        """ln p(θ) up to a constant, (), nats; EM climbs likelihood plus this. Zero: maximum likelihood."""
        return torch.zeros((), dtype=self.dtype)

    @classmethod
    def from_data(cls, x: Data, **arguments: Any) -> LatentVariableModel:
        """Build the model with the sizes that can be read off the data (``num_features``) filled in.

        Args:
            arguments: of the constructor, those that data do not tell.

        Raises:
            ZooError: an argument the constructor does not have, or one it needs is missing.
        """
        parameters = inspect.signature(cls).parameters
        width = num_features_of(as_data(x, symbols=cls.takes_symbols))
        if "num_features" in parameters and "num_features" not in arguments and width is not None:
            arguments["num_features"] = width
        missing = [n for n, p in parameters.items() if p.default is p.empty and n not in arguments]
        if missing:
            raise ZooError(f"{cls.__name__}: expected {missing[0]}, got nothing for it. Pass {missing[0]}=...")
        return cls(**arguments)

    def num_free_parameters(self, names: Iterable[str]) -> int:
        """Degrees of freedom of parameters, by ``names``, for AIC and BIC: a simplex has one less."""
        total = 0
        for name in names:
            parameter, constraint = self.get_parameter(name), self.constraint_of(name)
            total += parameter.numel()
            if is_simplex(constraint):
                total -= parameter.shape[:-1].numel()
            elif "Cholesky" in type(constraint).__name__:
                total -= parameter.shape[:-2].numel() * parameter.shape[-1] * (parameter.shape[-1] - 1) // 2
        return total

    def named_values(self, names: set[str] | None = None) -> dict[str, Tensor]:
        """Parameters by the names that users know, constrained, (K, D) say: all, or those of some ``names``."""
        return parameter_values(self, names)

    def named_axes(self) -> Axes:
        """By parameter, a word for each axis, of which the last says its kind ("other feature": features)."""
        return declared(self, "axes")

    def entries(self, axis: str) -> Sequence[str] | None:
        """Names of what an ``axis``, a word of :meth:`named_axes`, runs over; None where there are numbers alone."""
        schema = self.schema or Schema()
        return {"feature": schema.columns.get(""), "symbol": schema.symbols}.get(axis.split()[-1])

    def of_program(self) -> set[str] | None:
        """Which of ``named_parameters`` p(x, z) may depend on; None where only differentiating tells."""
        return None

    @property
    def label(self) -> str:
        """The model's name in files and tables: ``gaussian_mixture``."""
        return snake_case(type(self).__name__)

    def saved_as(self) -> dict[str, Any]:
        """What, beside its tensors, a fit's record keeps of the model."""
        return {"model": self.label, "own_program": False, "config": self.config, "guide_tables": None}

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

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.__dict__.get("config", {}).items())

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_pyro_params", {}) and not isinstance(value, PyroParam):
            value = self._checked(name, value)
        super().__setattr__(name, value)

    def _checked(self, name: str, value: Any, shown: str | None = None) -> Tensor:
        """An assigned parameter value as a tensor of the right shape inside the parameter's support; ``shown`` is what
        the user has assigned to, where that is no parameter."""
        constraint, _ = self._pyro_params[name]
        who = f"{type(self).__name__}.{shown or name}"
        new = assigned(value, getattr(self, name), who)
        if not constraint.check(new.detach()).all():
            raise ZooError(
                f"{who} expected values in the support {constraint}, got {in_brief(new)}. Normalise or clip it."
            )
        return new


def parameter(value: Tensor, constraint: Any = constraints.real) -> Any:
    """A ``PyroParam``, in a form that type checkers take for the tensor that reading it gives."""
    return PyroParam(value, constraint)


def lacks(model: LatentVariableModel, *names: str) -> str | None:
    """Why a model does not keep all of these offers, a phrase to follow "because"; None where it keeps them.

    An inherited method does not count where a subclass has overridden a program that it was written for: what it
    computes is then not what the program says. One of a base class without programs is written for any.
    """
    return next((reason for name in names if (reason := _lack(model, name)) is not None), None)


def _lack(model: LatentVariableModel, name: str) -> str | None:
    offer, cls = OFFERS[name], type(model)
    method = getattr(cls, name, None)
    owner = next((c for c in cls.__mro__ if name in c.__dict__), LatentVariableModel)
    if not callable(method) or owner is LatentVariableModel:
        return f"it has no {name}({offer.takes})"
    for program in getattr(method, "follows", offer.follows):
        if getattr(owner, program, None) not in (
            None,
            getattr(LatentVariableModel, program, None),
            getattr(cls, program),
        ):
            return f"its {name} is {owner.__name__}'s, written for another {program} than its own"
    return model.withholds().get(name)
