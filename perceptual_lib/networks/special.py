"""What is special about single networks: one table. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from perceptual_lib.core.settings import Layers

EMBEDDED, VGG16_VOC = "efficientnet_lite0", "vgg16_voc"


@dataclass(frozen=True)
class Special:
    """What is special about a network that is known by name."""

    settings: dict[str, Any] = field(default_factory=dict)  # of the perturbation, where not `default_settings`
    guided_layers: Layers | None = None  # held for the guided map, where not those of the settings (Sec. 4.2)
    excitation_layer: str | None = None  # where excitation backprop is read, pool4 of the VGGs (Zhang et al. 2018)
    # That sanity checks randomize, last to first (Sec. 4.5): each fully connected layer and the last convolution at
    # each resolution, but the very first of them all.
    stages: tuple[str, ...] = ()


SPECIAL = {
    "vgg19_bn": Special(
        # Sec. 4.3: lambda' = 10000 multiplies squared activations, and fits those of this batch-normalized network.
        settings={"layers": "0-12", "layer_weight": 10_000.0, "normalize_layers": False, "max_iter": 200},
        guided_layers="0-14",
        excitation_layer="features.39",
        stages=(
            *("classifier.6", "classifier.3", "classifier.0"),
            *("features.49", "features.36", "features.23", "features.10", "features.0"),
        ),
    ),
    "vgg16": Special(excitation_layer="features.23"),
}
"""By the name of the network; a network that is not here has nothing special."""


def special(network: object) -> Special:
    """What is special about a `Classifier`, by its name; nothing for another module."""
    return SPECIAL.get(getattr(network, "name", ""), Special())
