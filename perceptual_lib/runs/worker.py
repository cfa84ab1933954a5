"""What computes shards: a loaded network."""

import ctypes
import hashlib
import importlib
import os
import platform
import time
import timeit
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from perceptual_lib.core.activations import Activation
from perceptual_lib.core.errors import MachineError, is_out_of_memory, is_the_machines, see
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.graphs import release
from perceptual_lib.core.precision import computing
from perceptual_lib.methods import find_method
from perceptual_lib.networks.classifier import Classifier, stages
from perceptual_lib.networks.sources import load_classifier
from perceptual_lib.runs.store import Arrays

ALWAYS = ("failure", "seconds")
"""Arrays (n,) with a row for every image: "" or why there is no result for it, and how long one took on average: on a
CPU the processor, which neither other work nor a pause of the run changes."""


class Worker:
    """A process's network, kept loaded, and what is computed with it; `classifier` as for `load_classifier`."""

    def __init__(self, classifier: Mapping[str, Any]) -> None:
        self.arguments = dict(classifier)
        # By default glibc asks the system anew for each block above 32 MB, and clearing its pages takes as long as
        # computing its content: a forward pass of eight images on one core takes 1.4 times as long. So reuse memory.
        _tell_glibc("mallopt", -4, 0)  # M_MMAP_MAX: all memory comes from the heap
        _tell_glibc("mallopt", -1, 2**31 - 1)  # M_TRIM_THRESHOLD: which does not shrink by itself

    @cached_property
    def classifier(self) -> Classifier:
        return load_classifier(**self.arguments)

    def identity(self) -> dict[str, Any]:
        """The network, its weights, its preprocessing, its precision and the kind of device, as JSON."""
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
            "precision": classifier.precision,
        }

    def machine(self) -> str:
        """What the worker computes on, for readers: "Linux x86_64, 2 cores", or the GPU's name."""
        if self.classifier.device.type == "cuda":
            return torch.cuda.get_device_name(self.classifier.device)
        return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"

    def activations(self) -> tuple[Activation, ...]:
        """The network's activations, in forward order."""
        return self.classifier.activations

    def modules(self) -> tuple[str, ...]:
        """The paths of the network's modules."""
        return tuple(path for path, _ in self.classifier.network.named_modules())

    def stages(self) -> tuple[str, ...]:
        """The layers that sanity checks randomize, in their order."""
        return stages(self.classifier)

    def pass_seconds(self, batch: int) -> tuple[float, float]:
        """Seconds of a forward pass and of what a backward pass adds, for one image in a batch, on one thread."""
        images = torch.zeros(
            batch, len(self.classifier.mean), *self.classifier.input_size, device=self.classifier.device
        )
        pixels = images.clone().requires_grad_()
        with self.as_always(), freeze(self.classifier):
            forward = _fastest(lambda: self.classifier(images)) / batch
            both = _fastest(lambda: torch.autograd.grad(self.classifier(pixels).sum(), pixels)[0]) / batch
        return forward, max(0.0, both - forward)

    @contextmanager
    def as_always(self) -> Iterator[None]:
        """Compute in the classifier's precision and on one thread: sums over several differ in their last bits."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with computing(self.classifier.precision, self.classifier.device):
                yield
        finally:
            torch.set_num_threads(before)

    def compute(
        self, kind: str, arguments: Mapping[str, Any], pictures: Sequence[Image.Image | str], needed: Arrays | None
    ) -> Arrays:
        """One shard's arrays: what its kind computes, with a row for each image that did not fail, and `ALWAYS`.

        `pictures` has, in place of one that cannot be read, the reason as a string; `needed` are the arrays of the
        shard that this one needs. Raises InputError for what is wrong with the machine and not with an image: a missing
        network, method, memory, permission or package.
        """
        classifier = self.classifier
        if "method" in arguments:
            find_method(arguments["method"])  # an unknown one is raised here, where it is no failure of an image
        clock = time.process_time if classifier.device.type == "cpu" else time.perf_counter
        start = clock()
        compute = importlib.import_module(kind).compute
        shared = dict(arguments)
        by_image = shared.pop("by_image", {})
        failures = [picture if isinstance(picture, str) else "" for picture in pictures]
        if needed is not None:
            place = np.cumsum(needed["failure"] == "") - 1  # each image's row in `needed`, which lacks failed ones
            failures = [ours or theirs for ours, theirs in zip(failures, needed["failure"].tolist(), strict=True)]

        def compute_rows(rows: list[int]) -> Arrays:
            given = {name: [values[row] for row in rows] for name, values in by_image.items()}
            if needed is not None:
                given["needed"] = {name: array[place[rows]] for name, array in needed.items() if name not in ALWAYS}
            return compute(classifier, [pictures[row] for row in rows], **given, **shared)

        with self.as_always(), warnings.catch_warnings():  # a game may call the classifier itself
            # Tables show that, too; and games ask for all classes of a scene, also for those that are not seen.
            warnings.filterwarnings("ignore", ".* everywhere for |the margin of ")
            rows = [row for row, failure in enumerate(failures) if not failure]
            parts = _in_halves(compute_rows, rows, failures)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
        seconds = (clock() - start) / max(1, len(pictures))
        _tell_glibc("malloc_trim", 0)  # else free pages between blocks in use would pile up from shard to shard
        return {"failure": np.array(failures, dtype=str), "seconds": np.full(len(pictures), seconds), **arrays}


def _in_halves(compute: Callable[[list[int]], Arrays], rows: list[int], failures: list[str]) -> list[Arrays]:
    """Results of these rows: of all at once, or else in halves, down to the one image that fails.

    Raises MachineError for a fault of the machine, which would else be stored as the image's for ever.
    """
    if not rows:
        return []
    try:
        return [compute(rows)]
    except Exception as error:  # too little memory for all, or something wrong with one
        if is_the_machines(error) or (len(rows) == 1 and is_out_of_memory(error)):
            raise MachineError(
                f"this machine cannot compute it ({_sentence(error)}); mend that and run the same command again"
                f"{see('The machine')}."
            ) from error
        if len(rows) == 1:
            failures[rows[0]] = _sentence(error)
            return []
    release()
    middle = len(rows) // 2
    return _in_halves(compute, rows[:middle], failures) + _in_halves(compute, rows[middle:], failures)


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _fastest(work: Callable[[], torch.Tensor]) -> float:
    """Seconds of the fastest of five calls, each until its result is there."""
    return min(timeit.repeat(lambda: work().sum().item(), number=1, repeat=5))


def _tell_glibc(function: str, *numbers: int) -> None:
    """Call a function of glibc that sets how this process gets and returns memory; without glibc, do nothing."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), function)(*numbers)
