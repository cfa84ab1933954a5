"""Data for the explorer of finished weak localization: maps by key, the ranges of layers that were tried, errors."""

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.book.explorer.player import PHOTOGRAPHS
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.selection import select_layers
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import ALPHAS, THRESHOLDS
from perceptual_lib.evaluation.localization.table import Scores, trials
from perceptual_lib.methods import find_method
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.photographs.photographs import Photograph


def maps_by_key(
    experiment: Localization, classifier: Classifier, methods: Collection[str], names: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Maps (H, W) without blur of the rows of Table 1 and of ranges of layers, by key `map/PHOTOGRAPH/METHOD/LAYERS`.

    Also, by the keys of our methods' maps, the class that the network predicts for the changed photograph. Ranges have
    maps of the first few photographs only, because a large network has hundreds of ranges.
    """
    table = experiment.table
    rows = table[table.role.isin(["table", "range"]) & table.method.isin(methods)]
    few = list(names)[:PHOTOGRAPHS]
    found, becomes = {}, {}
    for role, method, settings in rows[["role", "method", "settings"]].drop_duplicates().itertuples(index=False):
        layers = _span(settings, classifier) if holds_layers(method) else ""
        if layers is None or (role == "range" and not layers):
            continue  # no range that can be chosen, as no layers, the corner of Fig. 5
        of = few if role == "range" else names
        maps = experiment.maps(method, of, role=role, settings=settings)
        found |= {f"map/{name}/{method}/{layers}": maps[name] for name in maps}
        if find_method(method).ours:
            classes = experiment.maps(method, of, "becomes", role=role, settings=settings)
            names_of = ((name, classifier.class_name(int(each))) for name, each in classes.items())
            becomes |= {f"map/{name}/{method}/{layers}": seen for name, seen in names_of}
    return found, becomes


def read_key(key: str) -> tuple[str, str, str, dict[str, float], int | None]:
    """What the key of a map says: photograph, method, layers, what is tried, a class other than the photograph's."""
    try:
        _, name, method, layers, *other = key.split("/")
        method, *tried = method.split()
        settings = dict(zip(("layer_weight", "margin_target"), map(float, tried), strict=False))
        return name, method, layers, settings, int(other[0]) if other else None
    except ValueError:
        raise InputError(f"there is no map {key!r}; a key is map/PHOTOGRAPH/METHOD/LAYERS.") from None


def costs(methods: Sequence[Mapping[str, Any]], experiment: Experiment) -> dict[str, Any]:
    """The entry "methods" of an explorer's `about`, with each method's cost under the experiment's settings."""
    notes = (find_method(each["name"]).cost(**experiment.settings(each["name"])) for each in methods)
    return {"methods": [{**each, "note": note} for each, note in zip(methods, notes, strict=True)]}


def maps_by_settings(
    experiment: Experiment, photographs: Sequence[Photograph], choices: Mapping[str, Sequence[Any]]
) -> dict[str, np.ndarray]:
    """Maps of "perceptual" with every combination of settings, from the experiment's store, or computed and stored.

    Choices are of layers, layer_weight and margin_target; keys are `map/PHOTOGRAPH/perceptual WEIGHT TARGET/LAYERS`.
    """
    found = {}
    for layers, weight, target in product(*(choices[name] for name in ("layers", "layer_weight", "margin_target"))):
        settings = {"layers": layers, "layer_weight": weight, "margin_target": target}
        row = experiment.tried("tried", "perceptual", tuple(photographs), **settings)
        for shard in row.map_shards(len(photographs)):
            maps = experiment.explained(shard, "maps").items()
            found |= {f"map/{name}/perceptual {weight:g} {target:g}/{layers}": each for name, each in maps}
    return found


def holds_layers(method: str) -> bool:
    """Whether a method's maps depend on which layers are held."""
    return find_method(method).ours and method != "no_perceptual"


def _span(settings: str, classifier: Classifier) -> str | None:
    """The layers held by a row's settings (JSON), as the explorer writes them: "first-last", "" for none. None for
    those that it cannot write: several ranges, and modules by their paths."""
    try:
        held = select_layers(json.loads(settings)["layers"], [each.name for each in classifier.activations])
    except InputError:
        return None
    if not held:
        return ""
    return f"{held[0]}-{held[-1]}" if len(held) == held[-1] - held[0] + 1 else None


def first_traits(table: pd.DataFrame, classifier: Classifier, scores: Scores | None) -> dict[str, Any]:
    """The first traits, if known: the layers of Table 1's row "perceptual"; blur and threshold chosen by its scores."""
    traits = {}
    if scores is not None and scores.can_choose:
        blur, threshold = scores.choose()
        strategy, alpha = THRESHOLDS[threshold]
        traits = {"sigma": float(scores.sigmas[blur]), "strategy": strategy, "alpha": alpha}
    settings = table[(table.role == "table") & (table.method == "perceptual")].settings
    layers = _span(settings.iloc[0], classifier) if len(settings) else None
    return traits if layers is None else traits | {"layers": layers}


def tried_ranges(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The ranges of layers that were tried for "perceptual" and the profile's own, each on n photographs.

    Columns of `trials`, with `layers`, "first-last"; `error`, the least over the thresholds of "value"; and `best`, the
    least over all thresholds. None where there is no error.
    """
    rows = table[(table.method == "perceptual") & table.role.isin(["range", "table"])]
    tried = trials(rows, "value").assign(best=trials(rows, "best").error).dropna(subset="first")
    tried["layers"] = [f"{first}-{last}" for first, last in zip(tried["first"], tried["last"], strict=True)]
    tried = tried.drop_duplicates("layers").round(4)[["layers", "role", "first", "last", "n", "error", "best"]]
    return tried.astype(object).where(tried.notna(), None).to_dict("records")


def as_ranges(layers: Sequence[str]) -> list[dict[str, Any]]:
    """Ranges "first-last" without known errors, in the form of `tried_ranges`."""
    spans = [(each, *map(int, each.split("-"))) for each in layers]
    return [
        {"layers": each, "role": "range", "first": first, "last": last, "error": None} for each, first, last in spans
    ]


def table_errors(table: pd.DataFrame, scores: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Method -> "n"; "note", its cost in that table; and for each strategy [error, low, high], with its interval."""
    found = {}
    settings = table[table.role == "table"].groupby("method").settings.first()
    for method, one in scores.items():
        if one.can_choose and len(one.names) > 1:  # a single photograph gives no interval
            estimates = {strategy: one.in_sample(strategy) for strategy in ALPHAS}
            note = find_method(method).cost(**json.loads(settings[method]))
            found[method] = {"n": estimates["value"].n, "note": note} | {
                strategy: [round(float(value), 2) for value in (each.value, each.low, each.high)]
                for strategy, each in estimates.items()
            }
    return found
