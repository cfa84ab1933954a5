"""The network that the paper plays the pointing game with: VGG16, fine-tuned on VOC by TorchRay's authors."""

import hashlib
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.networks import VOC_NETWORK, Classifier
from perceptual_lib.photographs.photographs import Source, open_picture

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()
"""In the order of the network's outputs and of the published list's columns."""

WEIGHTS = "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar"
WEIGHTS_SHA256 = "b050e8c3"  # its first digits are all that is published, in the file's name
SHORT_SIDE = 224  # of the network's input, in pixels
MEAN = (123.68, 116.779, 103.939)  # red, green, blue in 0..255; the network takes 0..255 less this


class RegionVGG16(nn.Module):
    """VGG16 as a network of convolutions alone: images (B, 3, H, W) to responses (B, 20, h, w) of h x w regions.

    A region is 7 x 7 features of 32 pixels each. Its parameters have the names of torchvision's VGG16, and the values:
    a linear layer is a convolution of another shape. The pools keep what is left at the right and bottom (ceil mode).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for widths in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Conv2d(512, 4096, 7),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(4096, 4096, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(4096, len(VOC_CLASSES), 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def load_voc_classifier(weights: Source = "default") -> Classifier:
    """`RegionVGG16`, fine-tuned on VOC by TorchRay's authors, in evaluation mode on the CPU.

    Args:
        weights: "default" takes the published file from torch's folder of checkpoints, or downloads it there, and
            checks its hash; "random" keeps the initialization (seed torch before); otherwise the path of a state dict
            of torchvision's VGG16 with 20 outputs.

    Raises:
        InputError: weights that cannot be had, or belong to another network.
    """
    if weights == "random":
        network = RegionVGG16()
    else:
        with torch.device("meta"):  # 134 million parameters that would be drawn in vain
            network = RegionVGG16()
        _assign(network, _published_weights() if weights == "default" else Path(weights))
    return Classifier(
        network,
        name=VOC_NETWORK,
        class_names=VOC_CLASSES,
        input_size=(SHORT_SIDE, SHORT_SIDE),
        mean=[value / 255 for value in MEAN],
        std=[1 / 255] * 3,
    ).eval()


def _published_weights() -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS.rsplit("/", 1)[1])
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(WEIGHTS, os.fspath(path))
        except OSError as error:
            raise InputError(
                f"the weights could not be had ({type(error).__name__}); download {WEIGHTS} and put it at {path}."
            ) from error
    with open(path, "rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(WEIGHTS_SHA256):
            raise InputError(
                f"{path} is not what was published (its hash differs): delete it, and get {WEIGHTS} again."
            )
    return path


def _assign(network: nn.Module, path: Path) -> None:
    """Give the network the weights of a file, without executing what it holds."""
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; weights are 'default', 'random' or a path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = network.state_dict()
        network.load_state_dict({key: value.view(own[key].shape) for key, value in state.items()}, assign=True)
    except Exception as error:  # of torch.load for a file of another kind, or of another network's names and shapes
        raise InputError(
            f"{path} does not hold the weights of a VGG16 with {len(VOC_CLASSES)} outputs ({type(error).__name__})."
        ) from error


def network_size(width: int, height: int, scale: float = 1.0) -> tuple[int, int]:
    """(height, width) of the network's input for a picture: short side 224 times the scale, aspect ratio kept."""
    short = round(SHORT_SIDE * scale)
    return int(short * height / min(width, height)), int(short * width / min(width, height))


def preprocess(classifier: Classifier, picture: Source | Image.Image, scale: float = 1.0) -> Tensor:
    """A picture as the network takes it in the pointing game.

    It is resized bilinearly, without smoothing what becomes smaller, as TorchRay does it; `Classifier.preprocess`
    warps to a square, and with smoothing.

    Args:
        classifier: as from `load_voc_classifier`.
        picture: a PIL image, a path or a `Scene`.
        scale: 1 for the paper's original size, 1.5 for its larger one.

    Returns:
        (1, 3, h, w) with (h, w) as `network_size` has them, on the classifier's device.
    """
    picture = open_picture(picture)
    images = classifier.preprocess(picture, size=(picture.height, picture.width))
    return F.interpolate(images, network_size(*picture.size, scale), mode="bilinear", align_corners=False)
