"""Tables of experiments and their manifests: as files, and as what a page shows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.evaluation.games import GAMES


def publish(table: pd.DataFrame, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a table and its manifest: `folder`/EXPERIMENT.parquet and .json, in place of an earlier state of both.

    Raises InputError where it cannot, for a run that is not finished, and for a folder with results of another profile,
    or of this game by another network.
    """
    path = folder / manifest["experiment"]
    if left := manifest.get("unfinished"):
        raise InputError(
            f"{left} shards of {path.name} are not computed yet, and what is published is whole: run it first."
        )
    for game in GAMES:
        _check_owner(folder / f"{game}.json", manifest, same_game=game == path.name)
    table_file, manifest_file = path.with_suffix(".parquet"), path.with_suffix(".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        halves = table_file.with_suffix(".parquet.half"), manifest_file.with_suffix(".json.half")
        table.to_parquet(halves[0], compression="zstd", index=False)
        halves[1].write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for half in halves:
            half.replace(half.with_suffix(""))
    except OSError as error:
        raise InputError(f"the results cannot be written into {folder}: {error.strerror or error}.") from error


def _check_owner(file: Path, manifest: Mapping[str, Any], same_game: bool) -> None:
    """Raise InputError for a manifest of another profile, or where it is of the same game of another network."""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # none, or a damaged one
    for key in ("profile", "network") if same_game else ("profile",):
        if (other := there.get(key, {}).get("name")) != manifest.get(key, {}).get("name"):
            raise InputError(f"{file} is of the {key} {other}; publish into another folder.")


@dataclass(frozen=True)
class Results:
    """What a run of a game has found: its table, what made it, and what a page calls it."""

    title: str
    table: pd.DataFrame
    manifest: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """What was played on: "photograph" or "scene"."""
        return "scene" if "scenes" in self.manifest else "photograph"

    @property
    def n(self) -> int:
        """How many of them."""
        return self.manifest[f"{self.unit}s"]["n"]

    def describe(self) -> str:
        """The run in two sentences for readers: which it is, and what it was."""
        made, failures = self.manifest, len(self.manifest["failures"])
        minutes = made["seconds"] and made["seconds"] / 60  # None where the run was stopped on the way: nobody knows
        time = "" if minutes is None else f"{minutes:.0f} minutes" if minutes < 60 else f"{minutes / 60:.1f} hours"
        return (
            f"This is {self.title}. {made['network']['name']} on {self.n} {self.unit}{'s' * (self.n != 1)}, "
            f"{time and time + ' of one worker, '}{made['machine']}; "
            f"weights {made['network']['weights'][:12]}, pictures {made[f'{self.unit}s']['sha256'][:12]}, "
            f"{failures} failure{'s' * (failures != 1)}, torch {made['versions']['torch']}, {made['made'][:10]}."
        )


def load_results(folder: Path, experiment: str) -> Results:
    """What `publish` wrote. Raises InputError where there is nothing."""
    path = Path(folder) / experiment
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Results(f"the published run {path.parent.name}", pd.read_parquet(path.with_suffix(".parquet")), manifest)
    except (OSError, ValueError) as error:
        sentence = f"there are no results of {experiment} in {folder}: run it, or fetch the repository."
        raise InputError(sentence) from error


def load_all(folder: Path) -> dict[str, Results]:
    """What `publish` wrote, by experiment."""
    return {name: load_results(folder, name) for name in GAMES if (Path(folder) / f"{name}.json").exists()}
