"""Photographs as a network sees them, for the explorer of layers, and reports of a search while it runs."""

import math
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceptual_lib.core.calling import logits_of
from perceptual_lib.core.checks import ready
from perceptual_lib.core.first_look import class_probabilities
from perceptual_lib.core.perturbation import multiclass_margin
from perceptual_lib.core.saliency import saliency_map
from perceptual_lib.networks.classifier import Classifier
from perceptual_lib.networks.pictures import PictureLike, list_pictures
from perceptual_lib.photographs.boxes import Box
from perceptual_lib.photographs.photographs import Photograph
from perceptual_lib.photographs.sources import load_photographs

IMAGENET_CLASSES = 1000
LIKELY = 5  # classes that are offered first
DRAWN_EVERY = 0.2  # seconds between two images of a search
THUMBNAIL = 56  # pixels
Report = Callable[[dict[str, Any], list[bytes]], None]
"""Called after a pass of the network with facts about it, and with the bytes of the images to draw, if any."""


class Subject(NamedTuple):
    """A photograph as the network sees it."""

    images: Tensor  # (1, 3, H, W), normalized
    target: int  # the class explained
    boxes: Sequence[Box]  # in inclusive pixels of the map, none where they are not known
    classes: Sequence[tuple[int, float]]  # the most probable ones, with their probabilities
    own: bool  # whether it is the reader's


def named_pictures(images: PictureLike | Iterable[PictureLike] | None) -> list[tuple[str, PictureLike]]:
    """Pictures with their names: photographs' own, the stems of files, else "picture"."""
    if images is None or isinstance(images, (str, os.PathLike)):
        return [(photograph.name, photograph) for photograph in load_photographs(images)]
    named = []
    for each in list_pictures(images):
        if isinstance(each, (str, os.PathLike)):
            (each,) = load_photographs([each])
        file = getattr(each, "name", "") or getattr(each, "filename", "")
        named.append((each.name if isinstance(each, Photograph) else Path(str(file)).stem or "picture", each))
    return named


def subject_of(classifier: Classifier, photograph: PictureLike, own: bool = False) -> Subject:
    """A photograph with its class, or with the predicted one if it has none or the network's are not ImageNet's."""
    images = classifier.preprocess(photograph)
    with ready(classifier, images, None, gradient=False) as (images, _):
        scores = classifier(images)
    shares = class_probabilities(classifier, scores, images.dtype)[0]
    likely = shares.topk(min(LIKELY, len(shares)))
    target = getattr(photograph, "target", None)
    if target is None or scores.shape[1] != IMAGENET_CLASSES:
        target = int(scores.argmax(1))
    boxes = photograph.scaled_boxes(*images.shape[2:]) if isinstance(photograph, Photograph) else ()
    return Subject(images, target, boxes, list(zip(likely.indices.tolist(), likely.values.tolist(), strict=True)), own)


def told_of(subject: Subject, name: str, classifier: Classifier) -> dict[str, Any]:
    """What the browser needs to know about a photograph, as JSON."""
    edges = [[round(float(edge), 3) for edge in box] for box in subject.boxes]
    image = Image.fromarray(classifier.pixels(subject.images)[0].mul(255).byte().cpu().numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    small = BytesIO()
    image.save(small, "JPEG")
    return {
        "name": name,
        "title": classifier.class_name(subject.target),
        "explained": classifier.class_name(subject.classes[0][0]),
        "thumbnail": f"data:image/jpeg;base64,{b64encode(small.getvalue()).decode()}",
        "boxes": edges,
        "own": subject.own,
        "target": subject.target,
        "classes": subject.classes,
    }


def telling(
    classifier: Classifier, subject: Subject, target: int, passes: int, report: Report, drawn: bool
) -> Callable[..., None]:
    """A forward hook that reports each pass of the network: the share of `passes` that is done. For a `drawn` search it
    adds the step, the margin, the probabilities of the class and of the likeliest other one (`rival`, `rivals`) and,
    a few times a second, the map in 16 bits and the picture that the network sees, as RGBA.

    The step is 0 when the network sees the unchanged photograph: passes on other pictures before it do not count.
    """
    done, last, targets = count(), -math.inf, torch.tensor([target], device=subject.images.device)
    before, step = subject.images, 0

    def tell(_: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal last, before, step
        seen, logits = inputs[0].detach(), logits_of(output).detach()
        told, images = {"progress": min(1.0, next(done) / passes)}, []
        if drawn and seen.shape == subject.images.shape and logits.ndim == 2:
            step = 0 if torch.equal(seen, subject.images) else step + (not torch.equal(seen, before))
            before = seen
            shares = class_probabilities(classifier, logits, torch.float32)
            rivals = shares.index_fill(1, targets, -1)[0]
            told |= {"step": step, "steps": passes - 3, "margin": multiclass_margin(logits, targets).item()}
            told |= {"rival": int(rivals.argmax()), "rivals": rivals.max().item()}
            told |= {"probability": shares[0, target].item()}
            if time.monotonic() - last > DRAWN_EVERY:
                last, images = time.monotonic(), _drawn(classifier, subject, seen)
        report(told, images)

    return tell


def _drawn(classifier: Classifier, subject: Subject, seen: Tensor) -> list[bytes]:
    values = saliency_map(seen - subject.images)[0].cpu().numpy()
    values = (values - values.min()) / (np.ptp(values) or 1)
    pixels = np.pad(classifier.pixels(seen)[0].numpy(), [(0, 0), (0, 0), (0, 1)], constant_values=1)
    return [np.rint(values * 65535).astype("<u2").tobytes(), np.rint(pixels * 255).astype(np.uint8).tobytes()]
