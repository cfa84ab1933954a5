"""From the sanity check's table to curves of what a map keeps while the network forgets (paper Sec. 4.5)."""

import pandas as pd

from perceptual_lib.evaluation.statistics import Estimate, crossed_bootstrap


def randomization_curves(table: pd.DataFrame, measure: str = "correlation") -> dict[str, tuple[list[str], Estimate]]:
    """How similar a method's map stays to its first, stage by stage, by a measure of `Randomization`; lower is better.

    Returns:
        By method, the names of the stages ("trained", then the layers) and the means over photographs and seeds,
        (stages,). A photograph that failed with any seed is left out, and so is a method with fewer than two.
    """
    curves = {}
    for method, lines in table[table.role == "table"].groupby("method", sort=False):
        stages = lines.drop_duplicates("stage").sort_values("stage")
        seeds = sorted(lines.seed.unique())
        wide = lines.pivot(index="photograph", columns=["seed", "stage"], values=measure)
        wide = wide.reindex(columns=pd.MultiIndex.from_product([seeds, stages.stage])).dropna()
        if len(wide) > 1:
            values = wide.to_numpy().reshape(len(wide), len(seeds), len(stages))
            curves[method] = ["trained", *stages.layer[1:]], crossed_bootstrap(values)
    return curves


def randomization_table(table: pd.DataFrame, measure: str = "correlation") -> pd.DataFrame:
    """The same as a table: by method, an `Estimate` for each stage."""
    lines = {}
    for method, (stages, curve) in randomization_curves(table, measure).items():
        estimates = zip(curve.value, curve.low, curve.high, strict=True)
        lines[method] = {stage: Estimate(*each, curve.n) for stage, each in zip(stages, estimates, strict=True)}
    return pd.DataFrame.from_dict(lines, orient="index")
