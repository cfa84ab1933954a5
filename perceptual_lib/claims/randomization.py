"""What claims about the sanity check compare (Sec. 4.5): the rank correlation of a map with the trained network's.

It is the mean over the seeds of the untrained networks: the intervals are for other photographs, not for other seeds.
"""

from functools import partial

import pandas as pd

from perceptual_lib.claims.claim import Claim, Rule, Sample
from perceptual_lib.claims.verdicts import CLOSE, MissingData, alike, place, trend


def by_stage(table: pd.DataFrame, method: str = "perceptual") -> pd.DataFrame:
    """(photographs, stages) from the first layer randomised on; a photograph that failed with a seed is left out."""
    lines = table[(table.role == "table") & (table.method == method) & (table.stage > 0)]
    lines = lines[~lines.photograph.isin(lines.photograph[lines.correlation.isna()])]
    return lines.pivot_table(index="photograph", columns="stage", values="correlation")


def second_convolution(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, 2): "perceptual" once the second layer below the classifier's has been randomised, and a half.

    A block of convolutions counts as one. Raises MissingData where there is no such stage.
    """
    stages = table[(table.stage > 0) & ~table.layer.str.startswith("classifier")].stage.drop_duplicates().sort_values()
    correlations = by_stage(table)
    if len(stages) < 2 or stages.iloc[1] not in correlations:
        raise MissingData("perceptual with two convolutions randomised")
    return pd.DataFrame({"correlation": correlations[stages.iloc[1]], "a half": 0.5})


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, methods): the mean over all stages."""
    methods = table.method[table.role == "table"].unique()
    return pd.DataFrame({method: by_stage(table, method).mean(axis=1) for method in methods})


def _claim(quote: str, asks: str, sample: Sample, rule: Rule) -> Claim:
    asks = f"rank correlation of maps with those of the trained network: {asks}"
    return Claim("4.5", quote, asks, sample, rule, "randomization")


CLAIMS = (
    _claim(
        "As the layers are progressively randomized, saliency spreads from the relevant objects towards other objects",
        "of perceptual, over the stages",
        by_stage,
        partial(trend, falls=True),
    ),
    _claim(
        "is mostly non-existent after the second convolution",
        "of perceptual, below a half with the second convolution, or block of them, randomised",
        second_convolution,
        partial(place, ours="correlation", lower=True),
    ),
    _claim(
        "qualitatively matching the behavior in Selective NormGrad",
        "mean over the stages, of perceptual and selective_normgrad alike within 0.05",
        kept,
        partial(alike, first="perceptual", second="selective_normgrad", margin=CLOSE),
    ),
)
