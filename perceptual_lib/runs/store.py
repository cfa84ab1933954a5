"""Finished work on disk: one file per shard, under a key made of everything that determines it.

A file is a NumPy archive and the SHA-256 of its bytes behind it. It appears whole or not at all: it is written to a
claim, a file beside it that only its writer has locked, and renamed. The lock ends with its process, however that
ends, so what a killed run leaves behind can be told from what another run is computing, and several runs share a store.
"""

import errno
import fcntl
import hashlib
import io
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perceptual_lib.core.errors import InputError

Arrays = dict[str, np.ndarray]
DIGEST = 32  # bytes of a SHA-256


class Store:
    """A folder of finished shards.

    Args:
        folder: made where it is missing.

    Raises:
        InputError: a folder that cannot be made or written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        with _one_sentence(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".{socket.gethostname()}.{os.getpid()}"
            probe.touch()
            probe.unlink()

    def path(self, key: str) -> Path:
        """Where the shard of this key is, or will be."""
        return self.folder / key[:2] / f"{key}.npz"

    def load(self, key: str) -> Arrays | None:
        """A finished shard; None when there is none. One that was damaged is removed with a warning."""
        with _one_sentence(self.folder):
            try:
                content = self.path(key).read_bytes()
            except FileNotFoundError:
                return None
        body, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(body).digest() == digest:
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                return dict(archive)
        warnings.warn(f"{self.path(key)} was damaged; it is computed again.", stacklevel=2)
        with _one_sentence(self.folder):
            self.path(key).unlink(missing_ok=True)
        return None

    @contextmanager
    def claim(self, key: str) -> Iterator["Claim | None"]:
        """The right to compute a shard, for the length of the context; None where another run has it.

        Nothing is left behind when the context ends without `Claim.finish`.
        """
        partial = self.path(key).with_suffix(".partial")
        with _one_sentence(self.folder):
            partial.parent.mkdir(exist_ok=True)
            descriptor = _lock(partial)
        if descriptor is None:
            yield None
            return
        try:
            with _one_sentence(self.folder):
                os.write(descriptor, f"{socket.gethostname()} {os.getpid()} {time.time():.0f}\n".encode())
            yield Claim(descriptor, partial, self.path(key))
        finally:
            # The name first, the lock after it: whoever locks the file next must find that it is gone.
            if _is_same_file(descriptor, partial):
                partial.unlink(missing_ok=True)
            os.close(descriptor)

    def running(self) -> dict[str, str]:
        """Shards that are being computed now, by key: "host, process 123, for 40 s". Leftovers are swept away."""
        found = {}
        for partial in self.folder.glob("??/*.partial"):
            descriptor = _lock(partial)
            if descriptor is not None:
                partial.unlink(missing_ok=True)
                os.close(descriptor)
                continue
            with suppress(OSError, ValueError):
                host, process, start = partial.read_text().split()
                found[partial.stem] = f"{host}, process {process}, for {time.time() - float(start):.0f} s"
        return found


@dataclass(frozen=True)
class Claim:
    """The right to write one shard; see `Store.claim`."""

    descriptor: int
    partial: Path
    path: Path

    def finish(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the shard: the same arrays are always the same bytes.

        Raises:
            InputError: the disk is full or the folder became read-only. Nothing else is lost.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        body = buffer.getvalue()
        with _one_sentence(self.path.parent):
            os.ftruncate(self.descriptor, 0)
            os.lseek(self.descriptor, 0, os.SEEK_SET)
            rest = memoryview(body + hashlib.sha256(body).digest())
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            os.fsync(self.descriptor)
            self.partial.rename(self.path)


def _lock(partial: Path) -> int | None:
    """Descriptor of the file, made where it is missing and locked; None where another process has it locked."""
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_same_file(descriptor, partial):
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)  # its last owner finished or removed it between the two calls


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Turn what the system says of a folder into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "the disk is full: make room and run the same command again, what is finished stays"
        else:
            advice = f"{error.strerror}: give a folder that can be written"
        raise InputError(f"results cannot be kept in {folder} ({advice}).") from error
