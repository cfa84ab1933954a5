"""What a GPU rounds in each precision."""

import pytest
import torch
from torch import Tensor, nn

from perceptual_lib.core.precision import PRECISIONS, computing

HAS_TF32 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_TF32, reason="needs a GPU that has TF32")]


@pytest.mark.parametrize("kind", ["convolution", "product", "recurrent"])
def test_a_gpu_rounds_where_it_may(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "convolution":
        layer, given = nn.Conv2d(64, 64, 3), torch.randn(8, 64, 32, 32)
    elif kind == "product":
        layer, given = nn.Linear(512, 512), torch.randn(64, 512)
    else:
        layer, given = nn.LSTM(64, 64), torch.randn(8, 16, 64)

    def gradient(precision: str, layer: nn.Module, given: Tensor) -> Tensor:
        given = given.clone().requires_grad_()
        with computing(precision, given.device):
            output = layer(given)
            output = output[0] if isinstance(output, tuple) else output
            return torch.autograd.grad(output.square().sum(), given)[0].double().cpu()

    exact = gradient("full", layer.double(), given.double())
    layer, given = layer.float().cuda(), given.cuda()
    error = {name: float((gradient(name, layer, given) - exact).abs().max() / exact.abs().max()) for name in PRECISIONS}
    assert error["full"] < 1e-5 < 1e-4 < error["tf32"] < error["bf16"]
