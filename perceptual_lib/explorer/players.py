"""Players of finished experiments: what a figure shows at once, step by step and side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import traitlets
from torch import Tensor

from perceptual_lib.classifiers import Classifier
from perceptual_lib.errors import InputError
from perceptual_lib.experiments import Experiment, InsertionDeletion, Localization, Randomization
from perceptual_lib.experiments.insertion_deletion import DECIMALS
from perceptual_lib.explorer.widget import Chunk, Widget, array_chunk, picture_chunk
from perceptual_lib.images import Photograph
from perceptual_lib.protocols.insertion_deletion import GAMES, SIGMA, _ranks, auc, impulse_blur
from perceptual_lib.saliency import gaussian_blur, saliency_map
from perceptual_lib.tables import trials
from perceptual_lib.tables.general import layer_range
from perceptual_lib.tables.randomization import randomization_curves

PHOTOGRAPHS = 4  # a page shall stay light
LOOK = 2.0  # pixels: the blur of maps that are looked at, as in Fig. 7 of the book


class InsertionDeletionPlayer(Widget):
    """The insertion and deletion games (Sec. 4.3), two maps side by side.

    The pictures are made in the browser, from the step at which each pixel changes.

    Args:
        experiment: finished.
        classifier: what the games are played on.
        photographs: those to choose from; None for the experiment's. Of them the first that every map plays with.

    Raises:
        InputError: there is none.

    Attributes:
        photograph: its name.
        left, right: rows of Table 2, such as "perceptual, sigma 5".
        game: "deletion" or "insertion".
        step: how many times pixels have changed.
    """

    source = "games"
    photograph = traitlets.Unicode().tag(sync=True)
    left = traitlets.Unicode().tag(sync=True)
    right = traitlets.Unicode().tag(sync=True)
    game = traitlets.Enum(["deletion", "insertion"], "deletion").tag(sync=True)
    step = traitlets.Int(3).tag(sync=True)

    def __init__(
        self,
        experiment: InsertionDeletion,
        classifier: Classifier,
        photographs: Sequence[Photograph] | None = None,
    ) -> None:
        table = experiment.table[experiment.table.role == "table"]
        keys = list(table[["method", "sigma"]].drop_duplicates().itertuples(index=False, name=None))
        self.rows = {f"{method}, sigma {sigma:g}": (method, sigma) for method, sigma in keys}
        self.shown = _explained(experiment, table, photographs)
        self.experiment, self.maps = experiment, {}
        inputs = classifier.preprocess(self.shown.values())
        self.pictures = _named(self.shown, classifier.pixels(inputs))
        self.blurred = _named(self.shown, classifier.pixels(impulse_blur(inputs, SIGMA)))
        grey = classifier.pixels(torch.zeros_like(inputs[:1]))[0, 0, 0]
        lines = table.set_index(["photograph", "method", "sigma"])
        curves = {
            name: {
                row: {game: _curve(lines.at[(name, *key), game]) for game in GAMES} for row, key in self.rows.items()
            }
            for name in self.shown
        }
        about = {
            "photographs": _labels(self.shown, classifier),
            "rows": list(self.rows),
            "size": classifier.input_size,
            "grey": (255 * grey).tolist(),
            "pixels": experiment.section.step,
            "curves": curves,
        }
        ours = [row for row, (method, _) in self.rows.items() if method == "perceptual"]
        left = [*ours, *self.rows][0]
        right = [*(row for row in self.rows if self.rows[row][0] != self.rows[left][0]), left][0]
        super().__init__(about=about, photograph=next(iter(self.shown)), left=left, right=right)

    def keys_at_hand(self) -> Iterator[str]:
        for name in self.shown:
            yield from (f"picture/{name}", f"blurred/{name}", *(f"steps/{name}/{row}" for row in self.rows))

    def chunk(self, key: str) -> Chunk:
        match key.split("/"):
            case ["picture", name] if name in self.shown:
                return picture_chunk(self.pictures[name])
            case ["blurred", name] if name in self.shown:
                return picture_chunk(self.blurred[name])
            case ["steps", name, row] if name in self.shown and row in self.rows:
                return array_chunk(self.steps(name, row))
        raise InputError(f"there is no {key}.")

    def steps(self, name: str, row: str) -> np.ndarray:
        """The step at which each pixel changes, (H, W) from 1: the game's own order."""
        method, sigma = self.rows[row]
        if method not in self.maps:
            maps = self.experiment.maps(method)
            self.maps[method] = {each: torch.from_numpy(maps[each]) for each in self.shown}
        ranks = _ranks(impulse_blur(self.maps[method][name], sigma))
        return 1 + ranks.numpy() // self.experiment.section.step


