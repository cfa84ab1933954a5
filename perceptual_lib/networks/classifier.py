"""A network with what is needed to explain it: preprocessing, class names, activations in forward order."""

from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceptual_lib.core.activations import Activation, trace
from perceptual_lib.core.calling import Wrapper, first_weight, network_of
from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.graphs import parts_of
from perceptual_lib.core.precision import check_precision
from perceptual_lib.core.selection import held_layers
from perceptual_lib.core.settings import SCALE_FREE, architecture, suited
from perceptual_lib.networks.pictures import PictureLike, list_pictures, open_picture
from perceptual_lib.networks.special import place, special

MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels

_traced: WeakKeyDictionary[nn.Module, tuple[object, tuple[Activation, ...]]] = WeakKeyDictionary()
"""By classifier, as what it was last traced, and its activations."""


class Classifier(Wrapper):
    """A network with what is needed to read pictures for it; it is called like the network itself.

    Args:
        network: module from normalized images (B, C, H, W) to logits (B, K). What is None below is taken from what a
            network of timm says of itself, or else as torchvision has it for ImageNet.
        name: what messages and results call it.
        class_names: K names; classes beyond them are called "class 7".
        input_size: (height, width) that pictures are warped to.
        mean, std: of pixels in [0, 1], for each of the C channels.
        interpolation: Pillow's filter for the warp.
        precision: the precision of explanations, whatever torch's switches say: "full"; "tf32", to which PyTorch by
            default lets a GPU round the inputs of convolutions (a map of the gradient is then up to a tenth away from
            the CPU's map, in full precision 0.002); or "bf16" (an autocast, on any device).

    Raises InputError for an unknown precision, or a mean and a standard deviation for different numbers of channels.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str | None = None,
        class_names: Sequence[str] | None = None,
        input_size: tuple[int, int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: Image.Resampling | None = None,
        precision: str = "full",
    ) -> None:
        super().__init__(network, check_precision(precision))
        own = _own_preprocessing(network)
        self.name = own["name"] if name is None else name
        self.class_names = tuple(own["class_names"] if class_names is None else class_names)
        self.input_size = tuple(own["input_size"] if input_size is None else input_size)
        scales = (own["mean"] if mean is None else mean), (own["std"] if std is None else std)
        self.mean, self.std = (torch.tensor(each, dtype=torch.float32, device="cpu").view(-1, 1, 1) for each in scales)
        if len(self.mean) != len(self.std):
            raise InputError(f"mean and std are for {len(self.mean)} and {len(self.std)} channels; give one each.")
        self.interpolation = own["interpolation"] if interpolation is None else interpolation

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters(), torch.empty(0)).device

    def preprocess(self, pictures: PictureLike | Iterable[PictureLike], size: tuple[int, int] | None = None) -> Tensor:
        """Pictures, warped to the input size (aspect ratio not kept, as in the paper) and normalized.

        Args:
            pictures: PIL images, paths, open files or arrays (see `open_picture`), or one of them. Raises InputError
                for one that cannot be read, or none.
            size: (height, width) in place of the network's own.

        Returns:
            (B, C, height, width) float32 on the network's device: RGB, or grey for a network of one channel.
        """
        if len(self.mean) not in MODES:
            raise InputError(
                f"pictures have one channel or three, and {self.name} takes {len(self.mean)}: make tensors."
            )
        height, width = size or self.input_size
        mode = MODES[len(self.mean)]
        pixels = [
            torch.from_numpy(np.array(open_picture(picture).convert(mode).resize((width, height), self.interpolation)))
            for picture in list_pictures(pictures)
        ]
        if not pixels:
            raise InputError("there is no picture to preprocess; give one or more.")
        rows = torch.stack(pixels).to(self.device).view(len(pixels), height, width, -1)
        images = rows.permute(0, 3, 1, 2).float() / 255  # (B, C, H, W) in [0, 1]
        return ((images - self.mean.to(self.device)) / self.std.to(self.device)).contiguous()

    def pixels(self, inputs: Tensor) -> Tensor:
        """The pictures that inputs (B, C, H, W) stand for: (B, H, W, 3) in [0, 1] on the CPU; grey unless C is 3."""
        images = (inputs.detach().cpu() * self.std + self.mean).clamp(0, 1).permute(0, 2, 3, 1)
        return images if images.shape[3] == 3 else images.mean(3, keepdim=True).expand(-1, -1, -1, 3)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activations in the order in which a forward pass at the input size computes them."""
        shape = len(self.mean), *self.input_size
        built, (before, found) = (shape, parts_of(self.network)), _traced.get(self, (None, ()))
        if before == built:
            return found
        try:
            with torch.inference_mode(False), freeze(self):  # half precision is in float32 here
                weight = first_weight(self.network, torch.empty(0))
                found = tuple(trace(network_of(self), weight.new_zeros(1, *shape))[1])
        except InputError:
            raise
        except Exception as error:  # nn.Module would take an AttributeError to mean that there is no such property
            raise InputError(
                f"{self.name} fails on a blank image of {' x '.join(map(str, shape))} ({type(error).__name__}: "
                f"{error}); give Classifier the input_size, mean and std that it was trained with."
            ) from error
        _traced[self] = built, found
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `perceptual_ball` where none are given: those that suit this network, see `suited`."""
        chosen = suited(self.network)
        layers = range(len(held_layers(None, self.activations))) if chosen.layers is None else chosen.layers
        return {name: getattr(chosen, name) for name in SCALE_FREE} | {"layers": layers}

    def class_name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def class_index(self, label: str | int) -> int:
        """Index of a class given by name ("bald eagle"), or by index ("22" or 22), whose range is not checked. A word
        that could be either is the name.

        Raises InputError for an unknown name, with the nearest ones, and for a name that several classes have.
        """
        if isinstance(label, int):
            return label
        names = [name.casefold() for name in self.class_names]
        found = [index for index, name in enumerate(names) if name == label.casefold()]
        if len(found) > 1:
            raise InputError(
                f"{label} is the name of the classes {' and '.join(map(str, found))}; give the index of one."
            )
        if found:
            return found[0]
        if label.isdecimal():
            return int(label)
        raise InputError(f"{self.name} knows no class {label!r}{nearest(label, names)}; give a name or an index.")


def _own_preprocessing(network: nn.Module) -> dict[str, Any]:
    """Defaults of `Classifier`: from a classifier inside, or a network of timm, or else torchvision's for ImageNet."""
    for module in network.modules():
        if isinstance(module, Classifier):
            keys = "name", "class_names", "input_size", "interpolation"
            scales = {key: getattr(module, key).flatten().tolist() for key in ("mean", "std")}
            return {key: getattr(module, key) for key in keys} | scales
    of_timm = (each for each in network.modules() if isinstance(getattr(each, "pretrained_cfg", None), dict))
    known: Any = next(of_timm, None)
    inner = network_of(network) if known is None else known
    first = next((module for module in inner.modules() if isinstance(module, nn.Conv2d)), None)
    found: dict[str, Any] = {
        "name": architecture(inner) or type(inner).__name__,
        "class_names": (),
        "input_size": (224, 224),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": Image.Resampling.BILINEAR,
    }
    if known is not None:
        import timm

        config = timm.data.resolve_model_data_config(known)
        subset = timm.data.infer_imagenet_subset(known)
        labels = timm.data.ImageNetInfo(subset).label_descriptions() if subset else ()
        found |= {
            "name": known.pretrained_cfg.get("architecture") or found["name"],
            "class_names": [label.split(",")[0] for label in labels],
            "input_size": config["input_size"][1:],
            "mean": config["mean"],
            "std": config["std"],
            "interpolation": Image.Resampling[config["interpolation"].upper()],
        }
    if any(type(each).__name__ == "Normalize" and hasattr(each, "std") for each in network.modules()):
        found |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # torchvision's: the network itself normalizes
    if first is not None and first.in_channels == 1:
        found |= {key: (sum(found[key]) / len(found[key]),) for key in ("mean", "std")}
    return found


def stages(model: nn.Module) -> tuple[str, ...]:
    """The layers that are randomized one after the other in sanity checks, from the last to the first.

    They are those in the table of special networks, if the network has them all. Otherwise they are its children, where
    a `Sequential` is replaced by its own children: EfficientNet's head, its blocks, its stem. Only those with weights
    count, but no batch norms, which go with the layer before them.
    """
    network, known = network_of(model), special(model).stages
    there = [path for each in known if (path := place(network, each))]
    if known and len(there) == len(known):
        return tuple(there)
    found = []
    for path, child in network.named_children():
        parts = [(f"{path}.{name}", part) for name, part in child.named_children()]
        found += parts if isinstance(child, nn.Sequential) else [(path, child)]
    return tuple(path for path, part in reversed(found) if part.state_dict() and not isinstance(part, _BatchNorm))
