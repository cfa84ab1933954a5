"""From an experiment's table to the tables and curves of the book, with their intervals: one file per experiment.

Settings (blur, threshold) are chosen on the first photographs, the profile's selection, and reported on the others, the
held-out ones; and, as the paper does, chosen and reported on all. Where a method explained none of the photographs that
a number asks for, the number is None.
"""

from perceptual_lib.evaluation.localization.table import Scores, difference, localization_table, table_scores, trials
from perceptual_lib.evaluation.tables import format_cell, format_table, paper_table

__all__ = [
    "Scores",
    "difference",
    "localization_table",
    "paper_table",
    "format_cell",
    "table_scores",
    "trials",
    "format_table",
]
