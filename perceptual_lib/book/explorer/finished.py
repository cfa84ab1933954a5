"""What an explorer shows of finished weak localization: maps by key, the ranges of layers that were tried, errors."""

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.core.activations import select_layers
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import THRESHOLDS
from perceptual_lib.evaluation.localization.table import table_scores, trials
from perceptual_lib.methods import find_method
from perceptual_lib.networks.classifier import Classifier

STRATEGIES = ("value", "percent", "mean")


def maps_by_key(
    experiment: Localization, classifier: Classifier, methods: Collection[str], names: Collection[str]
) -> dict[str, np.ndarray]:
    """Maps (H, W) without blur of the table's rows and of the ranges', by key `map/PHOTOGRAPH/METHOD/LAYERS`."""
    table = experiment.table
    rows = table[table.role.isin(["table", "range"]) & table.method.isin(methods)]
    found = {}
    for role, method, settings in rows[["role", "method", "settings"]].drop_duplicates().itertuples(index=False):
        layers = _span(settings, classifier) if holds_layers(method) else ""
        for name, saliency in experiment.maps(method, role=role, settings=settings).items():
            if name in names:
                found[f"map/{name}/{method}/{layers}"] = saliency
    return found


def holds_layers(method: str) -> bool:
    """Whether a method's maps depend on which layers are held."""
    return find_method(method).ours and method != "no_perceptual"


def own_layers(table: pd.DataFrame, classifier: Classifier) -> dict[str, str]:
    """What the row "perceptual" of Table 1 holds, {"layers": "0-25"}; nothing where there is no such row."""
    settings = table[(table.role == "table") & (table.method == "perceptual")].settings
    return {"layers": _span(settings.iloc[0], classifier)} if len(settings) else {}


def _span(settings: str, classifier: Classifier) -> str:
    """The layers that a row's settings (JSON) hold, as the explorer writes them: "first-last"."""
    held = select_layers(json.loads(settings)["layers"], [each.name for each in classifier.activations])
    return f"{held[0]}-{held[-1]}" if held else ""


def tried_ranges(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The ranges of layers that were tried for "perceptual" and the profile's own, each on the same photographs.

    Returns:
        layers, "first-last"; role, "range" or "table" for the profile's own; first; last; n; the errors at the best
        value threshold, `error`, and at the best of all, `best`: None where there is none.
    """
    rows = table[(table.method == "perceptual") & table.role.isin(["range", "table"])]
    rows = rows[rows.photograph.isin(rows[rows.role == "range"].photograph)]
    tried = trials(rows, "value").assign(best=trials(rows, "best").error)
    tried["layers"] = [f"{first}-{last}" for first, last in zip(tried["first"], tried["last"], strict=True)]
    tried = tried.sort_values("role", kind="stable").drop_duplicates("layers").round(4)
    columns = ["layers", "role", "first", "last", "n", "error", "best"]
    return tried[columns].astype(object).where(tried[columns].notna(), None).to_dict("records")


def chosen_threshold(table: pd.DataFrame) -> dict[str, Any]:
    """Blur and threshold of "perceptual", chosen on the selection; nothing where that cannot be."""
    scores = table_scores(table).get("perceptual")
    if scores is None or not scores.can_choose:
        return {}
    blur, threshold = scores.choose()
    strategy, alpha = THRESHOLDS[threshold]
    return {"sigma": float(scores.sigmas[blur]), "strategy": strategy, "alpha": alpha}


def errors_of_table_1(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By method n, and by strategy its error with the interval."""
    found = {}
    for method, scores in table_scores(table).items():
        if scores.can_choose:
            estimates = {strategy: scores.in_sample(strategy) for strategy in STRATEGIES}
            found[method] = {"n": estimates["value"].n} | {
                strategy: [round(float(value), 4) for value in (each.value, each.low, each.high)]
                for strategy, each in estimates.items()
            }
    return found
