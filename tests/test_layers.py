"""Layers that are set from outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from guides.networks import MLP
from zoo.models.shared.layers import set_layers


def test_layers_are_set_from_the_input_on() -> None:
    network = MLP((3, 4, 2), "tanh")
    top = network[3].weight.detach().clone()  # type: ignore[union-attr]
    weight, bias = torch.randn(4, 3), torch.randn(4)
    set_layers(network, [(weight, bias)])
    x = torch.randn(5, 3)
    hidden = torch.einsum("nd,hd->nh", x, weight) + bias
    expected = torch.einsum("nh,kh->nk", hidden.tanh(), top) + network[3].bias
    torch.testing.assert_close(network(x), expected)


def test_layers_that_do_not_fit_are_refused_and_nothing_is_copied() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    before = [p.detach().clone() for p in network.parameters()]
    good = (torch.ones(4, 3), torch.ones(4))
    with pytest.raises(zoo.ZooError, match=r"weight of layer 1 expected shape \(2, 4\), got \(4, 2\)"):
        set_layers(network, [good, (torch.ones(4, 2), torch.ones(2))])
    with pytest.raises(zoo.ZooError, match=r"bias of layer 0 expected shape \(4,\), got \(3,\)"):
        set_layers(network, [(torch.ones(4, 3), torch.ones(3))])
    with pytest.raises(zoo.ZooError, match="expected at most 2 layers, got 3"):
        set_layers(network, [good, good, good])
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
