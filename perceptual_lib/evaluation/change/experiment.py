"""Where the change of the image goes (Secs. 1, 3 and 4; Figs. 2 and 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.change.table import change_table
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.rows import Row
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard


class Change(Experiment):
    """Roles are "table" for the profile's own perturbations and "range" for ranges of layers.

    margin_before and margin are those of the image and of the changed image. inside is the share of the squared change
    inside the object's boxes, area the share of the picture that they cover. size is the root mean square of the
    change over pixels and channels, in 0..255, and largest the largest such mean of a single pixel over its channels.
    spread is the share of pixels that the squared change would cover if it were even, blurred_spread the same after a
    blur, and extent how far it reaches; see `places`. near is the share of the squared change outside the boxes that is
    within an eighth of the picture's side from them, near_area the same share of the area outside. cosine and growth
    are as in `maps`, target is the photograph's class. nan where the method failed.
    """

    name = "change"
    columns = (
        *"role method settings photograph target selection failure seconds margin_before margin".split(),
        *"inside area size largest spread blurred_spread extent near near_area cosine growth".split(),
    )

    def arguments(self, row: Row, photographs: Sequence[Photograph]) -> dict[str, Any]:
        unit = 255 * float(np.mean(self.run.network["std"]))  # a 1 of the network's input, in 0..255
        return super().arguments(row, photographs) | {"unit": unit}

    def cases(self, shard: Shard, picture: Photograph) -> dict[str, Sequence[Any]]:
        return {"target": [picture.target]}

    def overview(self) -> dict[str, pd.DataFrame]:
        return {"What the changes are like": change_table(self.table)}
