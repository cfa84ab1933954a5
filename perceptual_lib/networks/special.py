"""What is special about single networks, in one table. For the perturbation see `core.settings`. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from perceptual_lib.core.settings import VGG_CHANNELS, Layers, architecture

EMBEDDED, VGG16_VOC = "efficientnet_lite0", "vgg16_voc"


@dataclass(frozen=True)
class Special:
    """What is special about a known architecture."""

    guided_layers: Layers | None = None  # held for the guided map, in place of the settings' layers (Sec. 4.2)
    excitation_layer: str | None = None  # where excitation backprop is read: pool4 of the VGGs (Zhang et al. 2018)
    # The last activation of the features, where Grad-CAM and NormGrad look. Linear layers may be convolutions, whose
    # activations are maps, too, if a picture is nearly square.
    last_map: str | None = None
    # What sanity checks randomize, last to first (Sec. 4.5): each fully connected layer, and the last convolution at
    # each resolution, but at the first resolution the first convolution.
    stages: tuple[str, ...] = ()


SPECIAL = {
    "vgg19_bn": Special(
        guided_layers="0-14",
        excitation_layer="features.39",
        last_map="features.51",
        stages=(
            *("classifier.6", "classifier.3", "classifier.0"),
            *("features.49", "features.36", "features.23", "features.10", "features.0"),
        ),
    ),
    "vgg19": Special(last_map="features.35"),
    "vgg16_bn": Special(last_map="features.42"),
    "vgg16": Special(excitation_layer="features.23", last_map="features.29"),
}
"""By the architecture; a network that is not here has nothing special."""


def place(network: Any, path: str | None) -> str | None:
    """The path in a network, which may be wrapped, of the module with this path in the known one; None without one."""
    paths = [each for each, _ in network.named_modules()]
    return next((each for each in paths if path and f".{each}".endswith(f".{path}")), None)


def special(network: Any) -> Special:
    """What is special about a network. It is recognized by its modules, whatever its name and what it is wrapped in;
    where others between them, such as dropout, have moved their paths, these are not said."""
    name = architecture(network)
    if name not in SPECIAL:
        return Special()
    known, kinds = SPECIAL[name], []
    for path, module in network.named_modules():
        kinds.append(type(module).__name__)
        if f".{path}".endswith(f".{known.last_map}"):
            break
    moved = kinds.count("Conv2d") != len(VGG_CHANNELS[name.removesuffix("_bn")])
    moved |= any(other in kinds[-1] for other in ("Conv", "Norm", "Pool", "Drop"))
    return Special(guided_layers=known.guided_layers) if moved else known
