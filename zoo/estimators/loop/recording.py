"""Steps recorded on a GPU: what Python asks for step by step it asks for once, and the GPU repeats it.

A step on a small batch is a hundred short kernels, and Python needs longer to start them than the GPU to compute them.
A CUDA graph holds them all and starts them at once: the same numbers, the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pyro
import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, beside, map_tensors, tensors
from zoo.core.isolation import kept_generators
from zoo.core.objective import Objective, Step
from zoo.core.state import restore, snapshot

__all__ = ["Recorder"]

#: Steps that are taken one by one before one is recorded: libraries choose their kernels in the first ones, and what
#: is worked out once is worked out. So many are worth a recording.
WALKED, WORTH = 10, 200
#: Packages whose modules' Python has no memory from call to call.
KNOWN = {"zoo", "guides", "torch"}
#: Kinds of devices that repeat what was recorded.
REPEATING = {"cuda"}


class Recorder:
    """Gives an objective's steps and their gradients by repeating a recorded one, where that gives the same.

    It does where a step is the same operations each time (:attr:`~zoo.core.objective.Objective.steady`), of a model of
    the zoo's own (what others' Python remembers from call to call, nobody knows), and where nothing in it waits for
    the GPU: that is tried once. Batches of another shape than the first, as an epoch's last, are left to the caller.

    Args:
        leaves: the parameters that move.
    """

    def __init__(self, model: LatentVariableModel, objective: Objective, leaves: Sequence[Tensor]) -> None:
        self.model, self.objective, self.leaves = model, objective, list(leaves)
        self.walked = 0
        self.shapes: list[torch.Size] | None = None
        self.recording: Recording | None = None

    @staticmethod
    def serves(model: LatentVariableModel, device: torch.device, steps: int) -> bool:
        """Whether a climb of so many steps may be worth it."""
        if device.type not in REPEATING or steps < WORTH:
            return False
        return all(type(module).__module__.partition(".")[0] in KNOWN for module in model.modules())

    def __call__(self, batch: Data) -> Step | None:
        """The step on a batch, its gradients given to the leaves; None where the caller has to take it."""
        if not self.objective.steady or not self.leaves:
            return None
        shapes = [t.shape for t in _all(batch)]
        if self.shapes is None:
            self.shapes = shapes
        if shapes != self.shapes:
            return None
        if self.recording is None:
            self.walked += 1
            if self.walked <= WALKED:
                return None
            with suppress(Exception):  # what waits, or no graph holds; programs may say it in words of their own
                self._try(batch)
                self.recording = Recording(self._differentiated, batch)
            if self.recording is None:
                self.leaves = []
                return None
        gradients, step = self.recording(batch)
        for p, gradient in zip(self.leaves, gradients, strict=True):
            p.grad = gradient
        return step

    def _differentiated(self, batch: Data) -> tuple[list[Tensor | None], Step]:
        with pyro.validation_enabled(False):  # checks would wait
            surrogate, value, parts = self.objective(batch)
            gradients: list[Tensor | None] = [*torch.autograd.grad(surrogate, self.leaves, allow_unused=True)]
        return gradients, Step(surrogate.detach(), value, parts)

    def _try(self, batch: Data) -> None:
        """Fail where a step reads anything back from the GPU, or sends to it: what is read would be read once."""
        before, mode = snapshot(self.model), torch.cuda.get_sync_debug_mode()
        try:
            with kept_generators():
                torch.cuda.set_sync_debug_mode("error")
                self._differentiated(batch)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            restore(self.model, before)


class Recording:
    """Work on data of one shape, recorded; called with other data, what it gives for these, in the same tensors.

    Raises:
        Exception: the work does what no graph holds; nothing is left of the attempt.
    """

    def __init__(self, work: Callable[[Data], tuple[list[Tensor | None], Step]], batch: Data) -> None:
        self.batch = map_tensors(torch.clone, batch)
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph):
                self.result = work(self.batch)
        except Exception:  # torch leaves its own stream in use, and generators that wait for the graph
            torch.cuda.set_stream(stream)
            for generator in torch.cuda.default_generators:
                generator.graphsafe_set_state(generator.clone_state())
            raise

    def __call__(self, batch: Data) -> tuple[list[Tensor | None], Step]:
        for own, value in zip(_all(self.batch), _all(batch), strict=True):
            own.copy_(value)
        self.graph.replay()
        return self.result


def _all(batch: Data) -> list[Tensor]:
    """The tensors of a batch, and those that stand beside its rows."""
    return [*tensors(batch), *beside(batch)]
