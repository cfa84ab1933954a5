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
from perceptual_lib.core.calling import ask, network_of
from perceptual_lib.core.checks import target_logits
from perceptual_lib.core.errors import InputError, see, warn
from perceptual_lib.core.selection import select_layers
from perceptual_lib.methods.grids import Grid, channels_first, find_grid, maps_of, written
from perceptual_lib.networks.special import place, special

Layer = None | int | str
"""A module by its path, an activation by index or name, or None for the `default_layer`."""
Reshape = None | Callable[[Tensor], Tensor]
"""From what a layer computes, (B, ...), to (B, channels, h, w), by moving values alone: its gradient is moved alike.
None for maps, and for tokens whose grid `find_grid` finds."""


def layer_passes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Of a method that reads one layer: before its own pass one image shows which that is, unless a path says it.

    Where that is to be found among tokens, the image passes once more, and back.
    """
    return 1 if isinstance(settings["layer"], str) else 2, 1


def layer_gradient(
    network: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    layer: Layer,
    reshape: Reshape = None,
    stride: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What a layer computes, and the gradient of the class's logit there: (B, channels, h, w) both, detached.

    Raises InputError where there is no such layer, or it is no spatial map, nor (without a stride) tokens of one, nor
    made one by `reshape`, and as `resolve_targets`.
    """
    caught: list[Tensor] = []
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value  # no tensor, of parameters alone, or cut off from the image
        caught.append(value)
        return value.clone()  # the network goes on with a copy, so that an in-place operation leaves this one alone

    with (
        torch.enable_grad(),
        _passing_through(keep, network, images, layer, stride),
        _noting(network, len(images), shapes),
    ):
        logits = network(images.detach().requires_grad_())
        if not caught:
            raise InputError(
                f"the network gets no tensor from its layer {layer!r}; name another{see('No spatial map')}."
            )
        own = target_logits(logits, len(images), targets)
        (gradient,) = torch.autograd.grad(own, caught[0], torch.ones_like(own), allow_unused=True)
    if gradient is None:
        raise InputError(
            f"the class's score does not depend on the layer {layer!r}; name another{see('No spatial map')}."
        )
    if reshape is None:
        maps = set() if stride else maps_of(shapes.values(), images)
        reshape = _arranged(tuple(caught[0].shape), images, maps, _convolved(network, shapes))
    activation, gradient = (reshape(value.detach().to(images.dtype)) for value in (caught[0], gradient))
    if activation.ndim != 4 or len(activation) != len(images):
        raise InputError(
            f"reshape must give (B, channels, h, w) of {len(images)} images, and gave {tuple(activation.shape)} of the "
            f"layer's output {tuple(caught[0].shape)}{see('No spatial map')}."
        )
    return activation, gradient


