"""Photos of one's own explained: for each a line of results, and its map over it as a picture."""

from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from perceptual_lib.book.panels import overlay
from perceptual_lib.core.errors import InputError
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.perturbation import Perturbation
from perceptual_lib.core.saliency import gaussian_blur, saliency_map
from perceptual_lib.core.settings import suited
from perceptual_lib.methods import explain, find_method
from perceptual_lib.networks.classifier import Classifier


def overlay_paths(photos: Sequence[Path], folder: Path) -> list[Path]:
    """Where each photo's overlay is written: on none of the photos, and no two on one, whether or not case counts."""
    taken = {str(photo.resolve()).casefold() for photo in photos}
    written = []
    for photo in photos:
        names = chain([photo.stem], (f"{photo.stem}_{number}" for number in count(2)))
        paths = (folder / f"{name}_explained.png" for name in names)
        written.append(next(path for path in paths if str(path.resolve()).casefold() not in taken))
        taken.add(str(written[-1].resolve()).casefold())
    return written


def explain_batch(
    classifier: Classifier,
    read: Sequence[tuple[Path, Path, Image.Image]],
    target: int | None,
    method: str,
    settings: dict[str, Any],
    sigma: float,
    title: str,
) -> Iterator[str]:
    """Explain photos at once, write their overlays, and say in a line each what was found.

    Of each is `read` the path of the photo, of its overlay, and the picture; explained is the class `target`, None for
    the prediction; sigma is in pixels of the network's input; `title` is that of the bar which shows how far it is.
    Raises InputError where an overlay cannot be written, and as `explain`.
    """
    inputs = classifier.preprocess([picture for _, _, picture in read])
    with torch.no_grad():
        scores = classifier(inputs)
    found = [""] * len(read)
    if method == "perceptual":
        steps = suited(classifier.network).max_iter
        with tqdm(total=steps, desc=title, unit="step", leave=False, disable=None) as bar:
            result = perceptual_ball(
                classifier, inputs, target, callback=lambda step, *_: bar.update(min(step, 1)), **settings
            )
        targets, maps = result.targets, saliency_map(result.delta, sigma)
        found = [_in_words(result, row) for row in range(len(read))]
    else:
        targets = scores.argmax(1) if target is None else torch.full((len(read),), target)
        own = {"sigma": sigma} if find_method(method).ours else {}  # a method that blurs does it itself
        maps = explain(classifier, inputs, targets, method=method, **settings, **own)
        maps = maps if own else gaussian_blur(maps, sigma)
    probabilities = class_probabilities(classifier, scores, torch.float32)
    for row, (photo, written, picture) in enumerate(read):
        try:
            overlay(picture, maps[row].float().cpu().numpy()).save(written)
        except OSError as error:
            raise InputError(f"{written} cannot be written: {error.strerror or error}.") from error
        name, share = classifier.class_name(int(targets[row])), probabilities[row, targets[row]]
        yield f"{photo.name}: {name} ({share:.1%}){found[row]}; {written}"


def _in_words(result: Perturbation, row: int) -> str:
    return (
        f", margin {result.margin_before[row]:.2f} -> {result.margin[row]:.2f} in {result.evaluations[row]} evaluations"
        f"{'' if result.flipped[row] else ' (not flipped)'}{' (broke down)' if result.failed[row] else ''}"
    )
