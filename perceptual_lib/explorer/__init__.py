"""Explorers: the book's figures to play with, and the same for one's own photographs and networks, in Jupyter."""

from perceptual_lib.explorer.layers import Explorer
from perceptual_lib.explorer.players import (
    CascadePlayer,
    InsertionDeletionPlayer,
    OptimisationPlayer,
    SensitivityMap,
)

__all__ = ["CascadePlayer", "Explorer", "InsertionDeletionPlayer", "OptimisationPlayer", "SensitivityMap"]
