"""How a network is called for its logits, and how it is found inside of wrappers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.precision import PRECISIONS

HALF = torch.bfloat16, torch.float16
FEATURES = frozenset(("last_hidden_state", "pooler_output", "features", "embeddings"))  # keys of headless networks

NO_GRADIENT = (
    "the network's outputs have no gradient in the image (torch.no_grad, detach or NumPy on the way, or quantized "
    f"weights?); use a network that can be trained, or a method that needs none, as rise{see('No gradient')}."
)


def kind_of(value: object) -> str:
    """What a value is, for a sentence: a tensor's type and shape, or the name of its type."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class Wrapper(nn.Module):
    """A module around a network, whose layers keep their names in the network; `precision` as for `Classifier`."""

    def __init__(self, network: nn.Module, precision: str = "full") -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.training = is_training(network)

    def forward(self, inputs: Tensor) -> Tensor:
        return ask(self.network, inputs)


class Scored(Wrapper):
    """A network of two classes: the logit of the first is a number of your choice, that of the second is 0.

    So anything can be explained: a pixel of a segmentation, the score of a detection, a similarity of embeddings. The
    margin (Eq. 1) is that number. The paths of layers begin with "network.".

    Args:
        network: any module that is called with images (B, C, H, W).
        objective: a differentiable function from the network's output to (B,), a number that each image alone decides.
    """

    def __init__(self, network: nn.Module, objective: Callable[[Any], Tensor]) -> None:
        super().__init__(network_of(network), precision_of(network))
        self.objective = objective

    def forward(self, inputs: Tensor) -> Tensor:
        score = self.objective(self.network(inputs))
        if not isinstance(score, Tensor) or score.shape != (len(inputs),) or not score.is_floating_point():
            raise InputError(f"objective must give one number for each of {len(inputs)} images, not {kind_of(score)}.")
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def is_training(module: nn.Module) -> bool:
    """Whether a module is in training mode. Wrappers take this over from what they wrap, as nobody sets theirs."""
    return bool(getattr(module, "training", False))


def precision_of(model: nn.Module) -> str:
    """The precision that a model is explained in: a `Wrapper`'s own; of any other module its `precision` if that is a
    known name, as it may mean something else, and otherwise "full"."""
    own = getattr(model, "precision", None)
    return own if isinstance(own, str) and (own in PRECISIONS or isinstance(model, Wrapper)) else "full"


def ask(network: nn.Module, images: Tensor) -> Tensor:
    """The logits of images (B, C, H, W). A network of half precision gets the images in its own type. Images without a
    `grad_fn` are copied, as some networks overwrite what they are given."""
    weight = first_weight(network, images)
    images = images.clone() if images.grad_fn is None else images
    return logits_of(network(images.to(weight.dtype) if weight.dtype in HALF else images))


def logits_of(output: Any) -> Tensor:
    """The logits in a network's output: the output itself if it is a tensor, its tensor of the name `logits`, its only
    tensor, or the only one with a row of scores for each image. Raises InputError for other outputs."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = list(output.values() if isinstance(output, Mapping) else output if isinstance(output, Iterable) else ())
    if FEATURES.intersection(output if isinstance(output, Mapping) else ()):
        raise InputError(
            f"the network returns features ({', '.join(map(str, output))}) and no logits: give the network with its "
            f"classifying head{see('What a network returns')}."
        )
    tensors = [part for part in tree_leaves(parts) if isinstance(part, Tensor)]
    scores = tensors if len(tensors) == 1 else [part for part in tensors if part.ndim == 2]
    outer = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2]
    if len(outer) == 1 and outer[0] is tensors[0]:  # tensors behind it, deeper in, only tell more about these scores
        scores = outer
    if len(scores) != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in tensors) or "none"
        raise InputError(
            f"the network must return a tensor of logits, not {type(output).__name__} (tensors in it: {shapes}); wrap "
            f"it in a module that returns the logits alone{see('What a network returns')}."
        )
    if _is_boxes(output, scores[0]):
        raise InputError(
            "the network returns objects that it detected, with their boxes: say by objective= which number explains "
            f"them, such as one object's score{see('What a network returns')}."
        )
    return scores[0]


def _is_boxes(output: Any, tensor: Tensor) -> bool:
    """Whether a tensor in an output has a name there that ends in "boxes"."""
    if isinstance(output, Mapping):
        named = any(value is tensor and str(name).endswith("boxes") for name, value in output.items())
        return named or _is_boxes([*output.values()], tensor)
    return isinstance(output, (list, tuple)) and any(_is_boxes(each, tensor) for each in output)


def with_gradient(
    loss: Callable[..., Tensor], points: Tensor, *rest: Tensor, otherwise: str = NO_GRADIENT
) -> tuple[Tensor, Tensor]:
    """The losses (B,) of `loss(points, *rest)`, each of its own row, and their gradients in the points (B, ...).

    Raises InputError with the message `otherwise` if they have no gradient.
    """
    gradient = None
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        losses = loss(points, *rest)
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), points, allow_unused=True)
    if gradient is None:
        raise InputError(otherwise)
    return losses.detach(), gradient


def network_of(model: nn.Module) -> nn.Module:
    """The network inside a `Wrapper` that only calls it, such as a `Classifier`, and inside what `torch.compile` makes
    of it. Other modules, and wrappers with their own `forward` or hooks, stay as they are. InputError for no module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"what is explained is a module, not {type(model).__name__}; call it in the forward of one.")
    inner: Any = getattr(model, "_orig_mod", None)
    if isinstance(model, Wrapper) and type(model).forward is Wrapper.forward and "forward" not in vars(model):
        inner = model.network
    return model if inner is None or model._forward_hooks or model._forward_pre_hooks else network_of(inner)


def first_weight(network: nn.Module, otherwise: Tensor) -> Tensor:
    """The first floating-point parameter, or `otherwise`: images cannot have the type of another parameter."""
    return next((each for each in network.parameters() if each.dtype.is_floating_point), otherwise)
