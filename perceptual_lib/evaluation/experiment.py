"""What experiments have in common: profile -> shards -> a table and its manifest."""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from perceptual_lib.core.errors import InputError
from perceptual_lib.core.settings import Settings
from perceptual_lib.evaluation.games import GAMES, STORE
from perceptual_lib.evaluation.profile import Profile
from perceptual_lib.evaluation.publishing import failures
from perceptual_lib.evaluation.rows import Row, check_layers, draw_subset, layer_ranges
from perceptual_lib.evaluation.sections import ClassifierSection
from perceptual_lib.methods import find_method
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.executors import Executor, Local
from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard, code_digest, digest, versions
from perceptual_lib.runs.store import Store

Piece = tuple[dict[str, Any], Shard]
"""A shard of scores, and the columns that its lines in the table begin with."""


class Experiment(ABC):
    """A game, played as a profile says. A subclass adds what is specific to its game.

    Finished shards are kept in the folder `store`; the executor (None for this process) computes the others. `limit`
    restricts the game to the first so many pictures, `only` to these methods. Raises InputError for a profile that
    lacks the experiment, for photographs that are missing or have no boxes, and for an unknown method or setting.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Of the table: those of a piece, `unit`, selection, failure and seconds; and arrays of a shard of scores, which
    have for each picture a row for each of its `cases`."""
    looks: ClassVar[bool] = False  #: whether scores need the pictures, and not only the maps
    range_methods: ClassVar[tuple[str, ...]] = ("perceptual",)  #: methods tried with ranges of layers
    unit: ClassVar[str] = "photograph"

    def __init__(
        self,
        profile: Profile,
        store: Path = STORE,
        executor: Executor | None = None,
        *,
        limit: int | None = None,
        only: Sequence[str] = (),
    ) -> None:
        self.profile, self.only = profile, only
        self.section = section = getattr(profile, self.name)
        if section is None:
            raise InputError(f"profile {profile.name} has no {self.name}: add that section to it.")
        self.pictures: list[Any] = self.load()[: section.pictures][:limit]
        by_method = [getattr(section, name, ()) for name in ("settings", "subsets", "grey", "smooth", "sigmas")]
        named = (each for names in by_method for each in names if isinstance(each, str))
        absent = itertools.chain(*getattr(section, "without", {}).values())
        for method in (*only, *named, *absent, *profile.methods, *section.methods):
            self.settings(method)  # raises what is wrong with one, before the network is loaded
        self.kind = f"{__package__}.{self.name}.protocol"  # its `compute` scores maps, or makes and scores them
        self.run = Run(Store(store), executor or Local(self.classifier(profile).model_dump()))
        said = [self.settings(name) for name in section.methods]
        named = [each[key] for each in said for key in ("layers", "layer") if key in each]
        for layers in (*named, *getattr(section, "layers", {}).values()):
            check_layers(layers, self.run.ask("activations"), self.run.ask("modules"))

    @classmethod
    def classifier(cls, profile: Profile) -> ClassifierSection:
        """The network that is explained."""
        return profile.classifier

    @classmethod
    def lacks(cls, _profile: Profile) -> list[str] | None:
        """One sentence for each missing part of the game's own pictures; None if it is played on the profile's."""
        return None

    def load(self) -> list[Photograph]:
        """The pictures that the game is played on. Raises InputError if one has no boxes."""
        photographs = self.profile.load_photographs()
        if without := [photograph.name for photograph in photographs if not photograph.boxes]:
            raise InputError(f"{without[0]} has no boxes: {self.name} needs photographs with boxes.")
        return photographs

    def first(self, count: int) -> tuple[Any, ...]:
        """The first `count` pictures, on which settings are chosen."""
        return tuple(self.pictures[:count])

    def asked_ranges(self, layers: str = "") -> tuple[Any, ...]:
        """The pictures that ranges of layers are tried on, or one of them."""
        count = self.section.range_pictures.get(layers, self.section.ranges)
        return self.first(count)[len(self.first(self.section.ranges_after)) :]

    @property
    def rows(self) -> list[Row]:
        """All rows that are compared: those of the table, then the trials of ranges of layers."""
        return [*self.table_rows(), *self.range_rows()]

    def table_rows(self) -> list[Row]:
        """The rows of the paper's table, with the profile's settings."""
        return [
            Row("table", method, self.settings(method), draw_subset(self.pictures, self.section.subsets.get(method)))
            for method in self.section.methods
        ]

    def range_rows(self) -> list[Row]:
        """The trials from which layers are chosen (Fig. 5): each holds one contiguous range of layers."""
        if not self.asked_ranges():
            return []
        ranges = layer_ranges(self.run.ask("activations"), self.section.granularity)
        if unknown := self.section.range_pictures.keys() - ranges:
            raise InputError(f"range_pictures names {min(unknown)}, which is no range of {', '.join(ranges)}.")
        each_method = itertools.product(ranges, self.range_methods)
        return [self.tried("range", method, self.asked_ranges(each), layers=each) for each, method in each_method]

    def tried(self, role: str, method: str, few: tuple[Any, ...], **changed: Any) -> Row:
        """A trial: a row on `few` pictures, with the settings of "perceptual" except for those `changed`."""
        return Row(role, method, self.settings("perceptual") | changed, few)

    def settings(self, name: str) -> dict[str, Any]:
        """The settings of a method's row in the table: what the profile sets; for our own methods every hyperparameter.

        Our own methods get no sigma, as their maps are kept without a blur. Raises InputError for a setting that is
        unknown, missing, out of range, or not for a profile to set.
        """
        method = find_method(name)
        changed = self.profile.given(self.name, name)
        if unknown := sorted(changed.keys() - method.settings.keys()):
            known = ", ".join(method.settings) or "none"
            raise InputError(f"{name} has no setting {unknown[0]!r}; it has {known}.")
        method.check(changed)
        if not method.ours:
            return changed
        free = {"layers": [], "layer_weight": 0.0, "max_iter": Settings.max_iter} if name == "no_perceptual" else {}
        held = self.profile.settings | free
        if ignored := sorted(changed.keys() - held.keys() - {"sigma"}):
            raise InputError(f"a profile cannot set {ignored[0]} of {name} in a game; it can set {', '.join(held)}.")
        if "layers" not in {*self.profile.perturbation.model_fields_set, *free, *changed}:
            raise InputError(f"{name} holds layers: say which in perturbation.layers, as 0-25, or [] for none.")
        held |= {name: value for name, value in changed.items() if name in held}
        Settings(**held)  # raises InputError for a value out of range
        return held

    def shards_of(self, row: Row) -> Iterator[Shard]:
        """The shards that score a row, each on a few pictures."""
        for maps in row.map_shards(self.profile.batch_size):
            yield self.score(maps, self.arguments(row, maps.photographs))

    def arguments(self, row: Row, photographs: Sequence[Photograph]) -> dict[str, Any]:
        """Arguments for scoring the maps of a row; `by_image` has each photograph's boxes in the frame of its map."""
        height, width = self.run.network["input_size"]
        boxes = [photograph.scaled_boxes(height, width) for photograph in photographs]
        return {"array": row.array, "by_image": {"boxes": boxes}}

    def score(self, maps: Shard, arguments: Mapping[str, Any], passes: tuple[int, int] = (0, 0)) -> Shard:
        """The shard that scores a shard of maps."""
        label = f"{self.name} of {maps.label}"
        return Shard(self.kind, arguments, maps.photographs, self.looks, maps, label, passes)

    def cases(self, shard: Shard, picture: Any) -> dict[str, Sequence[Any]]:
        """Columns (cases,) that tell apart the lines of a picture within a piece: unless overridden, the blurs."""
        return {"sigma": shard.arguments["sigmas"]}

    @abstractmethod
    def overview(self) -> dict[str, pd.DataFrame]:
        """The paper's tables by title, or ours where it has none, from `table`, which must have a line or more."""

    @cached_property
    def pieces(self) -> list[Piece]:
        """All shards of scores, with the columns of their lines. Raises InputError if there are none."""
        rows = [row for row in self.rows if not self.only or row.method in self.only]
        pieces = [(row.about, shard) for row in rows for shard in self.shards_of(row)]
        if not pieces:
            count, methods = len(self.pictures), " or ".join(self.only) or "any method"
            where = f"on {count} {self.unit}{'s' * (count != 1)}"
            raise InputError(f"profile {self.profile.name} has no row of {methods} {where}.")
        return pieces

    @property
    def shards(self) -> list[Shard]:
        """All shards: first those of maps, then those of scores."""
        return [*self.run.with_needed([shard for _, shard in self.pieces]).values()]

    @property
    def unfinished(self) -> list[Shard]:
        """The shards that `complete` would compute."""
        return self.run.unfinished([shard for _, shard in self.pieces])

    def complete(self) -> None:
        """Compute what is not finished."""
        vars(self).pop("table", None)  # the cached one lacks what is computed now
        self.run.complete([shard for _, shard in self.pieces])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One line or more for each picture of each finished shard.

        selection says whether settings are chosen on the picture; failure why it has no result, "" if it has one;
        seconds how long its maps took.
        """
        chosen = {picture.name for picture in self.first(self.section.selection)}
        rows = []  # one for each picture of each shard; a value that differs from line to line is a sequence
        for about, shard in self.pieces:
            arrays = self.run.load(shard)
            maps = arrays if shard.needs is None else self.run.load(shard.needs)
            if arrays is None or maps is None:
                continue
            scores = {name: iter(array) for name, array in arrays.items()}
            facts = zip(shard.photographs, arrays["failure"].tolist(), maps["seconds"].tolist(), strict=True)
            for picture, failure, seconds in facts:
                own = {"selection": picture.name in chosen, "failure": failure, "seconds": round(seconds, 3)}
                cases = self.cases(shard, picture)
                row = about | {self.unit: picture.name} | own | cases
                nothing = [None] * len(next(iter(cases.values())))
                missing = [name for name in self.columns if name not in row]
                found = {name: nothing if failure or name not in scores else next(scores[name]) for name in missing}
                rows.append(row | found)
        table = pd.DataFrame(rows, columns=list(self.columns))
        if not rows:
            return table
        table = table.explode([*cases, *found], ignore_index=True).infer_objects()
        samples = {name: next(iter(table[name].dropna()), None) for name in found}
        return table.astype({name: float for name, sample in samples.items() if np.ndim(sample) == 0})

    def maps(
        self, method: str, names: Collection[str] | None = None, array: str | None = None, **about: Any
    ) -> dict[str, np.ndarray]:
        """The unblurred maps (..., H, W) of a method's row of the table, by picture; missing ones are computed.

        `array` names another array of their shards to return instead. `names` selects pictures, None all; `about` are
        further columns that identify the row.
        """
        wanted = {"role": "table", "method": method} | about
        found = {}
        for piece, shard in self.pieces:
            asked = names is None or any(picture.name in names for picture in shard.photographs)
            if asked and wanted.items() <= piece.items():
                found |= self.explained(shard.needs or shard, array or shard.arguments.get("array", "maps"))
        return {name: each for name, each in found.items() if names is None or name in names}

    def explained(self, shard: Shard, array: str) -> dict[str, np.ndarray]:
        """One array of a shard, by name of each picture that did not fail. A shard that is missing is computed."""
        if (arrays := self.run.load(shard)) is None:
            self.run.complete([shard])
            arrays = self.run.load(shard)
        names = np.array([picture.name for picture in shard.photographs], dtype=object)
        values = arrays.get(array, np.empty(0)).astype(np.float32)
        return dict(zip(names[arrays["failure"] == ""], values, strict=True))

    def seconds(self, method: str) -> float:
        """Mean seconds for a map of a method's row of the table, over the finished ones."""
        lines = self.table[(self.table.role == "table") & (self.table.method == method)]
        row = lines.columns.intersection([self.unit, "settings", "scale", "seed"])
        return float(lines.drop_duplicates(row).seconds.mean())

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the table, as JSON. Its seconds are those of workers, with maps shared by other experiments."""
        images = [(picture.name, digest(picture)) for picture in self.pictures]
        return {
            "experiment": self.name,
            "profile": self.profile.model_dump(mode="json", exclude=set(GAMES) - {self.name}),
            "network": self.run.network,
            "machine": self.run.ask("machine"),
            "versions": versions(),
            "code": code_digest(type(self).__module__, self.kind, "perceptual_lib.methods"),
            f"{self.unit}s": {"sha256": hashlib.sha256(repr(images).encode()).hexdigest()},
            "seeds": {"subsets": 0, "methods": 0},
            "failures": failures(self.table, self.unit),
            "unfinished": len(self.unfinished),
            "seconds": round(sum(float(each["seconds"].sum()) for each in map(self.run.load, self.shards) if each)),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }
