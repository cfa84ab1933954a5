"""Which layer a method looks at, and what it reads there: the activation and its gradient."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.activations import SEEN, at_modules, trace, watch
from perceptual_lib.core.calling import ask, network_of
from perceptual_lib.core.checks import target_logits
from perceptual_lib.core.errors import InputError, see, warn
from perceptual_lib.core.selection import select_layers
from perceptual_lib.methods.grids import Grid, Joins, batch_first, channels_first, find_grid, written
from perceptual_lib.networks.special import place, special

Layer = None | int | str
"""A module by its path, an activation by index or name, or None for the `default_layer`."""
Reshape = None | Callable[[Tensor], Tensor]
"""From what a layer computes, (B, ...), to (B, channels, h, w), by moving values alone: its gradient is moved alike.
None for maps, and for tokens whose grid `find_grid` finds."""


def layer_passes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """(forward, backward) passes of a method that reads one layer. Unless a path names it, one image passes first to
    find it.

    Where the layer is to be found among tokens, this image passes once more, forward and backward.
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
    """The output of a layer and the gradient of the class's logit there, both (B, channels, h, w) and detached.

    Raises InputError if there is no such layer, or if its output is no spatial map, nor (without a stride) tokens of
    one, nor made one by `reshape`; and as `resolve_targets`.
    """
    caught, batch = list[Tensor](), len(images)
    seen = Shapes(network, images, tokens=stride is None)

    def keep(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value  # no tensor, computed of parameters alone, or cut off from the image
        caught.append(value)
        return value.clone()  # the network goes on with a copy, so that an in-place operation leaves this one alone

    with torch.enable_grad(), _passing_through(keep, network, images, layer, stride), seen.noting(batch):
        logits = network(images.detach().requires_grad_())
        if not caught:
            raise InputError(
                f"the network gets no tensor from its layer {layer!r}; name another{see('No spatial map')}."
            )
        own, times = target_logits(logits, batch, targets), len(caught)  # checkpoints call again on the way back
        (gradient,) = torch.autograd.grad(own, caught[0], torch.ones_like(own), allow_unused=True)
    if gradient is None:
        raise InputError(
            f"the class's score does not depend on {'the last map' if layer is None else f'the layer {layer!r}'}; name "
            f"{'a layer' if layer is None else 'another'}{see('No spatial map')}."
        )
    if times > 1:
        warn(
            f"{layer or 'the module whose map is looked at'} is called {times} times in a pass, and looked at is "
            f"what it returns first; later calls of an activation have names, as relu_1{see('No spatial map')}."
        )
    shape, read = tuple(caught[0].shape), batch_first(caught[0], batch)
    if reshape is None:
        grid = seen.grid(tuple(read.shape[1:])) if len(read) == batch else None
        if grid is None:
            tokens = f", nor tokens of one ({written(seen.maps)})" if seen.maps else ""
            raise InputError(
                f"the layer's output {shape} is no spatial map of the image{tokens}; name another layer, or for "
                f"Grad-CAM and NormGrad give reshape={see('No spatial map')}."
            )
        reshape = partial(seen.map_of, grid=grid)
    activation, gradient = (reshape(value.detach().to(images.dtype)) for value in (caught[0], gradient))
    if activation.ndim != 4 or len(activation) != batch:
        raise InputError(
            f"reshape must give (B, channels, h, w) of {batch} images, and gave {tuple(activation.shape)} of the "
            f"layer's output {shape}{see('No spatial map')}."
        )
    return activation, gradient


def _passing_through(
    keep: Callable[[Any], Any], network: nn.Module, images: Tensor, layer: Layer, stride: int | None
) -> AbstractContextManager[object]:
    """Context in which the layer's output passes through `keep`."""
    inner = network_of(network)
    place = default_layer(network, images, stride) if layer is None else layer
    if isinstance(place, str) and place in dict(inner.named_modules()):
        return at_modules(inner, lambda _, output: keep(output), [place])
    if layer is not None:
        places = select_layers(layer, [activation.name for activation in trace(inner, images[:1])[1]])
        if len(places) != 1:
            raise InputError(f"this method looks at one layer, and {layer!r} names {len(places)}; name one.")
        (place,) = places
    calls = itertools.count()
    return watch(lambda _, output: keep(output) if next(calls) == place else None)


class Shapes:
    """The shapes (...), for one image, of the outputs of a network's modules, and the grids of places in them.

    tokens: whether outputs may be tokens of a map; otherwise only maps count.
    """

    def __init__(self, network: nn.Module, images: Tensor, tokens: bool) -> None:
        self.network, self.images, self.tokens = network_of(network), images, tokens
        self.modules = dict(self.network.named_modules())
        self.of: dict[str, tuple[int, ...]] = {}  # by the modules' paths
        self.calls: Counter[str] = Counter()  # of modules
        self.joins = Joins(1)

    @contextmanager
    def noting(self, batch: int) -> Iterator[None]:
        """Context in which a batch of this size passes the network, and its shapes are noted."""

        def note(path: str, output: Any) -> None:
            self.calls[path] += 1
            if isinstance(output, Tensor) and (value := batch_first(output, batch)).shape[:1] == (batch,):
                self.of[path] = tuple(value.shape[1:])

        self.joins = Joins(batch)
        with at_modules(self.network, note), self.joins:
            yield

    def map_of(self, value: Tensor, grid: Grid) -> Tensor:
        """A map or tokens (B, ...) as (B, channels, h, w)."""
        value = batch_first(value, self.joins.batch)
        return channels_first(value, grid, self.joins.places.get(value.shape[1], ()))

    @cached_property
    def maps(self) -> set[Grid]:
        """The grids of maps among the outputs, by which tokens are recognized; none if only maps count."""
        grids = (find_grid(shape, self.images) for shape in self.of.values() if self.tokens and not self.attends(shape))
        return {grid for grid in grids if grid}

    @cached_property
    def convolved(self) -> set[tuple[int, ...]]:
        """Shapes that a convolution returns: their channels come first, whatever the sides look like."""
        return {shape for path, shape in self.of.items() if isinstance(self.modules[path], nn.Conv2d)}

    def grid(self, shape: tuple[int, ...]) -> Grid | None:
        """As `find_grid`, but None for attention, and where the sides of a convolution's channels would be the grid."""
        if self.attends(shape):
            return None
        grid = find_grid(shape, self.images, self.maps)
        return grid if shape not in self.convolved or grid == shape[1:] else None

    def attends(self, shape: tuple[int, ...]) -> bool:
        """Whether the shape is that of attention, n x n for n tokens that a module returns, and not of a square map."""
        is_square = len(shape) == 3 and shape[1] == shape[2] and shape not in self.convolved
        return is_square and any(len(each) == 2 and each[0] == shape[1] for each in self.of.values())


def default_layer(network: nn.Module, images: Tensor, stride: int | None = None) -> int | str:
    """The last activation that is a spatial map: its index, or the path of the module that joins it to parallel ones.

    Where a network ends in parallel branches (GoogLeNet, Inception) the last activation is only one of them. All pass
    through the innermost module around it that has more channels at the same places ("inception5b", "Mixed_7c"). A
    join that is not the output of a module is not found; neither is one at another resolution than its branches.

    Where tokens follow the last map, or there is no map, `_last_read` finds the path, and a warning names it and the
    grid. With a stride, tokens do not count: it is the last map whose height is at least the image's height divided by
    the stride, if there is one. Raises InputError if there is no map, nor tokens that count.
    """
    known = place(network_of(network), special(network).last_map)
    if stride is None and known is not None:
        return known
    seen = Shapes(network, images, tokens=stride is None)
    with seen.noting(1):
        activations = trace(seen.network, images[:1])[1]
    found = ((index, seen.grid(each.shape)) for index, each in enumerate(activations) if len(each.shape) > 2)
    grids = {index: grid for index, grid in found if grid}
    behind = [each.shape for each in activations[max(grids, default=-1) + 1 :]] + ([] if grids else [*seen.of.values()])
    first = [len(each) == 3 and each[1] == 1 and each not in seen.convolved for each in behind]  # the sequence
    behind = [(each[0], each[2]) if is_first else each for each, is_first in zip(behind, first, strict=True)]
    if any(len(each) == 2 and seen.grid(each) for each in behind):
        path, grid = _last_read(seen)
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
    height = images.shape[2]
    fine = [index for index, (rows, _) in grids.items() if rows * (stride or height) >= height]
    index = (fine or list(grids))[-1]
    fewer = math.prod(list(grids.values())[-1])  # places; an output with as many is the map again, in patches
    later = [shape for shape in behind if shape in seen.convolved and min(shape) > 1 and math.prod(shape[1:]) < fewer]
    if stride is None and later:
        warn(
            f"looked at is {activations[index].name}, the last map of the image's proportions; others are behind it, "
            f"as {later[-1]}, that strides have drawn out: layer= and reshape= name one of them{see('No spatial map')}."
        )
    path = activations[index].name
    if (times := seen.calls[path.rpartition(".")[0]]) > 1:
        warn(
            f"what computes {path} is called {times} times in a pass, and looked at is its last call: of several views "
            f"of the image, as mirrored ones, it is the last{see('No spatial map')}."
        )
    while path := path.rpartition(".")[0]:
        around = seen.of.get(path, ())
        if find_grid(around, images) == grids[index] and math.prod(around) > math.prod(activations[index].shape):
            return path
    return index


def _last_read(seen: Shapes) -> tuple[str, Grid]:
    """Path and grid of the last module that returns a map or tokens, most of which have a gradient of the scores.

    If the head reads the class token alone, the other tokens have no gradient behind the last attention, since nothing
    reads them any more. What this attention reads is then the last, usually the first norm of the last block.
    If the head pools all tokens, it is the last norm. Outputs of a single matrix (queries, keys, values) are skipped:
    they show only what one reader takes of the features.
    """
    returned: dict[str, tuple[Tensor, Grid]] = {}

    def look(path: str, output: Any) -> Any:
        module = seen.modules[path]
        is_matrix = not any(module.children()) and any(each.ndim > 1 for each in module.parameters())
        if is_matrix or path in returned or not (isinstance(output, Tensor) and output.requires_grad):
            return None
        value = batch_first(output, 1)
        if len(value) == 1 and (grid := seen.grid(tuple(value.shape[1:]))):
            returned[path] = output, grid
            return output.clone()  # as in `layer_gradient`
        return None

    with torch.enable_grad(), at_modules(seen.network, look):
        scores = ask(seen.network, seen.images[:1].detach().requires_grad_())
    outputs = [output for output, _ in returned.values()]
    # The sum of squares is as good as any function of the scores.
    gradients: tuple[Tensor | None, ...] = ()
    if outputs and scores.requires_grad:
        gradients = torch.autograd.grad(scores, outputs, scores, allow_unused=True)
    for (path, (_, grid)), gradient in reversed(list(zip(returned.items(), gradients, strict=False))):
        if gradient is not None and seen.map_of(gradient, grid).any(1).float().mean() > 0.5:
            return path, grid
    raise InputError(
        "the network has tokens, but its scores depend on those of no module (a head of zeros, no modules?); name "
        f"a layer, or use a method that needs none{see('No spatial map')}."
    )


def enlarge(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size (B, H, W) and in their type, bilinearly."""
    return F.interpolate(maps[:, None].to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
