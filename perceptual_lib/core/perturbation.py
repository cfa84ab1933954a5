"""The perturbation on the perceptual ball: Eqs. 1-5 of the paper (Sec. 3)."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import Layers, freeze, list_layers, network_of, select_layers, trace
from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.checks import check_inputs, check_logits, check_targets, in_range
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.lbfgs import minimize
from perceptual_lib.core.passes import Folds, PathChanged, find_folds
from perceptual_lib.core.perceptual_distance import Held, PerceptualDistance


@dataclass(frozen=True)
class Perturbation:
    """The smallest change found for each image, and what it did to the margin.

    Attributes:
        delta: (B, C, H, W), x' - x in the network's normalized input space.
        targets: (B,) int64, the class explained.
        margin_before: (B,), M_i(x) of Eq. 1 or 2, in logits.
        margin: (B,), M_i(x') reached.
        evaluations: (B,) int64, forward and backward passes of the network spent on the image.
        converged: (B,) bool, a tolerance of the optimizer was met before its limit of steps.
        failed: (B,) bool, NaN or infinity turned up; delta is then the best iterate before it.
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
        """(B,) bool: the network no longer assigns the class, M_i(x') <= 0 (Sec. 3)."""
        return self.margin <= 0


def perceptual_ball(
    model: nn.Module,
    inputs: Tensor,
    targets: None | int | Tensor = None,
    layers: Layers = (),
    *,
    margin_target: float = -2.0,
    layer_weight: float = 10_000.0,
    pixel_weight: float = 1.0,
    normalize_layers: bool = False,
    multilabel: bool = False,
    max_iter: int = 200,
    batch_size: int | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Perturbation:
    """Find for each image the change that takes its class away and stays near in pixels and activations (Eq. 5).

    Minimizes (M_i(x') - T)^2 + lambda' sum_l ||C_l(x') - C_l(x)||^2 + lambda ||x' - x||^2 with L-BFGS from x' = x.
    The norms are means over elements, as in the authors' code. The images of a batch are independent problems.

    Args:
        model: a `Classifier` or any module from images to logits; left as it was, also after an error.
        inputs: (B, C, H, W) floating point, in the network's normalized space.
        targets: the class i: None for the network's prediction, one index for all, or (B,) int64.
        layers: the activations that are held, by index, name or range (see `select_layers`); none is the paper's
            "NoPer" (Eq. 4).
        margin_target: T, the margin aimed at, below zero.
        layer_weight: lambda', for all layers. It multiplies squared activations, so it is not scale-free.
        pixel_weight: lambda.
        normalize_layers: divide each layer's term by that layer's mean square on the original image, so that one
            lambda' serves every network.
        multilabel: the margin is the class's response itself (Eq. 2), at its largest region where the network
            returns (B, K, h, w); otherwise its lead over the best other class (Eq. 1).
        max_iter: most steps of L-BFGS.
        batch_size: images in memory at once; None for what suits the device, see `full_batch`. The results do not
            depend on it.
        callback: called as `callback(step, rows, delta)` at the start of each batch and after each of its steps,
            with the indices in `inputs` of the images still being optimized and their perturbations.

    Raises:
        InputError: inputs, targets or layers that do not fit, or not enough memory for a single image.
    """
    objective = Objective(
        model,
        margin_target=margin_target,
        layer_weight=layer_weight,
        pixel_weight=pixel_weight,
        normalize_layers=normalize_layers,
        multilabel=multilabel,
    )
    layers = list_layers(layers)
    with objective.checked(inputs, targets, max_iter, batch_size) as (inputs, targets):

        def bind(rows: Tensor) -> None:
            objective.bind(inputs[rows], None if targets is None else targets[rows], [layers])

        batches = torch.arange(len(inputs), device=inputs.device).split(batch_size or full_batch(inputs.device))
        return join([solve(objective, bind, rows, max_iter, callback) for rows in batches])


def perturbation_path(model: nn.Module, inputs: Tensor, *arguments, **settings) -> tuple[Perturbation, Tensor]:
    """`perceptual_ball` with the perturbation after each step: (steps + 1, B, C, H, W), from delta = 0 to the result.

    An image that ends early keeps its last perturbation. Takes the arguments of `perceptual_ball`.
    """
    records: list[tuple[int, Tensor, Tensor]] = []
    result = perceptual_ball(model, inputs, *arguments, callback=lambda *record: records.append(record), **settings)
    path = inputs.new_zeros(1 + max(step for step, _, _ in records), *inputs.shape)
    for index in range(1, len(path)):
        path[index] = path[index - 1]
        for step, rows, delta in records:
            if step == index:
                path[index, rows] = delta
    return result, path


def solve(
    objective: "Objective", bind: Callable[[Tensor], None], rows: Tensor, max_iter: int, callback=None
) -> Perturbation:
    """Solve the problems of these numbers, in halves where memory is too small for all of them.

    Args:
        objective: what is minimized.
        bind: gives it the problems of some of the numbers.
        rows: (P,) int64, the numbers.
        max_iter, callback: see `perceptual_ball`.
    """
    report = callback and (lambda step, left, delta: callback(step, rows[left], delta))
    try:
        bind(rows)
        return objective.solve(max_iter, report)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        problem = f"{len(rows)} x {' x '.join(map(str, objective.inputs.shape[1:]))}"
        objective.release()
    if len(rows) == 1:
        raise InputError(
            f"there is not enough memory to explain one image ({problem}) on {rows.device}; use a smaller image, "
            "fewer layers, a smaller max_iter or another device."
        )
    warnings.warn(f"not enough memory for a batch of {problem}; it is explained in halves.", stacklevel=4)
    if rows.device.type == "cuda":
        torch.cuda.empty_cache()
    return join([solve(objective, bind, half, max_iter, callback) for half in rows.chunk(2)])


def join(parts: Sequence[Perturbation]) -> Perturbation:
    """One result of consecutive parts of a batch."""
    return Perturbation(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Perturbation)))


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


