"""What is found out about a network is of its state and of the size of its images; what is said of it is said once."""

import copy
import gc
import warnings
import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from perceptual_lib import explain, perceptual_ball
from perceptual_lib.core.first_look import findings, look_at


class Tiles(nn.Module):
    """Cuts images into tiles of 8 x 8, of all images the first ones first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        tiles = torch.cat([tile for row in images.split(8, 2) for tile in row.split(8, 3)])
        return self.head(self.conv(tiles).relu().mean((2, 3)).unflatten(0, (-1, len(images))).mean(0))


def test_what_is_found_out_is_of_a_size_of_images() -> None:
    """One tile is not mixed with others; the warning comes with the size that is, and not again."""
    network, large = Tiles().double(), torch.rand(3, 3, 16, 16).double()
    settings = {"layers": 0, "max_iter": 4}
    perceptual_ball(network, large[:, :, :8, :8], 1, **settings)
    with pytest.warns(UserWarning, match="not of one image after the other"):
        together = perceptual_ball(network, large, 1, **settings).delta
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perceptual_ball(network, large[:, :, :8, :8], 1, **settings)
        alone = torch.cat([perceptual_ball(network, each, 1, **settings).delta for each in large.split(1)])
    torch.testing.assert_close(together, alone)


def test_what_is_said_of_a_network_is_said_once_whatever_the_sizes() -> None:
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for side in (*range(6, 12), *range(6, 12)):
            explain(body, torch.rand(1, 3, side, side), 1, method="gradient")
    assert sum("returns probabilities" in str(each.message) for each in caught) == 1


class Called(nn.Module):
    """Its last step may be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = torch.sigmoid

    def logits(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images))


def replaced(network: Called) -> None:
    network.forward = network.logits


def called(network: Called) -> None:
    network.last = lambda scores: scores


def redefined(network: Called) -> None:
    type(network).forward = Called.logits


def test_functions_that_are_made_anew_each_time_are_the_same() -> None:
    class Assigning(Called):
        def __init__(self) -> None:
            super().__init__()
            self.assign()

        def assign(self) -> None:
            self.act, self.bound = (lambda scores: scores), partial(torch.mul, 1.0)

        def forward(self, images: Tensor) -> Tensor:
            self.assign()
            return self.body(images).softmax(1)

    network = Assigning()
    network.odd = Odd()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")
    assert sum("returns probabilities" in str(each.message) for each in caught) == 1


class Odd(dict):
    """Can be called, and has no attribute but its items."""

    __getattr__ = dict.__getitem__

    def __call__(self) -> None:
        pass


@pytest.mark.parametrize("change", [replaced, called, redefined])
def test_another_forward_is_looked_at(change) -> None:
    """RISE adds its softmax to logits, and no other to probabilities."""
    kind = type("Own", (Called,), {"forward": Called.forward})
    network, images = kind(), torch.rand(1, 3, 8, 8)
    settings = {"method": "rise", "samples": 8}
    with pytest.warns(UserWarning, match="returns probabilities, not logits"):
        explain(network, images, 1, **settings)
    change(network)
    torch.testing.assert_close(explain(network, images, 1, **settings), explain(network.body, images, 1, **settings))
    forgotten = weakref.ref(network)
    del network
    gc.collect()
    assert forgotten() is None


class Ensemble(nn.ModuleList):
    """A mean of what its modules say."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(modules)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([module(images) for module in self]).mean(0).flatten(1)


def test_an_average_of_two_networks_is_of_probabilities() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 5, 8), nn.Conv2d(3, 5, 8)

        def forward(self, images: Tensor) -> Tensor:
            return (self.one(images).sigmoid() + self.other(images).sigmoid()).flatten(1) / 2

    with pytest.warns(UserWarning, match="returns probabilities, not logits"):
        explain(Both(), torch.rand(1, 3, 8, 8), 1, method="gradient")


def test_an_objective_that_is_a_probability_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten())
    with pytest.warns(UserWarning, match="the objective returns probabilities, not logits"):
        explain(network, torch.rand(1, 3, 8, 8), method="gradient", objective=lambda logits: logits.softmax(1)[:, 1])


def test_scores_that_are_gated_are_logits() -> None:
    network = Ensemble(nn.Sequential(nn.Conv2d(3, 5, 8), nn.Sigmoid()), nn.Conv2d(3, 5, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")


@pytest.mark.parametrize("way", ["a weight", "many steps"])
def test_what_is_made_of_sigmoids_is_not_always_a_probability(way: str) -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.weight = nn.Conv2d(3, 5, 8), nn.Parameter(torch.full((5,), 0.1))

        def forward(self, images: Tensor) -> Tensor:
            shares = self.convolution(images).flatten(1).sigmoid()
            for _ in range(40 if way == "many steps" else 0):
                shares = (shares + shares * shares) / 2
            return shares * self.weight

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(Made(), torch.rand(1, 3, 8, 8), 1, method="gradient")


def statistics_of_a_batch() -> nn.Sequential:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_nothing_is_found_out_by_a_call_that_fails() -> None:
    network, images = statistics_of_a_batch(), torch.rand(2, 3, 8, 8)
    network[5].double()
    with pytest.raises(RuntimeError, match="same dtype"):
        explain(network, images, 1, method="gradient")
    network.float()
    with pytest.warns(UserWarning, match="depends on the others"):
        explain(network, images, 1, method="gradient")


def test_what_is_known_of_another_state_is_not_taken_for_this_one() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1))
    with pytest.warns(UserWarning, match="returns probabilities"):
        look_at(network, torch.rand(1, 3, 8, 8))
    network[3] = nn.Identity()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = network[0].register_forward_pre_hook(full)
    look_at(network, torch.rand(1, 3, 9, 9))
    handle.remove()
    assert not findings(network).probabilities


def test_a_head_of_zeros_does_not_say_that_neighbours_do_not_matter() -> None:
    network, images = statistics_of_a_batch(), torch.rand(2, 3, 8, 8)
    settings = {"method": "integrated_gradients", "steps": 4}
    trained = network[5].weight.detach().clone()
    nn.init.zeros_(network[5].weight)
    with pytest.warns(UserWarning, match="not of one image after the other"):
        explain(network, images, 1, method="gradient")
    network[5].weight.data.copy_(trained)
    running = copy.deepcopy(network)  # which is looked at anew
    with pytest.warns(UserWarning, match="depends on the others"):
        expected = explain(running, images, 1, **settings)
    torch.testing.assert_close(explain(network, images, 1, **settings), expected)


@pytest.mark.parametrize(
    "last",
    [
        nn.Sequential(nn.Sigmoid(), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Hardsigmoid()),
        nn.Sequential(nn.Softmax(1), nn.Flatten(), nn.Hardtanh(0, 1)),
        Ensemble(nn.Sigmoid(), nn.Sequential(nn.Tanh(), nn.Sigmoid())),
    ],
)
def test_probabilities_are_known_in_another_shape(last: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 4), nn.AdaptiveAvgPool2d(1), last)
    with pytest.warns(UserWarning, match="returns probabilities, not logits"):
        explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")


def test_tanh_is_no_probability() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Tanh())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")


def test_a_hook_that_comes_later_is_looked_at() -> None:
    network, images = (
        nn.Sequential(nn.Conv2d(3, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        torch.rand(1, 3, 8, 8),
    )
    explain(network, images, 1, method="gradient")
    network.register_forward_hook(lambda module, given, scores: scores.softmax(1))
    with pytest.warns(UserWarning, match="returns probabilities, not logits"):
        explain(network, images, 1, method="gradient")
