"""The scoreboard: the paper's claims that a number can decide, and what became of them here.

`claims.yaml` has the claims; `samples` says what of an experiment's table one compares, `rules` decide from intervals.
"""

from perceptual_lib.book.scoreboard.claims import CLAIMS, Claim, count_verdicts, scoreboard
from perceptual_lib.book.scoreboard.rules import RULES, Finding, Verdict

__all__ = ["CLAIMS", "RULES", "Claim", "Finding", "Verdict", "count_verdicts", "scoreboard"]
