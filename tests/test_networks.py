"""Networks of a user's program: trained wherever they stand, the caller's left as they are, fixed weights fixed."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import module as registered
from pyro.nn import PyroModule, PyroParam
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.distributions import constraints

import zoo

GENERATOR = torch.Generator().manual_seed(3)
U = torch.randn(60, 1, generator=GENERATOR, dtype=torch.float64)
Y = torch.where(torch.rand(60, generator=GENERATOR) < torch.sigmoid(2 * U[:, 0]), 2.0, -1.0).double()
Y = Y + 0.3 * torch.randn(60, generator=GENERATOR, dtype=torch.float64)


def gated(logits, y):
    """A mixture of two Gaussians, the component by logits."""
    loc = pyro.param("loc", torch.tensor([-1.0, 2.0]))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(logits=logits))
        pyro.sample("y", dist.Normal(loc[z], 0.5), obs=y)


def by_hand(net, loc):
    """ln p(y | u) of that mixture."""
    parts = torch.distributions.Normal(loc, 0.5).log_prob(Y[:, None])
    return float((net(U).log_softmax(-1) + parts).logsumexp(-1).sum().detach())


def linear():
    torch.manual_seed(1)
    return nn.Linear(1, 2)


class Nested(PyroModule):
    """A PyroModule with a PyroModule, a plain module and a constrained parameter inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = PyroModule[nn.Linear](1, 3)
        self.second = nn.Linear(3, 2)
        self.gain = PyroParam(torch.ones(2), constraint=constraints.positive)

    def forward(self, u):
        return self.second(self.first(u).tanh()) * self.gain


