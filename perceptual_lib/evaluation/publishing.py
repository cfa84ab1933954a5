"""Tables of experiments and their manifests: as files, and as what a page shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from perceptual_lib.core.errors import InputError, writing
from perceptual_lib.evaluation.games import GAMES

if TYPE_CHECKING:  # it imports this module
    from perceptual_lib.evaluation.experiment import Experiment


ROW = ("role", "method", "scale", "seed")
"""Columns that tell a row of a table; the ranges of layers of a method are one."""

OWN = ("methods", "ranges", "range_pictures", "scales", "range_scales")
"""What a profile says of a game and the lines of a row say for themselves."""

WHOLE = (
    dict.fromkeys(("experiment", "machine", "made"), str)
    | dict.fromkeys(("profile", "network", "versions"), dict)
    | {"failures": list}
)
"""What a manifest has at least, and of which kind."""


def publish(table: pd.DataFrame, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a table and its manifest: `folder`/EXPERIMENT.parquet and .json, in place of earlier versions.

    Raises InputError if they cannot be written, the run is not finished, or the folder has results of another profile,
    of this game for another network, or a damaged manifest.
    """
    path = folder / manifest["experiment"]
    if left := manifest.get("unfinished"):
        raise InputError(
            f"{left} shards of {path.name} are not computed yet, and what is published is whole: run it first."
        )
    for game in GAMES:
        _check_owner(folder / f"{game}.json", manifest, same_game=game == path.name)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        halves = path.with_suffix(".parquet.half"), path.with_suffix(".json.half")
        table.to_parquet(halves[0], compression="zstd", index=False)
        halves[1].write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for half in halves:
            half.replace(half.with_suffix(""))


def publish_rows(experiment: "Experiment", folder: Path) -> bool:
    """Publish the rows that are finished on all their pictures: they replace the same rows there, and all others stay.

    So a run may be computed bit by bit, on several machines. A row is a method in its role, at a scale, with a seed;
    all its ranges of layers are one row. The manifest's "parts" say what made which rows. Returns whether any row was
    finished; raises InputError as `publish`, and if other pictures, weights or settings made what is there.
    """
    pieces = list(zip(_rows(pd.DataFrame([about for about, _ in experiment.pieces])), experiment.pieces, strict=True))
    left = {row for row, (_, shard) in pieces if experiment.run.unfinished([shard])}
    part = copy(experiment)
    part.pieces = [piece for row, piece in pieces if row not in left]
    part.__dict__.pop("table", None)  # the cached one, of all pieces
    if part.table.empty:
        return False
    publish(*_joined(part.table, part.manifest, folder), folder)
    return True


def _joined(table: pd.DataFrame, manifest: Mapping[str, Any], folder: Path) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """A table and its manifest joined with what is published of other rows. Raises InputError if they do not fit.

    seconds is the sum over the parts. A part counts in full, even if rows of it were replaced, until it has none left.
    """
    parts, game = [_part(manifest, table)], manifest["experiment"]
    if (folder / f"{game}.json").exists():
        before = load_results(folder, game)
        made, making = _shared(before.table, before.manifest), _shared(table, manifest)
        if differ := [name for name in made.keys() & making.keys() if made[name] != making[name]]:
            raise InputError(f"{folder} has {game} with other {min(differ)}: publish into another folder.")
        rows = _rows(before.table)
        kept = before.table[~rows.isin(parts[0]["rows"])]
        left = set(rows[kept.index].unique())
        earlier = before.manifest.get("parts", [_part(before.manifest, before.table)])
        earlier = [part | {"rows": [each for each in part["rows"] if each in left]} for part in earlier]
        parts = [*(part for part in earlier if part["rows"]), *parts]
        methods = [*dict.fromkeys([*manifest["profile"][game]["methods"], *kept.method, *table.method])]
        table = pd.concat([kept, table], ignore_index=True)
        table = table.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")
        manifest = {**manifest, "failures": failures(table, before.unit)}
    seconds = [part["seconds"] for part in parts]
    return table, {**manifest, "seconds": None if None in seconds else sum(seconds), "parts": parts}


