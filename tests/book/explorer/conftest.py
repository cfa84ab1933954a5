"""Players of small experiments, one of each, computed once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import complaints, new_tab
from layers_page import Layers, drawn, written
from players import METHODS, STEP
from stand_ins import Layered, Regions, finished, make_photographs, small_profile

from perceptual_lib import load_classifier
from perceptual_lib.book.explorer import (
    CascadePlayer,
    Explorer,
    HeldPlayer,
    InsertionDeletionPlayer,
    OptimizationPlayer,
    PointingPlayer,
)
from perceptual_lib.core.perturbation import multiclass_margin
from perceptual_lib.evaluation.change.protocol import perturbation_path
from perceptual_lib.evaluation.insertion_deletion.experiment import InsertionDeletion
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.pointing.experiment import Pointing
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.randomization import protocol as randomization
from perceptual_lib.evaluation.randomization.experiment import Randomization


@pytest.fixture(scope="session")
def classifier():
    return load_classifier(Layered())


@pytest.fixture(scope="session")
def eight(tmp_path_factory):
    """Photographs, two of each of four classes."""
    made = make_photographs(tmp_path_factory.mktemp("explorer") / "photographs", 8)
    return [replace(photograph, target=index % 4) for index, photograph in enumerate(made)]


@pytest.fixture(scope="session")
def complete(tmp_path_factory, eight):
    """Computes an experiment of the eight photographs by a small network."""

    def compute(kind, **sections):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Profile, "load_photographs", lambda self: eight)
            patch.setattr(randomization, "fresh_network", lambda name, seed: Layered(1 + seed))
            return finished(kind, tmp_path_factory.mktemp("experiment"), small_profile(**sections))

    return compute


@pytest.fixture(scope="session")
def pointing(tmp_path_factory, eight) -> Pointing:
    section = {"methods": ["center", "gradient", "perceptual"], "sigmas": [0.0, 6.0], "scales": [1.0], "selection": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Profile, "load_photographs", lambda self: eight)
        return finished(Pointing, tmp_path_factory.mktemp("pointing"), small_profile(pointing=section), Regions())


@pytest.fixture(scope="session")
def points(pointing, classifier) -> PointingPlayer:
    return PointingPlayer(pointing, classifier)


@pytest.fixture(scope="session")
def localization(complete) -> Localization:
    section = {"pictures": 5, "methods": METHODS, "sigmas": [0.0, 4.0], "selection": 3, "ranges": 2}
    return complete(Localization, localization=section)


@pytest.fixture(scope="session")
def of_experiment(localization, classifier) -> Explorer:
    return Explorer.of(localization, classifier)


@pytest.fixture(scope="session")
def games(complete, classifier) -> InsertionDeletionPlayer:
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "sigmas": {"perceptual": [0.0, 5.0]}}
    return InsertionDeletionPlayer(complete(InsertionDeletion, insertion_deletion=section | {"step": STEP}), classifier)


@pytest.fixture(scope="session")
def sanity(complete) -> Randomization:
    section = {"pictures": 3, "methods": ["gradient", "perceptual"], "seeds": 2}
    return complete(Randomization, randomization=section)


@pytest.fixture(scope="session")
def cascade(sanity, classifier) -> CascadePlayer:
    return CascadePlayer(sanity, classifier)


@pytest.fixture(scope="session")
def searched(eight, classifier):
    """Photographs, paths and margins of two searches."""
    inputs = classifier.preprocess(eight[:2])
    found = {
        "without layers": perturbation_path(classifier, inputs, layers=(), max_iter=6),
        "perceptual": perturbation_path(classifier, inputs, layers="0-1", layer_weight=10.0, max_iter=30),
    }
    targets = found["perceptual"][0].targets
    paths = {name: path for name, (_, path) in found.items()}
    with torch.no_grad():
        margins = {
            name: np.stack([multiclass_margin(classifier(inputs + change), targets) for change in path])
            for name, path in paths.items()
        }
    return eight[:2], paths, margins


@pytest.fixture(scope="session")
def held(eight, classifier) -> HeldPlayer:
    deltas = torch.randn(3, 1, 3, *classifier.input_size, generator=torch.Generator().manual_seed(0))
    return HeldPlayer(classifier, eight[0], dict(zip(("none", "0-0", "0-1"), deltas, strict=True)), held=2)


@pytest.fixture(scope="session")
def optimization(searched, classifier) -> OptimizationPlayer:
    return OptimizationPlayer(classifier, *searched)


@pytest.fixture(scope="module")
def layers_opened(browser, tmp_path_factory):
    """The explorer of layers in a page that is opened once, and what goes wrong in it."""
    with new_tab(browser) as tab:
        heard = complaints(tab, "file:")
        tab.goto(written(Layers(), tmp_path_factory.mktemp("layers")))
        yield tab, heard


@pytest.fixture
def tab(layers_opened):
    """The page as it was at first."""
    tab, heard = layers_opened
    first = {
        name: value for name, value in Layers().static_traits().items() if name not in ("about", "address", "live")
    }
    link = "&".join(f"layers.{name}={value}" for name, value in first.items())
    tab.mouse.move(0, 0)
    tab.wait_for_timeout(260)  # until what the last test changed is in the address
    tab.evaluate("link => location.hash = link", link)
    drawn(tab)
    yield tab
    assert heard == []
