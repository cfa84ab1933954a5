"""How a frozen network is run fast, and measured on the way. Convolutions do the work of batch norms (`folding`), and
repeated work of a GPU, which would wait for its launches, is recorded and replayed (`graphs`)."""

from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import Activation, at_modules, by_image, trace
from perceptual_lib.core.calling import ask, network_of, with_gradient
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.folding import PathChanged, find_folds, fold
from perceptual_lib.core.graphs import Branches, Recorder, records, state_of
from perceptual_lib.core.precision import computing

Measure = Callable[[Tensor, Branches], Tensor]
FEW = 16  # the most images whose activations a graph may hold


class Stale(Exception):
    """A network that looks unchanged no longer gives the answer that it gave when `Kept` was made."""


class Kept:
    """What was found out about a network. On a GPU it is kept from call to call while the network lives, unchanged."""

    networks: ClassVar[WeakKeyDictionary[nn.Module, "Kept"]] = WeakKeyDictionary()

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.folds = find_folds(network, images)
        self.record = Recorder(replays=not network._forward_hooks)  # a replay calls no hook, as one that shows progress
        self.state: object = None
        self.activations: dict[Hashable, list[Activation]] = {}
        self.overwritten: set[int] = set()  # activations that the network overwrites after they are measured
        self.probe = self.answer = images[:0]

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> "Kept":
        """What is known of a network, for images like these; on a CPU, or if it has changed, found out anew."""
        if not records(images.device):
            return cls(network, images)
        kept, state = cls.networks.get(network), state_of(network)
        if kept is None or kept.state != state:
            kept = cls(network, images)
            kept.state, kept.probe = state, images[:1].clone()
            kept.answer = kept._ask(network)
            cls.networks[network] = kept
        return kept

    def answers(self, network: nn.Module) -> Tensor:
        """() bool, whether the network still gives the same answer, as not every change can be seen from outside."""
        answer = self._ask(network)
        if answer.shape != self.answer.shape:
            return torch.tensor(False)
        return torch.isclose(answer, self.answer, rtol=1e-4, atol=1e-5, equal_nan=True).all()

    def _ask(self, network: nn.Module) -> Tensor:
        with computing("full", self.probe.device), torch.autocast(self.probe.device.type, enabled=False):
            return ask(network, self.probe)


