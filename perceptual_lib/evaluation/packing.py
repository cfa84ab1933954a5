"""Maps as they are kept: 16 bits a pixel."""

import numpy as np
import torch
from torch import Tensor


def pack_maps(maps: Tensor, name: str = "maps") -> dict[str, np.ndarray]:
    """Maps (..., H, W) as float16, each with a largest magnitude of 1, and what they are to be multiplied by, (...).

    Half precision and not even steps: the least salient pixels keep their order, which the deletion game asks for.
    """
    scales = maps.abs().amax((-2, -1))
    shares = maps / torch.where(scales > 0, scales, 1)[..., None, None]
    return {name: shares.half().cpu().numpy(), f"{name}_scales": scales.cpu().numpy()}
