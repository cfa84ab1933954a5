"""The player of searches (Sec. 3.3)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import traitlets
from torch import Tensor

from perceptual_lib.book.explorer.player import LOOK, Player, tiles, visible
from perceptual_lib.book.explorer.widget import Chunk, picture_chunk
from perceptual_lib.core.networks import Classifier
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.photographs.photographs import Photograph


class OptimizationPlayer(Player):
    """Two searches from step to step (Sec. 3.3): the change, the margin, and the picture as the network sees it.

    Args:
        classifier: the network.
        photographs: those of the paths, or the first of them.
        paths: by name, two of `perturbation_path`: (steps + 1, B, C, H, W), the perceptual one last.
        margins: by the same names, at each step: (steps + 1, B); what follows the last step is left out.

    Attributes:
        step: of the optimizer; about twenty of them are kept.
        magnification: of the change in the picture, whose brightness is kept well and its colours coarsely.
    """

    source = "optimization"
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
        self.names = list(shown)
        steps = kept_steps(max(map(len, paths.values())) - 1)
        own_steps = {name: sorted({min(step, len(path) - 1) for step in steps}) for name, path in paths.items()}
        self.paths = {name: path[own_steps[name]].cpu() for name, path in paths.items()}
        self.spread = classifier.std
        about = {
            "steps": steps,
            "paths": {
                path: {
                    "steps": own_steps[path],
                    "margins": {name: values[: len(paths[path]), row].tolist() for row, name in enumerate(self.names)},
                    "sizes": self._by_photograph(path, lambda change: change.square().mean((1, 2, 3)).sqrt()),
                    "limits": self._by_photograph(path, self.limits),
                }
                for path, values in margins.items()
            },
        }
        super().__init__(shown, classifier, about, {"sizes": (paths, self.sizes), "changes": (paths, self.changes)})

    def _by_photograph(self, path: str, measure: Callable[[Tensor], Tensor]) -> dict[str, list[float]]:
        """Of changes (steps, C, H, W) one number a step."""
        return {name: measure(self.paths[path][:, row]).tolist() for row, name in enumerate(self.names)}

    def limits(self, change: Tensor) -> Tensor:
        """What all but 0.1 % of the changes (steps, C, H, W) stay below, in units of a picture in [0, 1]: (steps,)."""
        return (change * self.spread).abs().flatten(1).quantile(0.999, dim=1)

    def sizes(self, name: str, path: str) -> Chunk:
        """Maps of the size of the change, a tile a step, all in the range of the last one."""
        return picture_chunk(tiles(visible(saliency_map(self.change(name, path), LOOK).numpy(), together=True)))

    def changes(self, name: str, path: str) -> Chunk:
        """The change itself, a tile a step, each about grey and scaled by its limit."""
        change = self.change(name, path)
        limits = self.limits(change).clamp(min=1e-12)[:, None, None, None]
        return picture_chunk(tiles((0.5 + change * self.spread / limits / 2).permute(0, 2, 3, 1).numpy()))

    def change(self, name: str, path: str) -> Tensor:
        """The perturbation at the steps that are kept: (steps, C, H, W)."""
        return self.paths[path][:, self.names.index(name)]


def kept_steps(last: int) -> list[int]:
    """Of the steps 0 to `last` the first ten, then fewer and fewer, and the last."""
    later = np.geomspace(10, max(last, 10), 11).round().astype(int)
    return sorted({*range(11), *later.tolist()} & set(range(last + 1)))