class Whole(PyroModule):
    """The program itself as a PyroModule in single precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(1, 2)

    def forward(self, u, y):
        gated(self.net(u), y)


def in_a_helper(u, net):
    registered("net", net)
    return net(u)


PLACES = {
    "attribute": (linear, lambda net: lambda u, y: (pyro.module("net", net), gated(net(u), y))),
    "from import": (linear, lambda net: lambda u, y: (registered("net", net), gated(net(u), y))),
    "primitives": (linear, lambda net: lambda u, y: gated(pyro.primitives.module("net", net)(u), y)),
    "helper": (linear, lambda net: lambda u, y: gated(in_a_helper(u, net), y)),
    "updated": (linear, lambda net: lambda u, y: gated(pyro.module("net", net, update_module_params=True)(u), y)),
    "after its use": (linear, lambda net: lambda u, y: (pyro.module("net", net), gated(net(u), y), net(u))),
    "pyro module": (lambda: PyroModule[nn.Linear](1, 2), lambda net: lambda u, y: gated(net(u), y)),
    "nested": (Nested, lambda net: lambda u, y: gated(net(u), y)),
    "converted": (lambda: to_pyro(linear()), lambda net: lambda u, y: gated(net(u), y)),
    "recurrent": (
        lambda: nn.GRU(1, 2, batch_first=True),
        lambda net: lambda u, y: (registered("net", net), gated(net(u[:, None].expand(-1, 2, -1))[0][:, 1], y)),
    ),
    "program": (Whole, lambda net: net),
    "tied": (
        lambda: tied(),
        lambda net: lambda u, y: (registered("net", net), gated(net(u), y)),
    ),
}


def to_pyro(net):
    to_pyro_module_(net)
    return net


def tied():
    torch.manual_seed(1)
    twice = nn.Linear(2, 2)
    return nn.Sequential(nn.Linear(1, 2), twice, nn.Tanh(), twice)


def state_of(net):
    return {name: (id(t), t.detach().clone()) for name, t in (*net.named_parameters(), *net.named_buffers())}


@pytest.mark.parametrize(
    ("place", "estimator"), [*[(place, "eg") for place in PLACES], ("nested", "auto_em"), ("from import", "svi")]
)
def test_a_network_trains_wherever_it_is_registered_and_the_caller_s_is_left_alone(place, estimator):
    build, write = PLACES[place]
    net = build()
    before = state_of(net)
    steps = {"max_iter": 3} if estimator == "auto_em" else {"max_epochs": 20, "learning_rate": 0.1}
    fit = zoo.fit(write(net), (U, Y), estimator=estimator, **steps)
    start = zoo.evaluate(write(net), (U, Y)).log_likelihood
    weights = {
        n: p for n, p in fit.model.named_parameters() if n != "param/loc" and "q_logits" not in n and "/z" not in n
    }
    assert len(weights) == len(list(net.parameters()))
    assert all(p.dtype == torch.float64 for p in weights.values())
    old = [value for _, value in before.values() if value.is_floating_point()]
    assert all(
        any(v.shape == p.shape and not torch.allclose(v.double(), p.detach()) for v in old) for p in weights.values()
    )
    assert fit.log_likelihood > start + 0.1
    after = state_of(net)
    assert all(before[n][0] == after[n][0] and torch.equal(before[n][1], after[n][1]) for n in before)
    assert all(p.grad is None for p in net.parameters())


def test_the_score_is_that_of_the_network_by_hand():
    net = linear()
    exact = by_hand(copy.deepcopy(net).double(), torch.tensor([-1.0, 2.0]).double())
    for place in ("from import", "helper"):
        assert zoo.evaluate(PLACES[place][1](net), (U, Y)).log_likelihood == pytest.approx(exact, abs=1e-10)


def test_a_network_built_anew_in_every_run_is_one_network():
    def program(u, y):
        gated(registered("net", nn.Linear(1, 2))(u), y)

    fit = zoo.fit(program, (U, Y), estimator="auto_em", max_iter=5)
    net = nn.Linear(1, 2).double()
    net.weight.data, net.bias.data = (fit.model.get_parameter(f"param/net$$${n}").data for n in ("weight", "bias"))
    loc = fit.model.get_parameter("param/loc").detach()
    assert fit.log_likelihood == pytest.approx(by_hand(net, loc), abs=1e-9)


def test_a_network_that_nothing_would_train_is_refused_by_name():
    net = linear()
    for estimator in ("eg", "auto_em", "svi"):
        with pytest.raises(zoo.ZooError, match=r"a network, Linear, is called .* pyro\.module") as caught:
            zoo.fit(lambda u, y: gated(net(u), y), (U, Y), estimator=estimator)
        assert "\n" not in str(caught.value)


def test_running_statistics_are_lent_too():
    torch.manual_seed(1)
    net = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2))
    before = state_of(net)
    fit = zoo.fit(lambda u, y: (registered("net", net), gated(net(u), y)), (U, Y), estimator="eg", max_epochs=5)
    after = state_of(net)
    assert all(torch.equal(before[n][1], after[n][1]) for n in before)
    assert float(fit.model.get_buffer("param/net$$$0/running_mean").abs()) > 0


# --- parameters that stay ---------------------------------------------------------------------------------------------


def half_fixed(net):
    """The weights of a network fixed, its bias free."""
    net.weight.requires_grad_(False)
    return net.eval()


ESTIMATORS = ["eg", "auto_em", "svi", "reinforce", "iwae", "rws"]
STAYING = {
    "network": lambda: half_fixed(linear()),
    "whole network": lambda: linear().requires_grad_(False).eval(),
    "pyro module": lambda: half_fixed(PyroModule[nn.Linear](1, 2)),
}


def guide(u, y):
    logits = pyro.param("q", torch.zeros(len(y), 2))
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Categorical(logits=logits))


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        *[("network", name) for name in ESTIMATORS],
        ("whole network", "eg"),
        ("pyro module", "eg"),
        ("pyro module", "svi"),
    ],
)
def test_fixed_weights_stay_bit_for_bit(kind, estimator, tmp_path):
    net = STAYING[kind]()
    program = (lambda u, y: gated(net(u), y)) if kind == "pyro module" else PLACES["from import"][1](net)
    free = [p for p in net.parameters() if p.requires_grad]
    weight = net.weight.detach().double()
    steps = {"eg": {"max_epochs": 5}, "auto_em": {"max_iter": 3}}.get(estimator, {"max_epochs": 5, "warmup": 2})
    fit = zoo.fit(
        program, (U, Y), estimator=estimator, guide=None if estimator in ("eg", "auto_em") else guide, **steps
    )
    fixed = {n: p for n, p in fit.model.named_parameters() if not p.requires_grad}
    (name,) = [n for n in fixed if n.endswith("weight")]
    assert torch.equal(fixed[name], weight)
    assert fit.num_parameters == 2 + sum(p.numel() for p in free)
    assert not torch.equal(fit.model.get_parameter("param/loc"), torch.tensor([-1.0, 2.0]).double())
    if estimator == "eg":
        fit.save(tmp_path / "run")
        loaded = zoo.load(tmp_path / "run", model=program)
        assert torch.equal(loaded.model.get_parameter(name), weight)
        assert not loaded.model.get_parameter(name).requires_grad
        assert loaded.score((U, Y)) == fit.log_likelihood


@pytest.mark.parametrize("estimator", ["eg", "auto_em", "svi"])
def test_a_parameter_given_as_one_without_gradient_stays(estimator):
    fixed = nn.Parameter(torch.tensor([-0.5, 0.5]), requires_grad=False)

    def program(u, y):
        gated(u * pyro.param("slope", fixed), y)

    steps = {"eg": {"max_epochs": 5}, "auto_em": {"max_iter": 3}}.get(estimator, {"max_epochs": 5, "warmup": 2})
    fit = zoo.fit(
        program, (U, Y), estimator=estimator, guide=None if estimator in ("eg", "auto_em") else guide, **steps
    )
    assert torch.equal(fit.model.get_parameter("param/slope"), fixed.double())
    assert fit.num_parameters == 2
    assert not fixed.requires_grad
