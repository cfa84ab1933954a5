"""Explain one's own photos: a line of results for each, and a picture of its map over it."""

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from perceptual_lib.book.panels import overlay
from perceptual_lib.core.batches import full_batch
from perceptual_lib.core.errors import InputError, writing
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.saliency import gaussian_blur, saliency_map
from perceptual_lib.core.settings import suited
from perceptual_lib.methods import explain, find_method
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import open_picture, opening
from perceptual_lib.photographs.sources import pictures_in
from perceptual_lib.runs.worker import Worker

Numbers = dict[str, Any]
"""What was found for a photo, as JSON: classes as {"index", "name"}, probabilities, and what the perturbation did."""
MARK = "photo_sha256"  # the text in an overlay's PNG that tells it from every other picture


@dataclass(frozen=True)
class Asked:
    """The options of `perceptual-ball explain`, as they are written there; "" for the default."""

    model: str
    weights: str
    device: str
    precision: str
    method: str
    layers: str
    sigma: float
    target: str
    expected: str

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `explain`, without the blur."""
        names = [] if self.layers == "none" else [each.strip() for each in self.layers.split(",")]
        return {"layers": names} if self.layers else {}


def explained_in(path: Path) -> str:
    """The SHA-256 of the photo whose overlay a file is; "" for a file that `write_overlay` has not written."""
    try:
        with opening(path) as image:
            return str(image.info.get(MARK, ""))
    except InputError:
        return ""


def write_overlay(path: Path, picture: Image.Image, saliency: np.ndarray, photo: bytes) -> None:
    """Write the overlay of a photo, marked with the hash of the photo's file."""
    mark = PngImagePlugin.PngInfo()
    mark.add_text(MARK, hashlib.sha256(photo).hexdigest())
    with writing(path):
        overlay(picture, saliency).save(path, pnginfo=mark)


def overlay_paths(photos: Sequence[Path], folder: Path) -> list[Path]:
    """The file of each photo's overlay. None of them is a photo or another overlay, even if case does not count; one
    that exists is an earlier overlay of the same photo."""
    taken = {str(photo.resolve()).casefold() for photo in photos}
    written = []
    for photo in photos:
        names = chain([photo.stem], (f"{photo.stem}_{number}" for number in count(2)))
        paths = (folder / f"{name}_explained.png" for name in names)
        free = (path for path in paths if str(path.resolve()).casefold() not in taken and _may_hold(path, photo))
        written.append(next(free))
        taken.add(str(written[-1].resolve()).casefold())
    return written


def _may_hold(path: Path, photo: Path) -> bool:
    if not os.path.lexists(path):
        return True
    try:
        return explained_in(path) == hashlib.sha256(photo.read_bytes()).hexdigest()
    except OSError:  # the photo cannot be read, which is said when it is opened
        return False


def photos_of(sources: Sequence[Path]) -> Generator[str | InputError, None, list[Path]]:
    """Return files as they are and the photos of folders. Yields what of a folder is left out, the overlays of an
    earlier run, and the InputError of a folder without photos."""
    photos = []
    for source in sources:
        if not source.is_dir():
            photos.append(source)
            continue
        try:
            pictures = pictures_in(source)
        except InputError as error:
            yield error
            continue
        overlays = dict.fromkeys(path for path in pictures if explained_in(path))
        photos += [path for path in pictures if path not in overlays]
        if len(overlays) == len(pictures):
            yield InputError(f"{source} has no pictures but overlays of an earlier run; give a folder with photos.")
        elif overlays:
            yield f"{source}: left out, as overlays of an earlier run: {', '.join(path.name for path in overlays)}"
    return photos


