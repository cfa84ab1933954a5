"""All claims, and what became of them."""

from collections.abc import Mapping

import pandas as pd

from perceptual_lib.book.scoreboard import change, insertion_deletion, localization, pointing, randomization
from perceptual_lib.book.scoreboard.claim import Claim
from perceptual_lib.book.scoreboard.verdicts import Verdict

SECTIONS = (
    *("Abstract", "1", "Fig. 1", "Fig. 2", "2", "Fig. 3", "3", "4", "4.1", "Fig. 5"),
    *("Table 1", "4.2", "4.3", "Table 2", "4.4", "4.5", "5"),
)
"""Of the paper, in its order."""

MODULES = localization, insertion_deletion, pointing, randomization, change

CLAIMS: tuple[Claim, ...] = tuple(
    sorted((claim for module in MODULES for claim in module.CLAIMS), key=lambda claim: SECTIONS.index(claim.section))
)
"""All of them, section by section."""


def scoreboard(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A line for each of the `CLAIMS`.

    Args:
        results: tables of the experiments by name. A claim whose table is missing, or has too little in it, "needs data
            that is not here".

    Returns:
        section and quote; asks, how the quote is read; rule, the name of one of the `RULES`, "" where nothing can be
        measured; measured, in words; n, photographs or scenes of the smallest comparison; verdict, a `Verdict`.
    """
    lines = []
    for claim in CLAIMS:
        finding = claim.finding(results)
        about = claim.section, claim.quote, claim.asks, claim.rule_name
        lines.append((*about, finding.measured, finding.n, finding.verdict))
    return pd.DataFrame(lines, columns="section quote asks rule measured n verdict".split())


def tally(board: pd.DataFrame) -> dict[Verdict, int]:
    """How many claims of a scoreboard have each verdict, in the order of `Verdict`."""
    return {verdict: int((board.verdict == verdict).sum()) for verdict in Verdict}
