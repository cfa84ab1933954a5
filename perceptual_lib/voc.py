"""VOC 2007's test set for the pointing game, and the network that the paper plays it with (Sec. 4.4).

The pictures come from a folder in the layout of the download, which is torchvision's too:

    VOCdevkit/VOC2007/ImageSets/Main/test.txt    names of the pictures
    VOCdevkit/VOC2007/JPEGImages/000001.jpg
    VOCdevkit/VOC2007/Annotations/000001.xml     objects: class, box, a flag

"Difficult" is said of two things. VOC flags objects as difficult; a class of which all objects are flagged is no
question of the game. The paper's difficult subset are questions of another kind, here called hard: small objects, with
another class in the picture.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.classifiers import Classifier
from perceptual_lib.errors import InputError
from perceptual_lib.images import Box, Photograph, Source, open_picture
from perceptual_lib.protocols.pointing import is_small

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()
"""In the order of the network's outputs and of the published list's columns."""

ADDRESS = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar"
HARD_PAIRS = "torchray/benchmark/pointing_game_ebp_voc07_difficult.txt"  # in the PyPI package torchray
WEIGHTS = "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar"
WEIGHTS_SHA256 = "b050e8c3"  # its first digits are all that is published, in the file's name

SHORT_SIDE = 224  # of the network's input, in pixels
MEAN = (123.68, 116.779, 103.939)  # red, green, blue in 0..255; the network takes 0..255 less this

Pair = tuple[str, int]
"""Name of a picture and index of a class in VOC_CLASSES."""


@dataclass(frozen=True)
class Object:
    """An object in a picture.

    target: index in VOC_CLASSES
    box: (left, top, right, bottom) in inclusive pixels from 0; VOC's own count from 1
    difficult: VOC's flag
    """

    target: int
    box: Box
    difficult: bool


@dataclass(frozen=True)
class Scene:
    """A picture file and all its objects.

    name: the file's stem
    size: (width, height) in pixels
    """

    name: str
    path: Path
    size: tuple[int, int]
    objects: tuple[Object, ...]

    @property
    def pairs(self) -> list[Photograph]:
        """The questions of the game, in the order of classes: one for each class with an object that is not flagged.

        The boxes are those of all objects of the class, flagged ones too.
        """
        targets = sorted({each.target for each in self.objects if not each.difficult})
        return [Photograph(self.name, self.path, target, self.boxes(target), self.size) for target in targets]

    def boxes(self, target: int) -> tuple[Box, ...]:
        return tuple(each.box for each in self.objects if each.target == target)


def load_voc(root: Source) -> list[Scene]:
    """The pictures of VOC 2007's test set, in the order of its list; the files of pictures are not yet opened.

    Args:
        root: the folder VOC2007, or one that it lies in directly or below VOCdevkit, such as torchvision's.

    Raises:
        InputError: no list, a picture or annotation that is missing, an annotation that cannot be read.
    """
    folder = _test_set(Path(root))
    names = (folder / "ImageSets/Main/test.txt").read_text("utf-8").split()
    if not names:
        raise InputError(f"{folder}/ImageSets/Main/test.txt names no picture; unpack {ADDRESS} again.")
    return [_read_scene(folder, name) for name in names]


def _test_set(root: Path) -> Path:
    for folder in (root, root / "VOC2007", root / "VOCdevkit/VOC2007"):
        if (folder / "ImageSets/Main/test.txt").is_file():
            return folder
    raise InputError(
        f"{root} has no VOCdevkit/VOC2007/ImageSets/Main/test.txt: download {ADDRESS} and unpack it into that folder."
    )


def _read_scene(folder: Path, name: str) -> Scene:
    picture, annotation = folder / f"JPEGImages/{name}.jpg", folder / f"Annotations/{name}.xml"
    for path in (picture, annotation):
        if not path.is_file():
            raise InputError(f"{path} is missing; unpack {ADDRESS} again.")
    try:
        root = ElementTree.parse(annotation).getroot()
        size = int(root.findtext("size/width")), int(root.findtext("size/height"))
        return Scene(name, picture, size, tuple(_read_object(item) for item in root.findall("object")))
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise InputError(f"{annotation} is not an annotation of VOC ({error}); restore the original.") from error


def _read_object(item: ElementTree.Element) -> Object:
    box = tuple(float(item.findtext(f"bndbox/{edge}")) - 1 for edge in ("xmin", "ymin", "xmax", "ymax"))
    return Object(VOC_CLASSES.index(item.findtext("name")), box, item.findtext("difficult") == "1")


def published_hard_pairs(path: Source | None = None) -> set[Pair]:
    """The difficult subset as Zhang et al. (2016) published it and TorchRay uses it.

    Args:
        path: a text file with a line for each picture: its name and a 0 or 1 for each of the VOC_CLASSES. None for
            the file in the installed package torchray, whose licence (CC BY-NC) keeps it out of this one.

    Raises:
        InputError: no such file or package, or a file of another kind.
    """
    if path is None:
        try:
            path = distribution("torchray").locate_file(HARD_PAIRS)
        except PackageNotFoundError:
            raise InputError(
                "the published list of difficult pairs comes with torchray: pip install torchray, or give its path."
            ) from None
    if not os.path.isfile(path):
        raise InputError(f"there is no list of difficult pairs {path}; give the path of TorchRay's {HARD_PAIRS}.")
    rows = [line.split() for line in Path(path).read_text("utf-8", errors="replace").splitlines()]
    if not rows or not all(len(row) == 1 + len(VOC_CLASSES) and {"0", "1"}.issuperset(row[1:]) for row in rows):
        raise InputError(f"{path} is no list of difficult pairs: a line is a name and {len(VOC_CLASSES)} times 0 or 1.")
    return {(name, target) for name, *flags in rows for target, flag in enumerate(flags) if flag == "1"}


def computed_hard_pairs(scenes: Iterable[Scene]) -> set[Pair]:
    """The difficult subset by its definition, where the published list is not at hand.

    The boxes of the class cover less than a quarter of the picture, and an object of another class is in it. Boxes
    that overlap are counted once, and flagged objects like others, which the definition leaves open.
    """
    return {
        (scene.name, pair.target)
        for scene in scenes
        for pair in scene.pairs
        if is_small(pair) and any(each.target != pair.target for each in scene.objects)
    }


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
            checks its hash; "random" keeps the initialisation (seed torch before); otherwise the path of a state dict
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
        name="vgg16_voc",
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
        picture: a PIL image, a path or a pair of a `Scene`.
        scale: 1 for the paper's original size, 1.5 for its larger one.

    Returns:
        (1, 3, h, w) with (h, w) as `network_size` has them, on the classifier's device.
    """
    picture = open_picture(picture)
    images = classifier.preprocess(picture, size=(picture.height, picture.width))
    return F.interpolate(images, network_size(*picture.size, scale), mode="bilinear", align_corners=False)
