"""How a frozen network is run: the one place that knows what is fast on a device.

On a CPU convolutions do the work of what stands beside them (`folding`). A GPU waits for launches instead of
computing: a graph of one pass belongs here, behind the same two calls.
"""

from collections.abc import Callable, Mapping
from itertools import count

from torch import Tensor, nn

from perceptual_lib.core.activations import by_image
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.fold_finder import find_folds
from perceptual_lib.core.folding import NOTHING, Folds, PathChanged, fold

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

    def __call__(self, images: Tensor) -> Tensor:
        """What the network returns."""
        return self.measure(images)[0]

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
            self.folds = find_folds(self.network, images, self.backward)
        try:
            return self._pass(self.folds, images, at or {}, activation_count)
        except PathChanged:  # a network that looks at its data; from here on it is called as it is
            self.folds = NOTHING
            return self._pass(NOTHING, images, at or {}, activation_count)

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
