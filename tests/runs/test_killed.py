"""Runs that are killed or interrupted, and two at once."""

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import sys
import time
from collections import Counter

import pytest
from stand_ins import (
    keep_a_worker_busy,
    kept,
    leftovers,
    local_run,
    make_photographs,
    run_beside,
    work,
)

from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Store


@pytest.fixture(scope="module")
def server():
    """Starts processes that have the imports behind them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stand_ins", "timm", "perceptual_lib.evaluation.localization.components"])
        yield context


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 10)
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "store"
    start = time.perf_counter()
    local_run(undisturbed).complete(work(photographs, 1))
    whole = time.perf_counter() - start
    draw, kills, survivors = random.Random(0), 0, {}
    for _ in range(20):
        states = server.SimpleQueue()
        process = server.Process(target=run_beside, args=(folder, photographs, states))
        process.start()
        multiprocessing.connection.wait([states._reader, process.sentinel])  # until a shard starts, or all is finished
        time.sleep(draw.uniform(0, whole / 10))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        finished = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("??/*.npz")}
        assert survivors.items() <= finished.items()  # none was computed twice
        survivors = finished
    assert kills >= 10 and survivors
    local_run(folder).complete(work(photographs, 1))
    assert kept(folder) == kept(undisturbed)
    assert survivors.items() <= {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.glob("??/*.npz")}.items()
    assert Store(folder).running() == {} and leftovers(folder) == []


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(server) -> None:
    here, there = server.Pipe()
    process = server.Process(target=keep_a_worker_busy, args=(there,))
    process.start()
    worker = here.recv()
    os.kill(worker, 0)  # it is there
    process.kill()
    process.join()
    deadline = time.monotonic() + 120
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            time.sleep(0.05)


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path, server) -> None:
    photographs = make_photographs(tmp_path / "photographs", 6)
    folder, states = tmp_path / "store", server.Queue()
    about = folder, photographs, states, server.Barrier(2)
    processes = [server.Process(target=run_beside, args=about) for _ in range(2)]
    for process in processes:
        process.start()
    reports = []
    while any(process.is_alive() for process in processes) or not states.empty():
        while not states.empty():
            reports.append(states.get())
        time.sleep(0.05)
    assert [process.exitcode for process in processes] == [0, 0]
    finished = Counter(key for _, state, key in reports if state == "finished")
    assert len(finished) == 36 and set(finished.values()) == {1}
    assert {pid for pid, state, _ in reports if state == "finished"} == {process.pid for process in processes}
    local_run(tmp_path / "alone").complete(work(photographs, 1))
    assert kept(folder) == kept(tmp_path / "alone") and leftovers(folder) == []


def test_interrupt_leaves_nothing_unfinished_behind(tmp_path, photographs) -> None:
    def interrupt(shard: Shard, state: str) -> None:
        if len(kept(tmp_path / "store")) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local_run(tmp_path / "store", interrupt).complete(work(photographs))
    assert len(kept(tmp_path / "store")) == 3 and leftovers(tmp_path / "store") == []
