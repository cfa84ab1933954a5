"""Which layer a method looks at, and what passes there: the activation and its gradient."""

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.activations import SEEN, Activation, at_modules, trace, watch
from perceptual_lib.core.calling import network_of
from perceptual_lib.core.checks import target_logits
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.selection import select_layers
from perceptual_lib.networks.special import special

Layer = None | int | str
"""A module by its path, an activation by index or name, or None for the `default_layer`."""


def layer_passes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Of a method that reads one layer: before its own pass one image shows which that is, unless a path says it."""
    return 1 if isinstance(settings["layer"], str) else 2, 1


def layer_gradient(
    network: nn.Module, images: Tensor, targets: Tensor | None, layer: Layer, stride: int | None = None
) -> tuple[Tensor, Tensor]:
    """What a layer computes, and the gradient of the class's logit there: (B, channels, h, w) both, detached.

    Raises InputError where there is no such layer, or it is no spatial map, and as `resolve_targets`.
    """
    caught: list[Tensor] = []

    def keep(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value  # no tensor, of parameters alone, or cut off from the image
        caught.append(value)
        return value.clone()  # the network goes on with a copy, so that an in-place operation leaves this one alone

    with torch.enable_grad(), _passing_through(keep, network, images, layer, stride):
        logits = network(images.detach().requires_grad_())
        if not caught:
            raise InputError(
                f"the network gets no tensor from its layer {layer!r}; name another{see('No spatial map')}."
            )
        logit = target_logits(logits, len(images), targets).sum()
        (gradient,) = torch.autograd.grad(logit, caught[0], allow_unused=True)
    if gradient is None:
        raise InputError(
            f"the class's score does not depend on the layer {layer!r}; name another{see('No spatial map')}."
        )
    activation, gradient = (_channels_first(value.detach().to(images.dtype), images) for value in (caught[0], gradient))
    return activation, gradient


def _passing_through(
    keep: Callable[[Any], Any], network: nn.Module, images: Tensor, layer: Layer, stride: int | None
) -> AbstractContextManager[object]:
    """Context in which what the layer computes passes through `keep`."""
    inner = network_of(network)
    place = default_layer(network, images, stride) if layer is None else layer
    if isinstance(place, str) and place in dict(inner.named_modules()):
        return at_modules(inner, lambda path, output: keep(output) if path == place else None)
    if layer is not None:
        places = select_layers(layer, [activation.name for activation in _look(network, images)[0]])
        if len(places) != 1:
            raise InputError(f"this method looks at one layer, and {layer!r} names {len(places)}; name one.")
        (place,) = places
    calls = itertools.count()
    return watch(lambda _, output: keep(output) if next(calls) == place else None)


def default_layer(network: nn.Module, images: Tensor, stride: int | None = None) -> int | str:
    """The last activation that is a spatial map: its index, or the path of the module in which it is joined to others.

    Where a network ends in parallel branches (GoogLeNet, Inception) the last activation is one of them. The innermost
    module around it that has more channels at the same places ("inception5b", "Mixed_7c") is what all passes through.
    A join that no module has as its output is not found; neither is one at another resolution than its branches.

    With a stride it is the last one whose height is at least the image's divided by that. Raises InputError where there
    is none, as in a vision transformer.
    """
    known = special(network).last_map
    if stride is None and known is not None and known in dict(network_of(network).named_modules()):
        return known
    height = images.shape[2]
    activations, shapes = _look(network, images)
    grids = {index: grid for index, each in enumerate(activations) if (grid := _grid(each.shape, images))}
    if not activations:
        raise InputError(
            f"no activation of the network is seen ({SEEN}), so none can be looked at: name a layer by its path"
            f"{see('Nothing is seen')}."
        )
    if not grids:
        raise InputError(
            "the network has no activation that is a spatial map, which this method needs (transformers have tokens); "
            f"name a layer, or use a method that needs none{see('No spatial map')}."
        )
    fine = [index for index, (rows, _) in grids.items() if rows * (stride or height) >= height]
    index = (fine or list(grids))[-1]
    path = activations[index].name
    while path := path.rpartition(".")[0]:
        around = shapes.get(path, ())
        if _grid(around, images) == grids[index] and math.prod(around) > math.prod(activations[index].shape):
            return path
    return index


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size (B, H, W) and in their type, bilinearly."""
    return F.interpolate(maps[:, None].to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _look(network: nn.Module, images: Tensor) -> tuple[list[Activation], dict[str, tuple[int, ...]]]:
    """One pass of the first image: its activations, and by their paths the shapes (...) of what modules return."""
    inner, shapes = network_of(network), dict[str, tuple[int, ...]]()

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[path] = tuple(output.shape[1:])

    with at_modules(inner, note):
        return trace(inner, images[:1])[1], shapes


def _grid(shape: tuple[int, ...], images: Tensor) -> tuple[int, int] | None:
    """(rows, columns) of an activation of this shape for one image, or None where it is no map of the image."""
    height, width = images.shape[2:]
    for rows, columns in [shape[1:], shape[:2]] if len(shape) == 3 else []:  # (C, h, w), or (h, w, C) as in ConvNeXt
        if 1 < rows <= height and abs(rows * width - columns * height) < max(height, width):
            return rows, columns
    return None


def _channels_first(value: Tensor, images: Tensor) -> Tensor:
    """(B, channels, h, w), also where a network keeps the channels last."""
    shape = tuple(value.shape[1:])
    grid = _grid(shape, images)
    if grid is None:
        raise InputError(
            f"the layer's output {shape} is no spatial map of the image; name another layer{see('No spatial map')}."
        )
    return value if grid == shape[1:] else value.permute(0, 3, 1, 2)