def _arranged(
    shape: tuple[int, ...], images: Tensor, maps: set[Grid], convolved: set[tuple[int, ...]]
) -> Callable[[Tensor], Tensor]:
    """What makes (B, channels, h, w) of a layer's output of this shape (B, ...)."""
    grid = _grid(shape[1:], images, maps, convolved) if shape[0] == len(images) else None
    if grid is None:
        tokens = f", nor tokens of one ({written(maps)})" if maps else ""
        raise InputError(
            f"the layer's output {shape} is no spatial map of the image{tokens}; name another layer, or for Grad-CAM "
            f"and NormGrad give reshape={see('No spatial map')}."
        )
    return lambda value: channels_first(value, grid)


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

    Where tokens come behind the last map, or there is none, it is the path that `_last_read` finds, and a warning says
    which, and the grid. With a stride it is the last map whose height is at least the image's divided by that, and no
    tokens. Raises InputError where there is none.
    """
    known = place(network_of(network), special(network).last_map)
    if stride is None and known is not None:
        return known
    height = images.shape[2]
    activations, shapes = _look(network, images)
    convolved = _convolved(network, shapes)
    found = (_grid(each.shape, images, set(), convolved) for each in activations)
    grids = {index: grid for index, grid in enumerate(found) if grid}
    maps = set() if stride else maps_of(shapes.values(), images)
    behind = [each.shape for each in activations[max(grids, default=-1) + 1 :]] + ([] if grids else [*shapes.values()])
    if any(len(each) == 2 and find_grid(each, images, maps) for each in behind):
        path, grid = _last_read(network, images, maps)
        warn(
            f"the network has tokens: looked at are the {written([grid])} that {path} returns, the last ones that the "
            f"scores depend on; layer= names others{see('No spatial map')}."
        )
        return path
    if not activations:
        raise InputError(
            f"no activation of the network is seen ({SEEN}), so none can be looked at: name a layer by its path"
            f"{see('Nothing is seen')}."
        )
    if not grids:
        tokens = "transformers have tokens" if stride else "and no tokens that a map of as many places is known for"
        raise InputError(
            f"the network has no activation that is a spatial map, which this method needs ({tokens}); "
            f"name a layer, or use a method that needs none{see('No spatial map')}."
        )
    fine = [index for index, (rows, _) in grids.items() if rows * (stride or height) >= height]
    index = (fine or list(grids))[-1]
    rest = [each.shape for each in activations[list(grids)[-1] + 1 :]]
    fewer = math.prod(list(grids.values())[-1])  # places: as many of them are the map again, in patches
    later = [shape for shape in rest if shape in convolved and min(shape) > 1 and math.prod(shape[1:]) < fewer]
    if stride is None and later:
        warn(
            f"looked at is {activations[index].name}, the last map of the image's proportions; others are behind it, "
            f"as {later[-1]}, that strides have drawn out: layer= and reshape= name one of them{see('No spatial map')}."
        )
    path = activations[index].name
    while path := path.rpartition(".")[0]:
        around = shapes.get(path, ())
        if find_grid(around, images) == grids[index] and math.prod(around) > math.prod(activations[index].shape):
            return path
    return index


def _last_read(network: nn.Module, images: Tensor, maps: set[Grid]) -> tuple[str, Grid]:
    """Path and grid of the last module that returns a map or tokens, most of which have a gradient of the scores.

    Where the head reads the class token alone, the others have none behind the last attention, since nothing reads them
    any more; what that attention reads is then the last, as a rule the first norm of the last block. Where the head
    pools all tokens, it is the last norm. What a single matrix makes (queries, keys, values) is passed over: of the
    features it shows what one reader takes.
    """
    inner = network_of(network)
    modules, grids, read = dict(inner.named_modules()), dict[str, Grid](), set[str]()

    def look(path: str, output: Any) -> None:
        is_matrix = not any(modules[path].children()) and any(each.ndim > 1 for each in modules[path].parameters())
        if is_matrix or path in grids or not (isinstance(output, Tensor) and output.requires_grad):
            return
        if output.shape[:1] == (1,) and (grid := find_grid(tuple(output.shape[1:]), images, maps)):
            grids[path] = grid
            output.register_hook(lambda gradient: note(path, channels_first(gradient, grid).any(1)))

    def note(path: str, places: Tensor) -> None:
        if places.float().mean() > 0.5:
            read.add(path)

    with torch.enable_grad(), at_modules(inner, look):
        leaf = images[:1].detach().requires_grad_()
        torch.autograd.grad(ask(inner, leaf).square().sum(), leaf)  # as good as any function of the scores
    path = next((path for path in reversed(grids) if path in read), None)
    if path is None:
        raise InputError(
            "the network has tokens, but its scores depend on those of no module (a head of zeros, no modules?); name "
            f"a layer, or use a method that needs none{see('No spatial map')}."
        )
    return path, grids[path]


def _convolved(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Those of what modules return that are a convolution's: their channels are first, whatever the sides look like."""
    modules = dict(network_of(network).named_modules())
    return {shape for path, shape in shapes.items() if isinstance(modules[path], nn.Conv2d)}


def _grid(shape: tuple[int, ...], images: Tensor, maps: set[Grid], convolved: set[tuple[int, ...]]) -> Grid | None:
    grid = find_grid(shape, images, maps)
    return grid if shape not in convolved or grid == shape[1:] else None


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size (B, H, W) and in their type, bilinearly."""
    return F.interpolate(maps[:, None].to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _look(network: nn.Module, images: Tensor) -> tuple[list[Activation], dict[str, tuple[int, ...]]]:
    """One pass of the first image: its activations, and by their paths the shapes (...) of what modules return."""
    shapes: dict[str, tuple[int, ...]] = {}
    with _noting(network, 1, shapes):
        return trace(network_of(network), images[:1])[1], shapes


def _noting(network: nn.Module, batch: int, shapes: dict[str, tuple[int, ...]]) -> AbstractContextManager[object]:
    """Context in which the shapes (...), for one image, of what modules return are put into `shapes` by their paths."""

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.shape[:1] == (batch,):
            shapes[path] = tuple(output.shape[1:])

    return at_modules(network_of(network), note)
