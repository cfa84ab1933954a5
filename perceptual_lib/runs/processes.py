"""Several processes of this machine.

Nothing that takes long is imported here, so that a new process ignores Ctrl-C before it loads torch.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any

ATTEMPTS = 3  # to compute a shard whose worker dies
ANY_GPU = "auto", "cuda"  # names of devices that leave open which one
PER_GPU = 8  # workers: more of them only take turns
WORKER_MEMORY = 6e9  # bytes of a GPU, for one worker


def usable_cores() -> int:
    """Of those of the machine: a batch system, or `taskset`, may leave a process fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(classifier: Mapping[str, Any]) -> int:
    """Workers that this machine has room for: one per core, and no more than share its GPUs well."""
    import torch

    device = classifier.get("device", "auto")
    if device == "cpu" or not torch.cuda.is_available():
        return usable_cores()
    memory = [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]
    if device not in ANY_GPU:
        memory = memory[:1]
    return max(1, min(usable_cores(), sum(min(PER_GPU, int(each / WORKER_MEMORY)) for each in memory)))


class Processes:
    """Several processes of this machine, as many as have `room` where `workers` is None; `classifier` as for `Local`.

    Where there are GPUs they share them: one scores its maps while another computes the next ones.
    """

    death = BrokenExecutor
    attempts = ATTEMPTS

    def __init__(self, classifier: Mapping[str, Any], workers: int | None = None) -> None:
        self.capacity = workers or room(classifier)
        self.classifier = dict(classifier)
        self.pool = self._new_pool()

    def submit(self, name: str, *arguments: Any) -> Future:
        try:
            return self.pool.submit(_call, name, *arguments)
        except BrokenExecutor:  # a worker was killed, and with it the pool
            self.pool = self._new_pool()
            return self.pool.submit(_call, name, *arguments)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork of a process that has used torch's threads may hang
        return ProcessPoolExecutor(self.capacity, context, _start, (self.classifier, context.Value("i", 0)))

    def close(self) -> None:
        for process in list((self.pool._processes or {}).values()):
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


def _start(classifier: Mapping[str, Any], started: Any) -> None:
    """What a worker's process does first; `started` counts those of the pool, which take the GPUs in turn."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from perceptual_lib.runs.worker import Worker

    if classifier.get("device", "auto") in ANY_GPU and torch.cuda.is_available():
        with started:
            torch.cuda.set_device(started.value % torch.cuda.device_count())
            started.value += 1
    _worker = Worker(classifier)


def _end_with_parent() -> None:
    """A run that is killed cannot end its workers: they would compute, and wait for more, for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(name: str, *arguments: Any) -> Any:
    return getattr(_worker, name)(*arguments)
