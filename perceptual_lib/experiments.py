"""What a profile's experiments are: profile -> rows -> shards -> tables."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perceptual_lib.activations import Activation
from perceptual_lib.engine import Shard
from perceptual_lib.explainers import find_method
from perceptual_lib.images import Photograph
from perceptual_lib.profiles import Profile

PERTURBATIONS = {"no_perceptual": "maps", "perceptual": "maps", "perceptual_guided": "guided"}
"""Methods whose maps come from one perturbation, and the array of its shard that holds them."""

FREE_STEPS = 12  # in which L-BFGS is done where no activation is held, as a rule


@dataclass(frozen=True)
class Row:
    """A method with settings on some photographs: what one row of a table is made of.

    Attributes:
        method: name of the method.
        settings: of `perceptual_ball` for the paper's own methods, else the method's keyword arguments.
        photographs: those that it explains.
    """

    method: str
    settings: Mapping[str, Any]
    photographs: tuple[Photograph, ...]

    @property
    def passes(self) -> tuple[int, int]:
        """Of the network for one image, forward and backward."""
        if self.method not in PERTURBATIONS:
            return find_method(self.method).passes(self.settings)
        steps = self.settings["max_iter"] if self.settings["layers"] else min(self.settings["max_iter"], FREE_STEPS)
        return steps + 2, steps + 1

    def map_shards(self, size: int) -> Iterator[Shard]:
        """Maps that are not blurred, of `size` photographs at once."""
        perturbed = self.method in PERTURBATIONS
        arguments = {"settings": dict(self.settings)} | ({} if perturbed else {"method": self.method})
        for start in range(0, len(self.photographs), size):
            yield Shard(
                kind="perturbation" if perturbed else "explanation",
                arguments=arguments,
                photographs=self.photographs[start : start + size],
                label=f"{self.method} {start // size + 1}/{-(-len(self.photographs) // size)}",
                passes=self.passes,
            )


def table_rows(profile: Profile, photographs: Sequence[Photograph]) -> list[Row]:
    """The rows of Table 1, with the profile's settings."""
    subsets = profile.localization.subsets
    return [
        Row(method, row_settings(profile, method), drawn(photographs, subsets.get(method)))
        for method in profile.localization.methods
    ]


def trial_rows(profile: Profile, photographs: Sequence[Photograph], activations: Sequence[Activation]) -> list[Row]:
    """What settings are chosen from: every contiguous range of layers, and every other lambda' of the profile."""
    few = tuple(photographs[: profile.localization.ranges])
    if not few:
        return []
    settings = row_settings(profile, "perceptual")
    changes = [
        *({"layers": layers} for layers in layer_ranges(activations, profile.localization.granularity)),
        *({"layer_weight": weight} for weight in profile.localization.layer_weights),
    ]
    return [Row(method, settings | change, few) for change in changes for method in ("perceptual", "perceptual_guided")]


def layer_ranges(activations: Sequence[Activation], granularity: str) -> list[str]:
    """All contiguous ranges "first-last" of activations, or of the stages between which their resolution changes."""
    indices = range(len(activations))
    if granularity == "activation":
        units = [[index] for index in indices]
    else:
        units = [list(stage) for _, stage in itertools.groupby(indices, lambda index: activations[index].shape[1:])]
    return [f"{first[0]}-{last[-1]}" for start, first in enumerate(units) for last in units[start:]]


def row_settings(profile: Profile, method: str) -> dict[str, Any]:
    """The settings of a method's shards: the profile's for the paper's own, which are kept without a blur."""
    changed = profile.methods.get(method, {})
    if method not in PERTURBATIONS:
        return changed
    held = {"layers": [], "max_iter": 200, "layer_weight": 0.0} if method == "no_perceptual" else {}
    return profile.settings | held | {name: value for name, value in changed.items() if name not in ("sigma", "root")}


def drawn(photographs: Sequence[Photograph], count: int | None) -> tuple[Photograph, ...]:
    """All photographs, or so many of them drawn with a fixed seed, in their order."""
    if count is None or count >= len(photographs):
        return tuple(photographs)
    return tuple(photographs[index] for index in sorted(random.Random(0).sample(range(len(photographs)), count)))
