"""When a map has come to rest, so that the perturbation or RISE may stop: what both have in common.

Both estimate how far the map is from the one that all steps or masks would give, as 1 minus their rank correlation, and
stop when twice this estimate is within the tolerance: on photographs it was seen to be too small by that factor.
"""

from math import log2

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from perceptual_lib.core.saliency import saliency_map

CAUTION = 2.0  # what an estimate is multiplied by
FIRST = 8  # the first step at which a map may be at rest
SIGMA = 5.0  # pixels, the blur of the perturbation's maps when they are compared, as when they are shown


def rank_correlation(maps: Tensor, others: Tensor) -> Tensor:
    """(B,) in [-1, 1], Spearman's rank correlation of maps (B, H, W); equal values get distinct ranks, in any order."""
    first, second = (each.flatten(1).argsort(dim=1, stable=True).argsort(1).to(maps.dtype) for each in (maps, others))
    half = (first.shape[1] - 1) / 2  # the mean rank
    return cosine_similarity(first / half - 1, second / half - 1)


class Resting:
    """Tells which problems of `minimize` have a map at rest, by how far it moved in the last doubling of the steps.

    Perturbations move about as far in each doubling. One that goes on as it did from step k / 2 to step k moves
    log2(n / k) times as far until step n, and 1 minus a correlation grows with the square of the distance.

    Args:
        tolerance: of 1 minus the rank correlation with the map after all steps.
        steps: how many all steps are.
        shape: (C, H, W) of a perturbation.
        count: number of problems.
    """

    def __init__(self, tolerance: float, steps: int, shape: torch.Size, count: int) -> None:
        self.tolerance, self.steps, self.shape, self.count = tolerance, steps, shape, count
        self.earlier: dict[int, Tensor] = {}  # maps (count, H, W) by step; rows of ended problems are not read

    def __call__(self, step: int, rows: Tensor, points: Tensor) -> Tensor:
        """(B,) bool, whether problems `rows` rest at points (B, N); checked at steps 8, 12, 16, 24, 32, 48, ..."""
        if step < FIRST // 2 or step % (1 << (step.bit_length() - 2)):
            return torch.zeros_like(rows, dtype=torch.bool)
        maps = saliency_map(points.unflatten(1, self.shape), SIGMA)
        self.earlier[step] = maps.new_zeros(self.count, *maps.shape[1:]).index_copy(0, rows, maps)
        if step < FIRST:
            return torch.zeros_like(rows, dtype=torch.bool)
        moved = 1 - rank_correlation(maps, self.earlier.pop(step // 2)[rows])
        return CAUTION * log2(self.steps / step) ** 2 * moved <= self.tolerance
