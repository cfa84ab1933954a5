"""Copies of this repository for the tests that build its book."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_repository(clone: Path) -> None:
    """Of what the book is made from: prose, notebooks, library, results, settings."""
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)