def explain_photos(asked: Asked, sources: Sequence[Path], folder: Path) -> Iterator[str | InputError]:
    """Explain photos and folders of them in batches, write their overlays, and yield a line for each photo, or the
    InputError of one that cannot be read: the others are still explained. Yields as `photos_of` does, too. Raises
    InputError if nothing can be explained or written."""
    if not (photos := (yield from photos_of(sources))):
        return
    classifier = ready_for(asked).classifier
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pairs = list(zip(photos, overlay_paths(photos, folder), strict=True))
    size = full_batch(classifier, classifier.device)
    for start in range(0, len(pairs), size):
        read = []
        for photo, written in pairs[start : start + size]:
            try:
                read.append((photo, written, open_picture(photo)))
            except InputError as error:
                yield error
        if read:
            title = f"[{min(start + size, len(pairs))}/{len(pairs)}]"
            found = explain_batch(classifier, [picture for *_, picture in read], asked, title)
            for (photo, written, picture), (saliency, numbers) in zip(read, found, strict=True):
                write_overlay(written, picture, saliency, photo.read_bytes())
                yield in_words(photo, numbers, written)


def ready_for(asked: Asked) -> Worker:
    """A worker with its network loaded. Raises InputError if there is no such method, network or class."""
    find_method(asked.method)
    worker = Worker({name: getattr(asked, name) for name in ("model", "weights", "device", "precision")})
    for label in filter(None, (asked.target, asked.expected)):
        index, names = worker.classifier.class_index(label), worker.classifier.class_names
        if names and not 0 <= index < len(names):
            raise InputError(f"class {label} is out of range: {worker.classifier.name} has {len(names)} classes.")
    return worker


def explain_batch(
    classifier: Classifier, pictures: Sequence[Image.Image], asked: Asked, title: str
) -> list[tuple[np.ndarray, Numbers]]:
    """The map (H, W) float32 and the numbers of each picture; `title` is that of the progress bar."""
    inputs = classifier.preprocess(pictures)
    target = classifier.class_index(asked.target) if asked.target else None
    with torch.no_grad():
        scores = classifier(inputs)
    found: list[Numbers] = [{} for _ in pictures]
    if asked.method == "perceptual":
        steps = suited(classifier.network).max_iter
        with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
            result = perceptual_ball(
                classifier, inputs, target, callback=lambda step, *_: bar.update(min(step, 1)), **asked.settings
            )
        targets, maps = result.targets, saliency_map(result.delta, asked.sigma)
        with torch.no_grad():
            becomes = classifier(inputs + result.delta).argmax(1)
        for row, numbers in enumerate(found):
            facts = ("margin_before", "margin", "evaluations", "flipped", "failed")
            numbers |= {name: getattr(result, name)[row].item() for name in facts}
            numbers["becomes"] = _class(classifier, becomes[row])
    else:
        targets = scores.argmax(1) if target is None else torch.full((len(pictures),), target)
        own = {"sigma": asked.sigma} if find_method(asked.method).ours else {}  # our methods blur their maps themselves
        maps = explain(classifier, inputs, targets, method=asked.method, **asked.settings, **own)
        maps = maps if own else gaussian_blur(maps, asked.sigma)
    probabilities = class_probabilities(classifier, scores, torch.float32)
    for row, (numbers, shares) in enumerate(zip(found, probabilities, strict=True)):
        for name, index in (("prediction", shares.argmax()), ("target", targets[row])):
            numbers[name] = _class(classifier, index) | {"probability": shares[index].item()}
        if asked.expected:
            numbers["expected"] = _class(classifier, classifier.class_index(asked.expected))
            numbers["as_expected"] = numbers["expected"]["index"] == numbers["prediction"]["index"]
    return list(zip(maps.float().cpu().numpy(), found, strict=True))


def _class(classifier: Classifier, index: torch.Tensor | int) -> dict[str, Any]:
    return {"index": int(index), "name": classifier.class_name(int(index))}


def in_words(photo: Path, numbers: Numbers, written: Path) -> str:
    """The line of results of a photo."""
    words = f"{photo.name}: {numbers['target']['name']} ({numbers['target']['probability']:.1%})"
    if "expected" in numbers:
        if numbers["prediction"] != numbers["target"]:
            words += f", taken for {numbers['prediction']['name']}"
        words += ", as expected" if numbers["as_expected"] else f", not {numbers['expected']['name']} as expected"
    if "margin" in numbers:
        words += f", margin {numbers['margin_before']:.2f} -> {numbers['margin']:.2f}"
        words += f" in {numbers['evaluations']} evaluations"
        words += f"{'' if numbers['flipped'] else ' (not flipped)'}{' (broke down)' if numbers['failed'] else ''}"
    return f"{words}; {written}"
