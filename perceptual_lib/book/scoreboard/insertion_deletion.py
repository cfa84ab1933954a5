"""What claims about the insertion and deletion games compare (Secs. 3, 4.1 and 4.3): areas under curves, 0..1.

Nothing is chosen here: blurs are those that the claims name, and all photographs count.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from perceptual_lib.book.scoreboard.claim import Claim
from perceptual_lib.book.scoreboard.layers import (
    EQUATION_5,
    MOST_LAYERS,
    STABLE,
    VGG,
    WITHOUT,
    beside_methods,
    by_layers,
    most_layers,
)
from perceptual_lib.book.scoreboard.verdicts import CLOSE, JOINT, MissingData, place, saturates, steadier
from perceptual_lib.evaluation.insertion_deletion.protocol import auc
from perceptual_lib.evaluation.insertion_deletion.table import OURS_AT


def areas(table: pd.DataFrame, game: str, sigmas: Mapping[str, float] | None = None) -> pd.DataFrame:
    """(photographs, methods).

    Args:
        table: of the experiment.
        game: "insertion" or "deletion".
        sigmas: blurs of methods in pixels; without blur where nothing is said.
    """
    sigmas = sigmas or {}
    rows = table[table.role == "table"]
    rows = rows[rows.sigma == rows.method.map(lambda method: sigmas.get(method, 0.0))]
    return pd.DataFrame({method: _areas(lines, game) for method, lines in rows.groupby("method", sort=False)})


def by_blur(table: pd.DataFrame, game: str) -> pd.DataFrame:
    """(photographs, sigmas) of "perceptual", with the blurs that the first photographs alone have."""
    rows = table[table.role.isin(["table", "sweep"]) & (table.method == "perceptual")]
    rows = rows.drop_duplicates(["photograph", "sigma"])
    return pd.DataFrame({sigma: _areas(lines, game) for sigma, lines in rows.groupby("sigma")})


def blurred_or_not(table: pd.DataFrame, game: str) -> pd.DataFrame:
    """(photographs, 2) of "perceptual": without blur, and the mean over the blurs of Table 2.

    Raises:
        MissingData: one of the two is not there.
    """
    curve = by_blur(table[table.role == "table"], game)
    if 0.0 not in curve or len(curve.columns) < 2:
        raise MissingData("perceptual with and without blur")
    blurs = curve.drop(columns=0.0)
    return pd.DataFrame({"with blur": blurs.mean(axis=1, skipna=False), "without blur": curve[0.0]})


def most_or_none(table: pd.DataFrame, game: str) -> pd.DataFrame:
    """(photographs of the ranges, 2): the range of the most layers and no layers, at the game's blur.

    Raises:
        MissingData: as `by_layers`, and without "no_perceptual".
    """
    at_blur = table[table.sigma == OURS_AT[game]]
    own = at_blur[(at_blur.role == "table") & (at_blur.method == "no_perceptual")]
    if own.empty:
        raise MissingData("no_perceptual")
    return most_layers(_ranges(at_blur, game), _areas(own, game))


def ranges_and_methods(table: pd.DataFrame, game: str) -> pd.DataFrame:
    """(photographs of the ranges, ...) without blur, as `claims.layers.beside_methods` has them. Raises MissingData."""
    without = table[table.sigma == 0]
    return beside_methods(_ranges(without, game), areas(without, game))


def _ranges(table: pd.DataFrame, game: str) -> pd.DataFrame:
    return by_layers(table, lambda lines: _areas(lines, game))


def _areas(lines: pd.DataFrame, game: str) -> pd.Series:
    """(explained photographs,) of one method with one setting and blur."""
    explained = lines[lines.failure == ""].set_index("photograph")[game]
    return explained.map(lambda curve: float(auc(np.asarray(curve)))).astype(float)


OTHERS = tuple(
    """
    gradient deconvnet guided_backprop excitation_backprop grad_cam extremal_perturbation rise normgrad
    selective_normgrad
    """.split()
)
BASELINES = ("blur_difference", "no_perceptual")
TABLE_2 = (*OTHERS, *BASELINES)
BLURRED = {"perceptual": 5.0, "no_perceptual": 2.5}  # the largest blurs that Table 2 has of them
BLUR = (
    "Gaussian blurring the saliency map improves the performance for the insertion metric, while it decreases the "
    "performance of the deletion metric."
)
BASELINE = "Our approach performs significantly better than our baseline"


_claim = partial(Claim, experiment="insertion_deletion")


CLAIMS = (
    _claim(
        "3",
        STABLE,
        "area under the deletion curve without blur: its spread over ranges of layers against that over methods",
        partial(ranges_and_methods, game="deletion"),
        partial(steadier),
    ),
    _claim(
        "3",
        EQUATION_5,
        "area under the insertion curve at sigma = 2.5, with the perceptual term and without",
        partial(areas, game="insertion", sigmas={"perceptual": 2.5, "no_perceptual": 2.5}),
        partial(place, ours="perceptual", rivals=WITHOUT),
        paper="perceptual 0.62, no_perceptual 0.54",
    ),
    _claim(
        "3",
        EQUATION_5,
        "area under the deletion curve without blur, with the perceptual term and without",
        partial(areas, game="deletion"),
        partial(place, ours="perceptual", rivals=WITHOUT, lower=True),
        paper="perceptual 0.07, no_perceptual 0.1",
    ),
    _claim(
        "4.1",
        MOST_LAYERS,
        "area under the deletion curve without blur: the range of the most layers, and no layers",
        partial(most_or_none, game="deletion"),
        partial(place, ours="most layers", lower=True),
    ),
    _claim(
        "4.1",
        MOST_LAYERS,
        "area under the insertion curve at sigma = 5: the range of the most layers, and no layers",
        partial(most_or_none, game="insertion"),
        partial(place, ours="most layers"),
    ),
    Claim(
        "Fig. 5",
        "ReLU layers from 0 to 12 have been selected as it achieves the largest deviation between deletion score and "
        "insertion score",
        VGG,
    ),
    _claim(
        "4.3",
        BLUR,
        "area under the insertion curve, with the blurs of Table 2 and without",
        partial(blurred_or_not, game="insertion"),
        partial(place, ours="with blur"),
    ),
    _claim(
        "4.3",
        BLUR,
        "area under the deletion curve, with the blurs of Table 2 and without",
        partial(blurred_or_not, game="deletion"),
        partial(place, ours="without blur", lower=True),
    ),
    _claim(
        "4.3",
        "We varied the blur width between 1 and 30 and found the performance for insertion saturates when σ ≥ 4.0.",
        "area under the insertion curve, of perceptual over the blur",
        partial(by_blur, game="insertion"),
        partial(saturates, at=4.0),
    ),
    _claim(
        "4.3",
        BASELINE,
        "area under the deletion curve without blur, against both baselines",
        partial(areas, game="deletion"),
        partial(place, ours="perceptual", rivals=BASELINES, lower=True),
        paper="perceptual 0.07, no_perceptual 0.1",
    ),
    _claim(
        "4.3",
        BASELINE,
        "area under the insertion curve, perceptual at sigma = 5, against both baselines",
        partial(areas, game="insertion", sigmas=BLURRED),
        partial(place, ours="perceptual", rivals=BASELINES),
        paper="perceptual 0.63, blur_difference 0.59",
    ),
    _claim(
        "4.3",
        "noticeably better than all others for the deletion metric",
        "area under the deletion curve without blur, against the other methods of Table 2",
        partial(areas, game="deletion"),
        partial(place, ours="perceptual", rivals=TABLE_2, lower=True),
        paper="perceptual 0.07, normgrad 0.09",
    ),
    _claim(
        "4.3",
        "joint third for the insertion metric",
        "area under the insertion curve, perceptual at sigma = 5, against the other methods of Table 2",
        partial(areas, game="insertion", sigmas=BLURRED),
        partial(place, ours="perceptual", rivals=TABLE_2, rank=3, margin=JOINT),
        paper="perceptual 0.63, rise 0.65",
    ),
    _claim(
        "Table 2",
        "is comparable to other methods for the insertion metric (with blur)",
        "area under the insertion curve, perceptual at sigma = 5: no method of others is ahead by more than 0.05",
        partial(areas, game="insertion", sigmas=BLURRED),
        partial(place, ours="perceptual", rivals=OTHERS, margin=CLOSE),
        paper="perceptual 0.63, rise 0.65",
    ),
)
