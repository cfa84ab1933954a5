"""How a frozen network is run fast: convolutions do the work of batch norms (`folding`), and on a GPU, which would wait
for launches, what is asked for again and again is recorded (`graphs`). And what is measured on the way."""

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import by_image, outputs_of
from perceptual_lib.core.calling import ask, network_of, with_gradient
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.folding import PathChanged, find_folds, fold
from perceptual_lib.core.graphs import Recorder, records, state_of
from perceptual_lib.core.precision import computing

Measure = Callable[[Tensor], Tensor]


class Kept:
    """What was found out about a network; on a GPU kept from call to call as long as it lives and is what it was."""

    networks: ClassVar[WeakKeyDictionary[nn.Module, "Kept"]] = WeakKeyDictionary()

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.folds, self.record = find_folds(network, images), Recorder()
        self.state: Hashable = None
        self.probe = self.answer = images[:0]

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> "Kept":
        """Of a network that gets images like these; new where it has changed."""
        if not records(images.device):
            return cls(network, images)
        kept, state = cls.networks.get(network), state_of(network)
        if kept is None or kept.state != state or not kept._answers(network):
            kept = cls.networks[network] = cls(network, images)
            kept.state, kept.probe = state, images[:1].clone()
            kept.answer = kept._ask(network)
        return kept

    def _answers(self, network: nn.Module) -> bool:
        """Whether the network still says the same: not every change can be seen from outside."""
        answer = self._ask(network)
        return answer.shape == self.answer.shape and torch.allclose(answer, self.answer, rtol=1e-4, atol=1e-5)

    def _ask(self, network: nn.Module) -> Tensor:
        with computing("full", self.probe.device), torch.autocast(self.probe.device.type, enabled=False):
            return ask(network, self.probe)


class Passes:
    """Passes of a network inside `freeze`, the same answers but for rounding, sooner."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network_of(network)
        self._kept: Kept | None = None

    def kept(self, images: Tensor) -> Kept:
        """What is known of the network, found out at the first call with images like those to come."""
        self._kept = self._kept or Kept.of(self.network, images)
        return self._kept

    def __call__(self, images: Tensor) -> Tensor:
        """What the network returns."""
        if torch.is_grad_enabled():
            return self.measure(images)[0]
        (output,) = self.kept(images).record("output", lambda images: (self.measure(images)[0],), images)
        return output

    def gradient(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W), of each image's own logit of its target (B,)."""

        def logit(images: Tensor, targets: Tensor) -> Tensor:
            return self.measure(images)[0].gather(1, targets[:, None])[:, 0]

        return self.kept(images).record("gradient", partial(with_gradient, logit), images, targets)[1]

    def measure(
        self,
        images: Tensor,
        at: Mapping[int, Measure] | None = None,
        activation_count: int = 0,
        modules: Collection[str] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """What the network returns for images (B, C, H, W), and in forward order what is measured of its activations.

        Args:
            at: by the activation's index, a function of its value (B, ...), called as soon as that is computed: an
                in-place operation may follow.
            activation_count: where `at` is not empty, how many the network is to compute; InputError if it does not.
            modules: paths of those whose outputs count as activations, too.
        """
        kept, at, calls, found = self.kept(images), at or {}, count(), []
        folds = () if modules else kept.folds  # a folded module returns something else
        if not (at or folds):
            return ask(self.network, images), []

        def look(_: str, output: Tensor) -> None:
            if measure := at.get(next(calls)):
                found.append(measure(by_image(output, len(images))))

        try:
            with fold(folds, look), outputs_of(self.network, modules, look) if modules else nullcontext():
                output = ask(self.network, images)
        except PathChanged:  # a network that looks at its data; from here on it is called as it is
            kept.folds = ()
            kept.record.clear()  # graphs read the folded weights
            return self.measure(images, at, activation_count, modules)
        if at and (computed := next(calls)) != activation_count:
            raise InputError(
                f"the network computed {computed} activations for the changed image and {activation_count} for the "
                f"original: only networks that take the same path for both can be held in their activations"
                f"{see('Another path')}."
            )
        return output, found


class SquaredDistance(torch.autograd.Function):
    """||value - reference||^2 of each problem: (P, ...), and (P, ...) or (1, ...) for all problems -> (P,).

    The gradient is written over the difference, and that into `room`, where there is one. With tensor operations a
    distance costs as much again as the network whose activation it reads; this way a tenth of it. The difference is in
    the reference's type, also inside autocast, and kept without `save_for_backward`, whose tensors checkpointing would
    count among those of the network.
    """

    @staticmethod
    def forward(context: Any, value: Tensor, reference: Tensor, room: Tensor | None = None) -> Tensor:
        context.difference = difference = torch.sub(value, reference, out=room)  # without gaps in memory
        if len(difference) == 1:  # of one row `vector_norm` uses one thread, or a few blocks of a GPU
            row = difference.as_strided((difference.numel(),), (1,))
            return torch.dot(row, row)[None]
        norms: Tensor = torch.linalg.vector_norm(difference, dim=tuple(range(1, difference.ndim)))
        return norms.square()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor = (2 * gradient).view(-1, *[1] * (context.difference.ndim - 1))
        return context.difference.mul_(factor), None, None
