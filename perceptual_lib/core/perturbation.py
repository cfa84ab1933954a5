"""The perturbation on the perceptual ball: Eqs. 1-5 of the paper (Sec. 3), to be read beside it.

`passes` runs a network fast, `lbfgs` is the optimizer, and `perceptual_ball` has the functions that users call, with
checks and batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from perceptual_lib.core.calling import ask, with_gradient
from perceptual_lib.core.checks import resolve_targets
from perceptual_lib.core.errors import InputError, see, warn
from perceptual_lib.core.first_look import near, say_what_is_flat
from perceptual_lib.core.graphs import Branches, records
from perceptual_lib.core.lbfgs import minimize
from perceptual_lib.core.passes import Passes, Stale, WeightedDistance
from perceptual_lib.core.rest import Resting
from perceptual_lib.core.selection import held_layers, held_modules
from perceptual_lib.core.settings import Layers, Settings

Callback = Callable[[int, Tensor, Tensor], None]
BUSY = 5  # steps after which a GPU has enough queued work for a while


@dataclass(frozen=True)
class Perturbation:
    """The smallest change found for each image, and what it did to the margin.

    Attributes:
        delta: (B, C, H, W), x' - x in the network's normalized input space.
        targets: (B,) int64, the class explained.
        margin_before: (B,), M_i(x) of Eq. 1 or 2, in logits.
        margin: (B,), the M_i(x') that was reached.
        evaluations: (B,) int64, forward and backward passes of the network spent on the image.
        converged: (B,) bool, whether a tolerance of the optimizer, or `tolerance_map`, was met within the step limit.
        failed: (B,) bool, whether NaN or infinity turned up; delta is then the best iterate before it.
    """

    delta: Tensor
    targets: Tensor
    margin_before: Tensor
    margin: Tensor
    evaluations: Tensor
    converged: Tensor
    failed: Tensor

    @property
    def flipped(self) -> Tensor:
        """(B,) bool: M_i(x') <= 0, so the network no longer assigns the class (Sec. 3); with `towards`, it now does."""
        return self.margin <= 0


def multiclass_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 1: M_i(x) = C_i(x) - max over j != i of C_j(x). logits (B, K), targets (B,) -> (B,)."""
    index = targets[:, None]
    best_other = logits.scatter(1, index, -torch.inf).max(dim=1).values
    return logits.gather(1, index).squeeze(1) - best_other


def class_response(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 2: M_i(x) = C_i(x), at its largest region. logits (B, K) or (B, K, h, w), targets (B,) -> (B,)."""
    regions = logits.unsqueeze(-1).flatten(2)  # (B, K, regions)
    response = regions[torch.arange(len(targets), device=targets.device), targets]
    return response.max(dim=1).values


class Objective:
    """Eq. 5 as a batch of P problems for `minimize`, in the perturbation delta = x' - x, flattened to (P, N).

    A problem is an image and a choice of layers: several images with one choice, or one image with several choices. The
    constructor runs the network on x, for the predictions, the margins and the activations C_l(x).

    Args:
        passes: runs the network.
        images: (B, C, H, W); a single image if there are several choices.
        targets: (B,), or None for the predictions. InputError for targets or layers that do not fit the network.
        choices: choices of layers: one for all images, or several for a single image.
        settings: hyperparameters of the perturbation; `settings.layers` is not read.
    """

    def __init__(
        self,
        passes: Passes,
        images: Tensor,
        targets: Tensor | None,
        choices: Sequence[Layers | None],
        settings: Settings,
    ) -> None:
        self.passes, self.images, self.settings = passes, images, settings
        self.record = passes.kept(images).record
        lead = class_response if settings.multilabel else multiclass_margin
        self.margin_of = (lambda *given: -lead(*given)) if settings.reach else lead
        logits, activations, values = passes.trace(images)
        self.modules = held_modules(choices, [activation.name for activation in activations], passes.network)
        if self.modules:
            logits, activations, values = passes.trace(images, self.modules)
            self._check_order(values)
        targets = resolve_targets(logits, len(images), targets, settings.multilabel)
        problems = max(len(images), len(choices))
        self.targets = targets.expand(problems)
        self.margin_before = self.margin_of(logits, targets).expand(problems)
        self.activation_count = len(activations)
        held = [held_layers(layers, activations) for layers in choices]
        self.layers = sorted(set().union(*held))
        self.references = [values[layer] for layer in self.layers]  # C_l(x), (P, ...), or (1, ...) for all problems
        self.rooms: dict[int, Tensor] = {}  # see `_distance`
        holds = images.new_tensor([[layer in layers for layers in held] for layer in self.layers])
        self.scales = self._scales(holds.view(-1, len(choices))).expand(-1, problems)

    def _check_order(self, values: Sequence[Tensor]) -> None:
        """Raise InputError if the rows of a held module's output are not one image after the other. A network that
        answers at random, of which users have been warned, cannot be checked for that."""
        if len(self.images) == 1:
            return
        alone = self.passes.trace(self.images[:1], self.modules)[2]
        if all(near(value[:1], one, share=0.05) for value, one in zip(values, alone, strict=True)):
            return
        if all(map(near, alone, self.passes.trace(self.images[:1], self.modules)[2])):
            paths = ", ".join(self.modules)
            raise InputError(f"what {paths} returns is not of one image after the other; give batch_size=1.")

    def _scales(self, holds: Tensor) -> Tensor:
        """(layers, choices): lambda' of each layer for a mean over its elements; 0 where a choice does not hold it."""
        scales = holds.new_tensor([self.settings.layer_weight / each[0].numel() for each in self.references])
        scales = scales[:, None] * holds
        if self.settings.normalize_layers and self.references:
            mean_square = torch.stack([each.square().reshape(len(each), -1).mean(1) for each in self.references])
            # A layer that is zero everywhere has no scale of its own: its term is not divided.
            scales = scales / torch.where(mean_square > 0, mean_square, 1)
        return scales

    def loss(self, delta: Tensor, images: Tensor, targets: Tensor, scales: Tensor, *references: Tensor) -> Tensor:
        """Eq. 5: (M_i(x') - T)^2 + lambda' sum_l ||C_l(x') - C_l(x)||^2 + lambda ||x' - x||^2. (P, C, H, W) -> (P,).

        What belongs to the problems comes as arguments, so that a GPU can record this. Without references it is Eq. 4.
        """
        held = zip(self.layers, references, scales, strict=False)
        at = {layer: partial(self._distance, layer, *of_layer) for layer, *of_layer in held}
        logits, distances = self.passes.measure(images + delta, at, self.activation_count, self.modules)
        margin = self.margin_of(logits.to(delta.dtype), targets)
        perceptual = torch.stack(distances).sum(0) if distances else 0.0
        pixels = delta.square().flatten(1).mean(1)
        return (margin - self.settings.margin_target).square() + perceptual + self.settings.pixel_weight * pixels

    def _distance(self, layer: int, reference: Tensor, scale: Tensor, value: Tensor, branches: Branches) -> Tensor:
        """A layer's term, (P,). On a CPU its memory is used again: the system would clear new memory, which is slow."""
        if value.shape[1:] != reference.shape[1:]:
            shapes = " and ".join(str(tuple(each.shape[1:])) for each in (value, reference))
            raise InputError(
                f"layer {layer} has shapes {shapes} for the changed image and the original: only networks that take "
                f"the same path for both can be held in their activations{see('Another path')}."
            )
        room = self.rooms.setdefault(layer, reference.new_empty(0)) if value.device.type == "cpu" else None
        distance: Tensor = WeightedDistance.apply(value, reference, scale, room, branches)
        return distance

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (P,) and their gradients (P, N) at perturbations (P, N), with one forward and one backward pass."""
        return self._evaluate(points, self.images, self.targets, self.scales, *self.references)

    def _evaluate(self, points: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.settings
        fixed = chosen.margin_target, chosen.pixel_weight, chosen.multilabel, chosen.reach
        name = "Eq. 5", fixed, tuple(self.layers), self.activation_count, self.modules
        delta = points.unflatten(1, self.images.shape[1:])
        loss, gradient = self.record(name, partial(with_gradient, self.loss), delta, *inputs)
        return loss, gradient.flatten(1)

    def at_start(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """`evaluate` at x' = x. No activation has moved there, so all choices for an image share one evaluation."""
        if records(self.images.device):  # the recorded evaluation of later steps serves here, too
            return self.evaluate(start)
        count = len(self.images)
        loss, gradient = self._evaluate(start[:count], self.images, self.targets[:count], self.scales[:0])
        return loss.expand(len(start)), gradient.expand(len(start), -1)

    def keep(self, rows: Tensor) -> None:
        """Reduce to the problems at these rows."""
        one_for_all = len(self.images) == 1  # shared by all problems, as are its references
        self.images = self.images if one_for_all else self.images[rows]
        self.references = [each if one_for_all else each[rows] for each in self.references]
        self.rooms.clear()  # their size no longer fits
        self.targets, self.scales = self.targets[rows], self.scales[:, rows]


def smallest_change(objective: Objective, callback: Callback | None = None) -> Perturbation:
    """Minimize Eq. 5 from x' = x. The objective's tensors are released on the way: do not use it afterwards.

    `callback(step, rows, delta)` gets the problems still being solved. Raises Stale if the network was not what it was
    taken for, so that the search must be repeated.
    """
    images, targets, shape = objective.images, objective.targets, objective.images.shape[1:]

    def report(step: int, rows: Tensor, points: Tensor) -> None:
        if step == BUSY:
            objective.passes.doubt()
        if callback:
            callback(step, rows, points.unflatten(1, shape))

    start = images.new_zeros(len(targets), shape.numel())
    at_start = objective.at_start(start)
    say_what_is_flat(at_start[1], "the margin's gradient")
    if count := int((objective.margin_before < objective.settings.margin_target).sum()):
        warn(
            f"the margin of {count} of {len(targets)} problems is below its target to begin with, and the change "
            "raises it: it shows what would speak for what the network does not see, or against what is to be reached "
            f"and is already{see('A margin below its target')}."
        )
    steps, tolerance = objective.settings.max_iter, objective.settings.tolerance_map
    enough = Resting(tolerance, steps, shape, len(targets)) if tolerance else None
    minimum = minimize(objective, start, max_iter=steps, at_start=at_start, callback=report, enough=enough)
    if objective.passes.is_stale():
        raise Stale
    objective.references = []  # frees their memory for the last pass
    if count := int(minimum.failed.sum()):
        warn(
            f"the search broke down in {count} of {len(targets)} problems: the network gave NaN or infinity; the best "
            f"before it is returned{see('NaN or infinity')}."
        )
    still = ~minimum.failed & ~minimum.points.any(1) & at_start[1].any(1)
    if count := int(still.sum()):
        warn(
            f"the change found is zero everywhere for {count} of {len(targets)} images: the margin's gradient is below "
            "the optimizer's tolerance, so nothing was searched for; multiply the logits by a number"
            f"{see('The same everywhere')}."
        )
    delta = minimum.points.unflatten(1, shape)
    network = objective.passes.network
    (logits,) = objective.record("logits", lambda changed: (ask(network, changed),), images + delta)
    margin = objective.margin_of(logits.to(delta.dtype), targets)
    return Perturbation(
        delta, targets, objective.margin_before, margin, minimum.evaluations, minimum.converged, minimum.failed
    )
