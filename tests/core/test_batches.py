"""Too little memory, as the allocators say it and for real: a batch in halves, with a warning."""

import subprocess
import sys

import pytest
import torch
from stand_ins import TinyNetwork

from perceptual_lib import InputError, perceptual_ball


class NeedsMemory(TinyNetwork):
    """Runs out of memory above a batch size, as the CUDA or the CPU allocator says it."""

    def __init__(self, largest: int, error: Exception) -> None:
        super().__init__()
        self.largest, self.error = largest, error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.largest:
            raise self.error
        return super().forward(images)


MEMORY_ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_too_little_memory_halves_the_batch_and_says_so(images: torch.Tensor, error: Exception) -> None:
    torch.manual_seed(0)
    small = NeedsMemory(1, error).double()
    large = NeedsMemory(4, error).double()
    large.load_state_dict(small.state_dict())
    with pytest.warns(UserWarning, match="halves") as warned:
        halved = perceptual_ball(small, images, layers=[0, 1, 2], max_iter=8)
    assert len(warned) == 3  # 4 -> 2 + 2 -> 1 + 1 + 1 + 1
    whole = perceptual_ball(large, images, layers=[0, 1, 2], max_iter=8)
    assert torch.allclose(halved.delta, whole.delta, atol=1e-9)
    with pytest.raises(InputError, match="not enough memory to explain one image"), pytest.warns(UserWarning):
        perceptual_ball(NeedsMemory(0, error).double(), images[:2])


LITTLE_MEMORY = """
import resource, warnings, torch
from torch import nn
from perceptual_lib import perceptual_ball
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
images = torch.randn(4, 3, 512, 512)
perceptual_ball(network, images[:1], layers=(), max_iter=2)  # threads and libraries take their share first
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000,) * 2)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    result = perceptual_ball(network, images, layers=(), max_iter=60)  # its history alone takes 1.5 GB
print(len(result.delta), bool(result.flipped.all()), [str(warning.message) for warning in caught])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_a_real_lack_of_memory_halves_the_batch() -> None:
    process = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], capture_output=True, text=True)
    assert process.stdout.startswith("4 True ['not enough memory for a batch of 4 x 3 x 512 x 512"), process.stderr
