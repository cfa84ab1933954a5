"""Which layer a method looks at, and what passes there: the activation and its gradient."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from perceptual_lib.core.activations import Activation, network_of, select_layers, trace, watch
from perceptual_lib.core.checks import resolve_targets
from perceptual_lib.core.errors import InputError

Layer = None | int | str


def default_layer(network: nn.Module, images: Tensor, stride: int | None = None) -> int | str:
    """The last activation that is a spatial map: its index, or the path of the module in which it is joined to others.

    Where a network ends in parallel branches (GoogLeNet, Inception) the last activation is one of them. The innermost
    module around it that has more channels at the same places ("inception5b", "Mixed_7c") is what all passes through.
    A join that no module has as its output is not found; neither is one at another resolution than its branches.

    Args:
        network: any convolutional network.
        images: (B, C, H, W), of which the first is tried.
        stride: the last one whose height is at least the image's divided by this; None for the last of all.

    Raises:
        InputError: the network has none, as a vision transformer.
    """
    height, width = images.shape[2:]
    activations = _activations(network, images)
    spatial = [
        (index, grid)
        for index, activation in enumerate(activations)
        if (grid := _grid(activation.shape, height, width)) is not None
    ]
    if not spatial:
        raise InputError(
            "the network has no activation that is a spatial map, which this method needs (transformers have tokens); "
            "name a layer, or use a method that needs none."
        )
    fine = [index for index, (rows, _) in spatial if stride is None or rows * stride >= height]
    index = fine[-1] if fine else spatial[-1][0]
    return _joint(network, images, activations[index]) or index


def _joint(network: nn.Module, images: Tensor, activation: Activation) -> str:
    """Path of the innermost module around an activation with more channels at the same places; "" where none has."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    hook = register_module_forward_hook(
        lambda module, _, output: shapes.update({module: tuple(output.shape[1:])} if torch.is_tensor(output) else {})
    )
    try:
        network(images[:1])
    finally:
        hook.remove()
    height, width = images.shape[2:]
    grid, path = _grid(activation.shape, height, width), activation.name
    while path := path.rpartition(".")[0]:
        shape = shapes.get(network_of(network).get_submodule(path), ())
        if _grid(shape, height, width) == grid and math.prod(shape) > math.prod(activation.shape):
            break
    return path


def layer_gradient(network: nn.Module, images: Tensor, targets: Tensor | None, layer: Layer) -> tuple[Tensor, Tensor]:
    """What a layer computes, and the gradient of the class's logit with respect to it.

    Args:
        network: in evaluation mode.
        images, targets: (B, C, H, W), (B,), None for the predictions.
        layer: an activation by index or name, a module by its path, or None for `default_layer`.

    Returns:
        Activation and gradient, both (B, channels, h, w) and detached.

    Raises:
        InputError: no such layer, or one that is no spatial map; what `known_targets` refuses.
    """
    caught: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        caught.append(value)
        return value.clone()  # the network goes on with a copy, so that an in-place operation leaves this one alone

    with torch.enable_grad(), _catching(network, images, layer, keep):
        logits = network(images.detach().requires_grad_())
        targets = resolve_targets(logits, len(images), targets)
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), caught[0])
    return tuple(_channels_first(value.detach().to(images.dtype), images) for value in (caught[0], gradient))


def _catching(network: nn.Module, images: Tensor, layer: Layer, keep) -> "watch | _module_hook":
    """Context in which the layer's first output passes through `keep`."""
    layer = default_layer(network, images) if layer is None else layer
    names = [activation.name for activation in _activations(network, images)]
    modules = dict(network_of(network).named_modules())
    if isinstance(layer, str) and layer not in names and layer in modules:
        return _module_hook(modules[layer], keep)
    wanted = select_layers(layer, names)[0]
    calls = iter(range(len(names)))
    return watch(lambda _, output: keep(output) if next(calls) == wanted else None)


class _module_hook:
    """Context in which a module's output passes through `keep`, by torch's global hook: none on the network."""

    def __init__(self, module: nn.Module, keep) -> None:
        self.module, self.keep = module, keep

    def __enter__(self) -> None:
        self.handle = register_module_forward_hook(
            lambda module, _, output: self.keep(output) if module is self.module else None
        )

    def __exit__(self, *_) -> None:
        self.handle.remove()


def _activations(network: nn.Module, images: Tensor) -> list[Activation]:
    return trace(network_of(network), images[:1])[1]


def _grid(shape: tuple[int, ...], height: int, width: int) -> tuple[int, int] | None:
    """(rows, columns) of an activation of this shape for one image, or None where it is no map of the image."""
    for rows, columns in [shape[1:], shape[:2]] if len(shape) == 3 else []:  # (C, h, w), or (h, w, C) as in ConvNeXt
        if 1 < rows <= height and abs(rows * width - columns * height) < max(height, width):
            return rows, columns
    return None


def _channels_first(value: Tensor, images: Tensor) -> Tensor:
    """(B, channels, h, w), also where a network keeps the channels last."""
    height, width = images.shape[2:]
    shape = tuple(value.shape[1:])
    if _grid(shape, height, width) is None:
        raise InputError(f"the layer's output {shape} is no spatial map of the image; name another layer.")
    return value if _grid(shape[:1] + shape[1:], height, width) == shape[1:] else value.permute(0, 3, 1, 2)
