"""Explanations as evidence: kept with the photos and all that made them, to be repeated and compared bit by bit."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from perceptual_lib.book.overlays import (
    Asked,
    Numbers,
    explain_batch,
    in_words,
    overlay_paths,
    photos_of,
    ready_for,
    write_overlay,
)
from perceptual_lib.core.errors import InputError, writing
from perceptual_lib.core.selection import held_layers
from perceptual_lib.core.settings import suited
from perceptual_lib.evaluation.randomization.protocol import rank_correlation
from perceptual_lib.methods import find_method
from perceptual_lib.networks.pictures import open_picture
from perceptual_lib.runs.shard import code_digest, versions
from perceptual_lib.runs.worker import Worker

MANIFEST = "manifest.json"


class Kept(BaseModel):
    """What the manifest has for each photo."""

    photo: str
    photo_sha256: str
    map: str
    map_sha256: str
    found: Numbers


class Manifest(BaseModel):
    """What the manifest must have to be repeated."""

    asked: Asked
    made_with: dict[str, Any]
    photos: list[Kept] = Field(min_length=1)


def keep(asked: Asked, sources: Sequence[Path], folder: Path) -> Iterator[str | InputError]:
    """Explain photos, and write into a new folder a copy of each, its map (NAME.npy, (H, W) float32) and its overlay.

    `MANIFEST` has the numbers found and what they were made with. Yields a line for each photo, as `explain_photos`
    does. Each photo is explained alone and on one thread, so that its bits depend neither on the others nor on the
    machine's cores. Raises InputError for a folder that is not empty.
    """
    if not (photos := (yield from photos_of(sources))):
        return
    worker = ready_for(asked)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; evidence is kept in a new folder.")
    kept, made_with = [], _made_with(worker, asked)
    shows = overlay_paths([folder / photo.name for photo in photos], folder)
    for number, (photo, shown) in enumerate(zip(photos, shows, strict=True), 1):
        try:
            picture = open_picture(photo)
        except InputError as error:
            yield error
            continue
        saliency, numbers = _explain(worker, picture, asked, f"[{number}/{len(photos)}]")
        stem = shown.stem.removesuffix("_explained")
        # A photo may have any name, even the manifest's or one that ends like those of maps.
        copy = f"{stem}{photo.suffix}" if f"{stem}{photo.suffix}" != MANIFEST else f"{stem}_photo{photo.suffix}"
        files = {copy: photo.read_bytes(), f"{stem}{'.map' * (photo.suffix == '.npy')}.npy": _npy(saliency)}
        write_overlay(shown, picture, saliency, files[copy])
        with writing(folder):
            for name, data in files.items():
                (folder / name).write_bytes(data)
        entry = dict(zip(("photo", "map"), files, strict=True))
        hashes = {f"{what}_sha256": _sha256(files[name]) for what, name in entry.items()}
        kept.append({**entry, **hashes, "found": numbers})
        manifest = {"asked": asdict(asked), "made_with": made_with, "photos": kept}
        with writing(folder):  # after each photo, so that an interrupted run keeps what it has
            half = folder / f"{MANIFEST}.half"
            half.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            half.replace(folder / MANIFEST)
        yield in_words(photo, numbers, shown)


def repeat(folder: Path, device: str = "auto") -> Iterator[str | InputError]:
    """Explain again what `keep` has kept, on the same kind of device unless another is given. Yields a line for each
    version, setting and so on that has changed; then for each photo a line that it is the same to the bit, or an
    InputError: how it differs, or which of its files was changed. Raises InputError for a folder without a manifest."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
        raise InputError(
            f"{folder} has no {MANIFEST} that explain --save wrote ({problem}); give the folder that has it."
        ) from None
    before = manifest.made_with
    asked = replace(manifest.asked, device=str(before.get("device")) if device == "auto" else device)
    worker = ready_for(asked)
    yield from _differences(before, _made_with(worker, asked))
    for number, each in enumerate(manifest.photos, 1):
        try:
            _check(folder, each)
            title = f"[{number}/{len(manifest.photos)}]"
            saliency, numbers = _explain(worker, open_picture(folder / each.photo), asked, title)
        except InputError as error:
            yield error
            continue
        different = [*_differences(each.found, numbers)]
        if _sha256(_npy(saliency)) != each.map_sha256:
            different.insert(0, _apart(folder / each.map, saliency))
        if different:
            yield InputError(f"{each.photo} is explained differently: {'; '.join(different)}.")
        else:
            yield f"{each.photo}: the same to the bit"


def _explain(worker: Worker, picture: Image.Image, asked: Asked, title: str) -> tuple[np.ndarray, Numbers]:
    with worker.as_always():
        return explain_batch(worker.classifier, [picture], asked, title)[0]


def _made_with(worker: Worker, asked: Asked) -> dict[str, Any]:
    """All that can change a bit: the network and its device, versions, code, settings; as plain JSON values."""
    classifier, method = worker.classifier, find_method(asked.method)
    own = asdict(suited(classifier.network)) if method.ours else {}
    given = method.settings | asked.settings | {"sigma": asked.sigma}
    settings = own | {name: value for name, value in given.items() if value is not None}
    if settings.get("layers", ()) is None:
        settings["layers"] = [classifier.activations[index].name for index in held_layers(None, classifier.activations)]
    code = code_digest(__name__, method.function.__module__)
    made = {**worker.identity(), **versions(), "machine": worker.machine(), "settings": settings, "code": code}
    plain: dict[str, Any] = json.loads(json.dumps(made, default=str))
    return plain


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name, "not said"), now.get(name, "not said")
        if old != new:
            yield f"{name} was {old}, is {new}"


def _check(folder: Path, kept: Kept) -> None:
    """Raise InputError if the photo or the map is not the file that was kept."""
    for what in ("photo", "map"):
        path = folder / getattr(kept, what)
        if not path.is_file() or _sha256(path.read_bytes()) != getattr(kept, f"{what}_sha256"):
            raise InputError(f"{path} is not the {what} that was kept: put back the one of the manifest's SHA-256.")


def _apart(kept: Path, new: np.ndarray) -> str:
    try:
        with kept.open("rb") as file:
            old = np.lib.format.read_array(file)
    except ValueError:
        return f"{kept} is no map"
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return f"the map was {old.shape} {old.dtype}, is {new.shape} {new.dtype}"
    return (
        f"the maps are up to {np.abs(old - new).max():.2g} apart where the largest value is {np.abs(old).max():.2g}, "
        f"rank correlation {rank_correlation(old[None], new[None])[0]:.4f}"
    )


def _npy(saliency: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, saliency)
    return file.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
