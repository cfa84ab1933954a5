"""What computes shards: a loaded network."""

import ctypes
import hashlib
import importlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from perceptual_lib.core.activations import Activation
from perceptual_lib.runs.store import Arrays

ALWAYS = ("failure", "seconds")  # arrays with a row for every image, whether it failed or not


class Worker:
    """A process's network, kept loaded, and what is computed with it.

    Args:
        classifier: arguments of `load_classifier`.
    """

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.arguments = dict(classifier)
        keep_freed_memory()

    @cached_property
    def classifier(self):
        from perceptual_lib.core.networks import load_classifier

        return load_classifier(**self.arguments)

    def identity(self) -> dict[str, Any]:
        """The network, its weights, its preprocessing and the kind of device, as JSON."""
        classifier = self.classifier
        hashed = hashlib.sha256()
        for name, tensor in classifier.network.state_dict().items():
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {
            "name": classifier.name,
            "weights": hashed.hexdigest(),
            "input_size": list(classifier.input_size),
            "mean": classifier.mean.flatten().tolist(),
            "std": classifier.std.flatten().tolist(),
            "interpolation": classifier.interpolation.name,
            "device": classifier.device.type,
        }

    def machine(self) -> str:
        """What it computes on, for readers: "Linux x86_64, 2 cores", or the GPU's name."""
        if self.classifier.device.type == "cuda":
            return torch.cuda.get_device_name(self.classifier.device)
        return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"

    def activations(self) -> list[Activation]:
        """The network's, in forward order."""
        return list(self.classifier.activations)

    def stages(self) -> list[str]:
        """The layers that sanity checks randomize, in their order."""
        from perceptual_lib.evaluation.randomization.protocol import stages

        return list(stages(self.classifier))

    def pass_seconds(self, batch: int) -> tuple[float, float]:
        """Seconds of a forward pass and of what a backward pass adds, for one image in a batch; about two seconds."""
        from perceptual_lib.core.activations import freeze

        images = torch.zeros(batch, 3, *self.classifier.input_size, device=self.classifier.device)
        with _one_thread(), freeze(self.classifier):
            forward = _fastest(lambda: self._forward(images)) / batch
            both = _fastest(lambda: torch.autograd.grad(self._forward(images.requires_grad_()), images)) / batch
        return forward, max(0.0, both - forward)

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images).sum()

    def compute(
        self, kind: str, arguments: Mapping[str, Any], pictures: Sequence[Image.Image | str], needed: Arrays | None
    ) -> Arrays:
        """One shard's arrays.

        Args:
            kind, arguments: of the shard.
            pictures: one per image, or in its place the reason why there is none.
            needed: the arrays of the shard that it needs.

        Returns:
            `failure` (n,): "" or why there is no result for the image. `seconds` (n,). All other arrays have one row
            for each image that did not fail.

        Raises:
            InputError: a network that cannot be loaded, or a method that is not known in this process.
        """
        if "method" in arguments:
            from perceptual_lib.methods import find_method

            find_method(arguments["method"])  # here, where it is no failure of an image
        start = time.perf_counter()
        compute = importlib.import_module(kind).compute
        failures = [picture if isinstance(picture, str) else "" for picture in pictures]
        if needed is not None:
            failures = [ours or theirs for ours, theirs in zip(failures, needed["failure"].tolist(), strict=True)]
        rows = [row for row, failure in enumerate(failures) if not failure]
        with _one_thread():
            parts = self._in_halves(compute, arguments, pictures, needed, rows, failures)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        seconds = (time.perf_counter() - start) / max(1, len(pictures))
        return {"failure": np.array(failures, dtype=str), "seconds": np.full(len(pictures), seconds), **arrays}

    def _in_halves(self, compute, arguments, pictures, needed, rows: list[int], failures: list[str]) -> list[Arrays]:
        """Results of these rows: of all at once, or else in halves, down to the one image that fails."""
        if not rows:
            return []
        try:
            return [self._compute(compute, arguments, pictures, needed, rows)]
        except Exception as error:  # too little memory for all, or something wrong with one
            if len(rows) == 1:
                failures[rows[0]] = " ".join(f"{type(error).__name__}: {error}".split())
                return []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        return [
            part
            for half in (rows[:middle], rows[middle:])
            for part in self._in_halves(compute, arguments, pictures, needed, half, failures)
        ]

    def _compute(self, compute, arguments, pictures, needed, rows: list[int]) -> Arrays:
        given = {}
        if needed is not None:
            present = np.flatnonzero(needed["failure"] == "").tolist()
            place = [present.index(row) for row in rows]
            given["needed"] = {name: value[place] for name, value in needed.items() if name not in ALWAYS}
        by_image = {name: [value[row] for row in rows] for name, value in arguments.get("by_image", {}).items()}
        shared = {name: value for name, value in arguments.items() if name != "by_image"}
        return compute(self.classifier, [pictures[row] for row in rows], **given, **shared, **by_image)


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back; does nothing where the C library is not glibc.

    glibc asks the system anew for each block above 32 MB, and clearing its pages takes as long as computing what comes
    there: half the time of explaining four questions at 1.5 times the size.
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):
        c_library = ctypes.CDLL("libc.so.6")
        c_library.mallopt(mmap_max, 0)
        c_library.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of several threads differ in their last bits from those of one: with one, numbers do not depend on cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fastest(work: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]) -> float:
    """Seconds of the fastest of five runs, and until its result is there."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = work()
        (result[0] if isinstance(result, tuple) else result).flatten()[0].item()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
