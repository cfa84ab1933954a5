"""The player of searches (Sec. 3.3)."""

from collections.abc import Mapping, Sequence

import numpy as np
import traitlets
from torch import Tensor

from perceptual_lib.book.explorer.player import LOOK, Player, tiles, visible
from perceptual_lib.book.explorer.widget import Chunk, module, picture_chunk
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph


class OptimizationPlayer(Player):
    """Two searches from step to step (Sec. 3.3): the change, the margin, and the picture as the network sees it.

    The reader chooses the optimizer's `step`, of which about twenty are kept, and the `magnification` of the change in
    the picture. Compression keeps the change's brightness well, but its colours coarsely.

    Args:
        photographs: those of the paths, or the first of them.
        paths: by name, two results of `perturbation_path`: (steps + 1, B, C, H, W), the perceptual one last.
        margins: by the same names, at each step: (steps + 1, B); entries behind the path's last step are ignored.
    """

    _esm = module("optimization")
    step = traitlets.Int(3).tag(sync=True)
    magnification = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        classifier: Classifier,
        photographs: Sequence[Photograph],
        paths: Mapping[str, Tensor],
        margins: Mapping[str, np.ndarray],
    ) -> None:
        shown = {photograph.name: photograph for photograph in photographs}
        steps = kept_steps(max(map(len, paths.values())) - 1)
        changes, about = {}, {}  # path -> photograph
        for path, every in paths.items():
            kept = sorted({min(step, len(every) - 1) for step in steps})
            changes[path] = {name: every[kept, row].cpu() for row, name in enumerate(shown)}  # (steps, C, H, W)
            about[path] = {
                "steps": kept,
                "margins": {name: margins[path][: len(every), row].tolist() for row, name in enumerate(shown)},
                "sizes": {name: each.square().mean((1, 2, 3)).sqrt().tolist() for name, each in changes[path].items()},
                "limits": {name: _limits(each * classifier.std).tolist() for name, each in changes[path].items()},
            }

        def sizes_of(name: str, path: str) -> Chunk:
            """Maps of the size of the change, one tile for each step, all in the range of the last one."""
            return picture_chunk(tiles(visible(saliency_map(changes[path][name], LOOK).numpy(), together=True)))

        def changes_of(name: str, path: str) -> Chunk:
            """The change itself, one tile for each step: grey is no change, and each tile is scaled by its limit."""
            change = changes[path][name] * classifier.std
            limit = _limits(change).clamp(min=1e-12)
            return picture_chunk(tiles((0.5 + change / limit[:, None, None, None] / 2).numpy()))

        arrays = {"sizes": (paths, sizes_of), "changes": (paths, changes_of)}
        super().__init__(shown, classifier, {"steps": steps, "paths": about}, arrays)


def _limits(change: Tensor) -> Tensor:
    """(steps,): the magnitude that all but 0.1 % of a step's changes (steps, C, H, W) stay below."""
    return change.abs().flatten(1).quantile(0.999, dim=1)


def kept_steps(last: int) -> list[int]:
    """Of the steps 0 to `last`: 0 to 10, then fewer and fewer, and the last."""
    later = np.geomspace(10, max(last, 10), 11).round().astype(int)
    return sorted({*range(11), *later.tolist()} & set(range(last + 1)))
