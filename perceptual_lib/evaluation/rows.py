"""The rows of experiments: a method with its settings, and the photographs that it explains.

A row's maps are computed once, a shard of a few photographs at a time; several experiments may score them.
"""

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from perceptual_lib.core.activations import Activation
from perceptual_lib.core.settings import Settings
from perceptual_lib.evaluation import maps
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.sections import ExperimentSection
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard

Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """A method with settings on some photographs: what one row of a table is made of.

    Attributes:
        role: "table" for the paper's tables, another for what settings are chosen from.
        method: name of the method.
        settings: the method's keyword arguments, of our own methods all that `perceptual_ball` takes.
        photographs: those that it explains.
    """

    role: str
    method: str
    settings: Mapping[str, Any]
    photographs: tuple[Photograph, ...]

    @property
    def about(self) -> dict[str, str]:
        """What its lines in the table begin with."""
        return {"role": self.role, "method": self.method, "settings": as_json(self.settings)}

    @property
    def passes(self) -> tuple[int, int]:
        """Of the network for one image, forward and backward."""
        return find_method(self.method).passes(self.settings)

    @property
    def name(self) -> str:
        """What progress calls it."""
        if self.role == "table":
            return self.method
        return f"{self.method} with layers {self.settings['layers']}, lambda' {self.settings['layer_weight']:g}"

    @property
    def array(self) -> str:
        """The array of its shards that holds its maps."""
        return "guided" if self.method == "perceptual_guided" else "maps"

    def map_shards(self, size: int) -> Iterator[Shard]:
        """Maps that are not blurred, of `size` photographs at once; with the same settings ours are one another's."""
        method = "perceptual" if find_method(self.method).ours else self.method
        arguments = {"method": method, "settings": dict(self.settings)}
        for start in range(0, len(self.photographs), size):
            few = self.photographs[start : start + size]
            yield Shard(maps.__name__, arguments, few, label=self.name, passes=self.passes)


def as_json(settings: Mapping[str, Any]) -> str:
    """Settings as tables tell them apart."""
    return json.dumps(settings, sort_keys=True)


def layer_ranges(activations: Sequence[Activation], granularity: str) -> list[str]:
    """All contiguous ranges "first-last" of activations, or of the stages between which their resolution changes."""
    indices = range(len(activations))
    if granularity == "activation":
        units = [[index] for index in indices]
    else:
        units = [list(stage) for _, stage in itertools.groupby(indices, lambda index: activations[index].shape[1:])]
    return [f"{first[0]}-{last[-1]}" for start, first in enumerate(units) for last in units[start:]]


def row_settings(profile: Profile, section: ExperimentSection, method: str) -> dict[str, Any]:
    """The settings of a method's shards: the profile's for our own methods, whose maps are kept without a blur."""
    changed = profile.methods.get(method, {}) | section.settings.get(method, {})
    if not find_method(method).ours:
        return changed
    free = {"layers": [], "layer_weight": 0.0, "max_iter": Settings.max_iter} if method == "no_perceptual" else {}
    held = profile.settings | free
    return held | {name: value for name, value in changed.items() if name in held}


def draw_subset(items: Sequence[Item], count: int | None) -> tuple[Item, ...]:
    """All of them, or so many drawn with a fixed seed, in their order."""
    if count is None or count >= len(items):
        return tuple(items)
    return tuple(items[index] for index in sorted(random.Random(0).sample(range(len(items)), count)))
