"""Errors and warnings of one sentence: they say what was wrong, and what would be right."""

import difflib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

INSIDE = __name__.partition(".")[0], "contextlib", "torch"
"""Top-level modules that a warning is not about."""


class InputError(ValueError):
    """Bad input, said in one sentence that names what was wrong and what would be right.

    The command line prints that sentence without a traceback and exits with status 2.
    """


class MachineError(InputError):
    """The machine is at fault (memory, disk, permissions, a missing package). It may be mended: this is no result."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the CPU or a GPU ran out. The CPU's allocator and libraries raise a plain RuntimeError."""
    words = "allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc"
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and any(each in str(error) for each in words))


def is_the_machines(error: Exception) -> bool:
    """Whether the machine is to blame, and no image: disk, permissions, packages, drivers, threads."""
    words = "CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "No CUDA GPUs", "NVIDIA driver", "can't start new thread"
    return isinstance(error, (OSError, ImportError, MachineError)) or any(each in str(error) for each in words)


@contextmanager
def writing(path: os.PathLike[str]) -> Iterator[None]:
    """Context in which a file or folder is written. Raises InputError if it cannot be."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def warn(message: str) -> None:
    """Warn at the line that called this package, skipping frames of contextlib and torch in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def see(section: str) -> str:
    """The end of a message that some may not understand: where in the book it is explained."""
    return f' (see "{section}" on the page "When something is wrong")'


def nearest(word: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: " (nearest: a, b)", or "" where no name resembles it."""
    close = difflib.get_close_matches(word.casefold(), list(names), n=3, cutoff=0.5)
    return f" (nearest: {', '.join(close)})" if close else ""
