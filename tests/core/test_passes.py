"""Folded networks answer as they do plainly, also backwards; what cannot be folded is left as it is."""

import pytest
import torch
import torchvision
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from perceptual_lib import perceptual_ball
from perceptual_lib.core.activations import freeze
from perceptual_lib.core.fold_finder import find_folds
from perceptual_lib.core.folding import NOTHING, Bounded, PathChanged, fold
from perceptual_lib.core.passes import Passes
from perceptual_lib.methods import explain

FOLDED = {"resnet18": 20, "mobilenet_v2": 52, "vgg11_bn": 8, "googlenet": 57, "densenet121": 59, "mnasnet0_5": 52}
"""Convolutions with a batch norm of their own, counted in the printed modules; DenseNet has most norms before them."""


def unsettled(network: nn.Module) -> nn.Module:
    """In double precision, with statistics and weights of batch norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            for value in (module.running_var, module.weight.data):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network.double().eval()


def logits_and_gradient(network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = network(images)
        return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), images)[0]


@pytest.mark.parametrize("name", FOLDED)
def test_same_answer_and_same_gradient(name: str) -> None:
    torch.manual_seed(0)
    settings = {"init_weights": True} if name == "googlenet" else {}
    network = unsettled(torchvision.models.get_model(name, weights=None, **settings))
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with freeze(network):
        before = model_state(network)
        folds = find_folds(network, images)
        assert sum(fold.weight is not None for fold in folds.convolutions) == FOLDED[name]
        plain = logits_and_gradient(network, images)
        quick = logits_and_gradient(Passes(network), images)
        assert_same_state(before, model_state(network))
    for ours, theirs in zip(quick, plain, strict=True):
        assert (ours - theirs).abs().max() < 1e-9 * theirs.abs().max()


class Branching(nn.Module):
    """A batch norm that shares its convolution, one that is in training mode, and a way that depends on the image."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.convolution, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm, self.another = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.convolution(images)
        value = self.norm(first)
        if self.case == "shared":
            value = value + first
        if self.case == "batch statistics":
            value = F.batch_norm(self.other(value), None, None, training=True)
        if self.case == "looks" and images.mean() > 0.5:
            value = self.another(self.other(value))
        return value.square().mean((2, 3)) + value.amax((2, 3))


@pytest.mark.parametrize(("case", "expected"), [("plain", [True]), ("shared", []), ("batch statistics", [True, False])])
def test_what_is_folded(case: str, expected: list[bool]) -> None:
    network = unsettled(Branching(case))
    images = torch.randn(2, 3, 8, 8, dtype=torch.double)
    with freeze(network):
        folds = find_folds(network, images)
        assert [fold.weight is not None for fold in folds.convolutions] == expected
        answers = logits_and_gradient(Passes(network), images), logits_and_gradient(network, images)
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*answers, strict=True))


def test_a_network_that_takes_another_way_is_called_plainly() -> None:
    network = unsettled(Branching("looks"))
    dark, bright = torch.zeros(1, 3, 8, 8).double(), torch.ones(1, 3, 8, 8).double()
    with freeze(network):
        folds = find_folds(network, dark)
        with pytest.raises(PathChanged), fold(folds):
            network(bright)
        passes = Passes(network)
        passes(dark)
        assert torch.equal(passes(bright), network(bright))
        for shown, other in ((dark, dark), (bright, bright), (bright, dark)):
            passes = Passes(network)
            passes(shown)
            assert torch.allclose(passes(other), network(other), rtol=0, atol=1e-12)


class Padded(nn.Module):
    """A depthwise convolution behind padding, or something like it, and a batch norm."""

    def __init__(self, case: str = "plain", amounts: tuple[int, ...] = (0, 1, 0, 1), kernel=3, stride=2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case, self.amounts = case, amounts
        groups, dilation = 1 if case == "dense" else 6, 2 if case == "dilated" else 1
        self.before = nn.Conv2d(3, 6, 3, bias=False)
        self.convolution = nn.Conv2d(6, 6, kernel, stride, groups=groups, dilation=dilation)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = 2 * self.norms[0](self.before(images))
        mode, filling = "reflect" if self.case == "reflected" else "constant", float(self.case == "ones")
        amounts = (1, 1, 1, 1) if self.case == "looks" and images.mean() > 0.5 else self.amounts
        padded = F.pad(value, amounts, mode, filling)
        if self.case == "written":
            value += 1
        before, value = value, self.convolution(padded)
        if self.case == "written later":
            before += 1
            return value.mean((2, 3)) + before.amax((2, 3))
        if self.case == "shared":
            return value.mean((2, 3)) + padded.amax((2, 3))
        return (value if self.case == "no norm" else self.norms[1](value)).relu().mean((2, 3))


@pytest.mark.parametrize("amounts", [(0, 1, 0, 1), (1, 2, 1, 2), (2, 0, 1, 3), (0, 0, 0, 0), (2, 2, 1, 1)])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (5, 2), ((3, 2), (1, 3))])
def test_padding_is_left_out(amounts, kernel, stride) -> None:
    network = unsettled(Padded("plain", amounts, kernel, stride))
    images = torch.randn(2, 3, 17, 14, dtype=torch.double)
    with freeze(network):
        assert [fold.padding is not None for fold in find_folds(network, images).convolutions] == [False, True]
        answers = [logits_and_gradient(each, images) for each in (Passes(network), network)]
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*answers, strict=True))