class Passes:
    """Runs a network inside `freeze`, faster than by calling it, with the same answers but for rounding.

    Checking that what is kept of a network still holds takes a pass, which lasts as long as some steps of a search.
    With `later` the caller starts this check by `doubt`, once a GPU has enough work, and asks `is_stale` in the end.
    """

    def __init__(self, network: nn.Module, *, later: bool = False) -> None:
        self.network = network_of(network)
        self.later = later
        self._same: Tensor | bool | None = None  # see `Kept.answers`
        self._kept: Kept | None = None

    def kept(self, images: Tensor) -> Kept:
        """What is known of the network. The first call finds it out, so its images must be like those to come."""
        if self._kept is None:
            known = Kept.networks.get(self.network)
            self._kept = Kept.of(self.network, images)
            self._same = None if self._kept is known else True
        if not self.later and self.is_stale():
            return self.kept(images)
        return self._kept

    def doubt(self) -> None:
        """Start the check whether the network still answers as before, without waiting for the result."""
        if self._same is None and self._kept and records(self._kept.probe.device):
            self._same = self._kept.answers(self.network)

    def is_stale(self) -> bool:
        """Whether what is known of the network no longer holds. It is then forgotten, so this is true only once."""
        self.doubt()
        if not isinstance(self._same, Tensor):
            return False
        same, self._same = bool(self._same), True  # this waits for a GPU: once, and never while one records
        if not same:
            Kept.networks.pop(self.network, None)
            self._kept = None
        return not same

    def __call__(self, images: Tensor) -> Tensor:
        """What the network returns."""
        if torch.is_grad_enabled():
            return self.measure(images)[0]
        (output,) = self.kept(images).record("output", lambda images: (self.measure(images)[0],), images)
        return output

    def gradient(self, images: Tensor, targets: Tensor) -> Tensor:
        """Gradients (B, C, H, W), each of the image's own logit for its target (B,)."""

        def logit(images: Tensor, targets: Tensor) -> Tensor:
            return self.measure(images)[0].gather(1, targets[:, None])[:, 0]

        return self.kept(images).record("gradient", partial(with_gradient, logit), images, targets)[1]

    def trace(self, images: Tensor, modules: Collection[str] = ()) -> tuple[Tensor, list[Activation], list[Tensor]]:
        """As `activations.trace`, recorded for few images: launching it takes longer than some steps of a search."""
        kept, kind = self.kept(images), ("trace", modules, images.shape)

        def look(images: Tensor) -> tuple[Tensor, ...]:
            logits, kept.activations[kind], values = trace(self.network, images, modules)
            return logits, *values

        logits, *values = kept.record(kind, look, images) if len(images) <= FEW else look(images)
        return logits, kept.activations[kind], values

    def measure(
        self,
        images: Tensor,
        at: Mapping[int, Measure] | None = None,
        activation_count: int = 0,
        modules: Collection[str] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """The network's output for images (B, C, H, W), and what is measured of its activations, in forward order.

        Args:
            at: functions by the index of an activation. Each gets the activation's value (B, ...) as soon as it is
                computed, since an in-place operation may follow, and `Branches`, to which it may leave slow work.
            activation_count: how many activations the network must compute if `at` is not empty; else InputError.
            modules: paths of modules whose outputs count as activations, too.
        """
        kept, at, calls, found = self.kept(images), at or {}, count(), []
        branches, order, taken = Branches(images.device), Branches(torch.device("cpu")), []
        watched = records(images.device) or branches.stream is not None
        folds = () if modules else kept.folds  # a folded module returns something else
        if not (at or folds):
            return ask(self.network, images), []

        def look(_: str, output: Tensor) -> None:
            if measure := at.get(index := next(calls)):
                way = order if index in kept.overwritten else branches
                found.append(measure(by_image(output, len(images)), way))
                if watched:
                    taken.append((index, output, output._version))

        try:
            with fold(folds, look), at_modules(self.network, look, modules) if modules else nullcontext():
                output = ask(self.network, images)
        except PathChanged:  # its path depends on its data; from here on it is called as it is
            kept.folds = ()
            kept.record.clear()  # graphs read the folded weights
            return self.measure(images, at, activation_count, modules)
        if at and (computed := next(calls)) != activation_count:
            raise InputError(
                f"the network computed {computed} activations for the changed image and {activation_count} for the "
                f"original: only networks that take the same path for both can be held in their activations"
                f"{see('Another path')}."
            )
        branches.join()
        written = {index for index, value, version in taken if value._version != version}
        if branches.branches and not written <= kept.overwritten:
            raise RuntimeError("the network writes over an activation that a branch reads")
        kept.overwritten |= written
        return output, found


class WeightedDistance(torch.autograd.Function):
    """weight ||value - reference||^2 of each problem: (P, ...), (P, ...) or (1, ...) for all problems, (P,) -> (P,).

    The result must be used as a term of a sum: the backward pass takes the incoming gradient to be 1. The forward pass
    already computes the term's gradient, and writes it over the difference. So a graph computes both beside the
    network's next operations, and the backward pass only adds. The difference lies in `room`, if given, and is computed
    in one of the `branches`. It has the reference's type, also inside autocast, and is kept without
    `save_for_backward`: checkpointing would count tensors saved there as the network's own.
    """

    @staticmethod
    def forward(
        context: Any,
        value: Tensor,
        reference: Tensor,
        weight: Tensor,
        room: Tensor | None,
        branches: Branches,
    ) -> Tensor:
        room = torch.empty_like(value, dtype=reference.dtype) if room is None else room
        term = torch.empty_like(weight)
        with branches.beside(value):
            context.gradient = torch.sub(value, reference, out=room)  # dense in memory, for `_squares`
            torch.mul(weight, _squares(room), out=term)
            room.mul_((2 * weight).view(-1, *[1] * (room.ndim - 1)))
        return term

    @staticmethod
    def backward(context: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return context.gradient, None, None, None, None


def _squares(rows: Tensor) -> Tensor:
    """(P, ...) -> (P,), the sum of squares of each row."""
    if rows.ndim == 1:
        return rows.square()
    if len(rows) == 1 and rows.device.type == "cpu":  # `vector_norm` would use a single thread
        row = rows.as_strided((rows.numel(),), (1,))
        return torch.dot(row, row)[None]
    norms: Tensor = torch.linalg.vector_norm(rows, dim=tuple(range(1, rows.ndim)))
    return norms.square()
