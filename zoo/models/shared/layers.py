"""Fully connected layers: their weights and biases from outside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.models.shared.axes import upright

__all__ = ["set_layers", "start_code"]


@torch.no_grad()
def set_layers(network: nn.Module, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy weights and biases into a network's fully connected layers, from its input on, in place.

    It is how a network starts from layers that were learned one by one, from below: those of stacked autoencoders, or
    of a deep belief net (weights of a Boltzmann machine of D visible and H hidden units are (D, H): transpose them).

    Args:
        network: a module whose ``nn.Linear`` layers, in the order of ``modules()``, are those of the chain. It may have
            more layers than are given: these stay as they are. A first module that standardises inputs goes on doing
            so: layers that were learned on the data as they are want it at location 0 and scale 1.
        layers: of each layer its weight (out, in) and bias (out,), as ``nn.Linear`` has them.

    Raises:
        ZooError: more layers than the network has, or one of another size (which one); nothing is copied then.
    """
    targets = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if len(layers) > len(targets):
        raise ZooError(
            f"set_layers: expected at most {len(targets)} layers, got {len(layers)}. Leave out the topmost, or build a "
            "deeper network."
        )
    for i, (target, (weight, bias)) in enumerate(zip(targets, layers, strict=False)):
        for name, value, own in (("weight", weight, target.weight), ("bias", bias, target.bias)):
            if own is None or value.shape != own.shape:
                wanted = "none" if own is None else tuple(own.shape)
                raise ZooError(
                    f"set_layers: {name} of layer {i} expected shape {wanted}, got {tuple(value.shape)}. "
                    "Weights are (outputs, inputs)."
                )
    for target, (weight, bias) in zip(targets, layers, strict=False):
        target.weight.copy_(weight)
        target.bias.copy_(bias)


@torch.no_grad()
def start_code(
    layers: Sequence[tuple[Tensor, Tensor, Tensor]], x: Tensor, body: nn.Module, heads: Sequence[nn.Linear],
    decoder: nn.Module, doubt: float = 1.0,
) -> None:  # fmt: skip
    """Start tanh networks around a Gaussian code from layers of sigmoid units, in place.

    A sigmoid unit is half of one more than the tanh of half its input, so that the encoder's body is the layers' way up
    and the decoder their way down. The code between is probabilistic PCA of what the topmost units get (Tipping &
    Bishop 1999), which the encoder's heads read off these units by least squares.

    Args:
        layers: of each, from x up, weights (D, H), biases of its units (H,) and of those below (D,).
        x: data (N, D) as the encoder reads them. body: layers of those widths. heads: loc (L) and, before its softplus,
            scale. decoder: from the code down.
        doubt: how many times the analysis' own noise the code is read with: 1 is the posterior of linear units.

    Raises:
        ZooError: layers of other widths.
    """
    up, down = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
    gain = 1.0
    for i, (weights, bias, below) in enumerate(layers):
        shift = 0.0 if i == 0 else 0.5 * weights.sum(0)
        up.append((0.5 * gain * weights.mT, 0.5 * (bias + shift)))
        scale = 1.0 if i == 0 else 0.5  # logits of x; of units below half of them
        down.insert(0, (0.5 * scale * weights, scale * (below + 0.5 * weights.sum(1))))
        gain = 0.5
    set_layers(body, up)
    top = body(x)
    inputs = top.clamp(-1 + 1e-6, 1 - 1e-6).atanh().double()
    mean = inputs.mean(0)
    size, width = heads[0].out_features, len(mean)
    variance, axes = torch.linalg.eigh((inputs - mean).mT @ (inputs - mean) / len(inputs))
    variance, axes = variance.flip(0).clamp_min(1e-9), upright(axes.flip(1))
    kept = min(size, width)
    noise = variance[kept:].mean() if kept < width else 0.01 * variance.mean()
    slope = (variance[:kept] - noise).clamp_min(0.0).sqrt()
    loadings, code = inputs.new_zeros(width, size), inputs.new_zeros(len(inputs), size)
    loadings[:, :kept] = axes[:, :kept] * slope
    noise = doubt * noise
    code[:, :kept] = (inputs - mean) @ axes[:, :kept] * (slope / (slope**2 + noise))
    spread = inputs.new_ones(size)
    spread[:kept] = noise / (slope**2 + noise)
    known = torch.cat([top.double(), top.new_ones(len(top), 1).double()], 1)
    ridge = 1e-6 * len(top) * torch.eye(width + 1).to(known)
    read = torch.linalg.solve(known.mT @ known + ridge, known.mT @ code)
    spread = (spread + (code - known @ read).square().mean(0)).sqrt()
    loc, raw_scale = heads
    set_layers(loc, [(read[:-1].mT, read[-1])])
    set_layers(raw_scale, [(torch.zeros_like(raw_scale.weight), spread.expm1().log())])
    set_layers(decoder, [(loadings, mean), *down])
