"""The methods of the paper's tables, one registry, one shape."""

from perceptual_lib.explainers import baselines, excitation, gradients, masks, normgrad, perceptual
from perceptual_lib.explainers.perceptual import PerceptualBall
from perceptual_lib.explainers.registry import METHODS, Method, explain, explainer, find_method

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
