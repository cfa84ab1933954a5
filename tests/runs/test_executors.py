"""Executors: the same bits from all of them, also when a worker is killed."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stand_ins import Deadly, Small, kept, local_run, map_shard, partials, work
from torch import nn

from perceptual_lib.core.errors import InputError
from perceptual_lib.runs.executors import Processes, Ray, make_executor
from perceptual_lib.runs.run import Run
from perceptual_lib.runs.shard import Shard
from perceptual_lib.runs.store import Store


@pytest.fixture
def processes():
    executors = []

    def make(network: nn.Module) -> Processes:
        executors.append(Processes({"model": network}, 2))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


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
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_worker_uses_freed_memory_again() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10


@pytest.mark.slow
def test_processes_give_the_same_bits_also_when_one_is_killed(tmp_path, photographs, processes) -> None:
    torch.set_num_threads(2)  # numbers must not depend on it
    local_run(tmp_path / "local").complete(work(photographs, 1))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    killed: list[int] = []

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and not killed:
            killed.append(next(iter(executor.pool._processes)))
            os.kill(killed[-1], signal.SIGKILL)

    executor = processes(Small())
    run = Run(Store(tmp_path / "store"), executor, report)
    run.complete(work(photographs, 1))
    assert killed
    assert kept(tmp_path / "store") == kept(tmp_path / "local") and partials(tmp_path / "store") == []


@pytest.mark.slow
def test_processes_that_die_every_time_are_one_sentence(tmp_path, photographs, processes) -> None:
    run = Run(Store(tmp_path / "store"), processes(Deadly()), lambda *_: None)
    with pytest.raises(InputError, match="workers died 3 times in a row, computing (gradient|center)"):
        run.complete(work(photographs))
    with pytest.raises(InputError, match="a worker died while it was asked for its pass_seconds"):
        run.ask("pass_seconds", 1)
    assert kept(tmp_path / "store") == {} and partials(tmp_path / "store") == []


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
def ray_executor(monkeypatch):
    """Makes executors on this machine, whose workers find these networks."""
    pytest.importorskip("ray")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    executors = []

    def make(network: nn.Module, **arguments) -> Ray:
        executors.append(Ray({"model": network}, 2, **arguments))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


@pytest.mark.slow
def test_ray_gives_the_same_bits_also_when_a_worker_is_killed(tmp_path, photographs, ray_executor) -> None:
    local_run(tmp_path / "local").complete(work(photographs, 1))
    executor = ray_executor(Small())
    import ray

    pids = {}

    def report(shard: Shard, state: str) -> None:
        if state == "finished" and not pids:
            pids.update({info["pid"]: info for info in map(_actor, executor.actors)})
            os.kill(next(iter(pids)), signal.SIGKILL)

    def _actor(handle) -> dict:
        return {"pid": ray.get(handle.__ray_call__.remote(lambda worker: os.getpid()))}

    run = Run(Store(tmp_path / "store"), executor, report)
    run.complete(work(photographs, 1))
    assert len(pids) == 2 and not Path(f"/proc/{next(iter(pids))}").exists()
    assert kept(tmp_path / "store") == kept(tmp_path / "local") and partials(tmp_path / "store") == []


@pytest.mark.slow
def test_ray_workers_that_die_every_time_are_one_sentence(tmp_path, photographs, ray_executor) -> None:
    run = Run(Store(tmp_path / "store"), ray_executor(Deadly()))
    with pytest.raises(InputError, match="workers died 3 times in a row, computing"):
        run.complete([map_shard(photographs[:1])])
    assert partials(tmp_path / "store") == []


@pytest.mark.slow
def test_ray_cluster_that_is_too_small_or_not_there_is_one_sentence(ray_executor) -> None:
    with pytest.raises(InputError, match="no room for 2 workers with 100 GPUs each, only for 0"):
        ray_executor(Small(), gpus=100)
    with pytest.raises(InputError, match="Ray cannot be started or reached at nowhere"):
        ray_executor(Small(), address="nowhere")
