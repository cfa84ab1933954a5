"""What a profile's experiments are: profile -> rows -> shards -> tables.

A row is a method with its settings on some photographs. Its maps are computed once, a shard of a few photographs at a
time; each protocol scores them in shards of its own. The table has one line for each row, photograph and blur.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perceptual_lib.activations import Activation
from perceptual_lib.engine import Run
from perceptual_lib.errors import InputError
from perceptual_lib.explainers import find_method
from perceptual_lib.images import Photograph
from perceptual_lib.keys import Shard, code_digest, digest, versions
from perceptual_lib.profiles import Profile
from perceptual_lib.protocols.localization import is_hit
from perceptual_lib.results import Store
from perceptual_lib.workers import Executor, Local

PERTURBATIONS = {"no_perceptual": "maps", "perceptual": "maps", "perceptual_guided": "guided"}
"""Methods whose maps come from one perturbation, and the array of its shard that holds them."""

COLUMNS = "role method settings sigma photograph selection failure seconds hits".split()
FREE_STEPS = 12  # in which L-BFGS is done where no activation is held, as a rule
STORE = Path("_build/store")  # below the clone


@dataclass(frozen=True)
class Row:
    """A method with settings on some photographs: what one row of a table is made of.

    Attributes:
        role: "table" for Table 1, "range" and "weight" for what layers and lambda' are chosen from.
        method: name of the method.
        settings: of `perceptual_ball` for the paper's own methods, else the method's keyword arguments.
        photographs: those that it explains.
    """

    role: str
    method: str
    settings: Mapping[str, Any]
    photographs: tuple[Photograph, ...]

    @property
    def passes(self) -> tuple[int, int]:
        """Of the network for one image, forward and backward."""
        if self.method not in PERTURBATIONS:
            return find_method(self.method).passes(self.settings)
        steps = self.settings["max_iter"] if self.settings["layers"] else min(self.settings["max_iter"], FREE_STEPS)
        return steps + 2, steps + 1

    @property
    def name(self) -> str:
        """What progress calls it."""
        if self.role == "table":
            return self.method
        return f"{self.method} with layers {self.settings['layers']}, lambda' {self.settings['layer_weight']:g}"

    def map_shards(self, size: int) -> Iterator[Shard]:
        """Maps that are not blurred, of `size` photographs at once."""
        perturbed = self.method in PERTURBATIONS
        for start in range(0, len(self.photographs), size):
            yield Shard(
                kind="perturbation" if perturbed else "explanation",
                arguments={"settings": dict(self.settings)} | ({} if perturbed else {"method": self.method}),
                photographs=self.photographs[start : start + size],
                label=self.name,
                passes=self.passes,
            )


def table_rows(profile: Profile, photographs: Sequence[Photograph]) -> list[Row]:
    """The rows of Table 1, with the profile's settings."""
    subsets = profile.localization.subsets
    return [
        Row("table", method, row_settings(profile, method), drawn(photographs, subsets.get(method)))
        for method in profile.localization.methods
    ]


def trial_rows(profile: Profile, photographs: Sequence[Photograph], activations: Sequence[Activation]) -> list[Row]:
    """What settings are chosen from: every contiguous range of layers, and every other lambda' of the profile."""
    few = tuple(photographs[: profile.localization.ranges])
    settings = row_settings(profile, "perceptual")
    ranges = layer_ranges(activations, profile.localization.granularity)
    changes = [("range", {"layers": layers}) for layers in ranges]
    changes += [("weight", {"layer_weight": weight}) for weight in profile.localization.layer_weights]
    return [
        Row(role, method, settings | change, few)
        for role, change in changes
        for method in ("perceptual", "perceptual_guided")
        if few
    ]


def layer_ranges(activations: Sequence[Activation], granularity: str) -> list[str]:
    """All contiguous ranges "first-last" of activations, or of the stages between which their resolution changes."""
    indices = range(len(activations))
    if granularity == "activation":
        units = [[index] for index in indices]
    else:
        units = [list(stage) for _, stage in itertools.groupby(indices, lambda index: activations[index].shape[1:])]
    return [f"{first[0]}-{last[-1]}" for start, first in enumerate(units) for last in units[start:]]


