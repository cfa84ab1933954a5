"""What claims about the perturbation itself compare (Abstract, Secs. 1, 3, 4 and 5; Figs. 2 and 4)."""

from functools import partial

import numpy as np
import pandas as pd

from perceptual_lib.book.scoreboard.claim import Claim
from perceptual_lib.book.scoreboard.layers import WITHOUT, by_layers, growing
from perceptual_lib.book.scoreboard.verdicts import CLOSE, MissingData, alike, place, trend
from perceptual_lib.evaluation.change.table import VISIBLE


def of_methods(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(photographs, methods) of a measure, nan where the method failed."""
    rows = table[(table.role == "table") & (table.failure == "")]
    return rows.pivot(index="photograph", columns="method", values=measure)


def magnitudes(table: pd.DataFrame) -> pd.DataFrame:
    """(photographs, methods): the logarithm (base 10) of the size; a few are millions and would be all of a mean."""
    return np.log10(of_methods(table, "size"))


def against(table: pd.DataFrame, measure: str, bound: float | str, method: str = "perceptual") -> pd.DataFrame:
    """(photographs, 2): a method's measure, and a bound: a number, or another measure.

    Raises:
        MissingData: nothing of the method.
    """
    scores = of_methods(table, measure)
    if method not in scores:
        raise MissingData(method)
    if isinstance(bound, str):
        return pd.DataFrame({measure: scores[method], bound: of_methods(table, bound)[method]})
    return pd.DataFrame({measure: scores[method], "the bound": bound})


def flipped(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """(photographs, 2): 1 where the method changed the class, 0 where not, and a half. Raises MissingData."""
    margins = of_methods(table, "margin")
    if method not in margins:
        raise MissingData(method)
    return pd.DataFrame({"flipped": (margins[method].dropna() <= 0).astype(float), "a half": 0.5})


def by_last_layer(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(photographs, last layers) of a measure, layers being held from the first on. Raises as `by_layers`."""
    explained = table[table.failure == ""]
    return growing(by_layers(explained, lambda lines: lines.set_index("photograph")[measure]))


_claim = partial(Claim, experiment="change")


CLAIMS = (
    _claim(
        "Abstract",
        "While the resulting perturbations remain imperceptible to the human eye",
        "root mean square of the change: below 8 of 255 levels, the customary bound; nobody was asked to look",
        partial(against, measure="size", bound=VISIBLE),
        partial(place, ours="size", lower=True),
    ),
    _claim(
        "Abstract",
        "they differ from existing adversarial perturbations in that they are semi-sparse alterations",
        "effective share of the pixels that change, with the perceptual term and without",
        partial(of_methods, measure="spread"),
        partial(place, ours="perceptual", rivals=WITHOUT, lower=True),
    ),
    _claim(
        "Abstract",
        "highlight objects and regions of interest while leaving the background unaltered",
        "share of the squared change that lies inside the object's boxes: above a half",
        partial(against, measure="inside", bound=0.5),
        partial(place, ours="inside"),
    ),
    _claim(
        "1",
        "instead results in semantically meaningful changes that highlight the extent of objects in images",
        "share of the squared change that lies inside the object's boxes, with the perceptual term and without",
        partial(of_methods, measure="inside"),
        partial(place, ours="perceptual", rivals=WITHOUT),
    ),
    _claim(
        "1",
        "in practice adversarial perturbations make non-local changes",
        "without the perceptual term the share of the squared change inside the object's boxes is their share of the "
        "picture, within 0.05: as if it did not know the object",
        partial(against, measure="inside", bound="area", method="no_perceptual"),
        partial(alike, first="inside", second="area", margin=CLOSE),
    ),
    Claim(
        "Fig. 1",
        "Despite the flowers our method highlights the butterfly as salient.",
        "that photograph, with a box",
    ),
    _claim(
        "Fig. 2",
        "As we extend the regularization to cover higher layers we find the perturbation becomes more compact",
        "effective share of the pixels that change, over the last layer held, from the first one on",
        partial(by_last_layer, measure="spread"),
        partial(trend, falls=True),
    ),
    Claim(
        "2",
        "adversarial perturbations can be thought of as a slightly robustified method of estimating the gradient",
        "the perturbations and gradients themselves; tables keep no maps",
    ),
    Claim(
        "Fig. 3",
        "In contrast to many other approaches that highlight edges, ours highlights the textured interior of the "
        "object.",
        "outlines of the objects, to tell their edges from their interior; there are boxes alone",
    ),
    _claim(
        "3",
        "minimizing this objective for an appropriate value of λ and T is a good strategy for finding adversarial "
        "perturbations",
        "share of the photographs whose class changes without the perceptual term: above a half",
        partial(flipped, method="no_perceptual"),
        partial(place, ours="flipped"),
    ),
    _claim(
        "3",
        "as more layers are regularized the perturbation becomes more localized",
        "share of the squared change that lies inside the object's boxes, over the last layer held, from the first one "
        "on",
        partial(by_last_layer, measure="inside"),
        partial(trend),
    ),
    _claim(
        "4",
        "The perturbations do a good job of localizing on a single object class",
        "share of the squared change that lies inside the object's boxes, against their share of the picture",
        partial(against, measure="inside", bound="area"),
        partial(place, ours="inside"),
    ),
    _claim(
        "5",
        "forcing larger and more meaningful perturbations to be generated",
        "logarithm (base 10) of the root mean square of the change in levels of 255, with the perceptual term and "
        "without",
        magnitudes,
        partial(place, ours="perceptual", rivals=WITHOUT),
    ),
    _claim(
        "5",
        "argument still holds and one can obtain a new class label by slightly altering a large number of pixels",
        "share of the photographs whose class changes with the perceptual term: above a half",
        partial(flipped, method="perceptual"),
        partial(place, ours="flipped"),
    ),
)
