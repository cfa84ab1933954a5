"""Explaining classifiers using adversarial perturbations on the perceptual ball (Elliott, Law, Russell, CVPR 2021)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceptual_lib.core.errors import InputError
    from perceptual_lib.core.layer_ranges import perturbations_by_layers
    from perceptual_lib.core.networks import Classifier, load_classifier
    from perceptual_lib.core.perturbation import Perturbation, perceptual_ball
    from perceptual_lib.core.saliency import class_gradient, saliency_map
    from perceptual_lib.evaluation.profile import load_profile
    from perceptual_lib.methods import PerceptualBall, explain, explainer
    from perceptual_lib.photographs.photographs import Photograph, load_photographs

# Loaded at first use: torch takes seconds to import, and `perceptual-ball --help` or a book with nothing to do
# should not wait for it.
_HOMES = {
    "Classifier": "core.networks",
    "InputError": "core.errors",
    "PerceptualBall": "methods",
    "Perturbation": "core.perturbation",
    "Photograph": "photographs.photographs",
    "class_gradient": "core.saliency",
    "explain": "methods",
    "explainer": "methods",
    "load_classifier": "core.networks",
    "load_photographs": "photographs.photographs",
    "load_profile": "evaluation.profile",
    "perceptual_ball": "core.perturbation",
    "perturbations_by_layers": "core.layer_ranges",
    "saliency_map": "core.saliency",
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
