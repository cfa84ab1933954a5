"""How a network is called: for its logits; and what is inside of what others have put around it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.precision import PRECISIONS

HALF = torch.bfloat16, torch.float16
FEATURES = frozenset(("last_hidden_state", "pooler_output", "features", "embeddings"))  # keys of networks without head

NO_GRADIENT = (
    "the network's outputs have no gradient in the image (torch.no_grad, detach or NumPy on the way, or quantized "
    f"weights?); use a network that can be trained, or a method that needs none, as rise{see('No gradient')}."
)


class Wrapper(nn.Module):
    """A module around a network, in which layers have their own names; `precision` as for `Classifier`."""

    def __init__(self, network: nn.Module, precision: str = "full") -> None:
        super().__init__()
        self.network, self.precision = network, precision
        self.training = is_training(network)

    def forward(self, inputs: Tensor) -> Tensor:
        return ask(self.network, inputs)


class Scored(Wrapper):
    """A network of two classes, whose first has a number of your own for its logit, and whose second has 0.

    So what is explained may be anything: a pixel of a segmentation, the score of a detection, a similarity of
    embeddings. Its margin (Eq. 1) is that number. Layers have their paths below `network`.

    Args:
        network: any module that is called with images (B, C, H, W).
        objective: from what it returns to one number an image, (B,), differentiable; each from its own image alone.
    """

    def __init__(self, network: nn.Module, objective: Callable[[Any], Tensor]) -> None:
        super().__init__(network_of(network), precision_of(network))
        self.objective = objective

    def forward(self, inputs: Tensor) -> Tensor:
        score = self.objective(self.network(inputs))
        is_tensor = isinstance(score, Tensor)
        if not is_tensor or score.shape != (len(inputs),) or not score.is_floating_point():
            got = f"{score.dtype} {tuple(score.shape)}" if is_tensor else type(score).__name__
            raise InputError(f"objective must give one number for each of {len(inputs)} images, not {got}.")
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def is_training(module: nn.Module) -> bool:
    """What is asked of it then; not that of what stands around it, which its owner has never set."""
    return bool(getattr(module, "training", False))


def precision_of(model: nn.Module) -> str:
    """What it is explained in: a `Classifier`'s own; another module may mean something else by the word."""
    own = getattr(model, "precision", None)
    return own if isinstance(own, str) and (own in PRECISIONS or isinstance(model, Wrapper)) else "full"


def ask(network: nn.Module, images: Tensor) -> Tensor:
    """The logits of images (B, C, H, W); a network of half precision gets them in its own type. Of images that are not
    computed on the way it gets a copy: some write over what they are given."""
    weight = first_weight(network, images)
    images = images.clone() if images.grad_fn is None else images
    return logits_of(network(images.to(weight.dtype) if weight.dtype in HALF else images))


def logits_of(output: Any) -> Tensor:
    """What a network returns, where that is one tensor, or it is plain which one is meant: by the name `logits`, or as
    the only tensor with a row of scores for each image. Raises InputError for others."""
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
    if len(outer) == 1 and outer[0] is tensors[0]:  # what is deeper in, behind it, is more about them
        scores = outer
    if len(scores) != 1:
        shapes = ", ".join(str(tuple(part.shape)) for part in tensors) or "none"
        raise InputError(
            f"the network must return a tensor of logits, not {type(output).__name__} (tensors in it: {shapes}); wrap "
            f"it in a module that returns the logits alone{see('What a network returns')}."
        )
    return scores[0]


def with_gradient(
    loss: Callable[..., Tensor], points: Tensor, *rest: Tensor, otherwise: str = NO_GRADIENT
) -> tuple[Tensor, Tensor]:
    """Losses (B,) that `loss(points, *rest)` gives, each of its own row, and their gradients in the points (B, ...).

    Raises InputError, which says `otherwise`, where they have none.
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
    of it; another module, and one of these with a `forward` or hooks of its own, as it is. InputError for no module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"what is explained is a module, not {type(model).__name__}; call it in the forward of one.")
    inner: Any = getattr(model, "_orig_mod", None)
    if isinstance(model, Wrapper) and type(model).forward is Wrapper.forward and "forward" not in vars(model):
        inner = model.network
    return model if inner is None or model._forward_hooks or model._forward_pre_hooks else network_of(inner)


def first_weight(network: nn.Module, otherwise: Tensor) -> Tensor:
    """The first parameter that is a number with a fraction: others are of no image's type."""
    return next((each for each in network.parameters() if each.dtype.is_floating_point), otherwise)
