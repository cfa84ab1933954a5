"""Which layers are meant: activations by index, name or range, and outputs of modules by their paths."""

import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torch import nn

from perceptual_lib.core.activations import OUTPUT, SEEN, Activation
from perceptual_lib.core.errors import InputError, see
from perceptual_lib.core.settings import Layers


def held_modules(choices: Iterable[Layers | None], names: Collection[str], network: nn.Module) -> tuple[str, ...]:
    """Paths of modules that choices of layers name; names and indices of activations are left out."""
    words = {layer for layers in choices for layer in list_layers(layers) if isinstance(layer, str)}
    paths = {path for path, _ in network.named_modules() if path and parse_span(path) is None}  # "3" is an index
    return tuple(sorted(words.difference(names) & paths))


def held_layers(layers: Layers | None, activations: Sequence[Activation]) -> list[int]:
    """Indices of the held layers: activations that `select_layers` finds, and outputs of modules, given by path. Of a
    module that is called several times the first output is held.

    None stands for all but the top fifth of the activations, and at least one; InputError where there are none.
    """
    own = [index for index, each in enumerate(activations) if each.function != OUTPUT]
    if layers is None:
        if not own:
            raise InputError(
                f"no activation of the network is seen ({SEEN}), so none can be held: name modules as layers, whose "
                f"outputs are held then; with layers=() nothing is, which is the paper's NoPer{see('Nothing is seen')}."
            )
        layers = range(max(1, len(own) * 4 // 5))
    outputs = {each.name: index for index, each in enumerate(activations) if each.function == OUTPUT}
    wanted = list_layers(layers)
    modules = [each for each in wanted if isinstance(each, str) and each in outputs]
    plain = select_layers([each for each in wanted if each not in modules], [activations[index].name for index in own])
    return sorted({own[index] for index in plain} | {outputs[each] for each in modules})


def select_layers(layers: Layers, names: Sequence[str]) -> list[int]:
    """Indices of the activations that `layers` names, ascending and without repeats; `names` are in forward order.

    Layers are an index (negative from the end), a name, a `range`, a string "4-9" (both ends included, as the paper
    writes ranges), or any number of these together. InputError for an index out of range or an unknown name.
    """
    return sorted({index for layer in list_layers(layers) for index in _indices(layer, names)})


def list_layers(layers: Layers | None) -> list[int | str | range]:
    """The layers as a list, which can be read more than once; empty for None."""
    if layers is None:
        return []
    if isinstance(layers, (bool, slice, Mapping)):
        raise InputError(f"layers are indices, names or ranges, not {layers!r}.")
    if isinstance(layers, (str, range)) or getattr(layers, "ndim", None) == 0 or not isinstance(layers, Iterable):
        return [layers]  # type: ignore[list-item]  # a single layer, also as a scalar of NumPy or torch
    return list(layers)


def _indices(layer: int | str | range, names: Sequence[str]) -> Iterator[int]:
    if isinstance(layer, str):
        layer = names.index(layer) if layer in names else _range_of(layer, names)
    if isinstance(layer, range) and layer.start > layer.stop:
        raise InputError(f"the {layer} of layers is empty; give the lower end first.")
    for each in layer if isinstance(layer, range) else [layer]:
        try:
            index = operator.index(each)
        except TypeError:
            index = None
        if index is None or isinstance(each, bool):
            what = type(each).__name__ if isinstance(each, nn.Module) else repr(each)
            raise InputError(f"a layer is an index, a name or a range, not {what}.")
        if not -len(names) <= index < len(names):
            raise InputError(f"layer {index} is out of range: the network has {_extent(names)}.")
        yield index % len(names)


def _range_of(word: str, names: Sequence[str]) -> range:
    span = (int(word), int(word)) if re.fullmatch(r"-\d+", word) else parse_span(word)
    if span is None:
        raise InputError(
            f"there is no layer {word!r}; the network has {_extent(names)}: give their names, indices, an "
            "inclusive range such as 4-9, or the path of a module that is called; with objective= paths begin with "
            '"network.".'
        )
    return range(span[0], span[1] + 1)


def parse_span(layers: str) -> tuple[int, int] | None:
    """First and last layer of a range as the paper writes it: (4, 9) of "4-9", (4, 4) of "4"; None for other words."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", layers)
    return found and (int(found[1]), int(found[2] or found[1]))


def _extent(names: Sequence[str]) -> str:
    if not names:
        return f"no activations that are known ({SEEN})"
    return f"{len(names)} activations, from 0 ({names[0]}) to {len(names) - 1} ({names[-1]})"
