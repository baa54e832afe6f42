"""One contract in one place: what the library asks of a model is declared, and what is declared is kept."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.offers import OFFERS
from zoo.models import model_classes

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "zoo").rglob("*.py"))
#: What variables that hold a model, an estimator, a fit, an objective or a callback are called.
HOLDERS = {
    "base", "build", "built", "callback", "candidate", "estimator", "fit", "instance", "made", "model", "objective",
    "owner", "this", "twin",
}  # fmt: skip
#: Attributes of torch's constraints, which a variable of that name may hold too.
TORCHS = {"lower_bound", "upper_bound"}
#: Where an attribute that need not be there is asked for all the same: the one place that reads the table of offers,
#: the one that reads quantities, and what a user's own function may say of itself.
ALLOWED = {"zoo/core/contract.py", "zoo/core/functions.py", "zoo/core/as_module.py", "zoo/core/readings.py"}


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def last_name(node: ast.expr) -> str:
    """``model`` of ``model``, ``self.model`` and ``fit.model``."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def undeclared(path: Path) -> list[str]:
    """Questions that are put to a model, or the like, by the name of an attribute that it need not have."""
    where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    found = []
    for call in calls(path):
        name = last_name(call.func)
        if name in ("getattr", "hasattr") and where not in ALLOWED and last_name(call.args[0]) in HOLDERS:
            asked_for = call.args[1].value if isinstance(call.args[1], ast.Constant) else None
            optional = name == "hasattr" or len(call.args) == 3 or asked_for is not None
            if optional and asked_for not in TORCHS:
                found.append(f"{where}:{call.lineno}: {ast.unparse(call)}")
        if name == "isinstance" and "FunctionModel" in ast.unparse(call.args[1]) and where != "zoo/core/functions.py":
            found.append(f"{where}:{call.lineno}: {ast.unparse(call)}")
    return found


def asked(path: Path) -> set[str]:
    """The names that are passed to ``lacks``, and to a problem's."""
    return {
        argument.value
        for call in calls(path)
        if last_name(call.func) == "lacks"
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }


def test_nothing_is_asked_of_a_model_that_is_not_declared() -> None:
    assert [line for path in FILES for line in undeclared(path)] == []


def test_what_is_asked_for_is_in_the_table_and_what_is_in_the_table_is_asked_for() -> None:
    names = set().union(*(asked(path) for path in FILES))
    assert names - OFFERS.keys() == set()
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES if path.name != "offers.py")
    assert [name for name in OFFERS if name not in names and f".{name}(" not in text] == []


def test_the_checks_see_what_is_undeclared(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "a = getattr(model, 'viterbi', None)\nb = hasattr(self.fit, 'x')\nc = getattr(estimator, name)\n"
        "d = isinstance(base, FunctionModel)\ne = lacks(model, 'viterbi', 'nonsense')\n"
    )
    assert [line.split(": ")[1] for line in undeclared(wrong)] == [
        "getattr(model, 'viterbi', None)", "hasattr(self.fit, 'x')", "isinstance(base, FunctionModel)",
    ]  # fmt: skip
    assert asked(wrong) == {"viterbi", "nonsense"}


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_model_offers_what_it_says_with_the_arguments_of_the_table(name: str) -> None:
    """A method of an offer's name is that offer: it takes as many arguments; what is not there, ``lacks`` names."""
    model, _ = sys.modules[model_classes()[name].__module__].tiny()
    for offer, (says, follows, takes) in OFFERS.items():
        method = getattr(type(model), offer, None)
        reason = lacks(model, offer)
        if not callable(method):
            assert reason == f"it has no {offer}({takes})"
            continue
        assert set(follows) <= {"model", "guide", *OFFERS}
        assert says
        parameters = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
        least = sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)
        wanted = len([t for t in takes.split(", ") if t])
        extra = len(model.fields.given) + len(model.fields.observed) - 1  # a dict of data spreads over arguments
        assert least <= wanted + extra, (offer, takes)


