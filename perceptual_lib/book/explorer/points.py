"""The player of the pointing game (Sec. 4.4)."""

import numpy as np
import torch
import traitlets

from perceptual_lib.book.explorer.player import explained_by_all
from perceptual_lib.book.explorer.widget import Widget, module, picture_chunk
from perceptual_lib.evaluation.pointing.experiment import Pointing
from perceptual_lib.evaluation.pointing.protocol import TOLERANCE, distances, maxima
from perceptual_lib.evaluation.pointing.table import pointing_table
from perceptual_lib.methods import find_method
from perceptual_lib.networks.classifier import Classifier


class PointingPlayer(Widget):
    """The pointing game (Sec. 4.4) on a few scenes of a finished experiment: the reader points first, then the methods.

    The questions are those of the first scenes that all methods answered, at one `scale`; InputError if there is none.
    Each method has the blur that is best for it on the selection. The reader chooses the `question`, from 0.
    """

    _esm = module("points")
    question = traitlets.Int(0).tag(sync=True)

    def __init__(self, experiment: Pointing, classifier: Classifier, scale: float = 1.0) -> None:
        table = experiment.table
        sigmas = pointing_table(table, scale, among=experiment.classes_of(experiment.section.source)).sigma.dropna()
        asked = (table.role == "table") & (table.scale == scale) & table.method.isin(sigmas.index)
        shown = explained_by_all(experiment, table[asked])  # found in the table, as VOC's maps are many gigabytes
        scenes = [scene for scene in experiment.pictures if scene.name in shown]
        maps = {method: experiment.maps(method, shown, scale=scale) for method in sigmas.index}
        questions, smooth = [], experiment.section.smooth
        for scene in scenes:
            found = {
                method: maxima(
                    torch.from_numpy(each[scene.name]), scene.size[::-1], [sigmas[method]], smooth.get(method, 0.0)
                )[:, 0]
                for method, each in maps.items()
            }
            for question, points in zip(scene.questions, zip(*found.values(), strict=True), strict=True):
                questions.append(
                    {
                        "scene": scene.name,
                        "size": scene.size,
                        "title": classifier.class_name(question.target),
                        "boxes": question.boxes,
                        "points": {method: point.tolist() for method, point in zip(found, points, strict=True)},
                        "hits": [bool(distances(point, question.boxes) < TOLERANCE) for point in points],
                    }
                )
        self.arrays = {
            f"picture/{scene.name}": lambda scene=scene: picture_chunk(np.asarray(scene.open()) / 255)
            for scene in scenes
        }
        titles = {method: find_method(method).title for method in sigmas.index}
        super().__init__(about={"questions": questions, "methods": titles, "tolerance": TOLERANCE})
