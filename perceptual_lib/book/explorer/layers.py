"""The explorer of layers, blur and thresholds (Secs. 3, 4.2): on finished maps, on any photograph and network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch
import traitlets
from torch import nn

from perceptual_lib.book.explorer import finished
from perceptual_lib.book.explorer.player import PHOTOGRAPHS
from perceptual_lib.book.explorer.subjects import Report, Subject, named_pictures, subject_of, telling, told_of
from perceptual_lib.book.explorer.widget import Chunk, Widget, array_chunk, module, picture_chunk
from perceptual_lib.core.calling import network_of
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.selection import held_layers, parse_span
from perceptual_lib.core.settings import suited
from perceptual_lib.evaluation.experiment import Experiment
from perceptual_lib.evaluation.localization.experiment import Localization
from perceptual_lib.evaluation.localization.protocol import ALPHAS
from perceptual_lib.evaluation.localization.table import table_scores
from perceptual_lib.evaluation.sections import ALL_METHODS
from perceptual_lib.methods import explain, find_method
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import PictureLike, open_picture
from perceptual_lib.networks.sources import load_classifier
from perceptual_lib.photographs.photographs import Photograph, unused

MAX_BYTES = 64_000_000  # of an uploaded file
SEARCHES = "perceptual", "no_perceptual"  # methods whose maps are shown while they are computed
PATIENCE = 600.0  # seconds: a search that is stopped for longer is cancelled
NOTHING_TO_HOLD = "This network has no activations that are known here: its maps are without the perceptual term."


class Explorer(Widget):
    """Layers, blur and thresholds on photographs and a network of one's own.

    Maps are computed on request, in another thread; a new request cancels the one before it. The browser computes the
    blur, the thresholds, the largest component and its IoU. Raises InputError for pictures, methods and traits that
    cannot be.

    Args:
        classifier: a `Classifier`, or any module from images to logits (taken as by `load_classifier`).
        images: paths of pictures or photographs, PIL images or arrays, or a folder; None for the embedded photographs.
            Photographs' classes are ImageNet's: for a network with other classes, its predictions are explained first.
        methods: names of the methods to choose from; None for all of Table 1 and four more.
        traits: what is chosen at first.

    Attributes:
        maps: the maps computed so far, (H, W) without blur, by key `map/PHOTOGRAPH/METHOD/LAYERS`; where several
            lambda' and T are tried, they follow METHOD: "perceptual 100 -2".
        subjects: the photographs by name.
    """

    _esm = module("layers")
    address = traitlets.Unicode("layers").tag(sync=True)  # prefix of its part of a page's address
    photograph = traitlets.Unicode().tag(sync=True)
    target = traitlets.Unicode().tag(sync=True)  # the class explained, "" for the photograph's own
    aim = traitlets.Enum(["away", "towards"], "away").tag(sync=True)  # whether the change leaves or reaches the class
    method = traitlets.Unicode("perceptual").tag(sync=True)
    layers = traitlets.Unicode().tag(sync=True)  # the first and the last layer held, "0-25"
    sigma = traitlets.Float(5.0, min=0).tag(sync=True)
    strategy = traitlets.Enum([*ALPHAS], "mean").tag(sync=True)
    alpha = traitlets.Float(1.5, min=0, max=max(map(max, ALPHAS.values()))).tag(sync=True)
    opacity = traitlets.Float(0.7, min=0, max=1).tag(sync=True)
    layer_weight = traitlets.Unicode().tag(sync=True)  # lambda' and T, where several are tried
    margin_target = traitlets.Unicode().tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)

    def __init__(
        self,
        classifier: nn.Module,
        images: PictureLike | Iterable[PictureLike] | None = None,
        methods: Sequence[str] | None = None,
        **traits: Any,
    ) -> None:
        self.classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
        names = ALL_METHODS if methods is None else [methods] if isinstance(methods, str) else methods
        known = {name: find_method(name) for name in names}
        self.maps: dict[str, np.ndarray] = {}
        self.kernel: dict[str, Callable[[], Chunk]] = {}
        self.subjects: dict[str, Subject] = {}
        for name, picture in named_pictures(images):
            self.subjects[unused(name.replace("/", "_"), self.subjects)] = subject_of(self.classifier, picture)
        if not self.subjects:
            raise InputError("there is no picture to explore; give one or more, or none for the embedded photographs.")
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._cancelled, self._going = Event(), Event()  # of the newest map: is it cancelled; is it not stopped
        self._searched = ""  # the key of that map
        self._going.set()
        self.steps = {"max_iter": suited(network_of(self.classifier)).max_iter}  # of a search
        held = len(self.classifier.activations)
        own = held_layers(self.classifier.settings["layers"], self.classifier.activations) if held else []
        layers = f"{own[0]}-{own[-1]}" if own else ""
        about = {
            "photographs": [told_of(subject, name, self.classifier) for name, subject in self.subjects.items()],
            "methods": [
                {"name": name, "title": method.title, "note": method.cost(**self.steps), "ours": method.ours}
                | {"layered": finished.holds_layers(name) and held > 0}
                for name, method in known.items()
            ],
            "size": list(self.classifier.input_size),
            "activations": held,
            "classes": list(self.classifier.class_names),
            "alphas": {name: grid[[0, -1, 0]].tolist() for name, grid in ALPHAS.items()},
            "notice": "" if held else NOTHING_TO_HOLD,
            **{"ranges": [], "errors": {}, "becomes": {}, "tried": {}},  # filled from a finished experiment
        }
        method = "perceptual" if "perceptual" in known else next(iter(known), "")
        first = {"photograph": next(iter(self.subjects)), "layers": layers, "method": method}
        super().__init__(about=about, **first | traits)
        self.check_choice("photograph", self.subjects)
        self.check_choice("method", known)
        if self.layers and not parse_span(self.layers):
            raise InputError(f"layers of an explorer are a range of indices, as 0-25, not {self.layers!r}.")
        held_layers(self.layers or (), self.classifier.activations)  # raises what is wrong

    @classmethod
    def of(
        cls,
        experiment: Localization,
        classifier: Classifier,
        published: pd.DataFrame | None = None,
        *,
        methods: Sequence[str] | None = None,
        photographs: int | None = None,
        **traits: Any,
    ) -> "Explorer":
        """An explorer of a finished experiment's maps: those of its table and, if it has them, of ranges of layers.

        It begins with the layers of the profile, and with the blur and the threshold that the `published` table (None:
        the experiment's own) chooses on its selection for "perceptual". Errors come from that table, too, of ranges if
        it has all. `methods` are some of the experiment's, `photographs` their number, None for those of the ranges.
        """
        methods = experiment.section.methods if methods is None else methods
        table = experiment.table if published is None else published
        scores = table_scores(table)
        first = finished.first_traits(experiment.table, classifier, scores.get("perceptual"))
        few = (experiment.asked_ranges() or experiment.pictures)[:PHOTOGRAPHS]
        pictures = experiment.pictures[:photographs] if photographs else few
        made = cls(classifier, pictures, methods, **(first | traits))
        made.maps, becomes = finished.maps_by_key(experiment, classifier, methods, made.subjects)
        ranges = finished.tried_ranges(experiment.table)
        if published is not None:
            there = {each["layers"]: each for each in finished.tried_ranges(published)}
            if there.keys() >= {each["layers"] for each in ranges}:
                ranges = [there[each["layers"]] for each in ranges]
        told = {"becomes": becomes, "ranges": ranges, "errors": finished.table_errors(table, scores)}
        made.about = made.about | told | finished.costs(made.about["methods"], experiment)
        return made

    @classmethod
    def tried(
        cls,
        experiment: Experiment,
        classifier: Classifier,
        photographs: Sequence[Photograph],
        choices: Mapping[str, Sequence[Any]],
        **traits: Any,
    ) -> "Explorer":
        """An explorer of maps of "perceptual" with every combination of a few settings, kept in the experiment's store.

        `choices` has values of `layers` ("0-25"), `layer_weight` and `margin_target`; `traits` is what is chosen first.
        """
        made = cls(classifier, photographs, ["perceptual"], **traits)
        made.maps = finished.maps_by_settings(experiment, photographs, choices)
        made.about = made.about | {
            "tried": {name: [f"{value:g}" for value in choices[name]] for name in ("layer_weight", "margin_target")},
            "ranges": finished.as_ranges(choices["layers"]),
            **finished.costs(made.about["methods"], experiment),
        }
        return made

    def with_kernel(self, **settings: Any) -> "Explorer":
        """Let the explorer compute maps of readers' pictures in a page, with these settings and else the network's own.
        If the page's graph cannot do that, the explorer says why. Returns itself."""
        from perceptual_lib.book.explorer.in_page import page_kernel  # imports onnx, which is needed here alone

        images = torch.cat([subject.images for subject in self.subjects.values()])
        try:
            about, self.kernel = page_kernel(self.classifier, images, **settings)
        except InputError as error:
            about = {"missing": str(error)}
        self.about = self.about | {"kernel": about}
        return self

    @property
    def arrays(self) -> dict[str, Callable[[], Chunk]]:
        """The pictures, the maps computed so far, and the pieces of a page's kernel."""
        subjects, maps = self.subjects.copy(), self.maps.copy()  # the other thread may add a map meanwhile
        pictures = {f"picture/{name}": partial(self._picture, name) for name in subjects}
        return pictures | {key: partial(array_chunk, saliency) for key, saliency in maps.items()} | self.kernel

    def _picture(self, name: str) -> Chunk:
        return picture_chunk(self.classifier.pixels(self.subjects[name].images)[0].numpy())

    def static_traits(self) -> dict[str, Any]:
        """The traits for a page, where Python computes nothing: only the methods that have maps."""
        there = {key.split("/")[2].split()[0] for key in self.maps}
        methods = [method for method in self.about["methods"] if method["name"] in there]
        about = self.about | {"methods": methods, "classes": self.about["classes"] if self.kernel else []}
        return super().static_traits() | {"live": False, "about": about}

    def _answer(self, widget: Any, content: dict, buffers: list[bytes]) -> None:
        if "upload" in content:
            try:
                self.add(str(content["upload"]), bytes(buffers[0]) if buffers else b"")
            except InputError as error:
                self.send({"error": str(error)})
        elif "stop" in content:
            self._going.clear()
        elif content.get("cancel") == self._searched:  # a late request does not cancel a newer map
            self._stop()
        else:
            super()._answer(widget, content, buffers)

    def reply(self, key: str) -> None:
        """Send the array of a key, or compute its map first. For a stopped map, go on with it."""
        if not key.startswith("map/") or key in self.maps:
            return super().reply(key)
        if key == self._searched and not self._going.is_set():  # it was stopped
            return self._going.set()
        self._stop()
        self._cancelled, self._searched = Event(), key
        self._executor.submit(self._compute, key, self._cancelled)

    def _stop(self) -> None:
        self._cancelled.set()
        self._going.set()

    def _compute(self, key: str, cancelled: Event) -> None:
        """Compute and send a map, in a thread of its own, so that the main thread hears requests to stop."""

        def report(told: dict[str, Any], drawn: list[bytes]) -> None:
            if not self._going.wait(PATIENCE) or cancelled.is_set():
                raise CancelledError
            self.send({"key": key} | told, drawn)

        try:
            self.maps[key] = self.compute(key, report)
        except CancelledError:
            self.send({"key": key, "error": "cancelled"})
        except Exception as error:  # whatever the reader's network raises, the widget goes on working
            self.send({"key": key, "error": str(error) or type(error).__name__})
        else:
            super().reply(key)
        finally:
            if self._cancelled is cancelled:
                self._searched = ""  # so that a late cancel has no effect

    def compute(self, key: str, report: Report = lambda told, drawn: None) -> np.ndarray:
        """A map (H, W) without blur, by its key `map/PHOTOGRAPH/METHOD/LAYERS`. The key goes on with `/CLASS` if it is
        not the photograph's own, and with `/towards` for the change that reaches the class.

        `report` is called after each pass of the network with the share that is done; for a search also with its
        progress and, a few times a second, with images (see `telling`). Raises InputError for an unknown photograph,
        method or layers, and as `explain` does.
        """
        name, method, layers, tried, other = finished.read_key(key)
        if name not in self.subjects:
            raise InputError(f"there is no photograph {name!r}; there are {', '.join(self.subjects)}.")
        subject, known = self.subjects[name], find_method(method)
        settings: dict[str, Any] = tried | ({"sigma": 0.0} if known.ours else {})
        if layers or (known.ours and not self.classifier.activations):  # then there is a notice: NOTHING_TO_HOLD
            settings["layers"] = layers or ()
        settings |= {"reach": True} if key.endswith("/towards") else {}
        passes, target = max(1, known.passes(self.steps | settings)[0]), subject.target if other is None else other
        tell = telling(self.classifier, subject, target, passes, report, drawn=method in SEARCHES)
        handle = network_of(self.classifier).register_forward_hook(tell)
        try:
            maps = explain(self.classifier, subject.images, target, method=method, **settings)
        finally:
            handle.remove()
        return maps[0].cpu().numpy()

    def add(self, name: str, data: bytes) -> None:
        """Add a picture from a file's bytes under the file's name, and show it.

        Raises InputError for a file that is not a picture, or is too large.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"{name} has more than {MAX_BYTES // 10**6} MB; give a smaller picture.")
        try:
            picture = open_picture(data)
        except InputError as error:
            raise InputError(str(error).replace("the picture", name, 1)) from error
        self._stop()  # a running search uses the network, and only this thread can end it
        subject = subject_of(self.classifier, picture, own=True)
        name = unused(name.replace("/", "_"), self.subjects)
        self.subjects[name] = subject
        others = self.about["photographs"]  # these have the boxes that the reader drew
        self.about = self.about | {"photographs": [*others, told_of(subject, name, self.classifier)]}
        self.target, self.aim, self.photograph = "", "away", name
