"""Explaining classifiers using adversarial perturbations on the perceptual ball (Elliott, Law, Russell, CVPR 2021)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceptual_lib.classifiers import Classifier, load_classifier
    from perceptual_lib.errors import InputError
    from perceptual_lib.explainers import PerceptualBall, explain, explainer
    from perceptual_lib.images import Photograph, load_photographs
    from perceptual_lib.perturbation import Perturbation, perceptual_ball
    from perceptual_lib.profiles import load_profile
    from perceptual_lib.saliency import class_gradient, saliency_map
    from perceptual_lib.sensitivity import perturbations_by_layers

# Loaded at first use: torch takes seconds to import, and `perceptual-ball --help` or a book with nothing to do
# should not wait for it.
_HOMES = {
    "Classifier": "classifiers",
    "InputError": "errors",
    "PerceptualBall": "explainers",
    "Perturbation": "perturbation",
    "Photograph": "images",
    "class_gradient": "saliency",
    "explain": "explainers",
    "explainer": "explainers",
    "load_classifier": "classifiers",
    "load_photographs": "images",
    "load_profile": "profiles",
    "perceptual_ball": "perturbation",
    "perturbations_by_layers": "sensitivity",
    "saliency_map": "saliency",
}
__all__ = [  # noqa: F822 (they are found by __getattr__)
    "Classifier",
    "InputError",
    "PerceptualBall",
    "Perturbation",
    "Photograph",
    "class_gradient",
    "explain",
    "explainer",
    "load_classifier",
    "load_photographs",
    "load_profile",
    "perceptual_ball",
    "perturbations_by_layers",
    "saliency_map",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
