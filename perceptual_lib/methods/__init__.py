"""The methods of the paper's tables, one registry, one shape."""

from perceptual_lib.methods import baselines, excitation, gradients, masks, normgrad, perceptual
from perceptual_lib.methods.perceptual import PerceptualBall
from perceptual_lib.methods.registry import METHODS, Method, explain, explainer, find_method

__all__ = [
    "METHODS",
    "Method",
    "PerceptualBall",
    "baselines",
    "excitation",
    "explain",
    "explainer",
    "find_method",
    "gradients",
    "masks",
    "normgrad",
    "perceptual",
]