def _part(manifest: Mapping[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    """The entries of a manifest that may differ from part to part, and the rows that they belong to."""
    about = {name: manifest[name] for name in ("machine", "versions", "code", "seconds", "made")}
    return about | {"rows": _rows(table).unique().tolist()}


def _rows(table: pd.DataFrame) -> pd.Series:
    """(lines,) the name of each line's row in "parts"."""
    told = [name for name in ROW if name in table]
    codes = table.groupby(told, sort=False, observed=True).ngroup()
    words = [" ".join(map(str, row)) for row in table[told].drop_duplicates().itertuples(index=False)]
    return pd.Series(pd.Categorical.from_codes(codes, words), table.index)  # there may be twenty million lines


def _shared(table: pd.DataFrame, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of a table must have in common, by name."""
    profile, network = manifest["profile"], manifest["network"]
    game = {name: value for name, value in profile[manifest["experiment"]].items() if name not in OWN}
    named = {name: manifest.get(name, {}).get("sha256") for name in ("photographs", "scenes")}
    named["hard"] = manifest.get("hard")
    computed = {name: network[name] for name in ("weights", "device", "precision")}
    settings = {"settings": {}, "settings of methods": profile["methods"], "perturbation": profile["perturbation"]}
    return settings | game | named | computed | {"columns": set(table)}


def failures(table: pd.DataFrame, unit: str) -> list[dict[str, str]]:
    """What failed, and why: once for each picture of a row."""
    failed = table[table.failure != ""]
    told = failed.columns.intersection(["method", "settings", "scale", "seed", unit])
    return failed.drop_duplicates(told)[["method", "settings", unit, "failure"]].to_dict("records")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Context in which a published file is read. Raises FileNotFoundError, and InputError for one that is damaged."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): restore or remove it, or take another folder.") from error


def _read_manifest(file: Path) -> dict[str, Any]:
    with _reading(file):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not all(isinstance(manifest.get(key), WHOLE[key]) for key in WHOLE):
            raise ValueError(f"no manifest with {', '.join(WHOLE)}")
    return manifest


def _check_owner(file: Path, manifest: Mapping[str, Any], same_game: bool) -> None:
    """Raise InputError if a file is the manifest of another profile, or of the same game for another network."""
    try:
        there = _read_manifest(file)
    except FileNotFoundError:
        return
    for key in ("profile", "network") if same_game else ("profile",):
        if (other := there[key].get("name")) != manifest[key].get("name"):
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
        """How many photographs or scenes the game was played on."""
        return self.table[self.unit].nunique()

    def describe(self) -> str:
        """Two sentences for readers: which run this is, and what made it."""
        made, failed = self.manifest, len(self.manifest["failures"])
        minutes = made["seconds"] and made["seconds"] / 60  # None for a run that was interrupted: its time is unknown
        time = "" if minutes is None else f"{minutes:.0f} minutes" if minutes < 60 else f"{minutes / 60:.1f} hours"
        parts = made.get("parts", [made])
        days = sorted({part["made"][:10] for part in parts})
        return (
            f"This is {self.title}. {made['network']['name']} on {self.n} {self.unit}{'s' * (self.n != 1)}, "
            f"{time and time + ' of one worker, '}{_all('machine', parts)}; "
            f"weights {made['network']['weights'][:12]}, pictures {made[f'{self.unit}s']['sha256'][:12]}, "
            f"{failed} failure{'s' * (failed != 1)}, torch {_all('torch', [part['versions'] for part in parts])}, "
            f"{' to '.join(dict.fromkeys((days[0], days[-1])))}{f', in {len(parts)} parts' * (len(parts) > 1)}."
        )


def _all(name: str, parts: Sequence[Mapping[str, Any]]) -> str:
    """The distinct values of an entry over all parts."""
    return " and ".join(dict.fromkeys(part[name] for part in parts))


def load_results(folder: Path, experiment: str) -> Results:
    """What `publish` wrote. Raises InputError if it is missing or damaged."""
    path = Path(folder) / experiment
    try:
        manifest = _read_manifest(path.with_suffix(".json"))
        with _reading(table := path.with_suffix(".parquet")):
            return Results(f"the published run {path.parent.name}", pd.read_parquet(table), manifest)
    except FileNotFoundError as error:
        sentence = f"there are no results of {experiment} in {folder}: run it, or fetch the repository."
        raise InputError(sentence) from error


def load_all(folder: Path) -> dict[str, Results]:
    """What `publish` wrote into a folder, by experiment."""
    return {name: load_results(folder, name) for name in GAMES if (Path(folder) / f"{name}.json").exists()}
