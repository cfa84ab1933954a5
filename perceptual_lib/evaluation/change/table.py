"""From the table of changes to what a change is like (paper Secs. 1, 3 and 4)."""

import numpy as np
import pandas as pd

from perceptual_lib.evaluation.tables import estimate, make_table

LEAST = 0.01  # of 255 levels: smaller changes, or none, count as this much in a mean of logarithms
VISIBLE = 8.0  # of 255 levels: the customary bound of adversarial perturbations; nobody was asked to look
MEANS = ["flipped", "inside", "area", "size", "visible", "spread"]


def change_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the profile's perturbations are like, from the experiment's table.

    By method: n, failed, and the means of `flipped` (0 or 1: the margin is not above 0), `inside`, `area`, `size`,
    `visible` (0 or 1: the size is above `VISIBLE`) and `spread`, see `Change`, each an `Estimate`, or None for fewer
    than two photographs. The mean of sizes is the geometric one: L-BFGS without a line search can diverge, and one
    size of millions would dominate an arithmetic mean.
    """
    lines = {}
    for method, rows in table[table.role == "table"].groupby("method", sort=False):
        there = rows[rows.failure == ""]
        there = there.assign(flipped=there.margin <= 0, visible=there["size"] > VISIBLE)
        means = {measure: estimate(there[measure].to_numpy(dtype=float)) for measure in MEANS}
        means["size"] = estimate(np.log(there["size"].to_numpy(dtype=float).clip(min=LEAST)), np.exp)
        lines[method] = {"n": len(there), "failed": len(rows) - len(there)} | means
    return make_table(lines, ["n", "failed", *MEANS])
