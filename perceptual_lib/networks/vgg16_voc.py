"""The network that the paper plays the pointing game with: VGG16, fine-tuned on VOC by TorchRay's authors."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from perceptual_lib.core.errors import InputError

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
        self.features = make_layers(cfgs["D"])
        for module in self.features:
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = True
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
        responses: Tensor = self.classifier(self.features(images))
        return responses


def published_weights() -> Path:
    """The published file in torch's folder of checkpoints, downloaded there where it is missing.

    Raises:
        InputError: it cannot be had, or is another file.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", WEIGHTS.rsplit("/", 1)[1])
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS, os.fspath(path), hash_prefix=WEIGHTS_SHA256)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest().startswith(WEIGHTS_SHA256):
                return path
    except (OSError, RuntimeError) as error:  # torch.hub's for a file of another hash
        raise InputError(
            f"the weights could not be had ({type(error).__name__}); download {WEIGHTS} and put it at {path}."
        ) from error
    raise InputError(f"{path} is not what was published (its hash differs): delete it, and get {WEIGHTS} again.")
