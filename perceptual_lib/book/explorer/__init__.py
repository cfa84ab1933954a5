"""Explorers: the book's interactive figures, and the same for one's own photographs and networks in Jupyter."""

from perceptual_lib.book.explorer.cascade import CascadePlayer
from perceptual_lib.book.explorer.games import InsertionDeletionPlayer
from perceptual_lib.book.explorer.held import HeldPlayer
from perceptual_lib.book.explorer.layers import Explorer
from perceptual_lib.book.explorer.optimization import OptimizationPlayer
from perceptual_lib.book.explorer.points import PointingPlayer

__all__ = [
    "CascadePlayer",
    "Explorer",
    "HeldPlayer",
    "InsertionDeletionPlayer",
    "OptimizationPlayer",
    "PointingPlayer",
]
