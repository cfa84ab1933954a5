"""What claims about weak localization compare (Secs. 3, 4.1 and 4.2): misses of photographs, 1 or 0.

No photograph judges a blur and a threshold that were chosen on it. Those of Table 1 are chosen on the selection and
judged on all others. The ranges of layers have photographs of the selection alone: what is chosen on the odd ones is
judged on the even ones, and the other way round.
"""

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
    growing,
    most_layers,
)
from perceptual_lib.book.scoreboard.verdicts import JOINT, MissingData, place, saturates, steadier, trend
from perceptual_lib.evaluation.localization.protocol import COLUMNS, held_out_hits
from perceptual_lib.evaluation.tables_face import Scores, table_scores


def held_out(table: pd.DataFrame, strategy: str = "best") -> pd.DataFrame:
    """(photographs, methods), each method at the blur and the strategy's threshold that suit it best.

    Args:
        table: of the experiment.
        strategy: "value", "percent", "mean", or "best" of the three.
    """
    return pd.DataFrame(
        {
            method: _judged(scores, scores.misses[..., COLUMNS[strategy]].reshape(len(scores.names), -1))
            for method, scores in table_scores(table).items()
            if scores.can_choose
        }
    )


def by_blur(table: pd.DataFrame, strategy: str) -> pd.DataFrame:
    """(photographs, sigmas) of "perceptual", each blur at the strategy's threshold that suits it best.

    Raises:
        MissingData: no result of "perceptual" to choose on.
    """
    scores = table_scores(table[table.method == "perceptual"]).get("perceptual")
    if scores is None or not scores.can_choose:
        raise MissingData("perceptual on photographs that settings are chosen on")
    misses = scores.misses[..., COLUMNS[strategy]]
    return pd.DataFrame({sigma: _judged(scores, misses[:, blur]) for blur, sigma in enumerate(scores.sigmas)})


def _judged(scores: Scores, misses: np.ndarray) -> pd.Series:
    """Of misses (N, settings) those of the setting with the fewest on the selection, for the other photographs."""
    best = np.nanmean(misses[scores.selection], 0).argmin()
    return pd.Series(misses[:, best], scores.names)[~scores.selection]


def ranges(table: pd.DataFrame, strategy: str = "value") -> pd.DataFrame:
    """(photographs, ranges of layers); the paper tried them with the value threshold. Raises as `by_layers`."""
    return by_layers(table, lambda lines: _crossed(Scores.of(lines), strategy))


def most_or_none(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs of the ranges, 2): the range of the most layers, and no layers. Raises as `by_layers`."""
    tried = ranges(table)
    scores = _of_the_same(table, tried)
    if "no_perceptual" not in scores:
        raise MissingData("no_perceptual")
    return most_layers(tried, scores["no_perceptual"])


def ranges_and_methods(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs of the ranges, ...): all ranges, and the methods that explained these photographs.

    As `claims.layers.beside_methods` has them. Raises as `by_layers`.
    """
    tried = ranges(table)
    return beside_methods(tried, _of_the_same(table, tried))


