"""Adam on parameters measured in units of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.estimators.loop.flat_adam import FlatAdam

__all__ = ["ScaledAdam", "optimizer_imported"]


@functools.cache
def optimizer_imported() -> None:
    """Take one step of Adam on nothing: torch imports its compiler at the first, a second that no fit should pay."""
    nothing = torch.zeros(1, requires_grad=True)
    nothing.grad = torch.zeros(1)
    torch.optim.Adam([nothing], fused=True).step()


class ScaledAdam:
    """torch's Adam on parameters measured in units of their own.

    A parameter p with unit s moves as p0 + s u with Adam on u: one learning rate then suits features in
    millimetres and in kilometres. In single precision, one number as the unit of a whole parameter only multiplies its
    rate, and Adam is fused; without units it is ``torch.optim.Adam``, in double precision :class:`FlatAdam`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], scales: dict[int, Tensor], rate: float) -> None:
        self.scaled: list[tuple[nn.Parameter, Tensor, Tensor, Tensor]] = []
        groups: dict[float, list[Tensor]] = {}
        direct = []
        for p in parameters:
            scale = scales.get(id(p))
            if scale is None or (scale.dim() == 0 and p.dtype == torch.float32):
                groups.setdefault(1.0 if scale is None else float(scale), []).append(p)
                direct.append(p)
            else:
                shadow = torch.zeros_like(p, requires_grad=True)
                self.scaled.append((p, p.detach().clone(), scale.to(p), shadow))
        if self.scaled:
            groups.setdefault(1.0, []).extend(entry[3] for entry in self.scaled)
        self.parameters = direct + [entry[0] for entry in self.scaled]
        self.moved = [p for group in groups.values() for p in group]
        fused = all(p.dtype == torch.float32 and p.device.type in ("cpu", "cuda") for p in self.moved)
        self.factors = list(groups)
        self.adam: Any
        if FlatAdam.serves(self.moved):
            self.adam = FlatAdam(self.moved, rate)
        else:
            self.adam = torch.optim.Adam(
                [{"params": group, "lr": rate * factor} for factor, group in groups.items()],
                lr=rate, fused=True if fused else None,
            )  # fmt: skip

    def set_rate(self, rate: float) -> None:
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self, clip_norm: float | None = None, careful: bool = False) -> None:
        """One step along the gradients, shortened first where they are longer than ``clip_norm``.

        Their length is the norm over all parameters of gradient times unit: of the gradient that Adam on u sees.

        Raises:
            RuntimeError: ``careful`` and the length to clip is not finite.
        """
        for p, _, scale, shadow in self.scaled:
            shadow.grad = None if p.grad is None else p.grad * scale
        if clip_norm is not None:
            length = self._length()
            if careful and not bool(length.isfinite()):
                raise RuntimeError(f"the norm of all gradients is non-finite ({float(length)}) and cannot be clipped")
            nn.utils.clip_grads_with_norm_(self.moved, clip_norm, length)
        self.adam.step()
        with torch.no_grad():
            for p, start, scale, shadow in self.scaled:
                torch.addcmul(start, scale, shadow.detach(), out=p.data)

    def _length(self) -> Tensor:
        """The norm of all gradients in their parameters' units, ()."""
        parts = []
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            grads = [p.grad for p in group["params"] if p.grad is not None]
            parts += [nn.utils.get_total_norm(grads) * factor] if grads else []
        return torch.linalg.vector_norm(torch.stack(parts)) if parts else torch.zeros(())

    def scaled_gradient(self) -> Tensor:
        """All gradients side by side, each entry times its parameter's unit, (P,)."""
        for p, _, scale, shadow in self.scaled:
            shadow.grad = None if p.grad is None else p.grad * scale
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad * factor).flatten()
            for group, factor in zip(self.adam.param_groups, self.factors, strict=True)
            for p in group["params"]
        ]
        return torch.cat(parts) if parts else torch.zeros(1)

    def lost_in_noise(self) -> bool:
        """Whether Adam's running mean of the gradient is no longer than noise alone would make it.

        Independent gradients of mean zero and second moment v give a running mean of variance v (1 - β) / (1 + β).
        """
        signal, noise = torch.zeros(()), torch.zeros(())
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            beta, beta2 = group["betas"]
            for p in group["params"]:
                state = self.adam.state.get(p)
                if state:
                    steps = float(state["step"])
                    mean = state["exp_avg"] / (1 - beta**steps)
                    square = state["exp_avg_sq"] / (1 - beta2**steps)
                    signal = signal + factor**2 * (mean**2).sum().cpu()
                    noise = noise + factor**2 * (square * (1 - beta) / (1 + beta)).sum().cpu()
        return bool(signal <= 2 * noise)

    def unsound(self) -> Tensor:
        """Whether a parameter is NaN or a gradient's square overflowed, ()."""
        found = [p.detach().isnan().any() for p in self.parameters]
        found += [~s["exp_avg_sq"].isfinite().all() for s in self.adam.state.values() if "exp_avg_sq" in s]
        return torch.stack(found).any() if found else torch.tensor(False)

    def state(self) -> dict[str, Tensor]:
        """Everything that moves, by name."""
        found = {
            f"{i}/{name}": torch.as_tensor(value)
            for i, entry in self.adam.state_dict()["state"].items()
            for name, value in entry.items()
        }
        for i, (_, start, scale, shadow) in enumerate(self.scaled):
            found.update({f"scaled/{i}/start": start, f"scaled/{i}/scale": scale, f"scaled/{i}/shadow": shadow})
        return found

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in values.items():
            first, _, rest = name.partition("/")
            if first == "scaled":
                i, _, what = rest.partition("/")
                _, start, scale, shadow = self.scaled[int(i)]
                with torch.no_grad():
                    {"start": start, "scale": scale, "shadow": shadow}[what].copy_(value)
            else:
                moments.setdefault(int(first), {})[rest] = value
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})
