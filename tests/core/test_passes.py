"""Folded networks answer as they do plainly, also backwards; what cannot be folded is left as it is."""

import pytest
import torch
import torchvision
from passes import assert_alike, folded, logits_and_gradient, unsettled
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn
from torch.nn import functional as F

from perceptual_lib import Classifier, explain, perceptual_ball
from perceptual_lib.core.folding import Bounded, PathChanged, find_folds, fold
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.passes import Passes

FOLDED = {"resnet18": 20, "mobilenet_v2": 52, "vgg11_bn": 8, "googlenet": 57, "densenet121": 59, "mnasnet0_5": 52}
"""Convolutions with a batch norm of their own, counted in the printed modules; DenseNet has most norms before them."""


@pytest.mark.parametrize("name", FOLDED)
def test_same_answer_and_same_gradient(name: str) -> None:
    torch.manual_seed(0)
    settings = {"init_weights": True} if name == "googlenet" else {}
    network = unsettled(torchvision.models.get_model(name, weights=None, **settings))
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with freeze(network):
        before = model_state(network)
        assert folded(network, images) == FOLDED[name]
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
        bright = "looks" in self.case and images.mean() > 0.5
        value = (self.another if bright and self.case == "looks for its norm" else self.norm)(first)
        if self.case == "by name":
            value = self.another(F.conv2d(input=value, weight=self.other.weight, padding=2, dilation=2))
        if self.case == "shared":
            value = value + first
        if self.case == "batch statistics":
            value = F.batch_norm(self.other(value), None, None, training=True)
        if bright and self.case == "looks":
            value = self.another(self.other(value))
        if self.case.endswith("crosswise"):
            both = self.other(value), self.other(2 * value)
            first, second = reversed(both) if bright else both
            value = 2 * self.another(second) + self.norm(first)
        if self.case == "a weight made anew":
            scale = self.another.weight.abs() + 1
            value = F.batch_norm(self.other(value), self.another.running_mean, self.another.running_var, scale)
        if self.case == "biases of the image":
            norm, bias = self.another, images.mean((0, 2, 3)).sum().expand(4)
            value = F.batch_norm(self.other(value), norm.running_mean, norm.running_var, norm.weight, bias)
            value = self.another(F.conv2d(value, self.other.weight, bias))
        if self.case == "a mask that writes":
            between = self.other(value)
            between[torch.zeros(between.shape, dtype=torch.bool)] = 0  # nothing here, so that a trial does not tell
            value = self.another(between)
        if self.case == "a mask that writes past autograd":
            between = self.other(value)
            between.data[between.data > 1000] = 0
            value = self.another(between)
        if self.case == "a hook on the way":
            between = self.other(value)
            if between.requires_grad:
                between.register_hook(lambda gradient: gradient.clamp(min=0))
            value = self.another(between)
        return value.square().mean((2, 3)) + value.amax((2, 3))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("plain", 1),
        ("by name", 2),
        ("shared", 0),
        ("batch statistics", 1),
        ("crosswise", 3),
        ("a weight made anew", 1),
        ("biases of the image", 1),
        ("a hook on the way", 1),
        ("a mask that writes", 1),
        ("a mask that writes past autograd", 1),
    ],
)
def test_what_is_folded(case: str, expected: int) -> None:
    network = unsettled(Branching(case))
    images = torch.randn(2, 3, 8, 8, dtype=torch.double)
    with freeze(network):
        assert folded(network, images) == expected
        assert_alike(Passes(network), network, images)
        passes = Passes(network)
        passes(images)
        assert_alike(passes, network, 2 * images + 1)  # what was computed of the first ones is not kept


@pytest.mark.parametrize("case", ["looks", "looks for its norm", "looks crosswise"])
def test_a_network_that_takes_another_way_is_called_plainly(case: str) -> None:
    network = unsettled(Branching(case))
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


class Skipping(nn.Module):
    """Adds what its convolution gave, before the norm, where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        before = self.conv(images)
        value = self.norm(before)
        return (value + before if images.mean() > 0.5 else value).mean((2, 3))


def test_a_way_that_takes_more_of_a_folded_convolution_is_another() -> None:
    network = unsettled(Skipping())
    dark, bright = torch.zeros(1, 3, 8, 8).double(), torch.ones(1, 3, 8, 8).double()
    with freeze(network):
        assert folded(network, dark) == 1
        passes = Passes(network)
        passes(dark)
        assert torch.equal(passes(bright), network(bright))


def test_a_network_with_folds_is_called_as_it_is() -> None:
    network = nn.Conv2d(3, 2, 3)
    images = torch.randn(1, 3, 8, 8)
    assert find_folds(network, images) == () and torch.equal(Passes(network)(images), network(images))


twice = torch.jit.trace(lambda value: 2 * value, torch.zeros(1))
"""Is not seen: the convolution that it takes is folded, too, and the answer is another."""


@pytest.mark.parametrize("way", ["plain", "masked", "bright", "strict"])
def test_a_part_that_does_not_show_itself_is_noticed(way: str) -> None:
    """Also beside classes that are filled in, and where the first image is dark. No pixel is out of the image's range:
    a strict network, of which nothing is hidden, is folded."""

    class Hidden(Branching):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.amin() >= 0 and images.amax() <= 1
            first = self.convolution(images)
            shows = images.mean() > (0.5 if way == "bright" else -1)
            scores = (self.norm(first) + (0 if way == "strict" else twice(first) * shows)).mean((2, 3))
            return torch.cat([scores, torch.full_like(scores, -1e9)], 1) if way == "masked" else scores

    network = unsettled(Hidden(""))
    with freeze(network):
        assert bool(find_folds(network, torch.rand(1, 3, 8, 8).double() ** 4)) == (way == "strict")


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
        assert folded(tiny, images) == 1


def test_a_network_that_hides_a_part_is_explained_as_it_is(images: torch.Tensor) -> None:
    """What is hidden takes the output of a convolution before its batch norm: that must not be folded."""

    class Hidden(TinyNetwork):
        hides = True

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            first = self.first(images)
            doubled = twice(first) if self.hides else 2 * first
            return self.head((self.norm(first) + doubled).relu().mean((2, 3)))

    torch.manual_seed(0)
    network = Hidden().double()
    network.norm.running_var.fill_(4.0)
    hidden = perceptual_ball(network, images, layers=0, max_iter=10)
    network.hides = False
    assert torch.allclose(hidden.delta, perceptual_ball(network, images, layers=0, max_iter=10).delta, atol=1e-9)


def test_a_classifier_with_a_forward_of_its_own_is_obeyed(tiny, images) -> None:
    """The natural adapter: all that explains asks it, and not the network inside."""

    class Twice(Classifier):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * self.network(inputs)

    own, plain = Twice(tiny), Classifier(tiny)
    found, expected = (perceptual_ball(each, images, max_iter=1) for each in (own, plain))
    torch.testing.assert_close(found.margin_before, 2 * expected.margin_before)
    for method in ("gradient", "smoothgrad"):
        torch.testing.assert_close(explain(own, images, method=method), 2 * explain(plain, images, method=method))
