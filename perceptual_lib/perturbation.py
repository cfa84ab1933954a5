"""The perturbation on the perceptual ball: Eqs. 1-5 of the paper (Sec. 3)."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from perceptual_lib.activations import Layers, by_image, frozen, network_of, select_layers, trace, watch
from perceptual_lib.checks import check_inputs, check_logits, check_targets
from perceptual_lib.errors import InputError
from perceptual_lib.lbfgs import minimise


@dataclass(frozen=True)
class Perturbation:
    """The smallest change found for each image, and what it did to the margin.

    Attributes:
        delta: (B, C, H, W), x' - x in the network's normalised input space.
        targets: (B,) int64, the class explained.
        margin_before: (B,), M_i(x) of Eq. 1 or 2, in logits.
        margin: (B,), M_i(x') reached.
        evaluations: (B,) int64, forward and backward passes of the network spent on the image.
        converged: (B,) bool, a tolerance of the optimiser was met before its limit of steps.
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
    normalise_layers: bool = False,
    multilabel: bool = False,
    max_iter: int = 200,
    batch_size: int | None = None,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Perturbation:
    """Find for each image the change that takes its class away and stays near in pixels and activations (Eq. 5).

    Minimises (M_i(x') - T)^2 + lambda' sum_l ||C_l(x') - C_l(x)||^2 + lambda ||x' - x||^2 with L-BFGS from x' = x.
    The norms are means over elements, as in the authors' code. The images of a batch are independent problems.

    Args:
        model: a `Classifier` or any module from images to logits; left as it was, also after an error.
        inputs: (B, C, H, W) floating point, in the network's normalised space.
        targets: the class i: None for the network's prediction, one index for all, or (B,) int64.
        layers: the activations that are held, by index, name or range (see `select_layers`); none is the paper's
            "NoPer" (Eq. 4).
        margin_target: T, the margin aimed at, below zero.
        layer_weight: lambda', for all layers. It multiplies squared activations, so it is not scale-free.
        pixel_weight: lambda.
        normalise_layers: divide each layer's term by that layer's mean square on the original image, so that one
            lambda' serves every network.
        multilabel: the margin is the class's response itself (Eq. 2), at its largest region where the network
            returns (B, K, h, w); otherwise its lead over the best other class (Eq. 1).
        max_iter: most steps of L-BFGS.
        batch_size: images in memory at once; None for all of `inputs`. The results do not depend on it.
        callback: called as `callback(step, rows, delta)` at the start of each batch and after each of its steps,
            with the indices in `inputs` of the images still being optimised and their perturbations.

    Raises:
        InputError: inputs, targets or layers that do not fit, or not enough memory for a single image.
    """
    counts = [max_iter] if batch_size is None else [max_iter, batch_size]
    if margin_target >= 0 or layer_weight < 0 or pixel_weight < 0 or min(counts) < 1:
        raise InputError("margin_target must be below 0, weights at least 0, max_iter and batch_size at least 1.")
    network = network_of(model)
    check_inputs(network, inputs)
    objective = Objective(network, layers, margin_target, layer_weight, pixel_weight, normalise_layers, multilabel)
    with torch.inference_mode(False), torch.no_grad(), frozen(network):
        inputs, targets = inputs.clone(), check_targets(targets, inputs)  # inference tensors take no gradient
        batches = torch.arange(len(inputs), device=inputs.device).split(batch_size or len(inputs))
        return _join([_solve(objective, inputs, targets, rows, max_iter, callback) for rows in batches])


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


def _solve(
    objective: "Objective", inputs: Tensor, targets: Tensor | None, rows: Tensor, max_iter: int, callback
) -> Perturbation:
    """Explain the images at these rows, in halves where memory is too small for all of them."""
    report = callback and (lambda step, left, delta: callback(step, rows[left], delta))
    try:
        objective.bind(inputs[rows], None if targets is None else targets[rows])
        return objective.solve(max_iter, report)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        objective.release()
    problem = f"{len(rows)} x {' x '.join(map(str, inputs.shape[1:]))}"
    if len(rows) == 1:
        raise InputError(
            f"there is not enough memory to explain one image ({problem}) on {inputs.device}; use a smaller image, "
            "fewer layers, a smaller max_iter or another device."
        )
    warnings.warn(f"not enough memory for a batch of {problem}; it is explained in halves.", stacklevel=4)
    if inputs.device.type == "cuda":
        torch.cuda.empty_cache()
    return _join([_solve(objective, inputs, targets, half, max_iter, callback) for half in rows.chunk(2)])


def _join(parts: list[Perturbation]) -> Perturbation:
    """One result of consecutive parts of a batch."""
    return Perturbation(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Perturbation)))


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU's allocator raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


