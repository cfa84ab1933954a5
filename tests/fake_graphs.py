"""A graph that calls its function again: what is copied, kept and forgotten is the same on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perceptual_lib.core.graphs import Graph


class Waitless(TorchDispatchMode):
    """Refuses what a GPU cannot do while it records: to tell the host a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


class Again(Graph):
    """As a graph does, it reads its inputs where they were when it was recorded, and writes its outputs where it did;
    and it waits for nothing.

    Unlike one it calls its function again: what that reads beside its inputs lives on, and is as it is at a replay.
    """

    made: list["Again"] = []

    def record(self, function, stream, pools):
        self.made.append(self)
        self.replays = 0

        def replay() -> None:
            self.replays += 1
            with Waitless():
                new = function(*self.inputs)
            if self.replays == 1:
                self.outputs = tuple(each.clone() for each in new)
            for own, each in zip(self.outputs, new, strict=True):
                own.copy_(each)

        self.replay = replay
        return ()  # nothing is done while it is recorded
