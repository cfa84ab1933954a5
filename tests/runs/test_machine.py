"""What is wrong with the machine is said, stops a run, and is no image's failure for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import kept, leftovers, local_run, map_shard

from perceptual_lib.core.errors import InputError, MachineError

FAILURES = {
    "permissions": PermissionError(13, "Permission denied", "/home/cache"),
    "disk": OSError(28, "No space left on device"),
    "a package": ModuleNotFoundError("No module named 'abacus'"),
    "memory": MemoryError(),
    "torch's memory": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "a GPU": RuntimeError("CUDA error: out of memory"),
    "a library": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    "linear algebra": RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "no GPU": RuntimeError("No CUDA GPUs are available"),
    "no driver": RuntimeError("Found no NVIDIA driver on your system."),
    "threads": RuntimeError("can't start new thread"),
    "said by a method": MachineError("it needs abacus: pip install abacus."),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_the_machines_failures_are_not_stored(tmp_path, photographs, register, failure) -> None:
    mended = []

    def method(network, images, targets):
        if not mended:
            raise failure
        return images.abs().mean(1)

    register("fragile", method)
    shard, run = map_shard(photographs[:3], "fragile"), local_run(tmp_path / "store")
    with pytest.raises(InputError, match="this machine cannot compute it .*; mend that and run the same command again"):
        run.complete([shard])
    assert kept(run.store.folder) == {} and leftovers(run.store.folder) == []
    mended.append(True)
    run.complete([shard])
    assert run.load(shard)["failure"].tolist() == [""] * 3


def test_what_is_wrong_with_an_image_is_stored(tmp_path, photographs, register) -> None:
    alone = []

    def method(network, images, targets):
        alone.extend(targets[:1] if len(images) == 1 else ())
        if len(images) > 1 or len(alone) == 2:
            raise ValueError("not this one")
        return images.abs().mean(1)

    register("fragile", method)
    shard, run = map_shard(photographs[:4], "fragile"), local_run(tmp_path / "store")
    run.complete([shard])
    assert run.load(shard)["failure"].tolist() == ["", "ValueError: not this one", "", ""]
    assert run.is_finished(shard)


UNCACHED = """
import sys, numba.core.caching as caching
for name in [each for each in dir(caching) if each.endswith("CacheLocator")]:
    getattr(caching, name).ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError("read-only"))
import numpy as np
from perceptual_lib.evaluation.localization.components import largest_boxes
order = np.argsort(np.array([0, 1, 2, 0, 3, 4]), kind="stable")
print(largest_boxes(order, np.array([6, 4, 2]), 2, 3).tolist())
"""


def test_compiled_code_needs_no_cache() -> None:
    """Neither the package nor the home can be written (numba/numba#4908, #5566)."""
    done = subprocess.run([sys.executable, "-c", UNCACHED], capture_output=True, text=True)
    assert done.stdout == "[[0, 0, -1, -1], [1, 1, 2, 1], [1, 0, 2, 1]]\n", done.stderr


UNGUARDED = """
from PIL import Image
from perceptual_lib.runs.executors import Processes
from perceptual_lib.runs.run import Run
from perceptual_lib.runs.store import Store
run = Run(Store("store"), Processes({"model": "resnet18", "weights": "random", "device": "cpu"}, 1))
settings = {"method": "center", "settings": {}}
run.ask("compute", "perceptual_lib.evaluation.maps", settings, [Image.new("RGB", (32, 32))], None)
print("done")
"""


def test_a_script_without_a_guard_is_told_of_it(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3]))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1 and done.stdout == ""
    assert "put what the script does under if __name__ == '__main__':" in done.stderr.splitlines()[-1]
    assert done.stderr.count("Traceback") == 1 and "more memory" not in done.stderr
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in UNGUARDED.strip().splitlines())
    script.write_text(guarded)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.stdout == "done\n" and "Traceback" not in done.stderr


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
import perceptual_lib.book.explorer, perceptual_lib.runs.run, perceptual_lib.cli, perceptual_lib.evaluation.experiments
from perceptual_lib import Explorer, explain, load_profile
print("done")
"""


def test_a_platform_without_fcntl() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_FCNTL], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
