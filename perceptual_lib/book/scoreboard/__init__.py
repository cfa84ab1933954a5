"""The scoreboard: the paper's claims that a number can decide, and the verdict on each of them here.

`claims.yaml` has the claims, `samples` takes from an experiment's table what they compare, and `rules` decide them.
"""

from perceptual_lib.book.scoreboard.claims import CLAIMS, Claim, count_verdicts, scoreboard
from perceptual_lib.book.scoreboard.rules import RULES, Finding, Verdict

__all__ = ["CLAIMS", "RULES", "Claim", "Finding", "Verdict", "count_verdicts", "scoreboard"]
