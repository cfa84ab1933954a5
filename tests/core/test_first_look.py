"""Networks whose answers cannot be taken at their word: it is said, and what explains them is right all the same.

Asked for again and again: attributions that are zero behind a softmax (meta-pytorch/captum#91, #978, #1225).
"""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perceptual_lib import InputError, class_gradient, explain, perceptual_ball, perturbations_by_layers
from perceptual_lib.core.first_look import near
from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion
from perceptual_lib.methods.rise import random_masks

METHODS = {
    "gradient": {},
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 3},
    "grad_cam": {},
    "guided_backprop": {},
    "rise": {"samples": 9, "cells": 3},
    "extremal_perturbation": {"steps": 2},
    "perceptual": {"max_iter": 4, "layers": 0},
}


class Dependent(nn.Module):
    """Each image is seen beside its neighbours, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.norm = nn.BatchNorm2d(6, track_running_stats=way != "no statistics")

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        if self.way == "by function":
            features = F.batch_norm(features, None, None, training=True)
        elif self.way == "by hand":
            features = (features - features.mean((0, 2, 3), keepdim=True)) / (1 + features.std((0, 2, 3), keepdim=True))
        else:
            features = self.norm(features)
        return self.head(features.relu().mean((2, 3)))


@pytest.mark.parametrize("way", ["no statistics", "by function", "by hand"])
def test_neighbours_do_not_matter(images, way) -> None:
    network = Dependent(way).double()
    alone = {
        name: [explain(network, one[None], 1, method=name, **more) for one in images] for name, more in METHODS.items()
    }
    with pytest.warns(UserWarning, match="depends on the others in the batch") as said:
        network = Dependent(way).double()
        together = {name: explain(network, images, 1, method=name, **more) for name, more in METHODS.items()}
    assert sum("depends on the others" in str(each.message) for each in said) == 1  # once
    for name, maps in together.items():
        torch.testing.assert_close(maps, torch.cat(alone[name]), msg=name)
    of_one = [perceptual_ball(network, one[None], 1, layers=0, max_iter=4).delta for one in images]
    torch.testing.assert_close(perceptual_ball(network, images, 1, layers=0, max_iter=4).delta, torch.cat(of_one))
    choices = perturbations_by_layers(network, images, [0, ()], 1, max_iter=4, batch_size=8)
    torch.testing.assert_close(choices[0].delta, torch.cat(of_one))
    of_one = [class_gradient(network, one[None], 1) for one in images]
    torch.testing.assert_close(class_gradient(network, images, 1), torch.cat(of_one))
    curves = [insertion_deletion(network, one[None], one[None, 0], 1, step=40).curves for one in images]
    together = insertion_deletion(network, images, images[:, 0], 1, step=40).curves
    torch.testing.assert_close(together, torch.cat(curves))


def test_a_network_that_takes_no_image_alone(images) -> None:
    torch.manual_seed(0)
    flat = nn.Flatten(), nn.Linear(432, 6), nn.BatchNorm1d(6, track_running_stats=False)
    with pytest.raises(InputError, match="cannot be asked for one image alone .*running statistics"):
        explain(nn.Sequential(*flat, nn.Linear(6, 5)).double(), images, method="gradient")


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(432, 5).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.dropout(images.flatten(1), 0.5, training=True))


def test_a_random_network_is_said(images) -> None:
    with pytest.warns(UserWarning, match="answers otherwise each time"):
        explain(Noisy(), images, method="gradient")


class Sure(nn.Module):
    """A network with a softmax, whose logits lie so far apart that single precision sees ones and zeros."""

    def __init__(self, softmax: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.softmax, self.scale = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), softmax, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.softmax(self.scale * self.head(self.conv(images).relu().mean((2, 3))))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rise"])
def test_probabilities_and_their_vanished_gradients_are_said(images, method) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explain(Sure(nn.Softmax(1), 1e4), images.float(), method=method, **METHODS[method])
    said = " ".join(str(each.message) for each in caught)
    assert "the network returns probabilities, not logits" in said and "is zero everywhere for 4 of 4 images" in said


def test_log_probabilities_are_logits(images) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits, logarithms = (
            explain(Sure(head), images.float(), method="perceptual", max_iter=5)
            for head in (nn.Identity(), nn.LogSoftmax(1))
        )
    torch.testing.assert_close(logits, logarithms, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the network returns probabilities")
def test_one_softmax_is_enough(images) -> None:
    """RISE and the games score with probabilities."""
    plain, soft = Sure(nn.Identity()), Sure(nn.Softmax(1))
    pictures = images.float()
    maps = [explain(network, pictures, 1, method="rise", **METHODS["rise"]) for network in (plain, soft)]
    soft.softmax = nn.Identity()  # as the warning says; what was found out is found out again
    torch.testing.assert_close(explain(soft, pictures, 1, method="rise", **METHODS["rise"]), maps[0])
    soft.softmax = nn.Softmax(1)
    torch.testing.assert_close(*maps)
    curves = [insertion_deletion(network, pictures, pictures[:, 0], 1, step=40) for network in (plain, soft)]
    torch.testing.assert_close(*curves)


class WithoutGradient(Sure):
    def __init__(self, way: str) -> None:
        super().__init__(nn.Identity())
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        if self.way == "no_grad":
            with torch.no_grad():
                return super().forward(images)
        if self.way == "a parameter alone":  # as quantized layers do: it has a gradient, and not in the image
            self.head.bias.requires_grad = True
            return super().forward(images.detach())
        if self.way == "numpy":
            return torch.from_numpy(super().forward(images.detach()).detach().numpy())
        return super().forward(images.detach())


@pytest.mark.parametrize("way", ["no_grad", "detach", "numpy", "a parameter alone"])
def test_no_gradient_is_a_sentence(images, way) -> None:
    network = WithoutGradient(way)
    for method, settings in METHODS.items():
        if method == "rise":
            assert explain(network, images.float(), method=method, **settings).isfinite().all()
            continue
        with pytest.raises(InputError, match="have no gradient in the image .*rise"):
            explain(network, images.float(), method=method, **settings)
    for call in (perceptual_ball, class_gradient, lambda *asked: perturbations_by_layers(*asked, [()])):
        with pytest.raises(InputError, match="have no gradient in the image"):
            call(network, images.float())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_searched_in_full(kind) -> None:
    """All is computed with single numbers, whatever the weights': maps are those of the network in float32."""
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for method in ("perceptual", "no_perceptual", "gradient", "grad_cam", "rise", "smoothgrad"):
        full, half = Sure(nn.Identity(), 8.0), Sure(nn.Identity(), 8.0).to(kind)
        more = {"max_iter": 20} if "perceptual" in method else METHODS[method]
        wanted = explain(full, images, 1, method=method, **more)
        for given in (images, images.to(kind)):
            maps = explain(half, given, 1, method=method, **more)
            assert maps.dtype == torch.float32
            for one, other in zip(maps, wanted, strict=True):
                assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.98, method
    found = perceptual_ball(half, images, 1, max_iter=60)
    assert {each.dtype for each in half.parameters()} == {kind}
    assert found.flipped.all() and not found.failed.any() and found.delta.dtype == torch.float32


