"""What the paper leaves open, as the book's tables show it: its text, its authors' code, and what was chosen here."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.sections import InsertionDeletion, Localization, Pointing
from perceptual_lib.methods import METHODS

CONTENT = yaml.safe_load(Path(__file__).with_name("choices.yaml").read_text(encoding="utf-8"))
TASKS = CONTENT["tasks"]
"""The paper's settings by experiment (Secs. 4.2 to 4.4), each with its game and its method in a profile."""


def choices(profile: Profile) -> pd.DataFrame:
    """A row for each open question: what the paper says, what its authors' code does, and what this book does with a
    profile's settings. A game that the profile lacks has its default settings."""
    games = {"localization": Localization, "insertion_deletion": InsertionDeletion, "pointing": Pointing}
    profile = profile.model_copy(update={name: game() for name, game in games.items() if not getattr(profile, name)})
    table = pd.DataFrame(CONTENT["choices"])
    words = {
        name: ("no", "yes")[value] if isinstance(value, bool) else value for name, value in profile.settings.items()
    }
    words |= {"table_1": _of_methods(profile, "localization"), "table_3": _of_methods(profile, "pointing")}
    words["step"] = profile.insertion_deletion.step
    words["smoothed"] = (
        ", ".join(f"{name}: {part:g}" for name, part in profile.pointing.smooth.items()) or "as the others"
    )
    return table.assign(ours=[text.format(**words) for text in table.ours])


def _of_methods(profile: Profile, game: str) -> dict[str, dict[str, Any]]:
    """Method -> its settings in a game."""
    return {name: method.settings | profile.given(game, name) for name, method in METHODS.items()}
