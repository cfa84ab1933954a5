"""All tables of an experiment, by title: what the command line prints."""

import pandas as pd

from perceptual_lib.evaluation.change.table import change_table
from perceptual_lib.evaluation.insertion_deletion.table import insertion_deletion_table
from perceptual_lib.evaluation.localization.table import localization_table
from perceptual_lib.evaluation.pointing.table import Classes, pointing_table
from perceptual_lib.evaluation.randomization.table import randomization_table


def overview(experiment: str, table: pd.DataFrame, classes: Classes = None) -> dict[str, pd.DataFrame]:
    """The tables of the paper, and ours where it has none, from an experiment's table.

    Args:
        experiment: its name.
        table: of what is finished, with at least one line.
        classes: that a mean over classes goes over; None for those that occur.
    """
    if experiment == "localization":
        return {"Table 1, weak localization: error": localization_table(table)}
    if experiment == "insertion_deletion":
        return {"Table 2, areas of the deletion and insertion games": insertion_deletion_table(table)}
    if experiment == "pointing":
        scales = sorted(table.scale.unique())
        return {
            f"Table 3, pointing game at {scale:g} x: accuracy": pointing_table(table, scale, among=classes)
            for scale in scales
        }
    if experiment == "randomization":
        measures = {"correlation": "rank correlation", "ssim": "SSIM"}
        return {
            f"Sanity checks, {words} with the first map": randomization_table(table, measure)
            for measure, words in measures.items()
        }
    return {"What the changes are like": change_table(table)}
