"""Tables of experiments and their manifests as files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES


def publish(table: pd.DataFrame, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a table and its manifest: `folder`/EXPERIMENT.parquet and .json. Raises InputError where it cannot."""
    path = folder / manifest["experiment"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path.with_suffix(".parquet"), compression="zstd", index=False)
        path.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the results cannot be written into {folder}: {error.strerror or error}.") from error


def load_results(folder: Path, experiment: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What `publish` wrote. Raises InputError where there is nothing."""
    path = Path(folder) / experiment
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return pd.read_parquet(path.with_suffix(".parquet")), manifest
    except (OSError, ValueError) as error:
        sentence = f"there are no results of {experiment} in {folder}: run it, or fetch the repository."
        raise InputError(sentence) from error


def load_all(folder: Path) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """What `publish` wrote, by experiment."""
    return {name: load_results(folder, name) for name in GAMES if (Path(folder) / f"{name}.json").exists()}


def describe_run(manifest: Mapping[str, Any]) -> str:
    """What a run was, in a sentence for readers."""
    network, unit = manifest["network"], "scene" if "scenes" in manifest else "photograph"
    pictures, failures = manifest[f"{unit}s"], len(manifest["failures"])
    return (
        f"{network['name']} on {pictures['n']} {unit}{'s' * (pictures['n'] != 1)}, "
        f"{manifest['seconds'] / 3600:.1f} hours of one worker ({manifest['machine']}); "
        f"weights {network['weights'][:12]}, pictures {pictures['sha256'][:12]}, "
        f"{failures} failure{'s' * (failures != 1)}, torch {manifest['versions']['torch']}, {manifest['made'][:10]}."
    )
