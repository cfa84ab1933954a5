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
from perceptual_lib.evaluation.profile import ExperimentSection, Profile
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard

PERTURBATIONS = {"no_perceptual": "maps", "perceptual": "maps", "perceptual_guided": "guided"}
"""Methods whose maps come from one perturbation, and the array of its shard that holds them."""

Item = TypeVar("Item")

FREE_STEPS = 12  # in which L-BFGS is done where no activation is held, as a rule


@dataclass(frozen=True)
class Row:
    """A method with settings on some photographs: what one row of a table is made of.

    Attributes:
        role: "table" for the paper's tables, another for what settings are chosen from.
        method: name of the method.
        settings: of `perceptual_ball` for the paper's own methods, else the method's keyword arguments.
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
        return passes(self.method, self.settings)

    @property
    def name(self) -> str:
        """What progress calls it."""
        if self.role == "table":
            return self.method
        return f"{self.method} with layers {self.settings['layers']}, lambda' {self.settings['layer_weight']:g}"

    def map_shards(self, size: int) -> Iterator[Shard]:
        """Maps that are not blurred, of `size` photographs at once."""
        perturbed = self.method in PERTURBATIONS
        for start in range(0, len(self.photographs), size):
            yield Shard(
                kind=f"perceptual_lib.evaluation.{'perturbation' if perturbed else 'explanation'}",
                arguments={"settings": dict(self.settings)} | ({} if perturbed else {"method": self.method}),
                photographs=self.photographs[start : start + size],
                label=self.name,
                passes=self.passes,
            )


def as_json(settings: Mapping[str, Any]) -> str:
    """Settings as tables tell them apart."""
    return json.dumps(settings, sort_keys=True)


def passes(method: str, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Of the network for one image, forward and backward."""
    if method not in PERTURBATIONS:
        return find_method(method).passes(settings)
    steps = settings["max_iter"] if settings["layers"] else min(settings["max_iter"], FREE_STEPS)
    return steps + 2, steps + 1


def table_rows(profile: Profile, section: ExperimentSection, photographs: Sequence[Photograph]) -> list[Row]:
    """The rows of the paper's table, with the profile's settings."""
    return [
        Row(
            "table",
            method,
            row_settings(profile, section, method),
            draw_subset(photographs, section.subsets.get(method)),
        )
        for method in section.methods
    ]


def range_rows(
    profile: Profile,
    section: ExperimentSection,
    photographs: Sequence[Photograph],
    activations: Sequence[Activation],
    methods: Sequence[str] = ("perceptual",),
) -> list[Row]:
    """What layers are chosen from (Fig. 5): every contiguous range of them held, on the section's first photographs."""
    few = tuple(photographs[: section.ranges])
    settings = row_settings(profile, section, "perceptual")
    return [
        Row("range", method, settings | {"layers": layers}, few)
        for layers in (layer_ranges(activations, section.granularity) if few else ())
        for method in methods
    ]


def layer_ranges(activations: Sequence[Activation], granularity: str) -> list[str]:
    """All contiguous ranges "first-last" of activations, or of the stages between which their resolution changes."""
    indices = range(len(activations))
    if granularity == "activation":
        units = [[index] for index in indices]
    else:
        units = [list(stage) for _, stage in itertools.groupby(indices, lambda index: activations[index].shape[1:])]
    return [f"{first[0]}-{last[-1]}" for start, first in enumerate(units) for last in units[start:]]


def row_settings(profile: Profile, section: ExperimentSection, method: str) -> dict[str, Any]:
    """The settings of a method's shards: the profile's for the paper's own, whose maps are kept without a blur."""
    changed = profile.methods.get(method, {}) | section.settings.get(method, {})
    if method not in PERTURBATIONS:
        return changed
    held = {"layers": [], "max_iter": 200, "layer_weight": 0.0} if method == "no_perceptual" else {}
    return profile.settings | held | {name: value for name, value in changed.items() if name not in ("sigma", "root")}


def draw_subset(items: Sequence[Item], count: int | None) -> tuple[Item, ...]:
    """All of them, or so many drawn with a fixed seed, in their order."""
    if count is None or count >= len(items):
        return tuple(items)
    return tuple(items[index] for index in sorted(random.Random(0).sample(range(len(items)), count)))