def row_settings(profile: Profile, method: str) -> dict[str, Any]:
    """The settings of a method's shards: the profile's for the paper's own, whose maps are kept without a blur."""
    changed = profile.methods.get(method, {}) | profile.localization.settings.get(method, {})
    if method not in PERTURBATIONS:
        return changed
    held = {"layers": [], "max_iter": 200, "layer_weight": 0.0} if method == "no_perceptual" else {}
    return profile.settings | held | {name: value for name, value in changed.items() if name not in ("sigma", "root")}


def drawn(photographs: Sequence[Photograph], count: int | None) -> tuple[Photograph, ...]:
    """All photographs, or so many of them drawn with a fixed seed, in their order."""
    if count is None or count >= len(photographs):
        return tuple(photographs)
    return tuple(photographs[index] for index in sorted(random.Random(0).sample(range(len(photographs)), count)))


class Localization:
    """Weak localisation of a profile (Sec. 4.2).

    Args:
        profile: what is computed.
        store: folder of the finished shards.
        executor: what computes; None for this process.
        limit: only the profile's first so many photographs.
        only: only these methods; none for all.
        report: see `Run`.

    Raises:
        InputError: photographs that are missing or have no boxes; a method, or a setting of one, that is not known.
    """

    def __init__(
        self,
        profile: Profile,
        store: Path = STORE,
        executor: Executor | None = None,
        *,
        limit: int | None = None,
        only: Sequence[str] = (),
        report: Callable[[Shard, str], None] = lambda *_: None,
    ) -> None:
        self.profile = profile
        self.photographs = profile.load_photographs()[:limit]
        without = [photograph.name for photograph in self.photographs if not photograph.boxes]
        if without:
            raise InputError(f"{without[0]} has no boxes: weak localisation needs photographs with boxes.")
        for method in (*only, *profile.localization.methods, *profile.localization.subsets, *profile.methods):
            known = find_method(method).settings
            if unknown := sorted(profile.methods.get(method, {}).keys() - known.keys()):
                raise InputError(f"{method} has no setting {unknown[0]!r}; it has {', '.join(known) or 'none'}.")
        self.only = only
        self.run = Run(Store(store), executor or Local(profile.classifier.model_dump()), report)

    @cached_property
    def rows(self) -> list[Row]:
        """Everything that is compared. Raises InputError where that is nothing."""
        rows = table_rows(self.profile, self.photographs)
        rows += trial_rows(self.profile, self.photographs, self.run.ask("activations"))
        rows = [row for row in rows if not self.only or row.method in self.only]
        if not rows:
            raise InputError(f"profile {self.profile.name} has no row of {' or '.join(self.only) or 'any method'}.")
        return rows

    @cached_property
    def shards(self) -> list[tuple[Row, Shard]]:
        """The shards of scores, each of which needs one of maps."""
        height, width = self.run.network["input_size"]
        maps: dict[str, Shard] = {}  # two rows share what has the same key
        scored = []
        for row in self.rows:
            for shard in row.map_shards(self.profile.batch_size):
                boxes = [photograph.scaled_boxes(height, width) for photograph in shard.photographs]
                arguments = {
                    "array": PERTURBATIONS.get(row.method, "maps"),
                    "sigmas": self.profile.localization.sigmas,
                    "by_image": {"boxes": boxes},
                }
                needs = maps.setdefault(self.run.key(shard), shard)
                scored.append(
                    (row, Shard("localization", arguments, shard.photographs, False, needs, f"score {row.name}"))
                )
        return scored

    @property
    def all_shards(self) -> list[Shard]:
        """Maps, then scores."""
        scores = [shard for _, shard in self.shards]
        return [*dict.fromkeys(shard.needs for shard in scores), *scores]

    @property
    def unfinished(self) -> list[Shard]:
        """Those that `complete` would compute."""
        return self.run.unfinished([shard for _, shard in self.shards])

    def complete(self) -> None:
        """Compute what is not finished."""
        self.run.complete([shard for _, shard in self.shards])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line for each row, photograph and blur, of all shards that are finished.

        role, method, settings (JSON) of the row; sigma; photograph; selection, whether settings are chosen on it;
        failure, "" or why there is no result; seconds that its map took; hits, (250,) bool for the `THRESHOLDS`, none
        where it failed.
        """
        lines = [line for row, shard in self.shards for line in self._lines(row, shard)]
        return pd.DataFrame(lines, columns=COLUMNS)

    def maps(self, method: str) -> dict[str, np.ndarray]:
        """The maps (H, W) of a method's row of Table 1, not blurred, by photograph; computed where they are missing."""
        shards = self._table_shards(method)
        self.run.complete([shard.needs for shard in shards])
        found = {}
        for shard in shards:
            arrays = self.run.load(shard.needs)
            names = [photo.name for photo, why in zip(shard.photographs, arrays["failure"], strict=True) if not why]
            found |= zip(names, arrays.get(shard.arguments["array"], np.empty(0)).astype(np.float32), strict=True)
        return found

    def seconds(self, method: str) -> float:
        """Mean time that a map of a method's row of Table 1 took, of those that are finished."""
        finished = [self.run.load(shard.needs) for shard in self._table_shards(method)]
        return float(np.mean([second for arrays in finished if arrays for second in arrays["seconds"]]))

    def _table_shards(self, method: str) -> list[Shard]:
        return [shard for row, shard in self.shards if (row.role, row.method) == ("table", method)]

    def _lines(self, row: Row, shard: Shard) -> Iterator[tuple]:
        arrays, maps = self.run.load(shard), self.run.load(shard.needs)
        if arrays is None or maps is None:
            return
        settings = json.dumps(row.settings, sort_keys=True)
        selection = self.photographs[: self.profile.localization.selection]
        hits = iter(is_hit(arrays["iou"]) if "iou" in arrays else ())  # none where all images failed
        columns = (shard.photographs, arrays["failure"].tolist(), maps["seconds"].tolist())
        for photograph, failure, seconds in zip(*columns, strict=True):
            of_image = [None] * len(self.profile.localization.sigmas) if failure else next(hits)
            about = photograph.name, photograph in selection, failure, round(seconds, 3)
            for sigma, hit in zip(self.profile.localization.sigmas, of_image, strict=True):
                yield row.role, row.method, settings, sigma, *about, hit

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the table, as JSON."""
        maps = self.table.drop_duplicates(["method", "settings", "photograph"])
        computed = maps.replace({"method": dict.fromkeys(PERTURBATIONS, "perturbation")})  # which share their maps
        computed = computed.drop_duplicates(["method", "settings", "photograph"])
        failed = maps.loc[maps.failure != "", ["method", "settings", "photograph", "failure"]]
        images = [(photograph.name, digest(photograph)) for photograph in self.photographs]
        return {
            "experiment": "localization",
            "profile": self.profile.model_dump(mode="json"),
            "network": self.run.network,
            "machine": self.run.ask("machine"),
            "versions": versions(),
            "code": code_digest("perceptual_lib.experiments", "perceptual_lib.explainers"),
            "photographs": {"n": len(images), "sha256": hashlib.sha256(repr(images).encode()).hexdigest()},
            "seeds": {"subsets": 0, "methods": 0},
            "failures": failed.to_dict("records"),
            "seconds": round(float(computed.seconds.sum())),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def publish(table: pd.DataFrame, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a table and its manifest: `folder`/EXPERIMENT.parquet and .json. Raises InputError where it cannot."""
    path = folder / manifest["experiment"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path.with_suffix(".parquet"), compression="zstd", index=False)
        path.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"the results cannot be written into {folder}: {error.strerror or error}.") from error


def published(folder: Path, experiment: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What `publish` wrote. Raises InputError where there is nothing."""
    path = Path(folder) / experiment
    try:
        manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return pd.read_parquet(path.with_suffix(".parquet")), manifest
    except (OSError, ValueError) as error:
        raise InputError(
            f"there are no results of {experiment} in {folder}: run it, or fetch the repository."
        ) from error
