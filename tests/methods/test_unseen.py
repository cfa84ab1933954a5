"""An activation that is not seen must not make another method of one, silently."""

import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from stand_ins import WrittenOut
from torch import Tensor, nn
from torch.nn import functional

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
    with pytest.warns(UserWarning, match=r"2 activations are written out \(with sigmoid\)"):
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


def tokens(values: Tensor) -> Tensor:
    return values.flatten(2).transpose(1, 2)


WRITTEN = {
    "SiLU": ("sigmoid", lambda x: x * x.sigmoid()),
    "SiLU in place": ("sigmoid", lambda x: x.mul_(torch.sigmoid(x))),
    "SiLU by its own sigmoid": ("exp", lambda x: x * (1 / (1 + torch.exp(-x)))),
    "SiLU as a quotient": ("exp", lambda x: x / (1 + torch.exp(-x))),
    "SiLU of tokens": ("sigmoid", lambda x: Remembered.apply(tokens(x))),
    "SiLU in a function of autograd": ("sigmoid", Remembered.apply),
    "Hardswish": ("relu6", lambda x: x * (functional.relu6(x + 3, inplace=True) / 6)),
    "Hardswish of a gate": ("hardsigmoid", lambda x: x * functional.hardsigmoid(x)),
    "Mish": ("softplus, tanh", lambda x: x * torch.tanh(functional.softplus(x))),
    "GELU": ("erf", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
    "GELU with cubes": ("tanh", lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))),
    "ReLU as a bound": ("clamp", lambda x: x.clamp(min=0)),
    "ReLU as the larger one": ("maximum", lambda x: torch.maximum(x, torch.zeros_like(x))),
    "ReLU as a choice": ("gt", lambda x: torch.where(x > 0, x, 0.0)),
    "ReLU as a mask": ("gt", lambda x: x * (x > 0)),
    "ReLU as a filling": ("lt", lambda x: x.masked_fill(x < 0, 0)),
    "leaky ReLU": ("max", lambda x: torch.max(x, 0.1 * x)),
}
"""Functions -> what each is made of."""

ITSELF = {
    "a gate of channels": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "a gate of places": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "attention without weights": lambda x: x * torch.sigmoid((x - x.mean((2, 3), keepdim=True)).square()),
    "half a gate for the other": lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]),
    "a residual sum": lambda x: x + functional.relu(x),
    "a squared ReLU": lambda x: functional.relu(x) ** 2,
    "a norm": lambda x: x * (x.pow(2).mean(1, keepdim=True) + 1e-6).rsqrt(),
    "a bound for powers": lambda x: x.clamp(min=1e-6).pow(3),
    "a clamped parameter": lambda x: x * torch.ones(1, 4, 2, 2).clamp(0, 1).mean(),
}
"""Functions that are no activations written out."""


def made_with(function: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), Called(function), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)).double()


@pytest.mark.parametrize(("parts", "function"), WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("method", ["guided_backprop", "grad_cam"])
def test_what_is_written_out_is_said(images, method, parts, function) -> None:
    """Also one beside more that are seen: it may be the last one, at which methods look."""
    network = made_with(function)
    network(images)
    layer = {"layer": -1} if method == "grad_cam" else {}
    said = pytest.warns(UserWarning, match=rf"1 activation is written out \(with {parts}\)")
    with said, suppress(InputError):  # tokens are no map
        explain(network, images, 1, method=method, **layer)


def test_a_picture_that_is_clamped_is_not_said(images) -> None:
    network = nn.Sequential(Called(lambda x: (x.clamp(0, 1) - 0.5) / 0.2), made_with(nn.Identity()))
    network(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, images, 1, method="guided_backprop")


@pytest.mark.parametrize("function", ITSELF.values(), ids=ITSELF)
def test_what_is_no_activation_is_not_said(images, function) -> None:
    network = made_with(function)
    network(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, images, 1, method="guided_backprop")