class CascadePlayer(Widget):
    """The sanity check (Sec. 4.5): maps while the network forgets, layer after layer, with the first random seed.

    Args:
        experiment: finished.
        classifier: the trained network.
        table: of the run whose mean correlation is drawn, such as a published one; None for the experiment's own. Of
            another network's stages there is nothing to draw.
        photographs: those to choose from; None for the experiment's. Of them the first that every method explained.

    Raises:
        InputError: there is none.

    Attributes:
        photograph, method: their names.
        stage: how many layers are forgotten.
    """

    source = "cascade"
    photograph = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    stage = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        experiment: Randomization,
        classifier: Classifier,
        table: pd.DataFrame | None = None,
        photographs: Sequence[Photograph] | None = None,
    ) -> None:
        own = experiment.table[experiment.table.seed == 0]
        methods = list(own.method.unique())
        stages = ["trained", *own[own.stage > 0].sort_values("stage").layer.unique()]
        self.shown = _explained(experiment, own, photographs)
        self.experiment, self.maps, self.methods = experiment, {}, methods
        self.pictures = _named(self.shown, classifier.pixels(classifier.preprocess(self.shown.values())))
        lines = own.sort_values("stage").groupby(["photograph", "method"])
        about = {
            "photographs": _labels(self.shown, classifier),
            "methods": methods,
            "size": classifier.input_size,
            "stages": stages,
            "measures": {
                name: {
                    method: lines.get_group((name, method))[["correlation", "ssim"]].to_dict("list")
                    for method in methods
                }
                for name in self.shown
            },
            "run": "this page's run" if table is None else "the published run",
            "means": {
                method: {
                    "value": curve.value.tolist(),
                    "low": curve.low.tolist(),
                    "high": curve.high.tolist(),
                    "n": curve.n,
                }
                for method, (names, curve) in randomization_curves(experiment.table if table is None else table).items()
                if names == stages
            },
        }
        super().__init__(about=about, photograph=next(iter(self.shown)), method=methods[0])

    def keys_at_hand(self) -> Iterator[str]:
        for name in self.shown:
            yield from (f"picture/{name}", *(f"maps/{name}/{method}" for method in self.methods))

    def chunk(self, key: str) -> Chunk:
        match key.split("/"):
            case ["picture", name] if name in self.shown:
                return picture_chunk(self.pictures[name])
            case ["maps", name, method] if name in self.shown and method in self.methods:
                return picture_chunk(tiles(visible(self.stages(name, method))))
        raise InputError(f"there is no {key}.")

    def stages(self, name: str, method: str) -> np.ndarray:
        """The maps (stages, H, W), blurred to be looked at."""
        if method not in self.maps:
            maps = self.experiment.maps(method, seed=0)
            self.maps[method] = {each: maps[each] for each in self.shown}
        return gaussian_blur(torch.from_numpy(self.maps[method][name]), LOOK).numpy()


