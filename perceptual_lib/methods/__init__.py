"""The methods of the paper's tables, in one registry with one interface. Importing this package registers them all."""

# In the order in which `perceptual-ball methods` lists them.
# isort: off
from perceptual_lib.methods import gradients, grad_cam, excitation, rise, extremal, baselines  # noqa: F401
from perceptual_lib.methods.perceptual import PerceptualBall
from perceptual_lib.methods.registry import METHODS, Method, explain, explainer, find_method

__all__ = ["METHODS", "Method", "PerceptualBall", "explain", "explainer", "find_method"]
