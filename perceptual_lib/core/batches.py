"""How many images are worked on at once, and what is done where memory is too small for them."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import repeat
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from perceptual_lib.core.errors import InputError, MachineError, is_out_of_memory, see, warn
from perceptual_lib.core.first_look import findings
from perceptual_lib.core.graphs import release

Result = TypeVar("Result")  # a dataclass of tensors with one first dimension


def full_batch(network: nn.Module, device: torch.device, asked: int | None = None) -> int:
    """How many images a network gets at once: what was asked for, else 64, or 6 on the CPU, where tensors above 32 MB
    are slow: glibc returns their memory and asks for it again. 1 if an answer depends on the others in the batch.
    Raises InputError for what is no number of images."""
    if asked is not None and not (isinstance(asked, Integral) and asked >= 1):
        raise InputError(f"batch_size must be a whole number, at least 1, not {asked}.")
    if findings(network).depends:
        return 1
    return int(asked or (6 if device.type == "cpu" else 64))


def portions(network: nn.Module, images: Tensor, targets: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """All images with their targets as one portion, or each image alone if the network must get it so."""
    size = 1 if findings(network).depends or findings(network).mixed else len(images)
    own = repeat(None) if targets is None else targets.split(size)
    return list(zip(images.split(size), own, strict=False))


def on(device: torch.device, numbers: Tensor) -> Tensor:
    """Copy a CPU's tensor to the device. A GPU goes on with its work meanwhile, and the CPU does not wait for it."""
    return (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)


def in_halves(solve: Callable[[Tensor], Result], images: Tensor, count: int, size: int) -> list[Result]:
    """The results of `count` problems, in batches of `size`; a batch is halved if memory is too small for it.

    `solve` takes problems by number, (P,) int64, to their result, and must keep no memory when it fails. `images` serve
    for their shape and device only. Raises MachineError if memory is too small for one problem.
    """
    batches = torch.arange(count, device=images.device).split(size)
    return [part for rows in batches for part in _halved(solve, images, rows)]


def _halved(solve: Callable[[Tensor], Result], images: Tensor, rows: Tensor, again: bool = True) -> list[Result]:
    try:
        return [solve(rows)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if release() and again:  # memory that earlier calls left was in the way
        return _halved(solve, images, rows, again=False)
    problem = f"{len(rows)} x {' x '.join(map(str, images.shape[1:]))}"
    if len(rows) == 1:
        raise MachineError(
            f"there is not enough memory to explain one image ({problem}) on {rows.device}; use a smaller image, "
            f"fewer layers, a smaller max_iter or another device{see('Not enough memory')}."
        )
    warn(f"not enough memory for a batch of {problem}; it is explained in halves{see('Not enough memory')}.")
    return [part for half in rows.chunk(2) for part in _halved(solve, images, half)]


def join(parts: Sequence[Result], combine: Callable[[list[Tensor]], Tensor] = torch.cat) -> Result:
    """Join results into one, field by field: as consecutive parts of a batch, unless `combine` does otherwise."""
    first: Any = parts[0]
    joined: Result = type(first)(*(combine([getattr(part, field.name) for part in parts]) for field in fields(first)))
    return joined
