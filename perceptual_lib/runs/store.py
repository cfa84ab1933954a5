"""Finished work on disk: one file per shard, under a key made of everything that determines it.

    KEY.npz      a NumPy archive and the SHA-256 of its bytes behind it
    KEY.partial  the same while it is written; it gets the other name when it is whole
    KEY.lock     locked by the run that computes the shard, and says which that is

A lock ends with its process, however that ends, so what a killed run leaves behind can be told from what another run
is computing, and several runs can share a store.
"""

import errno
import hashlib
import io
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from perceptual_lib.core.errors import InputError

Arrays = dict[str, np.ndarray]
DIGEST = 32  # bytes of a SHA-256


class Store:
    """A folder of finished shards, made if it is missing; raises InputError if it cannot be made or written to."""

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
            warnings.warn(f"{self.path(key)} was damaged, and is removed: a run computes it again.", stacklevel=2)
            self.path(key).unlink(missing_ok=True)
        return None

    def save(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard that is leased; the same arrays are always the same bytes.

        Raises InputError if the disk is full or the folder has become read-only. No other shard is lost.
        """
        buffer, partial = io.BytesIO(), self.path(key).with_suffix(".partial")
        np.savez(buffer, **arrays)
        with _one_sentence(self.folder):
            with partial.open("wb") as file:
                file.write(buffer.getbuffer())
                file.write(hashlib.sha256(buffer.getbuffer()).digest())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path(key))

    @contextmanager
    def lease(self, key: str) -> Iterator[bool]:
        """Lock a shard during the context, and yield whether it may be computed: False if another run computes it.

        Nothing but the finished shard is left behind when the context ends.
        """
        path = self.path(key).with_suffix(".lock")
        with ExitStack() as held:
            with _one_sentence(self.folder):
                path.parent.mkdir(exist_ok=True)
                free = held.enter_context(_locked(path))
                if free:
                    with path.open("r+b", buffering=0) as file:
                        file.seek(1)  # Windows lets nobody else read the first byte
                        file.write(f"{socket.gethostname()} {os.getpid()} {time.time():.0f}\n".encode())
                        file.truncate()
            yield free

    def running(self) -> dict[str, str]:
        """Shards that are being computed now, by key: "host, process 123, for 40 s". Leftovers are swept away."""
        found = {}
        for path in self.folder.glob("??/*.lock"):
            with _locked(path) as leftover:
                if leftover:
                    continue
            with suppress(OSError, ValueError), path.open("rb", buffering=0) as file:
                file.seek(1)
                host, process, start = file.read().decode().split()
                found[path.stem] = f"{host}, process {process}, for {time.time() - float(start):.0f} s"
        return found


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Try to lock a file, and yield whether that worked; if so, remove the file and a half-written shard afterwards.

    A file system without locks raises OSError: FileLock could take the file's existence for a lock instead, but a
    killed run leaves the file behind.
    """
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    with suppress(Timeout):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        if lock.is_locked:
            # The file is removed before it is unlocked: whoever has opened it meanwhile finds it gone.
            with suppress(OSError):  # Windows removes no open file; there FileLock does it, once unlocked
                path.with_suffix(".partial").unlink(missing_ok=True)
                path.unlink()
            lock.release()


@contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    """Turn the system's error about a folder into an InputError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "the disk is full: make room and run the same command again, what is finished stays"
        else:
            advice = f"{error.strerror}: give a folder that can be written"
        raise InputError(f"results cannot be kept in {folder} ({advice}).") from error
