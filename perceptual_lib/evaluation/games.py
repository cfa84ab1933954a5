"""The registry of games: a folder each, and a line here."""

from pathlib import Path

GAMES = {
    "localization": "Localization",
    "insertion_deletion": "InsertionDeletion",
    "pointing": "Pointing",
    "randomization": "Randomization",
    "change": "Change",
}
"""In the paper's order: NAME/experiment.py has this class, and NAME/section.py the `Section` of a profile."""

STORE = Path("_build/store")  # below the clone
