"""The pointing game (Sec. 4.4): Table 3 and Fig. 5, bottom."""

from collections.abc import Iterator
from typing import Any

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.vgg16_voc import VOC_CLASSES
from perceptual_lib.evaluation.experiment import Experiment, Piece
from perceptual_lib.evaluation.pointing.protocol import Question
from perceptual_lib.evaluation.profile import ClassifierSection, Profile, expand_path
from perceptual_lib.evaluation.rows import PERTURBATIONS, as_json, draw_subset, layer_ranges, passes, row_settings
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.mosaics import Mosaic, draw_mosaics
from perceptual_lib.photographs.voc import Scene, has_published_list, load_voc
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays


class Pointing(Experiment):
    """Roles are "table" for Table 3 and "range" for ranges of layers.

    A line is a question, a class in a scene, at one scale of the scene and one blur of the map. Of the columns target
    is the class, hard whether the question is of the difficult subset, and distance how far the map's maximum is from
    the object in pixels of the scene: 0 inside it, nan where it failed.
    """

    name = "pointing"
    columns = tuple("role method settings scale sigma scene target hard selection failure seconds distance".split())
    unit = "scene"

    @classmethod
    def classifier(cls, profile: Profile) -> ClassifierSection:
        return (profile.pointing and profile.pointing.classifier) or profile.classifier

    @property
    def classes(self) -> range | None:
        """All of VOC's, as TorchRay has it; of mosaics, most of ImageNet's do not occur."""
        return None if self.section.source is None else range(len(VOC_CLASSES))

    def load(self) -> list[Mosaic] | list[Scene]:
        if self.section.source is not None:
            scenes = load_voc(expand_path(self.section.source, self.profile.name, "the folder of VOC 2007's test set"))
            return [scene for scene in scenes if scene.questions]
        photographs = self.profile.load_photographs()
        if len(photographs) < 4:
            raise InputError(f"a mosaic needs four photographs; profile {self.profile.name} has {len(photographs)}.")
        return draw_mosaics(photographs[: len(photographs) // 4 * 4])

    def all_pieces(self) -> Iterator[Piece]:
        section, few = self.section, self.pictures[: self.section.ranges]
        without = {scale: [find_method(name).name for name in names] for scale, names in section.without.items()}
        for scale in section.scales:
            for method in (each for each in section.methods if each not in without.get(scale, [])):
                yield from self._row(
                    "table", method, {}, scale, draw_subset(self.pictures, section.subsets.get(method))
                )
        ranges = layer_ranges(self.run.ask("activations"), section.granularity) if few else []
        for scale in section.range_scales:
            for layers in ranges:
                yield from self._row("range", "perceptual", {"layers": layers}, scale, few)

    def _row(self, role: str, method: str, change: dict, scale: float, scenes) -> Iterator[Piece]:
        settings = row_settings(self.profile, self.section, method)
        if method == "perceptual" and scale in self.section.layers:
            settings = settings | {"layers": self.section.layers[scale]}
        settings = settings | change
        about = {"role": role, "method": method, "settings": as_json(settings), "scale": scale}
        name = f"{method} at {scale:g} x" + "".join(f", layers {layers}" for layers in change.values())
        for scene in scenes:  # one in a shard: their sizes may differ, and their questions are a batch
            maps = Shard(
                "perceptual_lib.evaluation.pointing.maps",
                {
                    "method": method,
                    "settings": settings,
                    "scale": scale,
                    "by_image": {"targets": [[question.target for question in scene.questions]]},
                },
                (scene,),
                label=name,
                passes=self._passes(method, settings, scale, scene.questions),
            )
            asked = {"size": [scene.size[::-1]], "boxes": [[question.boxes for question in scene.questions]]}
            arguments = {"sigmas": self.section.sigmas, "by_image": asked}
            yield (
                about,
                Shard("perceptual_lib.evaluation.pointing.score", arguments, (scene,), False, maps, f"score {name}"),
            )

    def _passes(self, method: str, settings: dict, scale: float, questions: tuple[Question, ...]) -> tuple[int, int]:
        """Of the network at its usual input size, for all questions of a scene."""
        if method in PERTURBATIONS:  # the margin is far off here: no start is free
            forward, backward = settings["max_iter"] + 2, settings["max_iter"] + 1
        else:
            forward, backward = passes(method, settings)
        more = len(questions) * scale**2
        return round(forward * more), round(backward * more)

    def lines(self, shard: Shard, picture: Mosaic | Scene, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        for index, question in enumerate(picture.questions):
            for blur, sigma in enumerate(self.section.sigmas):
                distance = float("nan") if arrays is None else float(arrays["distances"][index, blur])
                yield {"sigma": sigma, "target": question.target, "hard": question.hard, "distance": distance}

    @property
    def manifest(self) -> dict[str, Any]:
        on_voc = self.section.source is not None
        published = on_voc and has_published_list()
        return super().manifest | {"hard": "the published list" if published else "computed by its definition"}
