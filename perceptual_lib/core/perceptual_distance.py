"""The perceptual term of Eq. 5 (paper Sec. 3), summed while a forward pass computes the activations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perceptual_lib.core.activations import by_image
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.passes import Folds, fold


@dataclass
class Held:
    """An activation that is held near its value on the original image.

    Attributes:
        reference: C_l(x), (B, ...), in the images' type, also where autocast computes x' in another.
        scale: (P,), lambda' divided by the number of elements and by what the layer is normalized with; 0 for a problem
            that does not hold it.
        room: where differences are written, from one evaluation to the next: memory that is new each time has to be
            cleared by the system, which takes longer than to subtract.
    """

    reference: Tensor
    scale: Tensor
    room: Tensor | None = None

    def room_for(self, value: Tensor) -> Tensor:
        if self.room is None or self.room.shape != value.shape:
            self.room = torch.empty_like(value, dtype=self.reference.dtype)
        return self.room


class PerceptualDistance(fold):
    """Context in which a forward pass sums lambda' ||C_l(x') - C_l(x)||^2 into `total` (P,) as it goes.

    Each term is taken when its activation is computed, so that an in-place operation behind it does no harm.
    """

    def __init__(self, held: dict[int, Held], batch: int, activation_count: int, folds: Folds) -> None:
        super().__init__(folds, self.add)
        self.held = held
        self.batch = batch
        self.activation_count = activation_count
        self.calls = 0
        self.terms: list[Tensor] = []

    @property
    def total(self) -> Tensor | float:
        """(P,); 0 where nothing is held."""
        return torch.stack(self.terms).sum(0) if self.terms else 0.0

    def add(self, _: str, output: Tensor) -> None:
        if self.calls in self.held:
            held = self.held[self.calls]
            value = by_image(output, self.batch)
            self.terms.append(SquaredDistance.apply(value, held.reference, held.scale, held.room_for(value)))
        self.calls += 1

    def __exit__(self, kind, *rest) -> None:
        super().__exit__(kind, *rest)
        del self.see  # it is a method of this object: the cycle would keep the activations until garbage is collected
        if kind is None and self.calls != self.activation_count:
            raise InputError(
                f"the network computed {self.calls} activations for the changed image and {self.activation_count} for "
                "the original: only networks that take the same path for both can be held in their activations."
            )


class SquaredDistance(torch.autograd.Function):
    """scale sum (value - reference)^2 over all dimensions but the first: (P, ...), (P or 1, ...), (P,) -> (P,).

    The difference is written into `room`, and its gradient over the difference. Written with tensor operations the
    terms cost as much again as the network, whose activations they read; this way a tenth of it. It is kept without
    `save_for_backward`, whose tensors checkpointing would count among those of the network.
    """

    @staticmethod
    def forward(context, value: Tensor, reference: Tensor, scale: Tensor, room: Tensor) -> Tensor:
        difference = torch.sub(value, reference, out=room)
        context.difference, context.scale = difference, scale
        return scale * _squared_norms(difference)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        scale = (2 * gradient * context.scale).view(-1, *[1] * (context.difference.ndim - 1))
        return context.difference.mul_(scale), None, None, None


def _squared_norms(values: Tensor) -> Tensor:
    """(P, ...), without gaps in memory -> (P,)."""
    if len(values) == 1:  # of one row `vector_norm` uses one thread
        row = values.as_strided((values.numel(),), (1,))
        return torch.dot(row, row)[None]
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.ndim))).square()
