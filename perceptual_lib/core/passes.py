"""How a frozen network is run: the one place that knows what is fast on a device.

On a CPU convolutions do the work of what stands beside them (`folding`). So they do on a GPU, which beside that waits
for launches instead of computing: there what is asked for again and again is recorded (`graphs`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import Activation, by_image, trace
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.fold_finder import find_folds
from perceptual_lib.core.folding import NOTHING, Folds, PathChanged, fold
from perceptual_lib.core.graphs import Function, Kept, Recorder

Measure = Callable[[Tensor], Tensor]


class Passes:
    """Passes of a network, the same answers but for rounding, sooner.

    Args:
        network: in evaluation mode; call this inside `freeze`. What can be folded is found at the first call.
        backward: whether there will be backward passes.
    """

    def __init__(self, network: nn.Module, backward: bool = True) -> None:
        self.network = network
        self.backward = backward
        self.folds: Folds | None = None  # not looked for
        self.recorder = Recorder()
        weight = next(network.parameters(), None)
        self.records = weight is not None and self.recorder.records(weight.device)
        self.kept: Kept | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """What the network returns."""
        if torch.is_grad_enabled():
            return self.unrecorded(images)
        self._look_up(images)
        (output,) = self.record(("output", self.backward), lambda images: (self.unrecorded(images),), images)
        return output

    def unrecorded(self, images: Tensor) -> Tensor:
        """The same, by launches of their own on a GPU, too."""
        return self.measure(images)[0]

    def gradient(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W), of each image's own logit of its target (B,)."""

        def gradient_of(images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                images = images.detach().requires_grad_()
                logits = self.unrecorded(images).gather(1, targets[:, None])
                return torch.autograd.grad(logits.sum(), images)

        self._look_up(images)
        (gradient,) = self.record("gradient", gradient_of, images, targets)
        return gradient

    def trace(self, images: Tensor) -> tuple[Tensor, Sequence[Activation], Sequence[Tensor]]:
        """See `activations.trace`."""
        self._look_up(images)
        shape = tuple(images.shape[1:])
        if self.kept is None or shape not in self.kept.activations:
            logits, activations, values = trace(self.network, images)
            if self.kept is not None:
                self.kept.activations[shape] = activations
            return logits, activations, values
        activations = self.kept.activations[shape]

        def values_of(images: Tensor) -> tuple[Tensor, ...]:
            copies = {
                index: partial(torch.clone, memory_format=torch.contiguous_format) for index in range(len(activations))
            }
            with torch.enable_grad():
                output, values = self.measure(images.detach().requires_grad_(), copies, len(activations))
            return tuple(each.detach().to(images.dtype) for each in (output, *values))

        logits, *values = self.record("trace", values_of, images)
        return logits, activations, values

    def record(self, name: object, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What a function of these passes returns, recorded where it pays: see `Recorder`."""
        return self.recorder(name, function, *inputs)

    def _look_up(self, images: Tensor) -> None:
        """What is kept of the network, once for these passes."""
        if self.records and self.kept is None:
            self.kept = Kept.of(self.network, images)
            self.folds, self.recorder = self.kept.folds.get(self.backward), self.kept.recorder

    def measure(
        self, images: Tensor, at: Mapping[int, Measure] | None = None, activation_count: int = 0
    ) -> tuple[Tensor, list[Tensor]]:
        """What the network returns, and in forward order what is measured of its activations on the way.

        Args:
            images: (B, C, H, W).
            at: by the activation's index, a function of its value (B, ...). It is called when the activation is
                computed, so that an in-place operation behind it does no harm.
            activation_count: where `at` is not empty, how many the network is to compute; InputError if it does not.
        """
        if self.folds is None:
            self._fold(find_folds(self.network, images, self.backward))
        try:
            return self._pass(self.folds or NOTHING, images, at or {}, activation_count)
        except PathChanged:  # a network that looks at its data; from here on it is called as it is
            self._fold(NOTHING)
            return self._pass(NOTHING, images, at or {}, activation_count)

    def _fold(self, folds: Folds) -> None:
        self.folds = folds
        if self.kept is not None:
            self.kept.folds[self.backward] = folds

    def _pass(
        self, folds: Folds, images: Tensor, at: Mapping[int, Measure], activation_count: int
    ) -> tuple[Tensor, list[Tensor]]:
        if not at and not folds:
            return self.network(images), []
        calls, found = count(), []

        def see(_: str, output: Tensor) -> None:
            if measure := at.get(next(calls)):
                found.append(measure(by_image(output, len(images))))

        with fold(folds, see):
            output = self.network(images)
        if at and (computed := next(calls)) != activation_count:
            raise InputError(
                f"the network computed {computed} activations for the changed image and {activation_count} for the "
                "original: only networks that take the same path for both can be held in their activations."
            )
        return output, found