class SensitivityMap(Widget):
    """The triangle of Fig. 5: the map of each range of layers, and how well it localises (Sec. 4.2).

    Args:
        experiment: finished, of a profile with ranges.
        classifier: the network.

    Raises:
        InputError: no ranges, or no photograph that every range explained.

    Attributes:
        photograph: its name.
        layers: the first and the last that are held, "0-25".
    """

    source = "sensitivity"
    photograph = traitlets.Unicode().tag(sync=True)
    layers = traitlets.Unicode().tag(sync=True)

    def __init__(self, experiment: Localization, classifier: Classifier) -> None:
        tried = experiment.table[experiment.table.method == "perceptual"]
        tried = tried[tried.photograph.isin(tried[tried.role == "range"].photograph)]
        if not {"range", "table"} <= set(tried.role):
            raise InputError(
                f"profile {experiment.profile.name} tries no ranges of layers: set localization.ranges, and let its "
                "methods be all or have perceptual among them."
            )
        self.experiment, self.maps = experiment, {}
        self.shown = _explained(experiment, tried, None)
        self.pictures = _named(self.shown, classifier.pixels(classifier.preprocess(self.shown.values())))
        own = tried[tried.role == "table"].settings.iloc[0]
        ranges = tried[tried.role == "range"].settings.unique()
        self.rows = {_layers(own): ("table", own)} | {_layers(each): ("range", each) for each in ranges}
        about = {
            "photographs": _labels(self.shown, classifier),
            "boxes": {name: photograph.scaled_boxes(*classifier.input_size) for name, photograph in self.shown.items()},
            "size": classifier.input_size,
            "sigma": experiment.profile.sigma,
            "own": _layers(own),
            "ranges": _ranges(tried),
        }
        super().__init__(about=about, photograph=next(iter(self.shown)), layers=_layers(own))

    def keys_at_hand(self) -> Iterator[str]:
        for name in self.shown:
            yield from (f"picture/{name}", *(f"map/{name}/{layers}" for layers in self.rows))

    def chunk(self, key: str) -> Chunk:
        match key.split("/"):
            case ["picture", name] if name in self.shown:
                return picture_chunk(self.pictures[name])
            case ["map", name, layers] if name in self.shown and layers in self.rows:
                return picture_chunk(tiles(visible(self.map(name, layers)[None])))
        raise InputError(f"there is no {key}.")

    def map(self, name: str, layers: str) -> np.ndarray:
        """(H, W), blurred as in the figures."""
        if layers not in self.maps:
            role, settings = self.rows[layers]
            self.maps[layers] = self.experiment.maps("perceptual", role=role, settings=settings)
        return gaussian_blur(torch.from_numpy(self.maps[layers][name]), self.experiment.profile.sigma).numpy()


class OptimisationPlayer(Widget):
    """Two searches from step to step (Sec. 3.3): the change, the margin, and the picture as the network sees it.

    Args:
        classifier: the network.
        photographs: those of the paths, or the first of them.
        paths: by name, two of `perturbation_path`: (steps + 1, B, C, H, W), the perceptual one last.
        margins: by the same names, at each step: (steps + 1, B); what follows the last step is left out.

    Attributes:
        photograph: its name.
        step: of the optimiser; about twenty of them are kept.
        magnification: of the change in the picture, whose brightness is kept well and its colours coarsely.
    """

    source = "optimisation"
    photograph = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int(3).tag(sync=True)
    magnification = traitlets.Int(1).tag(sync=True)

    def __init__(
        self,
        classifier: Classifier,
        photographs: Sequence[Photograph],
        paths: Mapping[str, Tensor],
        margins: Mapping[str, np.ndarray],
    ) -> None:
        self.shown = {photograph.name: photograph for photograph in photographs}
        self.pictures = _named(self.shown, classifier.pixels(classifier.preprocess(photographs)))
        steps = kept_steps(max(map(len, paths.values())) - 1)
        own_steps = {name: sorted({min(step, len(path) - 1) for step in steps}) for name, path in paths.items()}
        self.paths = {name: path[own_steps[name]].cpu() for name, path in paths.items()}
        self.spread = classifier.std
        about = {
            "photographs": _labels(self.shown, classifier),
            "size": classifier.input_size,
            "steps": steps,
            "paths": {
                path: {
                    "steps": own_steps[path],
                    "margins": {name: values[: len(paths[path]), row].tolist() for row, name in enumerate(self.shown)},
                    "sizes": self._by_photograph(path, lambda change: change.square().mean((1, 2, 3)).sqrt()),
                    "limits": self._by_photograph(path, self.limits),
                }
                for path, values in margins.items()
            },
        }
        super().__init__(about=about, photograph=next(iter(self.shown)))

    def _by_photograph(self, path: str, measure: Callable[[Tensor], Tensor]) -> dict[str, list[float]]:
        """Of changes (steps, C, H, W) one number a step."""
        return {name: measure(self.paths[path][:, row]).tolist() for row, name in enumerate(self.shown)}

    def limits(self, change: Tensor) -> Tensor:
        """What all but 0.1 % of the changes (steps, C, H, W) stay below, in units of a picture in [0, 1]: (steps,)."""
        return (change * self.spread).abs().flatten(1).quantile(0.999, dim=1)

    def keys_at_hand(self) -> Iterator[str]:
        for name in self.shown:
            yield f"picture/{name}"
            for path in self.paths:
                yield from (f"sizes/{name}/{path}", f"changes/{name}/{path}")

    def chunk(self, key: str) -> Chunk:
        match key.split("/"):
            case ["picture", name] if name in self.shown:
                return picture_chunk(self.pictures[name])
            case ["sizes", name, path] if name in self.shown and path in self.paths:
                maps = saliency_map(self.change(name, path), LOOK).numpy()
                return picture_chunk(tiles(visible(maps, together=True)))
            case ["changes", name, path] if name in self.shown and path in self.paths:
                change = self.change(name, path)
                limits = self.limits(change).clamp(min=1e-12)[:, None, None, None]
                return picture_chunk(tiles((0.5 + change * self.spread / limits / 2).permute(0, 2, 3, 1).numpy()))
        raise InputError(f"there is no {key}.")

    def change(self, name: str, path: str) -> Tensor:
        """The perturbation at the steps that are kept: (steps, C, H, W)."""
        return self.paths[path][:, list(self.shown).index(name)]


