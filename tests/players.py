"""For the tests of players: one of each, of small experiments, and their chunks as the browser reads them."""

import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Layered, finished, small_profile

from perceptual_lib import load_classifier
from perceptual_lib.experiments import InsertionDeletion, Localization, Randomization
from perceptual_lib.explorer import CascadePlayer, InsertionDeletionPlayer, OptimisationPlayer, SensitivityMap
from perceptual_lib.explorer.widget import Widget
from perceptual_lib.perturbation import multiclass_margin, perturbation_path
from perceptual_lib.profiles import PerturbationSection
from perceptual_lib.protocols.randomization import untrained
from perceptual_lib.shards import randomization

STEP = 7000  # pixels: eight steps, the last of them smaller
SIDE = 224
CODED = 0.05  # what the coding of a picture may change, of 1: these are noise, the worst that there is


@pytest.fixture
def classifier():
    return load_classifier(Layered())


@pytest.fixture
def games(tmp_path, of_profiles, classifier) -> InsertionDeletionPlayer:
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "sigmas": {"perceptual": [0.0, 5.0]}}
    profile = small_profile(insertion_deletion=section | {"step": STEP})
    return InsertionDeletionPlayer(finished(InsertionDeletion, tmp_path, profile), classifier)


@pytest.fixture
def sanity(tmp_path, of_profiles, monkeypatch) -> Randomization:
    monkeypatch.setattr(randomization, "untrained", lambda name, seed: untrained(Layered(), seed))
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "seeds": 2}
    return finished(Randomization, tmp_path, small_profile(randomization=section))


@pytest.fixture
def cascade(sanity, classifier) -> CascadePlayer:
    return CascadePlayer(sanity, classifier)


@pytest.fixture
def sensitivity(tmp_path, of_profiles, classifier) -> SensitivityMap:
    section = {"pictures": 3, "methods": ["center", "perceptual"], "sigmas": [0.0, 5.0], "ranges": 2}
    strict = PerturbationSection(layers="0-0", layer_weight=1e4, normalise_layers=True, max_iter=10)
    profile = small_profile(localization=section).model_copy(update={"sigma": 4.0, "perturbation": strict})
    return SensitivityMap(finished(Localization, tmp_path, profile), classifier)


@pytest.fixture
def searched(photographs, classifier):
    """Photographs, paths and margins of two searches."""
    inputs = classifier.preprocess(photographs[:2])
    found = {
        "without layers": perturbation_path(classifier, inputs, max_iter=6),
        "perceptual": perturbation_path(classifier, inputs, layers="0-1", layer_weight=10.0, max_iter=30),
    }
    targets = found["perceptual"][0].targets
    paths = {name: path for name, (_, path) in found.items()}
    with torch.no_grad():
        margins = {
            name: np.stack([multiclass_margin(classifier(inputs + change), targets) for change in path])
            for name, path in paths.items()
        }
    return photographs[:2], paths, margins


@pytest.fixture
def optimisation(searched, classifier) -> OptimisationPlayer:
    return OptimisationPlayer(classifier, *searched)


def unpacked(widget: Widget, key: str) -> np.ndarray:
    """An array as the browser reads it."""
    head, data = widget.chunk(key)
    low, high = (np.array(head[end]).reshape(*head["shape"][:-2], 1, 1) for end in ("low", "high"))
    return low + np.frombuffer(zlib.decompress(data), "<u2").reshape(head["shape"]) / 65535 * (high - low)


def picture(widget: Widget, key: str) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] as the browser reads it."""
    return np.asarray(Image.open(BytesIO(widget.chunk(key)[1])).convert("RGB")) / 255


def tile(sheet: np.ndarray, index: int, count: int) -> np.ndarray:
    columns = int(np.ceil(np.sqrt(count)))
    row, column = divmod(index, columns)
    return sheet[SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]


# --- numbers -------------------------------------------------------------------------------------------------
