"""A network with what is needed to explain it: preprocessing, class names, activations in forward order."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from io import IOBase
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptual_lib.core.activations import Activation, Wrapper, freeze, network_of, trace
from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.core.precision import check_precision
from perceptual_lib.networks.pictures import PictureLike, open_picture
from perceptual_lib.networks.special import SPECIAL, special


class Classifier(Wrapper):
    """A network that is called like the network, and knows how to read pictures for it.

    PyTorch lets a GPU round what goes into a convolution to TF32, 10 bits, unless told otherwise. A map of the gradient
    is then up to a tenth away from that of the CPU, in full precision 0.002, and the perturbation is no faster. So what
    explains runs in full precision, whatever torch's switches say, and puts them back; only a `precision` asks for
    less. A call of the classifier itself is one of the network: torch's switches hold.

    Args:
        network: module from normalized images (B, 3, H, W) to logits (B, K).
        name: what messages and results call it.
        class_names: K names; classes beyond them are called "class 7".
        input_size: (height, width) that pictures are warped to.
        mean, std: per channel, of pixels in [0, 1].
        interpolation: Pillow's filter for the warp.
        precision: what it is explained in: "full", "tf32" (the rounding of above, on CUDA) or "bf16" (an autocast, on
            any device); kept as an attribute.

    Raises:
        InputError: an unknown precision.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str = "network",
        class_names: Sequence[str] = (),
        input_size: tuple[int, int] = (224, 224),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        interpolation: Image.Resampling = Image.Resampling.BILINEAR,
        precision: str = "full",
    ) -> None:
        super().__init__(network)
        self.name = name
        self.class_names = tuple(class_names)
        self.input_size = tuple(input_size)
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self.interpolation = interpolation
        self.precision = check_precision(precision)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters(), torch.empty(0)).device

    def preprocess(self, pictures: PictureLike | Iterable[PictureLike], size: tuple[int, int] | None = None) -> Tensor:
        """Read pictures, warp them to the input size (aspect ratio not kept, as in the paper) and normalize them.

        Args:
            pictures: PIL images, paths, open files or arrays (see `open_picture`), or one of them. Raises InputError
                for one that cannot be read, or none.
            size: (height, width) in place of the network's own.

        Returns:
            (B, 3, height, width) float32 on the network's device.
        """
        one = isinstance(pictures, (str, os.PathLike, Image.Image, IOBase))
        one = one or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
        given: Any = [pictures] if one else pictures
        height, width = size or self.input_size
        pixels = [
            torch.from_numpy(np.array(open_picture(picture).resize((width, height), self.interpolation)))
            for picture in given
        ]
        if not pixels:
            raise InputError("there is no picture to preprocess; give one or more.")
        images = torch.stack(pixels).to(self.device).permute(0, 3, 1, 2) / 255  # (B, 3, H, W) in [0, 1]
        return ((images - self.mean.to(self.device)) / self.std.to(self.device)).contiguous()

    def pixels(self, inputs: Tensor) -> Tensor:
        """The pictures that normalized inputs (B, 3, H, W) stand for: (B, H, W, 3) in [0, 1] on the CPU, to show."""
        images = inputs.detach().cpu() * self.std + self.mean
        return images.clamp(0, 1).permute(0, 2, 3, 1)

    @cached_property
    def activations(self) -> tuple[Activation, ...]:
        """The activations in the order in which a forward pass at the input size computes them."""
        weight = next(self.network.parameters(), torch.empty(0))
        blank = torch.zeros(1, 3, *self.input_size, dtype=weight.dtype, device=weight.device)
        try:
            with freeze(self.network):
                return tuple(trace(self.network, blank)[1])
        except AttributeError as error:  # which nn.Module would take for a sign that there is no such property
            raise InputError(f"{self.name} fails on a blank image of {self.input_size}: {error}.") from error

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `perceptual_ball` that suit this network: see `default_settings`."""
        return default_settings(self.name, len(self.activations))

    def class_name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def class_index(self, label: str | int) -> int:
        """Index of a class given by index ("22" or 22), whose range is not checked, or by name ("bald eagle").

        Raises InputError for an unknown name, answered with the nearest ones.
        """
        if str(label).isdecimal():
            return int(label)
        names = [name.casefold() for name in self.class_names]
        if str(label).casefold() in names:
            return names.index(str(label).casefold())
        raise InputError(f"{self.name} knows no class {label!r}{nearest(str(label), names)}; give a name or an index.")


def default_settings(name: str, activation_count: int) -> dict[str, Any]:
    """Arguments of `perceptual_ball` that suit a network.

    The paper's for VGG19 with batch normalization. For any other network all but the top fifth of the activations,
    each divided by its own mean square, with lambda' = 100.
    """
    if name in SPECIAL and SPECIAL[name].settings:
        return dict(SPECIAL[name].settings)
    layers = range(0, max(1, activation_count * 4 // 5))
    return {"layers": layers, "layer_weight": 100.0, "normalize_layers": True, "max_iter": 60}


def stages(model: nn.Module) -> tuple[str, ...]:
    """The layers that are randomized one after the other in sanity checks, from the last to the first.

    Those in the table of special networks for a `Classifier` of that name. For any other network its children, and in
    place of a `Sequential` among them its own children: EfficientNet's head, its blocks, its stem. Only those with
    weights, and without batch norms, which go with the layer before them.
    """
    found = []
    for path, child in network_of(model).named_children():
        parts = [(f"{path}.{name}", part) for name, part in child.named_children()]
        found += parts if isinstance(child, nn.Sequential) else [(path, child)]
    own = tuple(path for path, part in reversed(found) if part.state_dict() and not isinstance(part, _BatchNorm))
    return special(model).stages or own