def overriding(cls: type[LatentVariableModel], program: str) -> LatentVariableModel:
    """An instance of a subclass of a model's that has a program of its own."""

    def other(self: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("nothing is to be run")

    model, _ = sys.modules[cls.__module__].tiny()
    made: Any = type("Other", (cls,), {program: other, "__module__": __name__})(**model.config)
    return made


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_what_follows_from_a_program_is_left_behind_with_it(name: str) -> None:
    cls = model_classes()[name]
    before, _ = sys.modules[cls.__module__].tiny()
    for program in ("model", "guide"):
        other = overriding(cls, program)
        for offer, (_, follows, _takes) in OFFERS.items():
            if lacks(before, offer) is None:
                owner = next(c for c in cls.__mro__ if offer in c.__dict__)
                written_for = getattr(getattr(cls, offer), "follows", follows)
                knows = getattr(owner, program, None) is not getattr(LatentVariableModel, program)
                assert (lacks(other, offer) is not None) is (knows and program in written_for), (program, offer)


def test_another_formula_leaves_the_statistics_of_the_inherited_one_behind() -> None:
    other = overriding(zoo.PPCA, "closed_form")
    assert lacks(other, "closed_form") is None
    told = "its closed_form_statistics is PPCA's, written for another closed_form than its own"
    assert lacks(other, "closed_form_statistics") == told


def test_a_subclass_with_another_model_does_not_predict_with_the_inherited_predict() -> None:
    class Flipped(zoo.GaussianMixture):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", x.shape[0]):
                z = pyro.sample("z", dist.Categorical(self.weights))
                scale = torch.linalg.cholesky(self.covariances.flip(0))[z]
                pyro.sample("x", dist.MultivariateNormal(self.means.flip(0)[z], scale_tril=scale), obs=x)

    x = torch.tensor([[0.0], [0.1], [9.0], [9.2]], dtype=torch.float64)
    plain = zoo.fit(zoo.GaussianMixture(2, 1), x, estimator="em")
    other = Flipped(2, 1)
    other.load_state_dict(plain.model.state_dict())
    fit = zoo.fit(other, x, estimator="auto_em", init="current", max_iter=1)
    flipped = fit.discrete_posterior(x).mode()["z"]
    assert torch.equal(fit.predict(x), flipped)
    assert not torch.equal(fit.model.predict(x), flipped)


def test_an_instance_may_withhold_an_offer() -> None:
    class Shy(zoo.PoissonMixture):
        def withholds(self) -> dict[str, str]:
            return {} if self.num_components == 1 else {"e_step": "it takes one component alone"}

    assert lacks(Shy(1, 1), "e_step", "m_step") is None
    assert lacks(Shy(2, 1), "m_step", "e_step") == "it takes one component alone"
    with pytest.raises(zoo.ZooError, match="em cannot fit this model: it takes one component alone"):
        zoo.fit(Shy(2, 1), torch.tensor([[1.0], [2.0]]), estimator="em")


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_the_order_of_a_models_bases_decides_nothing(name: str) -> None:
    """What two bases bring side by side is not the same: a reader need not know the order of resolution."""
    cls = model_classes()[name]
    branches = [set(base.__mro__) - set().union(*(set(b.__mro__) for b in cls.__bases__ if b is not base))
                for base in cls.__bases__]  # fmt: skip
    named = [{n for c in branch for n in c.__dict__ if not n.startswith("__")} for branch in branches]
    twice = {n for i, names in enumerate(named) for n in names if any(n in others for others in named[i + 1 :])}
    assert twice - cls.__dict__.keys() <= {"axes", "keeps", "reads_as"}  # which are put together, class by class


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_model_is_to_be_read_in_its_file_or_one_hop_away(name: str) -> None:
    """Its programs are its own, or those of a class that it names among its bases."""
    cls = model_classes()[name]
    for program in ("model", "guide"):
        none = getattr(cls, program) is getattr(LatentVariableModel, program)
        assert none or any(program in c.__dict__ for c in (cls, *cls.__bases__)), program
