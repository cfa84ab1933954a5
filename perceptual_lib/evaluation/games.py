"""The registry of games: a folder each, and a line here."""

from pathlib import Path

GAMES = {
    "change": "Change",
    "localization": "Localization",
    "insertion_deletion": "InsertionDeletion",
    "pointing": "Pointing",
    "randomization": "Randomization",
}
"""In the paper's order. NAME/experiment.py has this class, NAME/protocol.py the `compute` of a shard, and
sections.py what a profile may say under NAME."""

STORE = Path("_build/store")  # below the clone
