"""Maps for the questions of the pointing game (Sec. 4.4), and the classifiers of overlapping regions that it needs.

A picture of several objects is not warped to a square: the network goes over it like a convolution, and has for each
class a response in each of h x w regions. The paper's own method takes the largest of them (Eq. 2); other methods get
one number for each class.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.freezing import freeze
from perceptual_lib.evaluation.maps import pack_maps, unblurred_maps
from perceptual_lib.methods.registry import find_method
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.vgg16_voc import RegionVGG16

AT_ONCE = 5  # questions at scale 1: a larger input takes more memory


def compute(
    classifier: Classifier,
    pictures: Sequence[Image.Image],
    *,
    method: str,
    settings: dict,
    scale: float,
    targets: list[list[int]],
) -> dict[str, np.ndarray]:
    """What a shard computes: unblurred maps (B, Q, h, w) and maps_scales (B, Q), as from `pack_maps`, for Q classes in
    each of B pictures of one size; h and w are those of `region_inputs` at this scale."""
    images = torch.cat([region_inputs(classifier, picture, scale) for picture in pictures])
    asked = torch.tensor(targets)  # (B, Q)
    network = class_responses(classifier) if find_method(method).ours else class_scores(classifier)
    few = max(1, int(AT_ONCE / scale**2))
    batches = zip(images.repeat_interleave(asked.shape[1], 0).split(few), asked.flatten().split(few), strict=True)
    maps = torch.cat([unblurred_maps(network, *batch, method, settings, multilabel=True) for batch in batches])
    return pack_maps(maps.unflatten(0, asked.shape))


def class_responses(classifier: Classifier) -> nn.Module:
    """A network for `perceptual_ball(..., multilabel=True)`, from images (B, 3, H, W) to responses (B, K, h, w).

    The classifier itself if it returns responses, its `ResponseMaps` if it pools. Raises InputError as the latter does.
    """
    return classifier if _returns_regions(classifier) else ResponseMaps(classifier.network, classifier.precision)


def class_scores(classifier: Classifier) -> nn.Module:
    """A network for `explain`, from images (B, 3, H, W) of any size to (B, K), summed over regions where not pooled."""
    return SummedRegions(classifier.network, classifier.precision) if _returns_regions(classifier) else classifier


def _returns_regions(classifier: Classifier) -> bool:
    blank = torch.zeros(1, len(classifier.mean), *classifier.input_size, device=classifier.device)
    with torch.no_grad(), freeze(classifier):
        return classifier(blank).ndim == 4


def region_inputs(classifier: Classifier, picture: Image.Image, scale: float = 1.0) -> Tensor:
    """A picture as the network takes it in the pointing game, (1, 3, h, w): aspect ratio kept.

    Its short side becomes that of the classifier's input, times the scale: 1 for the paper's original size, 1.5 for its
    larger one. For the paper's network for VOC it is resized as in TorchRay, bilinearly and without antialiasing; for
    others as by `Classifier.preprocess`.
    """
    short = round(min(classifier.input_size) * scale)
    size = int(short * picture.height / min(picture.size)), int(short * picture.width / min(picture.size))
    if not isinstance(classifier.network, RegionVGG16):
        return classifier.preprocess(picture, size)
    images = classifier.preprocess(picture, (picture.height, picture.width))
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


class SummedRegions(nn.Module):
    """A network's responses (B, K, h, w) summed over the regions: what TorchRay differentiates. Shares the network."""

    def __init__(self, network: nn.Module, precision: str = "full") -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)  # before the network: its layers keep the names that they have there
        self.network, self.precision = network, precision

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).sum((2, 3))


class ResponseMaps(nn.Module):
    """A classifier that pools its features, without the pooling: images (B, C, H, W) to responses (B, K, h, w).

    The last layer is linear, so it can as well be applied to each place before the mean over places is taken: the mean
    of the responses is the network's logits. Shares the network. Raises InputError for a network that is not of timm's
    EfficientNet family or does not pool by averaging.
    """

    def __init__(self, network: nn.Module, precision: str = "full") -> None:
        from timm.models import EfficientNet  # slow to import

        super().__init__()
        if not isinstance(network, EfficientNet) or network.global_pool.pool_type != "avg":
            raise InputError(f"{type(network).__name__} is not an EfficientNet of timm that averages over places.")
        self.network, self.precision = network, precision

    def forward(self, images: Tensor) -> Tensor:
        head = self.network.classifier
        return F.conv2d(self.network.forward_features(images), head.weight[:, :, None, None], head.bias)
