"""What is explained: a class to be lost, a class to be reached, or any number that a network's output gives."""

import warnings

import pytest
import torch
from stand_ins import TinyNetwork
from torch import Tensor, nn

from perceptual_lib import Classifier, InputError, explain, perceptual_ball
from perceptual_lib.core.calling import Scored

FREE = {"layers": (), "pixel_weight": 1e-3, "max_iter": 60}


@pytest.fixture
def network() -> TinyNetwork:
    torch.manual_seed(0)
    return TinyNetwork().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_network_says_the_class_that_is_to_be_reached(network: TinyNetwork, images: Tensor) -> None:
    with torch.no_grad():
        wanted = network(images).argsort(dim=1)[:, -2]  # the second best
    result = perceptual_ball(network, images, towards=wanted, **FREE)
    with torch.no_grad():
        after = network(images + result.delta)
    assert torch.equal(after.argmax(1), wanted) and result.flipped.all()
    one = perceptual_ball(network, images[1:2], towards=int(wanted[1]), **FREE | {"max_iter": 3})
    three = perceptual_ball(network, images, towards=wanted, **FREE | {"max_iter": 3})
    assert torch.allclose(one.delta, three.delta[1:2], atol=1e-4)
    rest = after.scatter(1, wanted[:, None], -torch.inf).amax(1)
    assert torch.allclose(result.margin, rest - after.gather(1, wanted[:, None])[:, 0], atol=1e-4)


def test_the_smallest_change_of_a_linear_network_towards_a_class() -> None:
    """Where no layer is held, Eq. 4 has a closed form: along the difference of the two rows of weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    image = torch.rand(1, 3, 2, 2)
    delta = perceptual_ball(network, image, layers=(), towards=1, pixel_weight=1.0, max_iter=100).delta.flatten()
    w = (network[1].weight[0] - network[1].weight[1]).detach()
    margin = (network(image)[0, 0] - network(image)[0, 1]).item()
    assert torch.allclose(delta, w * (-2 - margin) / (w.square().sum() + 1 / 12), atol=1e-4)


def test_an_objective_is_what_falls_below_zero(network: TinyNetwork, images: Tensor) -> None:
    def lead(logits: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 1] + 1

    result = perceptual_ball(network, images, objective=lead, max_iter=40)
    with torch.no_grad():
        before, after = lead(network(images)), lead(network(images + result.delta))
    assert torch.allclose(result.margin_before, before, atol=1e-5) and torch.allclose(result.margin, after, atol=1e-4)
    assert (after < before).all()
    inputs = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lead(network(inputs)).sum(), inputs)
    maps = explain(network, images, method="gradient", objective=lead)
    assert torch.allclose(maps, gradient.abs().amax(1), atol=1e-6)


class Segmenter(nn.Module):
    """A network without logits: a dictionary, as torchvision's segmentation networks return it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(images), "aux": images}


@pytest.mark.parametrize("method", ["perceptual", "gradient", "grad_cam", "smoothgrad", "rise"])
def test_a_pixel_of_a_segmentation_is_explained_by_what_it_sees(method: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16)
    settings = {"rise": {"samples": 20}, "perceptual": {"max_iter": 5, "sigma": 0.0}}.get(method, {})
    maps = explain(Segmenter(), image, method=method, objective=lambda output: output["out"][:, 2, 4, 5], **settings)
    assert maps.shape == (1, 16, 16) and maps.std() > 0
    if method in ("gradient", "smoothgrad"):  # two convolutions of 3 x 3 see 5 x 5
        assert maps[0, 2:7, 3:8].sum() > 0 and maps.sum() == pytest.approx(maps[0, 2:7, 3:8].sum())
    elif method == "perceptual":
        assert maps.max() == maps[0, 2:7, 3:8].max()


def test_what_does_not_fit_is_one_sentence(network: TinyNetwork, images: Tensor) -> None:
    with pytest.raises(InputError, match="objective must give one number for each of 1 images"):
        perceptual_ball(network, images, objective=lambda logits: logits)
    with pytest.raises(InputError, match="give one of them"):
        perceptual_ball(network, images, 1, towards=2)
    with pytest.raises(InputError, match="give one of them"):
        explain(network, images, 0, objective=lambda logits: logits[:, 0])
    with pytest.raises(InputError, match="out of range"):
        perceptual_ball(network, images, towards=10_000)
    assert Scored(network, lambda logits: logits[:, 0])(images)[:, 1].tolist() == [0, 0, 0]


def test_torchvisions_segmentation_and_an_embedding_as_the_book_shows(images: Tensor) -> None:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    image = nn.functional.interpolate(images[:1], 64)

    def at_the_middle(output: dict[str, Tensor]) -> Tensor:
        scores = output["out"][:, :, 32, 32]
        others = torch.cat([scores[:, :12], scores[:, 13:]], 1)
        return scores[:, 12] - others.amax(1)

    for method, settings in {"perceptual": {"max_iter": 3}, "gradient": {}}.items():
        maps = explain(network, image, method=method, objective=at_the_middle, **settings)
        assert maps.shape == (1, 64, 64) and maps.std() > 0
    embedding = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        wanted = embedding(images[1:2])

    def more_alike_than(found: Tensor) -> Tensor:
        return torch.cosine_similarity(found, wanted) - 0.9

    result = perceptual_ball(embedding, images[:1], objective=more_alike_than, layers=(), pixel_weight=0.01)
    assert result.margin < result.margin_before


def test_a_precision_that_there_is_not_is_refused_as_without_an_objective(network: TinyNetwork, images: Tensor) -> None:
    classifier = Classifier(network)
    classifier.precision = "half"
    for objective in (None, lambda logits: logits[:, 0]):
        with pytest.raises(InputError, match="no precision 'half'"):
            explain(classifier, images, objective=objective, method="gradient")


def test_a_class_that_is_not_seen_is_said_to_become_likelier() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    image = torch.rand(1, 3, 2, 2)
    network[1].weight.data[0] += 3  # class 0 is seen, clearly
    margin = (network(image)[0, 0] - network(image)[0, 1]).item()
    assert margin > 3
    for asked in ({"targets": 1}, {"towards": 0}):
        with pytest.warns(UserWarning, match="the margin of 1 of 1 problems is below its target to begin with"):
            found = perceptual_ball(network, image, layers=(), max_iter=20, **asked)
        assert found.margin_before.item() == pytest.approx(-margin) and found.margin > found.margin_before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perceptual_ball(network, image, layers=(), max_iter=20)
        perceptual_ball(network, image, 1, layers=(), max_iter=20, margin_target=-margin - 1)
