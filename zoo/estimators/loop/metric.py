"""The curvature that a guide's linear layers have by their inputs: the metric that a climb begins with.

Where q is sure of a datum, or inputs go together, a guide's bound has long valleys: a quasi-Newton method learns them
step by step, if it is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, mass, weights_of
from zoo.core.objective import Objective
from zoo.estimators.loop.units import Units

__all__ = ["Metric", "measured"]

#: The least curvature of a layer, as a share of its greatest. With less of it, first steps are so long that a guide may
#: grow sure of what it has wrong, where no gradient leads back.
LEAST = 1e-2
#: As many outcomes are differentiated one by one, of more as many sums of random signs.
MOST = 8


class Metric:
    """An inverse Hessian to begin with: a matrix for the weights of some layers, one for all else.

    Args:
        places: of each layer, where its weights and biases stand among all variables, (outputs, inputs).
        inverses: the matrix (inputs, inputs) by which the gradient of each output's weights is multiplied.
    """

    def __init__(self, places: Sequence[Tensor] = (), inverses: Sequence[Tensor] = ()) -> None:
        self.places, self.inverses = list(places), list(inverses)

    def times(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian times a gradient, (P,)."""
        if not self.places:
            return gradient
        found = gradient.clone()
        for place, inverse in zip(self.places, self.inverses, strict=True):
            index = place.view(-1)
            rows = gradient.index_select(0, index).view(place.shape)
            found.index_copy_(0, index, (rows @ inverse).view(-1))
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything, by name."""
        places = {f"place/{i}": place for i, place in enumerate(self.places)}
        return {**places, **{f"inverse/{i}": inverse for i, inverse in enumerate(self.inverses)}}

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> Metric:
        """The metric that gave this state; one for all where it is empty."""
        ways = range(len(state) // 2)
        return cls([state[f"place/{i}"] for i in ways], [state[f"inverse/{i}"] for i in ways])


def measured(model: LatentVariableModel, objective: Objective, x: Data, units: Units, scaled: set[int]) -> Metric:
    """The metric at the model's present parameters.

    The Fisher information of q(z | x) in the weights of a linear layer is E[a a^T (x) g g^T], of its inputs a (a one
    for the bias beside them) and the derivatives g of ln q(z | x) in its outputs, z from q: the Kronecker factor of the
    inputs (Martens & Grosse 2015, Optimizing neural networks with Kronecker-factored approximate curvature), where
    each datum counts by E |g|^2. A datum that q is sure of counts next to nothing.

    Args:
        scaled: ids of the parameters that are measured in units of their own, which stay as they are.
    """
    outcomes, inputs, outputs = _seen(model, objective, x)
    if outcomes is None or not outputs:
        return Metric()
    layers = [layer for layer in outputs if len(outputs[layer]) == len(outcomes) and outputs[layer].requires_grad]
    counted = _counted(outcomes, [outputs[layer] for layer in layers])
    begins = dict(zip(map(id, units.parameters), _begins(units.sizes), strict=True))
    weights, found = weights_of(x), Metric()
    for layer, count in zip(layers, counted, strict=True):
        own = [p for p in (layer.weight, layer.bias) if p is not None]
        if count is None or any(id(p) not in begins or id(p) in scaled for p in own):
            continue
        a = inputs[layer].double()
        places = begins[id(layer.weight)] + torch.arange(layer.weight.numel()).view(layer.weight.shape)
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], -1)
            places = torch.cat([places, begins[id(layer.bias)] + torch.arange(len(layer.bias)).unsqueeze(-1)], -1)
        count = count.double() if weights is None else count.double() * weights
        values, vectors = torch.linalg.eigh(((a * count.unsqueeze(-1)).mT @ a / mass(x)).cpu())
        if 0 < float(values[-1]) < torch.inf:
            found.places.append(places)
            found.inverses.append(vectors / (values.clamp_min(0) + LEAST * values[-1]) @ vectors.mT)
    return found


def _seen(
    model: LatentVariableModel, objective: Objective, x: Data
) -> tuple[Tensor | None, dict[nn.Linear, Tensor], dict[nn.Linear, Tensor]]:
    """ln q of the outcomes, and what goes into linear layers and comes out of them on the way, a row a datum."""
    inputs, outputs = dict[nn.Linear, Tensor](), dict[nn.Linear, Tensor]()

    def see(layer: nn.Linear, arguments: tuple[Any, ...], out: Tensor) -> None:
        if out.dim() == 2:
            inputs[layer], outputs[layer] = arguments[0].detach(), out

    handles = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        return objective.outcomes(x), inputs, outputs
    finally:
        for handle in handles:
            handle.remove()


def _counted(outcomes: Tensor, outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """E |g|^2 of each datum, z from q: of each layer's outputs (N,), None where q does not depend on them."""
    root = (outcomes.detach() / 2).exp()
    columns = root.shape[-1]
    ways = torch.eye(columns, dtype=root.dtype, device=root.device)
    if columns > MOST:  # the products of different outcomes vanish in the mean
        signs = torch.randint(2, (MOST, columns), generator=torch.Generator().manual_seed(0))
        ways = (2 * signs - 1).to(root) / MOST**0.5
    found: list[Tensor | None] = [None] * len(outputs)
    for way in ways:
        total = (way * root * outcomes.masked_fill(root == 0, 0.0)).sum()
        if not total.requires_grad:
            break
        grads = torch.autograd.grad(total, outputs, retain_graph=True, allow_unused=True)
        for i, grad in enumerate(grads):
            if grad is not None:
                square, before = grad.square().sum(-1), found[i]
                found[i] = square if before is None else before + square
    return found


def _begins(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes))]
