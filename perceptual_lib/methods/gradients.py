"""Methods that read the gradient of the class's logit in the image, as it is or with other rules of backpropagation."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from perceptual_lib.core.activations import ACTIVATION_FUNCTIONS, SEEN, Unseen, function_name, say_what_is_unseen, watch
from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.errors import InputError, MachineError, see
from perceptual_lib.core.passes import Passes
from perceptual_lib.core.saliency import input_gradient
from perceptual_lib.methods.registry import explainer

Operation = Callable[..., Tensor]


@explainer("gradient", source="Simonyan et al. 2014", passes=(1, 1), predicts=True)
def gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Largest magnitude over the channels of the logit's gradient."""
    return input_gradient(network, images, targets).abs().amax(1)


@explainer("deconvnet", title="DeConvNet", source="Zeiler and Fergus 2014", passes=(1, 1), predicts=True)
def deconvnet(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The gradient if each activation passes back the positive part of what comes back to it, whatever went forward."""
    return changed_gradient(_always, network, images, targets, "deconvnet").abs().amax(1)


@explainer("guided_backprop", source="Springenberg et al. 2015", passes=(1, 1), predicts=True)
def guided_backprop(network: nn.Module, images: Tensor, targets: Tensor | None, *, reduction: str = "max") -> Tensor:
    """The gradient if each activation passes back the positive part of what comes back to it, where it was active.
    reduction: see `one_channel`."""
    check_reduction(reduction)
    return one_channel(guided_gradient(network, images, targets), reduction)


@explainer(
    "smoothgrad",
    title="SmoothGrad",
    source="Smilkov et al. 2017",
    passes=lambda settings: (settings["samples"],) * 2,
)
def smoothgrad(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    samples: int = 50,
    noise: float = 0.15,
    multiplier: float | None = None,
    seed: int = 0,
    reduction: str = "max",
) -> Tensor:
    """The gradient averaged over noisy copies of the image.

    Args:
        samples: number of noisy copies.
        noise: standard deviation of the Gaussian noise, as a share of the image's range of values.
        multiplier: in place of `noise`, a standard deviation of (multiplier / range)**2, as in PyTorch CNN
            Visualizations, where it is 4.
        seed: of the noise.
        reduction: see `one_channel`.
    """
    check_reduction(reduction)
    if samples < 1 or not noise >= 0:
        raise InputError(f"samples is at least 1, and noise at least 0; not {samples} and {noise}.")
    if multiplier is not None and not multiplier > 0:
        raise InputError(f"multiplier is above 0, or None for noise; not {multiplier}.")
    passes = Passes(network)
    generator = torch.Generator().manual_seed(seed)
    extent = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    if multiplier is not None and (flat := (extent == 0).flatten().nonzero().flatten().tolist()):
        raise InputError(f"multiplier is divided by the range of an image's values, which is 0 in {flat}; give noise.")
    spread = noise * extent if multiplier is None else (multiplier / extent) ** 2
    total = torch.zeros_like(images)
    at_once = max(1, full_batch(network, images.device) // len(images))  # samples
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        # The same draws for all images of the batch: an image's map does not depend on its neighbours.
        draws = torch.randn(count, *images.shape[1:], generator=generator, dtype=images.dtype, device="cpu")
        noisy = (images[None] + spread * draws[:, None].to(images.device)).flatten(0, 1)  # (count B, C, H, W)
        total += passes.gradient(noisy, targets.repeat(count)).reshape(count, *images.shape).sum(0)
    return one_channel(total / samples, reduction)


@explainer(
    "integrated_gradients",
    source="Sundararajan et al. 2017",
    passes=lambda settings: (settings["steps"] + (settings["points"] == "even"),) * 2,
)
def integrated_gradients(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 100,
    points: str = "gauss",
    reduction: str = "max",
) -> Tensor:
    """The gradient averaged along the line from a mean-grey image, not multiplied by the image (captum).

    Args:
        steps: number of points on the line.
        points: "gauss" for the nodes and weights of Gauss and Legendre; "even" for the sum over 0, 1 / steps, ... 1,
            divided by steps, as in PyTorch CNN Visualizations.
        reduction: see `one_channel`.
    """
    check_reduction(reduction)
    if points not in ("gauss", "even") or steps < (1 if points == "gauss" else 2):
        raise InputError(f"points are gauss, with at least 1 step, or even, with 2; not {points} and {steps}.")
    try:
        from captum.attr import IntegratedGradients  # an import that takes a second
    except ImportError:
        raise MachineError("integrated_gradients needs captum: pip install 'perceptual-ball[experiments]'.") from None
    passes = Passes(network)
    integrated = IntegratedGradients(passes, multiply_by_inputs=False)

    def of_points(*, inputs: tuple[Tensor], target_ind: Tensor, **_: Any) -> tuple[Tensor]:
        (points,) = inputs
        return (passes.gradient(points, target_ind.expand(len(points))),)  # captum gives one target for many points

    integrated.gradient_func = of_points
    at_once = max(len(images), full_batch(network, images.device))
    rule = {"gauss": "gausslegendre", "even": "riemann_right"}[points]
    mean: Tensor = integrated.attribute(images, target=targets, n_steps=steps, method=rule, internal_batch_size=at_once)
    if points == "even":  # captum takes the right ends of the steps; add the grey image
        mean = mean + passes.gradient(torch.zeros_like(images), targets) / steps
    return one_channel(mean, reduction)


def check_reduction(reduction: str) -> None:
    """Raise InputError for a reduction that `one_channel` does not know."""
    if reduction not in ("max", "grey"):
        raise InputError(f"reduction is max or grey, not {reduction!r}.")


def one_channel(gradients: Tensor, reduction: str) -> Tensor:
    """Maps (B, H, W) of gradients (B, C, H, W).

    "max" is the largest magnitude over the channels, as in TorchRay. "grey" is what PyTorch CNN Visualizations (Ozbulak
    2019) shows: the sum of the magnitudes, scaled so that the least of a map is 0 and its 99th percentile 1, clipped.
    """
    magnitudes = gradients.abs()
    if reduction == "max":
        return magnitudes.amax(1)
    grey = magnitudes.sum(1)
    least = grey.amin((1, 2), keepdim=True)
    # One by one: torch's quantile has a limit of size, which a whole batch may exceed.
    extent = torch.stack([each.quantile(0.99) for each in grey.flatten(1)])[:, None, None] - least
    return ((grey - least) / extent.clamp(min=torch.finfo(grey.dtype).tiny)).clamp(0, 1)


def guided_gradient(network: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """Gradient (B, C, H, W) by the rule of guided backpropagation."""
    return changed_gradient(_where_active, network, images, targets, "guided backprop")


def changed_gradient(
    rule: Operation, network: nn.Module, images: Tensor, targets: Tensor | None, method: str
) -> Tensor:
    """Gradient (B, C, H, W) with a rule for activations. InputError if none is seen: it would be the plain gradient."""
    with rules(dict.fromkeys(ACTIVATION_FUNCTIONS, rule)) as seen, Unseen() as unseen:
        gradient = input_gradient(network, images, targets)
    if not seen.answered:
        raise InputError(
            f"no activation of the network is seen ({SEEN}), so {method} would be the plain gradient; use that method"
            f"{see('Nothing is seen')}."
        )
    say_what_is_unseen(network, unseen.found)
    return gradient


class rules(watch):
    """Context in which operations have other gradients: `table[name](operation, *args, **kwargs)` answers for them.

    These functions name their arguments as torch does, since networks may pass them by name.
    """

    def __init__(self, table: Mapping[str, Operation]) -> None:
        super().__init__(lambda *_: None)
        self.table = table
        self.answered: Counter[str] = Counter()  # calls, by the names of functions

    def run(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = self.table.get(name := function_name(func))
        if rule is None or not any(map(is_open, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        self.answered[name] += 1
        if args and _writes(func, kwargs):  # others may go on with this very tensor
            return args[0].copy_(rule(func, args[0].clone(), *args[1:], **kwargs))
        return rule(func, *args, **kwargs)


def _writes(func: Operation, kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation writes into its first argument: `relu_`, `iadd`, or by `inplace=True`."""
    name = getattr(func, "__name__", "").partition(".")[0]
    return bool(kwargs.get("inplace")) or name.startswith("__i") or (name.endswith("_") and not name.startswith("__"))


def is_open(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that a gradient is to pass."""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def zero(value: Tensor) -> Tensor:
    """Zero with the gradient of `value`."""
    return value - value.detach()


def pass_on(func: Operation, input: Tensor, *rest: Any, **more: Any) -> Tensor:
    """The operation's value, computed from a copy of its one input, to which the whole gradient goes."""
    return func(input.detach().clone(), *rest, **more) + zero(input)


def _where_active(func: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """The operation's value, which passes back only the positive part of its gradient."""
    value = func(*args, **kwargs).clone()  # an in-place operation may follow, and is behind the hook
    value.register_hook(lambda gradient: None if gradient is None else gradient.clamp(min=0))
    return value


def _always(func: Operation, input: Tensor, *rest: Any, **more: Any) -> Tensor:
    """The operation's value, to whose input the positive part of the gradient goes, whatever went forward."""
    # Autograd records the call like the network's own only because a checkpoint compares what its passes save.
    return _where_active(lambda: func(input.clone(), *rest, **more).detach() + zero(input))
