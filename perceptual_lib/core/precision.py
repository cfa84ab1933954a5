"""How exactly a network computes: float32 in full, float32 rounded to TF32 by a GPU, or bfloat16.

Torch has one set of switches for all threads of a process, and before 2.9 another interface to them.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any

import torch

from perceptual_lib.core.errors import InputError

PRECISIONS = ("full", "tf32", "bf16")


def check_precision(precision: str) -> str:
    """Return the name of a precision. Raises InputError for an unknown one."""
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}.")
    return precision


@dataclass
class _Users:
    key: Hashable
    context: ExitStack
    count: int = 0


class Shared:
    """Context for switches that torch has for all threads of a process: the last user to leave it puts them back.

    Call it with a key that tells one setting from another, and a function that makes a context which sets them.
    """

    def __init__(self) -> None:
        self.inside: list[_Users] = []  # the switches are as the last of them wants
        self.lock = RLock()  # reentrant: garbage may be collected inside, and close a context here

    @contextmanager
    def __call__(self, key: Hashable, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
        with self.lock:
            if not self.inside or self.inside[-1].key != key:
                context = ExitStack()
                context.enter_context(make())
                self.inside.append(_Users(key, context))
            users = self.inside[-1]
            users.count += 1
        try:
            yield
        finally:
            with self.lock:
                users.count -= 1
                while self.inside and self.inside[-1].count == 0:  # in reverse, as each puts back what it found
                    self.inside.pop().context.close()


_shared = Shared()


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Context in which networks compute in this precision; on leaving, torch's switches are as they were.

    "full" and "tf32" set how convolutions, matrix products and recurrent layers compute float32 on CUDA; they touch
    neither the CPU's switches nor a surrounding autocast. "bf16" is an autocast on the device, with "full" for what
    that leaves in float32. Inside, torch 2.9 and later forbid reading their older switches (`allow_tf32`). Raises
    InputError for an unknown name.
    """
    rounded = check_precision(precision) == "tf32"
    half = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    newer = hasattr(torch.backends, "fp32_precision")
    set_switches = partial(_switches, rounded) if newer else partial(_older_switches, rounded, device)
    with _shared((rounded, device.type), set_switches), half:
        yield


@contextmanager
def _switches(rounded: bool) -> Iterator[None]:
    """For torch 2.9 and later: each kind of operation has its own switch, or follows CUDA's or that of all backends."""
    backends: Any = torch.backends
    wanted = "tf32" if rounded else "ieee"
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    if all(kind.fp32_precision == wanted for kind in kinds):
        yield
        return
    before, fixed = _own_switch_of_cuda(), []
    try:
        backends.cudnn.fp32_precision = wanted  # for all of CUDA, although it is found under cudnn
        # Kinds that do not follow were set explicitly. The others are left alone: they are unset, or torch's default
        # TF32, which yields to CUDA's switch. A kind that was set no longer yields, and could not be made to again.
        fixed = [(kind, kind.fp32_precision) for kind in kinds if kind.fp32_precision != wanted]
        for kind, _ in fixed:
            kind.fp32_precision = wanted
        yield
    finally:
        for kind, own in fixed:
            kind.fp32_precision = own
        backends.cudnn.fp32_precision = before


def _own_switch_of_cuda() -> str:
    """CUDA's own switch, or "none" where it follows that of all backends, whose value a plain read would give."""
    backends: Any = torch.backends
    general = backends.fp32_precision
    backends.fp32_precision = "none"
    own: str = backends.cudnn.fp32_precision
    backends.fp32_precision = general
    return own


@contextmanager
def _older_switches(rounded: bool, device: torch.device) -> Iterator[None]:
    """For torch before 2.9: a switch for convolutions and recurrent layers, and one for matrix products, which the CPU
    reads, too."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        torch.backends.cudnn.allow_tf32 = rounded
        if device.type != "cpu":
            torch.set_float32_matmul_precision("high" if rounded else "highest")
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def switches() -> tuple[str | bool, ...]:
    """The switches in effect on CUDA now, for convolutions and for matrix products."""
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):
        return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
    return backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