class Objective:
    """Eq. 5 as a batch of problems for `minimize`, in the perturbation delta = x' - x, flattened to (P, N).

    A problem is an image and a choice of layers: several images with one choice, or one image with several.

    Args:
        model, and the keyword arguments: see `perceptual_ball`.

    Raises:
        InputError: a margin that is not below zero, a negative weight.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        margin_target: float = -2.0,
        layer_weight: float = 10_000.0,
        pixel_weight: float = 1.0,
        normalize_layers: bool = False,
        multilabel: bool = False,
    ) -> None:
        if margin_target >= 0 or layer_weight < 0 or pixel_weight < 0:
            raise InputError("margin_target must be below 0, and weights at least 0.")
        self.network = network_of(model)
        self.margin_target = margin_target
        self.layer_weight = layer_weight
        self.pixel_weight = pixel_weight
        self.normalize_layers = normalize_layers
        self.margins = class_response if multilabel else multiclass_margin
        self.folds: Folds | None = None  # not looked for
        self.release()

    def release(self) -> None:
        """Forget the images and what was computed of them."""
        self.inputs = self.targets = self.margin_before = None
        self.held: dict[int, Held] = {}  # by the activation's index

    @contextmanager
    def checked(
        self, inputs: Tensor, targets: None | int | Tensor, max_iter: int, batch_size: int | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Images and targets as `bind` wants them, while the network is as solving wants it. Raises InputError."""
        if max_iter < 1 or (batch_size is not None and batch_size < 1):
            raise InputError("max_iter and batch_size must be at least 1.")
        check_inputs(self.network, inputs)
        with torch.inference_mode(False), torch.no_grad(), freeze(self.network):
            yield inputs.clone(), check_targets(targets, inputs)  # inference tensors take no gradient

    def bind(self, inputs: Tensor, targets: Tensor | None, choices: Sequence[Layers]) -> None:
        """Take a batch (B, C, H, W): one forward pass gives the predictions, the margins and the C_l(x).

        Args:
            inputs: the images; one, where there is more than one choice.
            targets: (B,), None for the prediction.
            choices: of layers; one for all images, or more for the one image.
        """
        self.inputs = inputs
        logits, found, values = trace(self.network, inputs)
        check_logits(logits, len(inputs), self.margins is class_response)
        scores = logits.flatten(2).amax(2) if logits.ndim > 2 else logits
        targets = scores.argmax(1) if targets is None else in_range(targets, scores.shape[1])
        count = max(len(inputs), len(choices))
        self.targets = targets.expand(count)
        self.margin_before = self.margins(logits, targets).expand(count)
        self.activation_count = len(found)
        if self.folds is None:
            self.folds = find_folds(self.network, inputs)
        chosen = [select_layers(layers, [activation.name for activation in found]) for layers in choices]
        for index in sorted(set().union(*chosen)):
            holds = values[index].new_tensor([index in each for each in chosen])
            self.held[index] = Held(values[index], self._scale(values[index]) * holds)

    def _scale(self, value: Tensor) -> Tensor:
        """(B,), what the sum of squared differences of a layer is multiplied by."""
        scale = self.layer_weight / value[0].numel()
        if not self.normalize_layers:
            return value.new_full((len(value),), scale)
        mean_square = value.square().flatten(1).mean(1)
        # A layer that is zero all over has no scale of its own: it is compared as it is.
        return scale / torch.where(mean_square > 0, mean_square, 1)

    def solve(self, max_iter: int, callback) -> Perturbation:
        images, targets, margin_before = self.inputs, self.targets, self.margin_before
        shape = images.shape[1:]
        report = callback and (lambda step, rows, points: callback(step, rows, points.unflatten(1, shape)))
        start = images.new_zeros(len(targets), images[0].numel())
        minimum = minimize(self, start, max_iter=max_iter, at_start=self._at_start(start), callback=report)
        delta = minimum.points.unflatten(1, shape)
        self.release()
        margin = self.margins(self.network(images + delta).to(delta.dtype), targets)
        return Perturbation(
            delta, targets, margin_before, margin, minimum.evaluations, minimum.converged, minimum.failed
        )

    def _at_start(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient at x' = x, where no activation has moved: one evaluation for all choices of an image."""
        images = slice(len(self.inputs))
        alone = copy(self)
        alone.targets, alone.held = self.targets[images], {}
        loss, gradient = alone.evaluate(start[images])
        return loss.expand(len(start)), gradient.expand(len(start), -1)

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5 and its gradient at perturbations (P, N), with one forward and one backward pass."""
        try:
            return self._evaluate(points)
        except PathChanged:  # a network that looks at its data; from here on it is called as it is
            self.folds = ()
            return self._evaluate(points)

    def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            delta = points.unflatten(1, self.inputs.shape[1:]).detach().requires_grad_()
            with PerceptualDistance(self.held, len(points), self.activation_count, self.folds) as perceptual:
                logits = self.network(self.inputs + delta)
            margin = self.margins(logits.to(delta.dtype), self.targets)
            pixels = delta.square().flatten(1).mean(1)
            loss = (margin - self.margin_target).square() + perceptual.total + self.pixel_weight * pixels
            (gradient,) = torch.autograd.grad(loss.sum(), delta)
        return loss.detach(), gradient.flatten(1)

    def keep(self, rows: Tensor) -> None:
        def kept(of_images: Tensor) -> Tensor:
            return of_images if len(of_images) == 1 else of_images[rows]  # one image stands for all of its problems

        self.inputs, self.targets = kept(self.inputs), self.targets[rows]
        self.held = {index: Held(kept(each.reference), each.scale[rows]) for index, each in self.held.items()}


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
