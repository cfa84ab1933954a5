"""Players of small experiments, one of each."""

import numpy as np
import pytest
import torch
from players import STEP
from stand_ins import Layered, finished, small_profile

from perceptual_lib import load_classifier
from perceptual_lib.book.explorer import CascadePlayer, InsertionDeletionPlayer, OptimizationPlayer, SensitivityMap
from perceptual_lib.core.perturbation import multiclass_margin, perturbation_path
from perceptual_lib.evaluation.games import InsertionDeletion, Localization, Randomization
from perceptual_lib.evaluation.profile import PerturbationSection
from perceptual_lib.evaluation.randomization import score as randomization
from perceptual_lib.evaluation.randomization.protocol import untrained


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
    strict = PerturbationSection(layers="0-0", layer_weight=1e4, normalize_layers=True, max_iter=10)
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
def optimization(searched, classifier) -> OptimizationPlayer:
    return OptimizationPlayer(classifier, *searched)
