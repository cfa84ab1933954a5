"""Networks that save memory: their backward pass is not that of the calls seen, and must not be folded."""

import pytest
import torch
from passes import assert_alike, folded, unsettled
from stand_ins import QUICK
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from perceptual_lib import InputError, perceptual_ball
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.passes import Passes
from perceptual_lib.methods import METHODS, explain


class Own(torch.autograd.Function):
    """A convolution that computes its gradient itself, of the weights that it was given."""

    @staticmethod
    def forward(context, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(value, weight)
        return torch.conv2d(value, weight, padding=1)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        value, weight = context.saved_tensors
        return nn.grad.conv2d_input(value.shape, weight, gradient, padding=1), None


class Saving(nn.Module):
    """Three ways to the same logits, of which two save memory by a gradient that is not that of the calls seen."""

    def __init__(self, case: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case = case
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.act = nn.ReLU6(inplace=True)

    def block(self, value: torch.Tensor) -> torch.Tensor:
        return self.convolutions[1](self.act(self.norms[0](self.convolutions[0](value))))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        recomputed = self.case == "checkpoint" and images.requires_grad
        value = checkpoint(self.block, images, use_reentrant=False) if recomputed else self.block(images)
        value = F.relu(self.norms[1](value))
        convolution = self.convolutions[2]
        value = Own.apply(value, convolution.weight) if self.case == "own" else convolution(value)
        return F.relu(self.norms[2](value)).mean((2, 3))


@pytest.mark.parametrize("case", ["checkpoint", "own"])
def test_gradients_that_are_not_of_the_calls_seen(images: torch.Tensor, case: str) -> None:
    """A checkpoint goes through the network once more in the backward pass, where nothing of ours answers."""
    plain, saving = unsettled(Saving("plain")), unsettled(Saving(case))
    with freeze(plain), freeze(saving), torch.no_grad():
        assert folded(plain, images) == 3 and folded(saving, images) == 0
        assert_alike(Passes(saving), plain, images)
    for layers in ((), (0, 2), 1):
        settings = {"layers": layers, "layer_weight": 0.3, "max_iter": 8}
        found, expected = (perceptual_ball(network, images, **settings).delta for network in (saving, plain))
        assert torch.allclose(found, expected, rtol=0, atol=1e-6 * expected.abs().max())


@pytest.mark.parametrize("kernel, padding", [(3, 0), (4, 1)])
def test_a_checkpoint_behind_what_is_answered(images: torch.Tensor, kernel: int, padding: int) -> None:
    """It gets the output of a convolution whose batch norm is inside, or what is padded for a convolution inside."""

    class Behind(nn.Module):
        def __init__(self, recomputed: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.recomputed = recomputed
            self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
            self.second, self.last = nn.Conv2d(6, 6, kernel, groups=6), nn.BatchNorm2d(6)

        def block(self, value: torch.Tensor) -> torch.Tensor:
            return self.second(value) if padding else self.norm(value)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            value = self.first(images)
            value = F.pad(self.norm(value), (0, 1, 0, 1)) if padding else value
            value = checkpoint(self.block, value, use_reentrant=False) if self.recomputed else self.block(value)
            return F.relu(self.last(value if padding else self.second(value))).mean((2, 3))

    network, plain = unsettled(Behind(True)), unsettled(Behind(False))
    with freeze(network), freeze(plain), torch.no_grad():
        assert_alike(Passes(network), plain, images)


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients", "deconvnet", "guided_backprop"])
def test_maps_of_a_network_with_checkpoints(images: torch.Tensor, method: str) -> None:
    found, expected = (explain(unsettled(Saving(case)), images, method=method) for case in ("checkpoint", "plain"))
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def test_a_sum_in_place_behind_a_bounded_value(images: torch.Tensor) -> None:
    class Residual(Saving):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            value = self.act(self.norms[0](self.convolutions[0](images)))
            bounded = self.act(self.convolutions[1](value))
            bounded += value
            return bounded.mean((2, 3))

    network = unsettled(Residual("plain"))
    with freeze(network), torch.no_grad():
        assert_alike(Passes(network), network, images)
    assert perceptual_ball(network, images, layers=(0, 1), max_iter=3).delta.isfinite().all()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.passes({"max_iter": 2})[1]])
def test_every_method_is_as_without_checkpoints_or_says_why_not(images, method, reentrant) -> None:
    class Again(nn.Module):
        def __init__(self, wrapped: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.wrapped = wrapped
            self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
            self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(6, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            value = self.stem(images)
            value = checkpoint(self.block, value, use_reentrant=reentrant) if self.wrapped else self.block(value)
            return self.head(value.mean((2, 3)))

    layer = {"layer": 0} if "layer" in METHODS[method].settings else {}  # before the checkpoint, which is run again
    settings = QUICK.get(method, {}) | layer
    expected = explain(Again(False).double(), images, 1, method=method, **settings)
    checkpointed = Again(True).double()
    if reentrant or method == "excitation_backprop":  # whose rules save other tensors the second time
        with pytest.raises(InputError, match='see "Checkpointing"'):
            explain(checkpointed, images, 1, method=method, **settings)
    else:
        found = explain(checkpointed, images, 1, method=method, **settings)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
