"""Kernels that are forked: what they find is what a kernel of its own would, and their end is seen."""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("papermill")  # the unit tests can do without it

from jupyter_client.connect import LocalPortCache  # noqa: E402
from test_pipeline import write_notebook  # noqa: E402

from perceptual_lib.book import pages  # noqa: E402
from perceptual_lib.book.kernels import Kernels, _Fork  # noqa: E402
from perceptual_lib.core.errors import InputError  # noqa: E402

FINDS = """
import os, platform, resource, sys
import torch
ours, CUDA_is_lost = [name for name in sys.modules if name.startswith("perceptual_lib")], torch.cuda._is_in_bad_fork()
import perceptual_lib, seaborn, matplotlib.pyplot
assert (profile, ours, CUDA_is_lost, perceptual_lib.ANSWER) == ("given", [], False, 41)
assert os.getcwd() == os.path.abspath(os.path.join(perceptual_lib.__file__, "../../notebooks"))
assert os.getpgid(0) == os.getpid() and os.environ["JPY_PARENT_PID"] == str(os.getppid())
assert torch.rand(500, 500).mm(torch.eye(500)).shape == (500, 500)
if platform.libc_ver()[0] == "glibc":
    faults = []
    for _ in range(30):
        torch.ones(16_000_000)  # 64 MB, 15,625 pages: once there is room for it, freed memory is used again
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    assert faults[-1] - faults[-6] < 15_625, faults
os.write(2, b"noise")
open("../parent", "w").write(str(os.getppid()))
"""
DRAWS = "matplotlib.pyplot.plot([1, 2])"


@pytest.mark.slow
def test_a_kernel_is_as_one_of_its_own_and_its_end_is_seen(tmp_path: Path) -> None:
    (tmp_path / "perceptual_lib").mkdir()
    (tmp_path / "perceptual_lib" / "__init__.py").write_text("ANSWER = 41\n")
    whole, killed = (tmp_path / "notebooks" / f"{name}.ipynb" for name in ("whole", "killed"))
    write_notebook(whole, "Whole", ("", FINDS), ("", DRAWS))
    write_notebook(killed, "Killed", ("", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    with Kernels(tmp_path) as kernels:
        for source in (whole, killed, whole):
            target = tmp_path / "computed" / source.name
            if source is killed:
                with pytest.raises(RuntimeError, match="Kernel died"):
                    pages.compute(source, target, "given", "smoke", kernels)
            else:
                pages.compute(source, target, "given", "smoke", kernels)
            assert target.exists() == (source is whole)
    assert "image/png" in nbformat.read(tmp_path / "computed" / "whole.ipynb", 4).cells[-1].outputs[-1].data
    assert "noise" in (tmp_path / "computed" / "running" / "whole.log").read_text()
    parent = int((tmp_path / "parent").read_text())
    if parent != os.getpid():
        with pytest.raises(ProcessLookupError):
            os.kill(parent, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_forking_process_that_ended_is_one_sentence() -> None:
    ours, its = socket.socketpair(type=socket.SOCK_SEQPACKET)
    its.close()
    with ours, pytest.raises(InputError, match="that kernels are forked from has ended"):
        _Fork(ours)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_a_kernel_asks_for_no_port_that_another_program_has_taken(tmp_path: Path, monkeypatch) -> None:
    source, target = tmp_path / "notebooks" / "whole.ipynb", tmp_path / "computed" / "whole.ipynb"
    write_notebook(source, "Whole", ("", "print(1)"))
    with socket.create_server(("127.0.0.1", 0)) as other, Kernels(tmp_path) as kernels:
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda self, ip: other.getsockname()[1])
        pages.compute(source, target, "given", "smoke", kernels)
    assert target.exists()


@pytest.mark.slow
def test_two_kernels_run_at_once_and_one_that_is_killed_costs_the_other_nothing(tmp_path: Path) -> None:
    meet = """
import os, time
open(f"../{name}", "w").close()
other = "../" + {"killed": "whole", "whole": "killed"}[name]
waited = [time.sleep(0.1) for _ in range(1000) if not os.path.exists(other)]
assert len(waited) < 1000  # a kernel that does not start says so by itself
if name == "killed": os.kill(os.getpid(), 9)
time.sleep(1)
"""
    sources = [tmp_path / "notebooks" / f"{name}.ipynb" for name in ("killed", "whole")]
    for source in sources:
        write_notebook(source, source.stem, ("", f"name = {source.stem!r}"), ("", meet))
    with Kernels(tmp_path) as kernels, ThreadPoolExecutor() as pool:
        killed, whole = (
            pool.submit(pages.compute, source, tmp_path / "computed" / source.name, "given", "smoke", kernels)
            for source in sources
        )
        whole.result()
        with pytest.raises(RuntimeError, match="Kernel died"):
            killed.result()
    assert [path.name for path in (tmp_path / "computed").glob("*.ipynb")] == ["whole.ipynb"]
