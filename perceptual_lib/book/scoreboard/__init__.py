"""The scoreboard: the paper's claims that a number can decide, and what became of them here.

`verdicts` has the rules that decide from intervals; one file for each experiment says what its claims compare, and
lists them.
"""

from perceptual_lib.book.scoreboard.claim import Claim
from perceptual_lib.book.scoreboard.scoreboard import CLAIMS, scoreboard, tally
from perceptual_lib.book.scoreboard.verdicts import RULES, Finding, Verdict

__all__ = ["CLAIMS", "RULES", "Claim", "Finding", "Verdict", "scoreboard", "tally"]
