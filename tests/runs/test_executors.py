"""Executors: the same bits from all of them, also when a worker is killed."""

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stand_ins import Small, kept, leftovers, local_run, work

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs import processes
from perceptual_lib.runs.executors import Executor, Processes, Ray, make_executor
from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Store

FAULTS = """
import resource, torch
from perceptual_lib.runs.worker import Worker
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16_000_000)  # 64 MB, 15,625 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
Worker({})
faults()
print(before, sorted(faults() for _ in range(3))[1])  # something small may lie in the way once
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_worker_uses_freed_memory_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10


def pids(executor: Executor) -> list[int]:
    """Of the workers' processes."""
    if isinstance(executor, Processes):
        return [worker.process.pid for worker in executor.workers.values()]
    workers = list(executor.workers.values())
    return [each.ray.get(each.actor.__ray_call__.remote(lambda worker: os.getpid())) for each in workers]


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def assert_worker_may_die(executor: Executor, folder: Path, photographs) -> None:
    """A run of which one worker is killed gives the same bits as this process; shards that kill are one sentence."""
    local_run(folder / "local").complete(work(photographs, 1))
    killed: list[int] = []

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and not killed:
            killed.append(pids(executor)[0])
            os.kill(killed[0], signal.SIGKILL)

    run = Run(Store(folder / "store"), executor, report)
    run.complete(work(photographs, 1))
    assert killed and not alive(killed[0])
    before = kept(folder / "store")
    assert before == kept(folder / "local")
    with pytest.raises(InputError, match="workers died 3 times in a row, computing suicide"):
        run.complete([Shard("deadly", {}, tuple(photographs[:1]), label="suicide")])
    assert kept(folder / "store") == before and leftovers(folder / "store") == []


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Numbers must not depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_processes_give_the_same_bits_also_when_workers_die(tmp_path, photographs, two_threads) -> None:
    with closing(Processes({"model": Small()}, 2)) as executor:
        assert_worker_may_die(executor, tmp_path, photographs[:4])
        run = Run(Store(tmp_path / "store"), executor)  # after it, workers are there again
        for pid in pids(executor):
            os.kill(pid, signal.SIGINT)  # as Ctrl-C does in a terminal; what it means is the run's to say
        assert run.ask("identity") == run.network and all(map(alive, pids(executor)))
        for halfway in (False, True):
            with pytest.raises(InputError, match="a worker died while it was asked for its compute"):
                run.ask("compute", "deadly", {"halfway": halfway}, [""], None)
        with pytest.raises(ModuleNotFoundError) as raised:
            run.ask("compute", "nowhere", {}, [""], None)
        assert "import_module" in raised.value.__notes__[0]  # where it was raised


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abacus",), "no engine 'abacus'; there are local, processes and ray"),
        (("local", 2), "engine local has one worker"),
        (("processes", 2, "auto"), "address and gpus are for the engine ray"),
        (("local", 1, None, 0.5), "address and gpus are for the engine ray"),
    ],
)
def test_engines_that_do_not_exist(arguments, message) -> None:
    engine_name, *rest = arguments
    with pytest.raises(InputError, match=message):
        make_executor(engine_name, {"model": Small()}, *rest)


def test_ray_is_asked_for_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray: pip install 'perceptual-ball\[ray\]'"):
        make_executor("ray", {"model": Small()})


@pytest.fixture
def workers_path(monkeypatch) -> None:
    """Ray's workers find the stand-ins."""
    pytest.importorskip("ray")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )


@pytest.mark.slow
def test_ray_gives_the_same_bits_also_when_workers_die(tmp_path, photographs, workers_path) -> None:
    with closing(Ray({"model": Small()}, 2)) as executor:
        assert_worker_may_die(executor, tmp_path, photographs[:4])


@pytest.mark.slow
def test_ray_cluster_that_is_too_small_or_not_there_is_one_sentence() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="no room for 2 workers with 100 GPUs each, only for 0"):
        Ray({"model": Small()}, 2, gpus=100)
    with pytest.raises(InputError, match="Ray cannot be started or reached at nowhere"):
        Ray({"model": Small()}, 2, "nowhere")


@pytest.mark.parametrize(
    ("device", "gpus", "workers"),
    [
        ("cpu", [80e9], 16),
        ("auto", [], 16),
        ("auto", [80e9], 8),  # more would only take turns
        ("cuda", [80e9, 80e9], 16),
        ("cuda:1", [80e9, 80e9], 8),
        ("cuda:1", [6.5e9, 48e9], 8),
        ("auto", [24e9], 4),
        ("auto", [4e9], 1),  # one all the same
    ],
)
def test_as_many_workers_as_have_room(monkeypatch, device, gpus, workers) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda gpu: SimpleNamespace(total_memory=gpus[gpu]))
    assert processes.room({"device": device}) == workers