def _of_the_same(table: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """(photographs of the ranges, methods) by the value threshold."""
    scores = table_scores(table[table.photograph.isin(tried.index)])
    return pd.DataFrame({method: _crossed(each, "value") for method, each in scores.items()}, index=tried.index)


def _crossed(scores: Scores, strategy: str) -> pd.Series:
    """(explained photographs,) misses at the setting that is best on every other one."""
    names = np.array(scores.names)[scores.explained]
    if len(names) < 2:
        return pd.Series(dtype=float)
    hits = scores.hits[scores.explained][..., COLUMNS[strategy]].reshape(len(names), -1)
    return pd.Series(1.0 - held_out_hits(hits), names)


OTHERS = tuple(
    """
    guided_backprop grad_cam guided_grad_cam excitation_backprop smoothgrad integrated_gradients extremal_perturbation
    rise normgrad selective_normgrad
    """.split()
)
TABLE_1 = (*OTHERS, "no_perceptual", "perceptual", "perceptual_guided")
ERROR = "error on photographs that chose no setting, at the {} threshold"
OF_THREE = ERROR.format("best")


_claim = partial(Claim, experiment="localization")


def _saturates(strategy: str) -> Claim:
    quote = "We varied σ ∈ [1, 30] and found that results saturate at σ = 20 for all three thresholds."
    asks = f"{ERROR.format(strategy)}, of perceptual over the blur"
    return _claim("4.2", quote, asks, partial(by_blur, strategy=strategy), partial(saturates, at=20.0, lower=True))


def _placed(quote: str, ours: str, rank: int, strategy: str, paper: str, margin: float = 0.0) -> Claim:
    asks = f"{ERROR.format(strategy)}: {ours} against the other methods of Table 1"
    rivals = tuple(method for method in TABLE_1 if method != ours)
    rule = partial(place, ours=ours, rivals=rivals, rank=rank, margin=margin, lower=True)
    return _claim("4.2", quote, asks, partial(held_out, strategy=strategy), rule, paper=paper)


def _lowest(strategy: str, paper: str) -> Claim:
    quote = "We have the lowest error for each thresholding strategy."
    asks = (
        f"{ERROR.format(strategy)}: perceptual_guided, by the paper the better variant, against the methods of others"
    )
    rule = partial(place, ours="perceptual_guided", rivals=OTHERS, lower=True)
    return _claim("Table 1", quote, asks, partial(held_out, strategy=strategy), rule, paper=paper)


GUIDED = (
    "Our guided variant obtains the lowest error for two thresholding strategies and joint best using mean-based "
    "thresholding."
)
UNGUIDED = (
    "The non-guided version performs second-best in value thresholding, percent-based thresholding, and joint best in "
    "the mean-based thresholding strategy."
)
OF_BOTH = (
    "When selecting the best possible threshold for each method, our method and it's unguided variant achieve the "
    "lowest and second lowest error rates respectively."
)

CLAIMS = (
    _claim(
        "3",
        STABLE,
        "error at the value threshold: its spread over ranges of layers against that over methods",
        ranges_and_methods,
        partial(steadier),
    ),
    _claim(
        "3",
        EQUATION_5,
        f"{OF_THREE}, with the perceptual term and without",
        held_out,
        partial(place, ours="perceptual", rivals=WITHOUT, lower=True),
        paper="perceptual 0.43, no_perceptual 0.46",
    ),
    _claim(
        "4.1",
        MOST_LAYERS,
        "error at the value threshold: the range of the most layers, and no layers",
        most_or_none,
        partial(place, ours="most layers", lower=True),
    ),
    Claim(
        "Fig. 5",
        "The best performance is achieved when we regularize ReLU layers from 4 to 9 for the unguided variant and from "
        "0 to 14 for the guided variant.",
        VGG,
    ),
    _claim(
        "4.2",
        "regularizing sequentially more and higher layers tends to improve object localization in the image",
        "error at the value threshold over the last layer held, from the first one on",
        lambda table: growing(ranges(table)),
        partial(trend, falls=True),
    ),
    _saturates("value"),
    _saturates("percent"),
    _saturates("mean"),
    _claim(
        "4.2",
        "We outperform all other methods",
        f"{OF_THREE}: perceptual, by the paper the weaker variant, against the methods of others",
        held_out,
        partial(place, ours="perceptual", rivals=OTHERS, lower=True),
        paper="perceptual 0.43, excitation_backprop 0.44",
    ),
    _lowest("value", "perceptual_guided 0.41, integrated_gradients 0.44"),
    _lowest("percent", "perceptual_guided 0.43, smoothgrad 0.49"),
    _lowest("mean", "perceptual_guided 0.43, excitation_backprop 0.44"),
    _placed(GUIDED, "perceptual_guided", 1, "value", "perceptual_guided 0.41, integrated_gradients 0.44"),
    _placed(GUIDED, "perceptual_guided", 1, "percent", "perceptual_guided 0.43, perceptual 0.44"),
    _placed(GUIDED, "perceptual_guided", 1, "mean", "perceptual_guided 0.43, perceptual 0.43", JOINT),
    _placed(UNGUIDED, "perceptual", 2, "value", "perceptual 0.44, perceptual_guided 0.41"),
    _placed(UNGUIDED, "perceptual", 2, "percent", "perceptual 0.44, perceptual_guided 0.43"),
    _placed(UNGUIDED, "perceptual", 1, "mean", "perceptual 0.43, perceptual_guided 0.43", JOINT),
    _placed(OF_BOTH, "perceptual_guided", 1, "best", "perceptual_guided 0.41, perceptual 0.43"),
    _placed(OF_BOTH, "perceptual", 2, "best", "perceptual 0.43, perceptual_guided 0.41"),
)
