"""An activation that is not seen must not make another method of one, silently."""

import warnings

import pytest
import torch
from stand_ins import WrittenOut
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, explain, perceptual_ball


class Clipped(nn.Module):
    """ReLU, as a comparison."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.where(values > 0, values, 0.0)


def network(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(400, 5)).double().eval()


def scripted() -> nn.Module:
    return torch.jit.trace(network(nn.ReLU()), torch.zeros(1, 3, 12, 12, dtype=torch.double))


UNSEEN = {"written out": lambda: network(WrittenOut()), "compared": lambda: network(Clipped()), "scripted": scripted}


@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize(
    "method", ["guided_backprop", "deconvnet", "guided_grad_cam", "perceptual", "perceptual_guided"]
)
def test_nothing_seen_is_said(images, make, method) -> None:
    layer = {"layer": "0"} if method == "guided_grad_cam" else {}
    if layer and make is scripted:
        pytest.skip("its modules are not seen either")
    with pytest.raises(InputError, match="no activation of the network is seen"):
        explain(make(), images, 0, method=method, **layer)


@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
def test_what_needs_none_goes_on(images, make) -> None:
    unseen = make()
    for method, settings in {"gradient": {}, "no_perceptual": {"max_iter": 2}, "rise": {"samples": 4}}.items():
        assert explain(unseen, images, 0, method=method, **settings).isfinite().all()
    assert perceptual_ball(unseen, images, layers=(), max_iter=1).delta.isfinite().all()


def test_one_seen_activation_is_held_by_default(images) -> None:
    """Four fifths of one would be none."""
    own = Classifier(network(nn.ReLU()), input_size=(12, 12))
    assert list(own.settings["layers"]) == [0]
    held = explain(own, images, method="perceptual", max_iter=3)
    free = explain(own, images, method="no_perceptual", max_iter=3)
    assert not torch.allclose(held, free)


@pytest.mark.parametrize("method", ["perceptual", "guided_backprop"])
def test_one_seen_activation_of_many_is_said(images, method) -> None:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), WrittenOut(), nn.Conv2d(4, 4, 3), WrittenOut()
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    more = {"max_iter": 2} if method == "perceptual" else {}
    with pytest.warns(UserWarning, match="beside 1 activations, calls of sigmoid may be others, written out"):
        explain(network, images, 1, method=method, **more)


@pytest.mark.parametrize("method", ["perceptual", "guided_backprop", "deconvnet"])
def test_a_part_that_is_hidden_is_said(images, method) -> None:
    """One activation is seen, and others are compiled."""
    torch.manual_seed(0)
    body = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    partly = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), body, *head).double()
    more = {"max_iter": 2} if method == "perceptual" else {}
    with pytest.warns(UserWarning, match="2 is compiled to TorchScript: its activations are not seen"):
        explain(partly, images, 1, method=method, **more)


class Remembered(torch.autograd.Function):
    """SiLU as efficientnet_pytorch has it: what is computed in it has no gradient."""

    @staticmethod
    def forward(context, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return values * torch.sigmoid(values)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        share = torch.sigmoid(context.saved_tensors[0])
        return gradient * (share * (1 + context.saved_tensors[0] * (1 - share)))


class Called(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def gelu(values: Tensor) -> Tensor:
    return 0.5 * values * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (values + 0.044715 * torch.pow(values, 3.0))))


def tokens(values: Tensor) -> Tensor:
    return values.flatten(2).transpose(1, 2)


WRITTEN = {
    "tokens": ((Called(tokens), nn.Linear(4, 4), WrittenOut(), nn.Linear(4, 4), WrittenOut()), "calls of sigmoid may"),
    "a function of autograd": (
        (Called(Remembered.apply), nn.Conv2d(4, 4, 1), Called(Remembered.apply)),
        "calls of sigm",
    ),
    "GELU": ((Called(gelu), nn.Conv2d(4, 4, 1)), "tanh beside cubes is GELU written out"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written_out_otherwise_is_said(images, case) -> None:
    body, words = WRITTEN[case]
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 5)]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *body, *head).double()
    network(images)
    with pytest.warns(UserWarning, match=words):
        explain(network, images, 1, method="guided_backprop")


def test_cubes_and_tanh_alone_are_themselves(images) -> None:
    """An RMS norm has squares; tanh may be the activation that it looks like."""
    torch.manual_seed(0)
    norm = Called(lambda values: values * (values.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt())
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)).double()
    network(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, images, 1, method="guided_backprop")


def test_only_calls_that_may_be_activations_are_named(images) -> None:
    """A buffer may be clamped, too."""
    torch.manual_seed(0)

    class Clamped(WrittenOut):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", torch.ones(1, 4, 2, 2).double())

        def forward(self, values: Tensor) -> Tensor:
            return super().forward(values * self.gain.clamp(0, 1).mean())

    body = nn.Conv2d(3, 4, 3), nn.ReLU(), Clamped(), Clamped()
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    with pytest.warns(UserWarning, match="calls of sigmoid may be others"):
        explain(network, images, 1, method="guided_backprop")
