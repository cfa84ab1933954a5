"""The rows of experiments: a method with its settings, and the photographs that it explains.

A row's maps are computed once, a shard of a few photographs at a time; several experiments may score them.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perceptual_lib.core.activations import Activation
from perceptual_lib.core.selection import list_layers, select_layers
from perceptual_lib.core.settings import Layers
from perceptual_lib.evaluation import maps
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard


@dataclass(frozen=True)
class Row:
    """A method with settings on some photographs: what one row of a table is made of."""

    role: str  # "table" for the paper's tables; else, for example, "range" for a trial that settings are chosen from
    method: str
    settings: Mapping[str, Any]  # the method's keyword arguments; for our own methods all that a profile can set
    photographs: tuple[Photograph, ...]
    more: Mapping[str, Any] = field(default_factory=dict)  # further columns of its lines: a scale, or a seed

    @property
    def about(self) -> dict[str, Any]:
        """The columns that its lines in the table begin with."""
        settings = json.dumps(self.settings, sort_keys=True)
        return {"role": self.role, "method": self.method, "settings": settings, **self.more}

    @property
    def passes(self) -> tuple[int, int]:
        """Passes of the network for one image, forward and backward."""
        return find_method(self.method).passes(self.settings)

    @property
    def name(self) -> str:
        """The row's name in progress reports."""
        if self.role in ("table", "single"):
            return self.method
        return f"{self.method} with layers {self.settings['layers']}, lambda' {self.settings['layer_weight']:g}"

    @property
    def array(self) -> str:
        """The name of the array of its shards that holds its maps."""
        return "guided" if self.method == "perceptual_guided" else "maps"

    def map_shards(self, size: int) -> Iterator[Shard]:
        """Shards of unblurred maps, of `size` photographs each. Our own methods share them if settings are equal."""
        method = "perceptual" if find_method(self.method).ours else self.method
        arguments = {"method": method, "settings": dict(self.settings)}
        for few in batches(self.photographs, size):
            yield Shard(maps.__name__, arguments, few, label=self.name, passes=self.passes)


def batches(items: tuple[Photograph, ...], size: int) -> Iterator[tuple[Photograph, ...]]:
    """All items, in batches of `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check_layers(layers: Layers, activations: Sequence[Activation], modules: Sequence[str]) -> None:
    """Raise InputError for layers that are neither activations of a network nor, by their paths, modules."""
    select_layers([each for each in list_layers(layers) if each not in modules], [each.name for each in activations])


def layer_ranges(activations: Sequence[Activation], granularity: str) -> list[str]:
    """All contiguous ranges "first-last" of activations, or of the stages between which their resolution changes.

    Only activations with more than one place count: the paper tries VGG's features, and not its classifier's layers.
    """
    places = {index: each.shape[1:] for index, each in enumerate(activations) if math.prod(each.shape[1:]) > 1}
    units = [list(each) for _, each in itertools.groupby(places, None if granularity == "activation" else places.get)]
    return [f"{first[0]}-{last[-1]}" for first, last in itertools.combinations_with_replacement(units, 2)]


def draw_subset(items: Sequence[Photograph], count: int | None) -> tuple[Photograph, ...]:
    """All items, or `count` of them drawn with a fixed seed, in their original order."""
    if count is None or count >= len(items):
        return tuple(items)
    return tuple(items[index] for index in sorted(random.Random(0).sample(range(len(items)), count)))
