"""How a frozen network is run: the one place that knows what is fast on a device.

On a CPU convolutions do the work of what stands beside them (`folding`). So they do on a GPU, which beside that waits
for launches instead of computing: there what is asked for again and again is recorded (`graphs`).
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import by_image, outputs_of
from perceptual_lib.core.calling import ask, network_of
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.fold_finder import find_folds
from perceptual_lib.core.folding import NOTHING, Folds, PathChanged, fold
from perceptual_lib.core.graphs import Kept, Recorder, records
from perceptual_lib.core.losses import with_gradient

Measure = Callable[[Tensor], Tensor]


class Passes:
    """Passes of a network, the same answers but for rounding, sooner.

    Args:
        network: in evaluation mode; call this inside `freeze`. What can be folded is found at the first call.
        backward: whether there will be backward passes.
    """

    def __init__(self, network: nn.Module, backward: bool = True) -> None:
        self.network = network_of(network)
        self.backward = backward
        self.folds: dict[bool, Folds] = {}  # by whether there are backward passes
        self.record = Recorder()
        weight = next(network.parameters(), None)
        self.records = weight is not None and records(weight.device)
        self.looked_up = False

    def __call__(self, images: Tensor) -> Tensor:
        """What the network returns."""
        self.look_up(images)
        if torch.is_grad_enabled():
            return self.measure(images)[0]
        (output,) = self.record(("output", self.backward), lambda images: (self.measure(images)[0],), images)
        return output

    def gradient(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W), of each image's own logit of its target (B,)."""

        def logit(images: Tensor, targets: Tensor) -> Tensor:
            return self.measure(images)[0].gather(1, targets[:, None])[:, 0]

        self.look_up(images)
        return self.record("gradient", partial(with_gradient, logit), images, targets)[1]

    def look_up(self, images: Tensor) -> None:
        """Before the first pass of images like these: what can be folded, and what a GPU keeps of the network."""
        if self.looked_up:
            return
        self.looked_up = True
        if self.records:
            kept = Kept.of(self.network, images)
            self.folds, self.record = kept.folds, kept.record
        if self.backward not in self.folds:
            self.folds[self.backward] = find_folds(self.network, images, self.backward)

    def measure(
        self,
        images: Tensor,
        at: Mapping[int, Measure] | None = None,
        activation_count: int = 0,
        modules: Collection[str] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """What the network returns, and in forward order what is measured of its activations on the way.

        Args:
            images: (B, C, H, W).
            at: by the activation's index, a function of its value (B, ...). It is called when the activation is
                computed, so that an in-place operation behind it does no harm.
            activation_count: where `at` is not empty, how many the network is to compute; InputError if it does not.
            modules: paths of those whose outputs count as activations, too.
        """
        self.look_up(images)
        folds = NOTHING if modules else self.folds[self.backward]  # a folded module returns something else
        try:
            return self._pass(folds, images, at or {}, activation_count, modules)
        except PathChanged:  # a network that looks at its data; from here on it is called as it is
            self.folds[self.backward] = NOTHING
            self.record.clear()  # graphs read the folded weights
            return self._pass(NOTHING, images, at or {}, activation_count, modules)

    def _pass(
        self, folds: Folds, images: Tensor, at: Mapping[int, Measure], activation_count: int, modules: Collection[str]
    ) -> tuple[Tensor, list[Tensor]]:
        if not at and not folds:
            return ask(self.network, images), []
        calls, found = count(), []

        def look(_: str, output: Tensor) -> None:
            if measure := at.get(next(calls)):
                found.append(measure(by_image(output, len(images))))

        with fold(folds, look), outputs_of(self.network, modules, look) if modules else nullcontext():
            output = ask(self.network, images)
        if at and (computed := next(calls)) != activation_count:
            raise InputError(
                f"the network computed {computed} activations for the changed image and {activation_count} for the "
                f"original: only networks that take the same path for both can be held in their activations"
                f"{see('Another path')}."
            )
        return output, found