def kept_steps(last: int) -> list[int]:
    """Of the steps 0 to `last` the first ten, then fewer and fewer, and the last."""
    later = np.geomspace(10, max(last, 10), 11).round().astype(int)
    return sorted({*range(11), *later.tolist()} & set(range(last + 1)))


def visible(maps: np.ndarray, *, together: bool = False) -> np.ndarray:
    """Maps (N, H, W) scaled to [0, 1] as figures draw them: from the least value to the 99.5 % quantile.

    Args:
        maps: as they come.
        together: whether all have the range of the last one; otherwise each has its own.
    """
    of = maps[-1:] if together else maps
    low, high = of.min((1, 2), keepdims=True), np.quantile(of, 0.995, (1, 2), keepdims=True)
    return np.clip((maps - low) / np.where(high > low, high - low, 1), 0, 1)


def tiles(images: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) or maps (N, H, W) as one picture (rows H, columns W, 3), nearly square, row by row.

    One file holds them all, and a slider has nothing to wait for.
    """
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, -1)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    padded = np.zeros((rows * columns, *images.shape[1:]), np.float32)
    padded[: len(images)] = images
    height, width = images.shape[1:3]
    return padded.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _explained(
    experiment: Experiment, table: pd.DataFrame, photographs: Sequence[Photograph] | None
) -> dict[str, Photograph]:
    """By name, the first photographs that every row of the table has without a failure."""
    pictures = {picture.name: picture for picture in experiment.pictures}
    rows = table.assign(row=table.role + table.method + table.settings)
    explained = rows[rows.failure == ""].groupby("photograph").row.nunique()
    names = pictures if photographs is None else dict.fromkeys(photograph.name for photograph in photographs)
    found = [name for name in names if explained.get(name, 0) == rows.row.nunique()][:PHOTOGRAPHS]
    if not found:
        raise InputError(f"there is no photograph that every row of {experiment.name} explained.")
    return {name: pictures[name] for name in found}


def _named(shown: Mapping[str, Photograph], pixels: Tensor) -> dict[str, np.ndarray]:
    """Pictures (B, H, W, 3) by name."""
    return dict(zip(shown, pixels.numpy(), strict=True))


def _labels(shown: Mapping[str, Photograph], classifier: Classifier) -> list[dict[str, str]]:
    """What a choice of photographs offers: their names, with the class where it is known."""
    labels = []
    for name, photograph in shown.items():
        known = "" if photograph.target is None else f" ({classifier.class_name(photograph.target)})"
        labels.append({"value": name, "text": name + known})
    return labels


def _curve(probabilities: np.ndarray) -> dict[str, object]:
    """A curve (n,) of the table, and the area under it."""
    values = probabilities.astype(np.float64).round(DECIMALS)
    return {"values": values.tolist(), "area": float(auc(values))}


def _layers(settings: str) -> str:
    """What a row's settings (JSON) hold: "0-25"."""
    first, last = layer_range(settings)
    return f"{first}-{last}"


def _ranges(tried: pd.DataFrame) -> list[dict[str, object]]:
    """The ranges that were tried and the profile's own: layers, first, last, n and the errors `value` and `best`."""
    errors = trials(tried, "value").assign(best=trials(tried, "best").error).rename(columns={"error": "value"})
    errors = errors[errors.role != "weight"].sort_values(["first", "last"])
    errors["layers"] = [f"{first}-{last}" for first, last in zip(errors["first"], errors["last"], strict=True)]
    lines = errors.sort_values("role", kind="stable")  # "range" before "table"
    return lines.drop_duplicates("layers")[["layers", "role", "first", "last", "n", "value", "best"]].to_dict("records")
