"""The insertion and deletion games (Sec. 4.3): Table 2, Fig. 5, middle, and Fig. 6."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.insertion_deletion.protocol import CELLS
from perceptual_lib.evaluation.insertion_deletion.table import insertion_deletion_table
from perceptual_lib.evaluation.rows import Row
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard


class InsertionDeletion(Experiment):
    """Roles are "table" for Table 2, "range" for ranges of layers, "sweep" for more blurs of perceptual's maps, and
    "single" for single deletion; there both games have the blurred filling.

    The table's insertion and deletion are curves (n,) of probabilities, None where the method failed; single_blurred
    and single_grey are the correlations of `single_deletion`, for the role "single" only.
    """

    name = "insertion_deletion"
    columns = (
        *"role method settings sigma photograph selection failure seconds insertion deletion".split(),
        *"single_blurred single_grey".split(),
    )
    looks = True

    @property
    def rows(self) -> list[Row]:
        rows, table = super().rows, self.table_rows()
        if self.section.sweep and (few := self.first(self.section.swept)):
            rows += [replace(row, role="sweep", photographs=few) for row in table if row.method == "perceptual"]
        if (count := self.section.single) > 0:
            rows += [replace(row, role="single", photographs=row.photographs[:count]) for row in table]
        return rows

    def arguments(self, row: Row, _photographs: Sequence[Photograph]) -> dict[str, Any]:
        blurs = {"range": self.section.range_sigmas, "sweep": self.section.sweep}
        sigmas = blurs.get(row.role, self.section.sigmas.get(row.method, [0.0]))
        filling = "blurred" if row.role == "single" else "grey"
        return {"array": row.array, "sigmas": sigmas, "step": self.section.step, "filling": filling}

    def score(self, maps: Shard, arguments: Mapping[str, Any], passes: tuple[int, int] = (0, 0)) -> Shard:
        between = self._steps() - 1
        forward = 2 + 2 * len(arguments["sigmas"]) * between  # the ends of the curves are common to all blurs
        forward += (2 * CELLS**2 + 1) * (arguments["filling"] == "blurred")  # the grid's cells, and the image once more
        return super().score(maps, arguments, (forward, 0))

    def _steps(self) -> int:
        """Steps of a curve, all of one size (else InputError), as the areas of tables are means of its values."""
        (height, width), step = self.run.network["input_size"], self.section.step
        if height * width % min(step, height * width):
            divisors = [rows for rows in range(1, height + 1) if height % rows == 0]
            rows = min(divisors, key=lambda rows: abs(rows * width - step))
            raise InputError(
                f"insertion_deletion.step is {step}, which does not divide the {height} x {width} pixels of the "
                f"network's input; {rows * width} does, {rows} rows."
            )
        return max(1, height * width // step)

    def overview(self) -> dict[str, pd.DataFrame]:
        return {"Table 2, areas of the deletion and insertion games": insertion_deletion_table(self.table)}