class Objective:
    """Eq. 5 as a batch of problems for `minimise`, in the perturbation delta = x' - x, flattened to (B, N)."""

    def __init__(
        self,
        network: nn.Module,
        layers: Layers,
        margin_target: float,
        layer_weight: float,
        pixel_weight: float,
        normalise_layers: bool,
        multilabel: bool,
    ) -> None:
        self.network = network
        self.layers = layers
        self.margin_target = margin_target
        self.layer_weight = layer_weight
        self.pixel_weight = pixel_weight
        self.normalise_layers = normalise_layers
        self.margins = class_response if multilabel else multiclass_margin
        self.release()

    def release(self) -> None:
        """Forget the images and what was computed of them."""
        self.inputs = self.targets = None
        self.references: dict[int, tuple[Tensor, Tensor]] = {}  # activation index -> C_l(x) (B, ...), weight (B,)

    def bind(self, inputs: Tensor, targets: Tensor | None) -> None:
        """Take a batch (B, C, H, W): one forward pass gives the predictions, the margins and the C_l(x)."""
        logits, found, values = trace(self.network, inputs)
        check_logits(logits, len(inputs), self.margins is class_response)
        scores = logits.flatten(2).amax(2) if logits.ndim > 2 else logits
        if targets is None:
            targets = scores.argmax(1)
        elif not ((targets >= 0) & (targets < scores.shape[1])).all():
            raise InputError(f"a target is out of range: the network has {scores.shape[1]} classes, counted from 0.")
        self.inputs, self.targets = inputs, targets
        self.margin_before = self.margins(logits, self.targets)
        self.activation_count = len(found)
        for index in select_layers(self.layers, [activation.name for activation in found]):
            self.references[index] = values[index], self._layer_weights(values[index])

    def _layer_weights(self, value: Tensor) -> Tensor:
        if not self.normalise_layers:
            return value.new_full((len(value),), self.layer_weight)
        mean_square = value.square().flatten(1).mean(1)
        # A layer that is zero all over has no scale of its own: it is compared as it is.
        return self.layer_weight / torch.where(mean_square > 0, mean_square, 1)

    def solve(self, max_iter: int, callback) -> Perturbation:
        images, targets, margin_before = self.inputs, self.targets, self.margin_before
        shape = images.shape[1:]
        report = callback and (lambda step, rows, points: callback(step, rows, points.unflatten(1, shape)))
        start = torch.zeros_like(images, memory_format=torch.contiguous_format).flatten(1)
        minimum = minimise(self, start, max_iter=max_iter, callback=report)
        delta = minimum.points.unflatten(1, shape)
        self.release()
        margin = self.margins(self.network(images + delta), targets)
        return Perturbation(
            delta, targets, margin_before, margin, minimum.evaluations, minimum.converged, minimum.failed
        )

    def evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5 and its gradient at perturbations (B, N), with one forward and one backward pass."""
        with torch.enable_grad():
            delta = points.unflatten(1, self.inputs.shape[1:]).detach().requires_grad_()
            with PerceptualDistance(self.references, self.activation_count) as perceptual:
                logits = self.network(self.inputs + delta)
            margin = self.margins(logits, self.targets)
            pixels = delta.square().flatten(1).mean(1)
            loss = (margin - self.margin_target).square() + perceptual.total + self.pixel_weight * pixels
            (gradient,) = torch.autograd.grad(loss.sum(), delta)
        return loss.detach(), gradient.flatten(1)

    def keep(self, rows: Tensor) -> None:
        self.inputs, self.targets = self.inputs[rows], self.targets[rows]
        self.references = {index: (value[rows], weight[rows]) for index, (value, weight) in self.references.items()}


class PerceptualDistance(watch):
    """Context in which a forward pass sums lambda' ||C_l(x') - C_l(x)||^2 into `total` (B,) as it goes.

    Each term is taken when its activation is computed, so that an in-place operation behind it does no harm.
    """

    def __init__(self, references: dict[int, tuple[Tensor, Tensor]], activation_count: int) -> None:
        super().__init__(self.add)
        self.references = references
        self.activation_count = activation_count
        self.calls = 0
        self.total: Tensor | float = 0.0

    def add(self, _: str, output: Tensor) -> None:
        if self.calls in self.references:
            reference, weight = self.references[self.calls]
            self.total = self.total + SquaredDistance.apply(by_image(output, len(reference)), reference, weight)
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
    """weight ||value - reference||^2, the norm a mean over elements: (B, ...), (B, ...), (B,) -> (B,).

    Its gradient overwrites the difference. Written with tensor operations the terms cost as much again as the network,
    whose activations they read; this way a tenth of it.
    """

    @staticmethod
    def forward(context, value: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
        difference = value - reference
        dimensions = tuple(range(1, difference.ndim))
        context.save_for_backward(difference)
        context.scale = weight / difference[0].numel()
        return context.scale * torch.linalg.vector_norm(difference, dim=dimensions).square()

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = context.saved_tensors
        scale = (2 * gradient * context.scale).view(-1, *[1] * (difference.ndim - 1))
        return difference.mul_(scale), None, None


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
