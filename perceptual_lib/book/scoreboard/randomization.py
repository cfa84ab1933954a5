"""What claims about the sanity check compare (Sec. 4.5): where a map lies, and its rank correlation with the first one.

Both are means over the seeds of the untrained networks: the intervals are for other photographs, not for other seeds.
"""

from functools import partial

import pandas as pd

from perceptual_lib.book.scoreboard.claim import Claim, Rule, Sample
from perceptual_lib.book.scoreboard.verdicts import CLOSE, MissingData, alike, place, trend


def by_stage(table: pd.DataFrame, measure: str, method: str = "perceptual") -> pd.DataFrame:
    """(photographs, stages) of a measure, the trained network first; without photographs that failed with a seed."""
    lines = table[(table.role == "table") & (table.method == method)]
    lines = lines[~lines.photograph.isin(lines.photograph[lines[measure].isna()])]
    return lines.pivot_table(index="photograph", columns="stage", values=measure)


def correlations(table: pd.DataFrame, method: str = "perceptual") -> pd.DataFrame:
    """(photographs, stages) from the first layer randomized on: with itself a map correlates by 1."""
    return by_stage(table, "correlation", method).drop(columns=0, errors="ignore")


def second_convolution(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, 2): "perceptual" once the second layer below the classifier's has been randomized, and a half.

    A block of convolutions counts as one. Raises MissingData where there is no such stage.
    """
    stages = table[(table.stage > 0) & ~table.layer.str.startswith("classifier")].stage.drop_duplicates().sort_values()
    found = correlations(table)
    if len(stages) < 2 or stages.iloc[1] not in found:
        raise MissingData("perceptual with two convolutions randomized")
    return pd.DataFrame({"correlation": found[stages.iloc[1]], "a half": 0.5})


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, methods): the mean over all stages."""
    methods = table.method[table.role == "table"].unique()
    return pd.DataFrame({method: correlations(table, method).mean(axis=1) for method in methods})


RANKS = "rank correlation of maps with those of the trained network"
SEEDS = "mean over the untrained networks, interval over photographs"


def _claim(quote: str, asks: str, sample: Sample, rule: Rule) -> Claim:
    return Claim("4.5", quote, f"{asks} ({SEEDS})", sample, rule, "randomization")


SPREADS = "As the layers are progressively randomized, saliency spreads from the relevant objects towards other objects"

CLAIMS = (
    _claim(
        SPREADS,
        "share of the squared map of perceptual that lies inside the object's boxes, over the stages",
        partial(by_stage, measure="inside"),
        partial(trend, falls=True),
    ),
    _claim(
        "is mostly non-existent after the second convolution",
        f"{RANKS}: of perceptual, below a half with the second convolution, or block of them, randomized",
        second_convolution,
        partial(place, ours="correlation", lower=True),
    ),
    _claim(
        "qualitatively matching the behavior in Selective NormGrad",
        f"{RANKS}: mean over the stages, of perceptual and selective_normgrad alike within 0.05",
        kept,
        partial(alike, first="perceptual", second="selective_normgrad", margin=CLOSE),
    ),
)