@pytest.mark.parametrize(
    "case, left_out",
    {
        "no norm": 1,
        "dense": 0,
        "dilated": 0,
        "shared": 0,
        "reflected": 0,
        "ones": 0,
        "written": 0,
        "written later": 0,
        "looks": 1,
    }.items(),
)
def test_which_padding_is_left_out(case: str, left_out: int) -> None:
    """`written`: over what was padded, before the convolution. `looks`: bright pictures are padded otherwise."""
    network = unsettled(Padded(case))
    dark, bright = torch.zeros(1, 3, 14, 14).double(), torch.ones(1, 3, 14, 14).double()
    with freeze(network):
        assert sum(fold.padding is not None for fold in find_folds(network, dark).convolutions) == left_out
        quick = Passes(network)
        for images in (dark, bright):
            answers = logits_and_gradient(quick, images), logits_and_gradient(network, images)
            assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(*answers, strict=True))


def test_padding_of_the_embedded_network(embedded) -> None:
    """Four of its depthwise convolutions step by two and are padded at the right and at the bottom more."""
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with freeze(embedded), torch.no_grad():
        folds = find_folds(embedded, images)
        strided = list(folds.paddings.values())
        assert strided == [(0, 1, 0, 1), (1, 2, 1, 2), (0, 1, 0, 1), (1, 2, 1, 2)]
        assert torch.allclose(Passes(embedded)(images), embedded(images), rtol=0, atol=1e-3)


def test_padding_in_inference_mode() -> None:
    network = unsettled(Padded())
    with torch.inference_mode(), freeze(network):
        images = torch.randn(2, 3, 14, 14, dtype=torch.double)
        quick = Passes(network, backward=False)
        assert torch.allclose(quick(images), network(images), rtol=0, atol=1e-12)
        assert quick.folds


def test_a_network_with_folds_is_called_as_it_is() -> None:
    network = nn.Conv2d(3, 2, 3)
    images = torch.randn(1, 3, 8, 8)
    assert find_folds(network, images) == NOTHING and torch.equal(Passes(network)(images), network(images))


def test_a_part_that_does_not_show_itself_is_noticed() -> None:
    """A function of autograd is not seen: the convolution that it takes is folded, too, and the answer is another."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context, value: torch.Tensor) -> torch.Tensor:
            return 2 * value

    class Hidden(Branching):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            first = self.convolution(images)
            return (self.norm(first) + Twice.apply(first)).mean((2, 3))

    network = unsettled(Hidden(""))
    with freeze(network):
        assert find_folds(network, torch.randn(1, 3, 8, 8).double()) == NOTHING


@pytest.mark.parametrize("low, high", [(0.0, 6.0), (-1.0, 1.0)])
def test_gradient_of_a_bounded_value(low: float, high: float) -> None:
    values = torch.tensor([-2.0, low, (low + high) / 2, high, 9.0], requires_grad=True)
    factors = torch.arange(1.0, 6.0)
    (expected,) = torch.autograd.grad(F.hardtanh(values, low, high), values, factors)
    result = Bounded.apply(values.clone(), low, high)
    assert torch.equal(result, F.hardtanh(values, low, high))
    assert torch.equal(torch.autograd.grad(result, values, factors)[0], expected)


def test_the_tiny_network_of_the_other_tests_is_folded(tiny: TinyNetwork, images: torch.Tensor) -> None:
    with freeze(tiny):
        assert [fold.weight is not None for fold in find_folds(tiny, images).convolutions] == [True, False, False]


def test_a_network_that_hides_a_part_is_explained_as_it_is(images: torch.Tensor) -> None:
    """A function of autograd takes the output of a convolution before its batch norm: that must not be folded."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(context, value: torch.Tensor) -> torch.Tensor:
            return 2 * value

        @staticmethod
        def backward(context, gradient: torch.Tensor) -> torch.Tensor:
            return 2 * gradient

    class Hidden(TinyNetwork):
        hides = True

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            first = self.first(images)
            twice = Twice.apply(first) if self.hides else 2 * first
            return self.head((self.norm(first) + twice).relu().mean((2, 3)))

    torch.manual_seed(0)
    network = Hidden().double()
    network.norm.running_var.fill_(4.0)
    hidden = perceptual_ball(network, images, layers=0, max_iter=10)
    network.hides = False
    assert torch.allclose(hidden.delta, perceptual_ball(network, images, layers=0, max_iter=10).delta, atol=1e-9)


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
        folds = find_folds(plain, images), find_folds(saving, images, backward=False)
        assert [len(each.convolutions) for each in folds] == [3, 3]
        found = logits_and_gradient(Passes(saving), images)
        expected = logits_and_gradient(plain, images)
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(found, expected, strict=True))
    for layers in ((), (0, 2), 1):
        settings = {"layers": layers, "layer_weight": 0.3, "max_iter": 8}
        found, expected = (perceptual_ball(network, images, **settings).delta for network in (saving, plain))
        assert torch.allclose(found, expected, rtol=0, atol=1e-6 * expected.abs().max())


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
        found, expected = (logits_and_gradient(each, images) for each in (Passes(network), network))
    assert all(torch.allclose(*pair, rtol=0, atol=1e-12) for pair in zip(found, expected, strict=True))
    assert perceptual_ball(network, images, layers=(0, 1), max_iter=3).delta.isfinite().all()
