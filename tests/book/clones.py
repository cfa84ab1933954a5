"""Copies of the repository that books are built in."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_repository(clone: Path) -> None:
    """What a build of the book reads, into an empty folder."""
    for name in ("book", "notebooks", "perceptual_lib", "results"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone)


@contextmanager
def one_core(choose: Callable[[set[int]], int] = max) -> Iterator[None]:
    """The notebooks then compute in their kernels, without starting workers: the other cores are the other tests'."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {choose(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
