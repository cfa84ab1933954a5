"""The perceptual term of Eq. 5: squared distances of activations, cheaply."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class PerceptualTerm:
    """lambda' sum_l ||C_l(x') - C_l(x)||^2 (Eq. 5) of P problems.

    Attributes:
        references: by layer, C_l(x), (P, ...), or (1, ...) for all problems; in the images' type, also where autocast
            computes x' in another.
        scales: (layers, P), what each sum of squares is multiplied by; 0 where a problem does not hold the layer.
        rooms: on a CPU, where differences are written, from one evaluation to the next: memory that is new each time
            has to be cleared by the system, which takes longer than to subtract.
    """

    references: Mapping[int, Tensor]
    scales: Tensor
    rooms: dict[int, Tensor] = field(default_factory=dict)

    @property
    def measures(self) -> dict[int, Callable[[Tensor], Tensor]]:
        """By layer, a function of C_l(x') (P, ...) to C_l(x') - C_l(x), to be called while it is there."""
        return {layer: partial(self._difference, layer) for layer in self.references}

    def _difference(self, layer: int, value: Tensor) -> Tensor:
        room = self.rooms.get(layer)
        if value.device.type == "cpu" and (room is None or room.shape != value.shape):
            room = self.rooms[layer] = torch.empty_like(value, dtype=self.references[layer].dtype)
        difference: Tensor = Difference.apply(value, self.references[layer], room)
        return difference

    def __call__(self, differences: Sequence[Tensor]) -> Tensor:
        """Of the differences in the order of the layers, (P,)."""
        term: Tensor = SquaredNorms.apply(self.scales, *differences)
        return term

    def keep(self, rows: Tensor) -> "PerceptualTerm":
        """The same for the problems at these rows."""
        kept = {layer: each if len(each) == 1 else each[rows] for layer, each in self.references.items()}
        return replace(self, references=kept, scales=self.scales[:, rows])


class Difference(torch.autograd.Function):
    """value - reference, written into `room` where there is one; what comes back goes to the value as it is."""

    @staticmethod
    def forward(_: Any, value: Tensor, reference: Tensor, room: Tensor | None) -> Tensor:
        return torch.sub(value, reference) if room is None else torch.sub(value, reference, out=room).detach()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


class SquaredNorms(torch.autograd.Function):
    """sum over layers of scale ||difference||^2: (layers, P), differences (P, ...) -> (P,).

    The gradient is written over the differences. Written with tensor operations the term costs as much again as the
    network, whose activations it reads; this way a tenth of it. They are kept without `save_for_backward`, whose
    tensors checkpointing would count among those of the network.
    """

    @staticmethod
    def forward(context: Any, scales: Tensor, *differences: Tensor) -> Tensor:
        context.scales, context.differences = scales, differences
        return (scales * torch.stack([_squared_norm(each) for each in differences])).sum(0)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        factors = 2 * gradient * context.scales
        each_with_its_own = zip(context.differences, factors, strict=True)
        return None, *(each.mul_(factor.view(-1, *[1] * (each.ndim - 1))) for each, factor in each_with_its_own)


def _squared_norm(values: Tensor) -> Tensor:
    """(P, ...), without gaps in memory -> (P,)."""
    if len(values) == 1:  # of one row `vector_norm` uses one thread, or a few blocks of a GPU
        row = values.as_strided((values.numel(),), (1,))
        return torch.dot(row, row)[None]
    norms: Tensor = torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim)))
    return norms.square()
