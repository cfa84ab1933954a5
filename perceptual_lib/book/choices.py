"""What the paper leaves open, as the book's tables show it: its text, its authors' code, and what was chosen here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

CONTENT = yaml.safe_load(Path(__file__).with_name("choices.yaml").read_text(encoding="utf-8"))
TASKS = CONTENT["tasks"]
"""The paper's settings by experiment (Secs. 4.2 to 4.4), and the game and the method of a profile that it is."""


def choices(settings: Mapping[str, Any]) -> pd.DataFrame:
    """By question: what the paper says, its authors' code does, and this book, with a profile's `settings`."""
    table = pd.DataFrame(CONTENT["choices"])
    words = {name: ("no", "yes")[value] if isinstance(value, bool) else value for name, value in settings.items()}
    return table.assign(ours=[text.format(**words) for text in table.ours])
