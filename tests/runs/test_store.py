"""The store of finished shards: whole files or none, damage found out, one writer at a time, a folder that fails."""

import errno
import hashlib
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs import store as results
from perceptual_lib.runs.store import Store

KEY, OTHER = (hashlib.sha256(name).hexdigest() for name in (b"one", b"other"))
ARRAYS = {
    "failure": np.array(["", "gone"]),
    "maps": np.arange(20, dtype=np.float16).reshape(1, 4, 5),
    "converged": np.array([True]),
}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, key: str = KEY, arrays: dict = ARRAYS) -> Path:
    with store.lease(key) as leased:
        assert leased
        store.save(key, arrays)
    return store.path(key)


def files(store: Store) -> set[str]:
    return {path.name for path in store.folder.rglob("*") if path.is_file()}


def test_what_is_kept_comes_back(store) -> None:
    assert store.load(KEY) is None
    put(store)
    loaded = store.load(KEY)
    assert loaded.keys() == ARRAYS.keys() and files(store) == {f"{KEY}.npz"}
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype and np.array_equal(loaded[name], array)


def test_same_arrays_are_same_bytes(store, monkeypatch) -> None:
    first = put(store).read_bytes()
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)  # an archive's entries have dates
    assert put(store, OTHER).read_bytes() == first


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 0.5, -33, -32, -1], ids=str)
def test_truncated_file_is_computed_again(store, kept) -> None:
    path = put(store)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.warns(UserWarning, match="damaged"):
        assert store.load(KEY) is None
    assert files(store) == set()
    put(store)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("place", [0, 40, 0.3, 0.5, 0.7, -33, -32, -1], ids=str)
def test_flipped_byte_is_found_out(store, place) -> None:
    path = put(store)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place) if isinstance(place, float) else place] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.load(KEY) is None
    assert files(store) == set()


def test_bytes_behind_the_end_are_found_out(store) -> None:
    with put(store).open("ab") as file:
        file.write(b"\0")
    with pytest.warns(UserWarning, match="was damaged, and is removed: a run computes it again"):
        assert store.load(KEY) is None


def test_lease_is_for_one(store) -> None:
    with store.lease(KEY) as first, store.lease(KEY) as second, store.lease(OTHER) as other:
        assert first and not second and other
        where = Store(store.folder).running()
        assert where.keys() == {KEY, OTHER} and f"process {os.getpid()}, for " in where[KEY]
    assert files(store) == set() and store.running() == {}
    with store.lease(KEY) as again:
        assert again


def test_exception_leaves_nothing_behind(store) -> None:
    with pytest.raises(ZeroDivisionError), store.lease(KEY):
        assert files(store) == {f"{KEY}.lock"}
        raise ZeroDivisionError
    assert files(store) == set()


def test_exception_in_the_middle_of_writing_leaves_nothing_behind(store, monkeypatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(store)
    assert files(store) == set() and store.load(KEY) is None


def hold(folder: Path, ready) -> None:
    """Lease KEY and never let go."""
    with Store(folder).lease(KEY) as leased:
        ready.send(leased)
        signal.pause()


def test_lease_of_a_killed_process_is_free(store) -> None:
    context = multiprocessing.get_context("fork")
    for sweep in (True, False):
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(store.folder, there))
        process.start()
        assert here.recv()
        with store.lease(KEY) as leased:
            assert not leased
        assert f"process {process.pid}" in store.running()[KEY]
        process.kill()
        process.join()
        assert files(store) == {f"{KEY}.lock"}
        if sweep:
            assert store.running() == {} and files(store) == set()
        with store.lease(KEY) as leased:
            assert leased
        assert files(store) == set()


def test_file_that_vanishes_between_open_and_lock_is_no_lease(store, monkeypatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    path, lock = store.path(KEY).with_suffix(".lock"), fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        path.unlink(missing_ok=True)  # as the owner does that finished just now
        lock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with store.lease(KEY) as leased:
            assert not leased
    put(store)
    assert files(store) == {f"{KEY}.npz"}


def test_file_system_without_locks_is_one_sentence(store, monkeypatch) -> None:
    """Locks that consist in a file's existence would outlive a killed run."""
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match="cannot be kept .* not implemented"), store.lease(KEY):
        raise AssertionError("leased")


def contend(folder: Path, rounds: int, wins) -> None:
    """Take and leave the lease of KEY; two that have it at once would see each other's mark."""
    store, mark = Store(folder), folder / "mark"
    for _ in range(rounds):
        with store.lease(KEY) as leased:
            if leased:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
                mark.unlink()
                with wins.get_lock():
                    wins.value += 1
        store.running()


def test_leases_under_contention_exclude_each_other(store) -> None:
    context = multiprocessing.get_context("fork")
    wins = context.Value("i", 0)
    processes = [context.Process(target=contend, args=(store.folder, 300, wins)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and wins.value > 100
    assert files(store) == set()


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 KiB of its own, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    mount("size=64k")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_is_one_sentence_and_loses_nothing(disk) -> None:
    folder, remount = disk
    store = Store(folder)
    before = put(store).read_bytes()
    large = {"maps": np.random.default_rng(0).bytes(100_000)}
    with pytest.raises(InputError, match="disk is full: make room"):
        put(store, OTHER, large)
    assert files(store) == {f"{KEY}.npz"} and store.path(KEY).read_bytes() == before
    remount("size=1m")
    put(store, OTHER, large)
    assert files(store) == {f"{KEY}.npz", f"{OTHER}.npz"} and store.load(OTHER).keys() == {"maps"}


def test_disk_without_a_byte_left_is_one_sentence(disk) -> None:
    folder, _ = disk
    store = Store(folder)
    put(store)
    fill(folder)
    with pytest.raises(InputError, match="disk is full"), store.lease(OTHER):
        raise AssertionError("leased")
    assert store.load(KEY) is not None and files(store) == {f"{KEY}.npz", "filler"}


def test_read_only_folder_is_one_sentence(disk) -> None:
    folder, remount = disk
    store = Store(folder)
    path = put(store)
    path.write_bytes(path.read_bytes()[:-1])
    remount("ro")
    with pytest.raises(InputError, match="Read-only file system: give a folder that can be written"):
        Store(folder)
    with pytest.raises(InputError, match="Read-only"), store.lease(OTHER):
        raise AssertionError("leased")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(InputError, match="Read-only"):
        store.load(KEY)


def test_a_file_in_the_folders_place_is_one_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="give a folder that can be written"):
            Store(folder)
