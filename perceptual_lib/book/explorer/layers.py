"""The explorer of layers, blur and thresholds (Secs. 3, 4.2): on finished maps, on any photograph and network."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch
import traitlets
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from perceptual_lib.book.explorer.widget import Chunk, Widget, array_chunk, picture_chunk
from perceptual_lib.core.activations import network_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.networks import Classifier, load_classifier
from perceptual_lib.evaluation.games import Localization
from perceptual_lib.evaluation.localization.protocol import ALPHAS, THRESHOLDS
from perceptual_lib.evaluation.profile import TABLE_1
from perceptual_lib.evaluation.rows import PERTURBATIONS, layer_ranges
from perceptual_lib.evaluation.tables_face import table_scores, trials
from perceptual_lib.methods import METHODS, explain, find_method
from perceptual_lib.photographs.photographs import Box, Photograph, Source, load_photographs, open_picture

LAYERED = ("perceptual", "perceptual_guided")
OURS = (*LAYERED, "no_perceptual")
MAX_BYTES = 64_000_000  # of an uploaded file
STRATEGIES = ("value", "percent", "mean")


class Cancelled(Exception):
    """The reader no longer wants the map."""


@dataclass(frozen=True)
class Subject:
    """A photograph as the network sees it.

    Attributes:
        images: (1, 3, H, W), normalized.
        target: the class explained.
        boxes: in inclusive pixels of the map, none where they are not known.
    """

    images: Tensor
    target: int
    boxes: Sequence[Box] = ()


class Explorer(Widget):
    """Layers, blur and thresholds on photographs and a network of one's own.

    Maps are computed when they are asked for, off the main thread; the newest request takes the place of an older one.
    The blur, the thresholds, the largest component and its IoU are the browser's work.

    Args:
        classifier: a `Classifier`, or any module from images to logits (taken as by `load_classifier`).
        images: paths of pictures or photographs, or a folder; None for the embedded photographs.
        methods: names of the methods to choose from; None for all of Table 1 and two more.
        maps: maps (H, W) without blur that are there already, by key `map/PHOTOGRAPH/METHOD/LAYERS`.

    Raises:
        InputError: pictures that cannot be read, or an unknown method.
    """

    source = "layers"
    photograph = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode("perceptual").tag(sync=True)
    layers = traitlets.Unicode().tag(sync=True)
    sigma = traitlets.Float(5.0).tag(sync=True)
    strategy = traitlets.Enum(STRATEGIES, "mean").tag(sync=True)
    alpha = traitlets.Float(1.5).tag(sync=True)
    opacity = traitlets.Float(0.7).tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        classifier: nn.Module,
        images: Source | Iterable[Source] | None = None,
        methods: Sequence[str] | None = None,
        *,
        maps: Mapping[str, np.ndarray] | None = None,
        **traits: Any,
    ) -> None:
        self.classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
        self.methods = tuple(TABLE_1 if methods is None else methods)
        for method in self.methods:
            find_method(method)
        self.maps = dict(maps or {})
        self.subjects = {photograph.name: self._subject(photograph) for photograph in _photographs(images)}
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._wanted = ("", Event())
        count = len(self.classifier.activations)
        last = max(0, count * 4 // 5 - 1)
        defaults = {"photograph": next(iter(self.subjects)), "layers": f"0-{last}" if count else ""}
        super().__init__(**(defaults | traits))
        self.about = self._described([[index, index] for index in range(count)], [], {})

    @classmethod
    def of(
        cls, experiment: Localization, classifier: Classifier, published: pd.DataFrame | None = None, limit: int = 4
    ) -> "Explorer":
        """The maps of a finished experiment: those of its table, and of the ranges of layers where it has them.

        It begins with the blur and the threshold that the published table's selection chooses for "perceptual".

        Args:
            experiment: weak localization.
            classifier: its network.
            published: the table that the methods' errors are read from; None for the experiment's own.
            limit: most photographs, the first ones.
        """
        pictures = experiment.pictures[: min(limit, experiment.section.ranges or limit)]
        maps = dict(_finished_maps(experiment, {picture.name for picture in pictures}))
        published = experiment.table if published is None else published
        made = cls(
            classifier,
            pictures,
            experiment.section.methods,
            maps=maps,
            layers=_as_range(experiment.profile.settings["layers"], len(classifier.activations)),
            **_chosen(published),
        )
        tried = trials(experiment.table)
        tried = tried[(tried.role == "range") & (tried.method == "perceptual")]
        ranges = [
            {"layers": f"{row.first}-{row.last}", "first": row.first, "last": row.last, "error": round(row.error, 4)}
            for row in tried.itertuples()
        ]
        units = [list(map(int, each.split("-"))) for each in layer_ranges(classifier.activations, "stage")]
        starts = sorted({first for first, _ in units})
        stages = [[start, min(last for first, last in units if first == start)] for start in starts]
        made.about = made._described(stages, ranges, _errors(published))
        return made

    # What the browser is told

    def _described(self, units: list, ranges: list, errors: Mapping[str, Any]) -> dict[str, Any]:
        first = next(iter(self.subjects.values()))
        return {
            "photographs": [self._photograph(name) for name in self.subjects],
            "methods": [
                {
                    "name": method,
                    "title": method.replace("_", " "),
                    "note": METHODS[method].cost,
                    "layered": method in LAYERED and bool(self.classifier.activations),
                    "ours": method in OURS,
                    "errors": errors.get(method),
                }
                for method in self.methods
            ],
            "size": list(first.images.shape[2:]),
            "activations": len(self.classifier.activations),
            "units": units,
            "ranges": ranges,
            "sigmas": [0, 30],
            "alphas": {
                name: [float(ALPHAS[name][0]), float(ALPHAS[name][-1]), float(ALPHAS[name][0])] for name in STRATEGIES
            },
            "notice": ""
            if self.classifier.activations
            else "This network has no activations that are known here: "
            "nothing can be held, and the perceptual maps are those without the perceptual term.",
        }

    def _photograph(self, name: str) -> dict[str, Any]:
        subject = self.subjects[name]
        return {
            "name": name,
            "title": self.classifier.class_name(subject.target),
            "size": list(subject.images.shape[2:]),
            "boxes": [[round(float(edge), 3) for edge in box] for box in subject.boxes],
        }

    def _subject(self, photograph: Photograph | Image.Image) -> Subject:
        images = self.classifier.preprocess(photograph)
        target = getattr(photograph, "target", None)
        if target is None:
            target = int(_logits(self.classifier, images).argmax(1))
        boxes = photograph.scaled_boxes(*images.shape[2:]) if isinstance(photograph, Photograph) else ()
        return Subject(images, target, boxes)

    def keys_at_hand(self) -> Iterator[str]:
        """The pictures, and the maps that are there."""
        yield from (f"picture/{name}" for name in self.subjects)
        yield from self.maps

    def static_traits(self) -> dict[str, Any]:
        """A page computes nothing: it has the methods and ranges whose maps are there."""
        there = {key.split("/")[2] for key in self.maps}
        methods = [method for method in self.about["methods"] if method["name"] in there]
        return super().static_traits() | {"live": False, "about": self.about | {"methods": methods}}

    def chunk(self, key: str) -> Chunk:
        """Of `picture/PHOTOGRAPH`, or of a map that is there."""
        if key.startswith("picture/"):
            return picture_chunk(self.classifier.pixels(self._known(key.split("/")[1]).images)[0].numpy())
        if key not in self.maps:
            raise InputError(f"there is no map {key.removeprefix('map/')!r} yet.")
        return array_chunk(self.maps[key])

    def _known(self, name: str) -> Subject:
        if name not in self.subjects:
            raise InputError(f"there is no photograph {name!r}; there are {', '.join(self.subjects)}.")
        return self.subjects[name]

    # Live

    def _answer(self, widget: Any, content: dict, buffers: list[bytes]) -> None:
        if "upload" in content:
            self._upload(str(content["upload"]), bytes(buffers[0]) if buffers else b"")
        elif "cancel" in content:
            self._wanted[1].set()
        else:
            super()._answer(widget, content, buffers)

    def reply(self, key: str) -> None:
        """Send what is there; compute, and then send, what is not."""
        if not key.startswith("map/") or key in self.maps:
            return super().reply(key)
        self._wanted[1].set()
        self._wanted = key, Event()
        self._executor.submit(self._compute, *self._wanted)

    def _compute(self, key: str, cancelled: Event) -> None:
        """In a thread of its own, so that a request to stop can be heard."""
        try:
            self.maps[key] = self.compute(key, lambda done: self._report(key, done, cancelled))
        except Cancelled:
            self.send({"key": key, "error": "cancelled"})
        except Exception as error:  # whatever the reader's network raises: the widget goes on working
            self.send({"key": key, "error": str(error) or type(error).__name__})
        else:
            super().reply(key)

    def _report(self, key: str, done: float, cancelled: Event) -> None:
        if cancelled.is_set():
            raise Cancelled
        self.send({"key": key, "progress": min(1.0, done), "text": f"{100 * min(1.0, done):.0f} %"})

    def compute(self, key: str, report: Callable[[float], None] = lambda done: None) -> np.ndarray:
        """A map (H, W) without blur, by its key.

        Args:
            key: `map/PHOTOGRAPH/METHOD/LAYERS`.
            report: called with the share that is done, before each pass of the network.

        Raises:
            InputError: a photograph, method or layers that there are not, and as for `explain`.
        """
        _, name, method, layers = key.split("/")
        subject, known = self._known(name), find_method(method).settings
        asked = {"sigma": 0.0} if method in PERTURBATIONS else {}
        asked |= {"layers": layers} if "layers" in known and layers else {}
        passes = find_method(method).passes({})[0]
        with _counted(network_of(self.classifier), lambda count: report(count / max(1, passes))):
            maps = explain(self.classifier, subject.images, subject.target, method=method, **asked)
        return maps[0].cpu().numpy()

    def _upload(self, name: str, data: bytes) -> None:
        """Add the reader's picture and show it; say what is wrong with it otherwise."""
        try:
            self.add(name, data)
        except InputError as error:
            self.send({"error": str(error)})

    def add(self, name: str, data: bytes) -> None:
        """Add a picture, and show it.

        Args:
            name: of its file.
            data: the file's bytes.

        Raises:
            InputError: no picture, or one that is too large.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"{name} has more than {MAX_BYTES // 10**6} MB; give a smaller picture.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_picture` has a limit of its own
                subject = self._subject(open_picture(Image.open(BytesIO(data))))
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{name} is not a picture that can be read here; give a JPEG or PNG file.") from error
        name = _unused(name.replace("/", "_"), self.subjects)
        self.subjects[name] = subject
        self.about = {**self.about, "photographs": [self._photograph(each) for each in self.subjects]}
        self.photograph = name


def _photographs(images: Source | Iterable[Source] | None) -> list[Photograph]:
    one = isinstance(images, Photograph)
    return load_photographs([images] if one else images)


def _logits(classifier: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(images)


def _unused(name: str, taken: Iterable[str]) -> str:
    """The name, or the first of "name (2)", "name (3)", ... that is free."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


