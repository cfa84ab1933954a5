"""The player of layers held, from none to all, for the front page (Fig. 1)."""

from collections.abc import Mapping

import torch
import traitlets
from torch import Tensor

from perceptual_lib.book.explorer.player import LOOK, Player, tiles, visible
from perceptual_lib.book.explorer.widget import module, picture_chunk
from perceptual_lib.core.checks import ready
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph

LIKELY = 3  # classes that are shown


class HeldPlayer(Player):
    """One photograph, its map, and the likeliest classes of the changed picture, while more and more layers are held.

    Args:
        deltas: the layers held, in words -> the perturbation (1, C, H, W) of the photograph.
        held: the index of the perturbation that is shown first.
    """

    _esm = module("held")
    held = traitlets.Int(0).tag(sync=True)

    def __init__(self, classifier: Classifier, photograph: Photograph, deltas: Mapping[str, Tensor], held: int) -> None:
        images = classifier.preprocess([photograph])
        changes = torch.cat([torch.zeros_like(images), *deltas.values()])
        with ready(classifier, images, None, gradient=False):
            scores = classifier(images + changes)
        shares, classes = class_probabilities(classifier, scores, images.dtype).topk(LIKELY)
        likely = [
            [[classifier.class_name(index), share] for index, share in zip(*each, strict=True)]
            for each in zip(classes.tolist(), shares.tolist(), strict=True)
        ]
        maps = visible(saliency_map(changes[1:], LOOK).cpu().numpy())
        arrays = {"maps": ([""], lambda name, _: picture_chunk(tiles(maps)))}
        stops = [{"held": words, "likely": each} for words, each in zip(deltas, likely[1:], strict=True)]
        about = {"before": likely[0], "stops": stops}
        super().__init__({photograph.name: photograph}, classifier, about, arrays, held=held)
