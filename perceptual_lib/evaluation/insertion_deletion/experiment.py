"""The insertion and deletion games (Sec. 4.3): Table 2, Fig. 5, middle, and Fig. 6."""

from collections.abc import Iterator
from typing import Any

from perceptual_lib.evaluation.experiment import Experiment, Piece
from perceptual_lib.evaluation.insertion_deletion.protocol import GAMES
from perceptual_lib.evaluation.rows import PERTURBATIONS, Row, range_rows, table_rows
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Arrays

DECIMALS = 4  # of a probability: more would be noise of the last bits, and most of the file


class InsertionDeletion(Experiment):
    """Roles are "table" for Table 2, "range" for ranges of layers, "sweep" for more blurs of perceptual's maps.

    Insertion and deletion of the table are the curves (n,) of probabilities, none where it failed.
    """

    name = "insertion_deletion"
    columns = tuple("role method settings sigma photograph selection failure seconds insertion deletion".split())

    def all_pieces(self) -> Iterator[Piece]:
        arguments = self.profile, self.section, self.pictures
        table = table_rows(*arguments)
        for row in table:
            yield from self._games(row, self.section.sigmas.get(row.method, [0.0]))
        for row in range_rows(*arguments, self.run.ask("activations")):
            yield from self._games(row, self.section.range_sigmas)
        few = tuple(self.pictures[: self.section.swept])
        for row in table:
            if row.method == "perceptual" and few and self.section.sweep:
                yield from self._games(Row("sweep", row.method, row.settings, few), self.section.sweep)

    def _games(self, row: Row, sigmas: list[float]) -> Iterator[Piece]:
        array = PERTURBATIONS.get(row.method, "maps")
        arguments = {"array": array, "sigmas": sigmas, "step": self.section.step}
        for maps in row.map_shards(self.profile.batch_size):
            shard = Shard(
                "perceptual_lib.evaluation.insertion_deletion.score",
                arguments,
                maps.photographs,
                needs=maps,
                label=f"games of {row.name}",
                passes=self._passes(len(sigmas)),
            )
            yield row.about, shard

    def _passes(self, blurs: int) -> tuple[int, int]:
        height, width = self.run.network["input_size"]
        steps = -(-height * width // self.section.step)
        return 2 + 2 * blurs * (steps - 1), 0

    def lines(self, shard: Shard, picture: Photograph, arrays: Arrays | None) -> Iterator[dict[str, Any]]:
        sigmas = shard.arguments["sigmas"]
        curves = [(None, None)] * len(sigmas) if arrays is None else arrays["curves"].round(DECIMALS)
        for sigma, of_blur in zip(sigmas, curves, strict=True):
            yield {"sigma": sigma} | dict(zip(GAMES, of_blur, strict=True))