@contextmanager
def _counted(network: nn.Module, called: Callable[[int], None]) -> Iterator[None]:
    """Call `called(count)` before each pass of the network; the hook is gone afterwards, also after an error."""
    count = 0

    def before(*_: Any) -> None:
        nonlocal count
        called(count)
        count += 1

    handle = network.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _finished_maps(experiment: Localization, names: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Key and map (H, W) of each photograph, of the table's rows and the ranges' that are finished."""
    for about, shard in experiment.pieces:
        if about["role"] not in ("table", "range") or shard.needs is None:
            continue
        arrays = experiment.run.load(shard.needs)
        if arrays is None:
            continue
        kept = [each.name for each, why in zip(shard.photographs, arrays["failure"], strict=True) if not why]
        layers = ""
        if about["method"] in LAYERED:
            count = len(experiment.run.ask("activations"))
            layers = _as_range(shard.needs.arguments["settings"]["layers"], count)
        for name, saliency in zip(kept, arrays[shard.arguments["array"]], strict=True):
            if name in names:
                yield f"map/{name}/{about['method']}/{layers}", saliency.astype(np.float32)


def _as_range(layers: Any, count: int) -> str:
    """Layers as the explorer writes them: "first-last"."""
    if isinstance(layers, str):
        first, _, last = layers.partition("-")
        return f"{first}-{last or first}"
    held = [index % count for index in layers]
    return f"{min(held)}-{max(held)}" if held else ""


def _chosen(table: pd.DataFrame) -> dict[str, Any]:
    """Blur and threshold of "perceptual", chosen on the selection; nothing where that cannot be."""
    scores = table_scores(table).get("perceptual")
    if scores is None or not scores.can_choose:
        return {}
    blur, threshold = scores.chosen()
    strategy, alpha = THRESHOLDS[threshold]
    return {"sigma": float(scores.sigmas[blur]), "strategy": strategy, "alpha": alpha}


def _errors(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Of each method n, and by strategy its error of Table 1 with the interval."""
    found = {}
    for method, scores in table_scores(table).items():
        if scores.can_choose:
            estimates = {strategy: scores.in_sample(strategy) for strategy in STRATEGIES}
            found[method] = {"n": next(iter(estimates.values())).n} | {
                strategy: [round(float(value), 4) for value in (each.value, each.low, each.high)]
                for strategy, each in estimates.items()
            }
    return found