@pytest.mark.parametrize("case", ["a root", "a class that is masked", "a class that is filled in", "an offset"])
def test_neighbours_beside_what_is_not_finite_or_large(images, case) -> None:
    class Odd(Dependent):
        def forward(self, images: Tensor) -> Tensor:
            scores = super().forward(images.sqrt() if case == "a root" else images)
            if filled := {"a class that is masked": -torch.inf, "a class that is filled in": -1e9}.get(case):
                return torch.cat([scores, torch.full_like(scores[:, :1], filled)], 1)
            return scores + 100 if case == "an offset" else scores

    images = images.abs() + 0.1
    network = Odd("no statistics").double()
    with pytest.warns(UserWarning, match="depends on the others"):
        together = explain(network, images, 1, method="gradient")
    alone = torch.cat([explain(network, each[None], 1, method="gradient") for each in images])
    torch.testing.assert_close(together, alone)


def test_rounding_near_zero_is_near() -> None:
    value = torch.tensor([[3.0, -2.0, 1e-9]]).repeat(2, 1)
    for rows in (value, value[:1]):
        assert near(rows, rows + torch.tensor([0, 0, 3e-8])) and not near(rows, rows + torch.tensor([0, 0, 3e-3]))


def test_a_sigmoid_is_said(images) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 5), nn.Sigmoid()).double()
    with pytest.warns(UserWarning, match="probabilities, not logits"):
        maps = explain(network, images, 1, method="rise", samples=8)
    masks = torch.cat(list(random_masks(images, 8, 7, 0.5, 0, 8)))
    expected = torch.stack([(network(each * masks[:, None])[:, 1, None, None] * masks).sum(0) / 4 for each in images])
    torch.testing.assert_close(maps, expected.detach())


def test_a_module_with_the_place_of_another_is_looked_at(images) -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images))

    network = Headed().double()
    explain(network, images, 1, method="gradient")
    place = id(network.head)
    del network.head
    others = [nn.Softmax(1) for _ in range(1000)]  # one of them is where the first was
    network.head = next((each for each in others if id(each) == place), others[0])
    with pytest.warns(UserWarning, match="probabilities"):
        explain(network, images, 1, method="gradient")


@pytest.mark.parametrize("way", ["of the first", "of those before"])
def test_neighbours_that_are_seen_by_later_images_only(images, way) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = plain

        def forward(self, images: Tensor) -> Tensor:
            return self.inside(images + images[:1] if way == "of the first" else images.cumsum(0))

    with pytest.warns(UserWarning, match="depends on the others"):
        together = explain(Network(), images, 1, method="gradient")
    torch.testing.assert_close(
        together, torch.cat([explain(Network(), one[None], 1, method="gradient") for one in images])
    )


def test_a_network_of_batches_of_one(images) -> None:
    """As exported ones are: several images are passed one by one."""
    torch.manual_seed(0)

    class Exported(Dependent):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.reshape(1, 3, 12, 12))

    network, free = Exported("running").double(), Dependent("running").double()
    free.load_state_dict(network.state_dict())
    for name, more in METHODS.items():
        torch.testing.assert_close(
            explain(network, images, 1, method=name, **more), explain(free, images, 1, method=name, **more)
        )


def test_what_changes_is_looked_at_again(images) -> None:
    network = Dependent("running").double()
    explain(network, images, 1, method="gradient")
    network.norm.track_running_stats, network.norm.running_mean, network.norm.running_var = False, None, None
    with pytest.warns(UserWarning, match="depends on the others"):
        explain(network, images, 1, method="gradient")


@pytest.mark.parametrize("mixed", [False, True])
def test_networks_that_cast_are_refused_in_a_sentence(images, mixed) -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(400, 5).bfloat16()
            if not mixed:
                self.stem.bfloat16()

        def forward(self, images: Tensor) -> Tensor:
            features = self.stem(images) if mixed else self.stem(images.bfloat16())
            return self.head(features.bfloat16().flatten(1))

    for method in ("gradient", "no_perceptual", "rise"):
        with pytest.raises(InputError, match="casts its inputs to half precision itself"):
            explain(Casting(), images.float(), 1, method=method)
