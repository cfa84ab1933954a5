"""The pointing game (Sec. 4.4): Table 3 and Fig. 5, bottom."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.pointing import regions
from perceptual_lib.evaluation.pointing.table import pointing_table
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.rows import Row
from perceptual_lib.evaluation.sections import ClassifierSection
from perceptual_lib.methods import find_method
from perceptual_lib.networks.vgg16_voc import VOC_CLASSES
from perceptual_lib.photographs.mosaics import Mosaic, draw_mosaics
from perceptual_lib.photographs.voc import ADDRESS, Scene, load_hard_pairs, load_voc
from perceptual_lib.runs.shard import Shard


class Pointing(Experiment):
    """Roles are "table" for Table 3 and "range" for ranges of layers.

    A line is a question, a class in a scene, at one scale of the scene and one blur of the map. Of the columns target
    is the class, hard whether the question is in the difficult subset, and distance how far the map's maximum is from
    the object in pixels of the scene: 0 inside it, nan where the method failed.
    """

    name = "pointing"
    columns = tuple("role method settings scale sigma scene target hard selection failure seconds distance".split())
    unit = "scene"

    @classmethod
    def classifier(cls, profile: Profile) -> ClassifierSection:
        return (profile.pointing and profile.pointing.classifier) or profile.classifier

    @classmethod
    def lacks(cls, profile: Profile) -> list[str] | None:
        if profile.pointing.source is None:
            return None
        try:
            _load_voc(profile)
        except InputError as error:
            return [f"the pointing game's pictures: {error}"]
        return []

    @staticmethod
    def classes_of(source: str | None) -> range | None:
        """The classes that a mean goes over, by the section's source: all of VOC's, as in TorchRay; None for
        mosaics, which stands for those that occur in them."""
        return None if source is None else range(len(VOC_CLASSES))

    def load(self) -> list[Mosaic] | list[Scene]:
        if self.section.source is not None:
            return [scene for scene in _load_voc(self.profile) if scene.questions]
        photographs = self.profile.load_photographs()
        if len(photographs) < 4:
            raise InputError(f"a mosaic needs four photographs; profile {self.profile.name} has {len(photographs)}.")
        return draw_mosaics(photographs[: len(photographs) // 4 * 4])

    def first(self, count: int) -> tuple[Any, ...]:
        """Of VOC 2007, the pictures that hold the first `count` boxes; see the section."""
        if self.section.source is None:
            return super().first(count)
        return tuple(scene for scene in self.pictures if scene.before < count)

    @property
    def rows(self) -> list[Row]:
        section, rows = self.section, []
        for scale, row in product(section.scales, self.table_rows()):
            if row.method == "perceptual" and scale in section.layers:
                row = replace(row, settings={**row.settings, "layers": section.layers[scale]})
            if row.method not in section.without.get(scale, []):
                rows.append(replace(row, more={"scale": scale}))
        ranges = product(section.range_scales, self.range_rows())
        return rows + [replace(row, more={"scale": scale}) for scale, row in ranges]

    def shards_of(self, row: Row) -> Iterator[Shard]:
        """Shards of one scene each: scenes may differ in size, and the questions of one are a batch."""
        scale = row.more["scale"]
        # Our own methods answer by Eq. 2. The passes are first those at the network's usual input size.
        passes = find_method(row.method).passes({**row.settings, "multilabel": True})
        smooth = self.section.smooth.get(row.method, 0.0)
        scored = {"sigmas": [0.0] if smooth else self.section.sigmas, "smooth": smooth}
        for scene in row.photographs:
            targets, boxes = zip(*((question.target, question.boxes) for question in scene.questions), strict=True)
            asked = {"method": row.method, "settings": row.settings, "scale": scale, "by_image": {"targets": [targets]}}
            classes = len(targets) if passes[1] else 1  # without gradients, the same passes serve all classes
            cost = tuple(round(count * classes * scale**2) for count in passes)
            maps = Shard(regions.__name__, asked, (scene,), label=f"{row.name} at {scale:g} x", passes=cost)
            by_image = {"size": [scene.size[::-1]], "boxes": [boxes]}
            yield self.score(maps, {**scored, "by_image": by_image})

    def cases(self, shard: Shard, picture: Mosaic | Scene) -> dict[str, Sequence[Any]]:
        questions, sigmas = zip(*product(picture.questions, shard.arguments["sigmas"]), strict=True)
        return {
            "target": [question.target for question in questions],
            "hard": [question.hard for question in questions],
            "sigma": sigmas,
        }

    def overview(self) -> dict[str, pd.DataFrame]:
        among = self.classes_of(self.section.source)
        return {
            f"Table 3, pointing game at {scale:g} x: accuracy": pointing_table(
                self.table, scale, among=among, pinned=self.section.pinned.get(scale)
            )
            for scale in sorted(self.table.scale.unique())
        }

    @property
    def manifest(self) -> dict[str, Any]:
        published = self.section.source is not None and load_hard_pairs() is not None
        return super().manifest | {"hard": "the published list" if published else "computed by its definition"}


def _load_voc(profile: Profile) -> list[Scene]:
    what = f"the folder of VOC 2007's test set, unpacked from {ADDRESS}"
    return load_voc(profile.expand_path(profile.pointing.source, what))
