"""Eqs. 1-5 against the same written out plainly, closed forms, and the promises about batches and models."""

import math

import pytest
import torch
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn
from torch.nn import functional as F

from perceptual_lib import InputError, explain, perceptual_ball
from perceptual_lib.core.activations import trace
from perceptual_lib.core.freezing import freeze
from perceptual_lib.core.perturbation import class_response, multiclass_margin
from perceptual_lib.evaluation.change.protocol import perturbation_path


def test_multiclass_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 5.0, 0.0]])
    assert multiclass_margin(logits, torch.tensor([0, 1, 2, 0])).tolist() == [1.0, -2.0, -1.0, 0.0]


def test_class_response_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 4.0]], [[2.0, 3.0]]], [[[1.0, 4.0]], [[2.0, 3.0]]]])  # (2, 2, 1, 2)
    assert class_response(maps, torch.tensor([0, 1])).tolist() == [4.0, 3.0]
    assert class_response(maps[..., 0, 1], torch.tensor([0, 1])).tolist() == [4.0, 3.0]


def plain_perturbation(
    network: TinyNetwork, image: torch.Tensor, label: int, steps: int, layer_weight: float, normalize: bool
) -> torch.Tensor:
    """Eq. 5 as a reader of the paper would write it: one image, torch's optimizer, features and logits apart."""

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        first = F.relu(network.norm(network.first(x)))
        second = F.relu(network.second(first))
        return [first, second, F.silu(network.second(second))]

    original = [value.detach() for value in features(image)]
    changed = image.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([changed], max_iter=steps)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = network(changed)[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        loss = (logits[label] - others.max() + 2) ** 2 + F.mse_loss(changed, image)
        for value, reference in zip(features(changed), original, strict=True):
            scale = reference.square().mean() if normalize else 1
            loss = loss + layer_weight / scale * F.mse_loss(value, reference)
        loss.backward()
        return loss

    optimizer.step(closure)
    return (changed - image).detach()[0]


@pytest.mark.parametrize(("layer_weight", "normalize"), [(0.3, False), (0.3, True), (0.0, False)])
def test_same_iterates_as_the_plain_way(tiny: TinyNetwork, images, layer_weight: float, normalize: bool) -> None:
    tiny.eval()
    targets = torch.tensor([0, 4, 2, 1])  # the first and the last class among them
    result = perceptual_ball(
        tiny, images, targets, "0-2", layer_weight=layer_weight, normalize_layers=normalize, max_iter=20
    )
    for row, label in enumerate(targets.tolist()):
        expected = plain_perturbation(tiny, images[row : row + 1], label, 20, layer_weight, normalize)
        assert (result.delta[row] - expected).abs().max() < 1e-6


def test_no_layers_has_a_closed_form() -> None:
    """On two linear classes Eq. 4 is a quadratic: delta = w (T - M) / (|w|^2 + lambda / N), w the margin's gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)).double()
    images = torch.randn(3, 3, 4, 4, dtype=torch.double)
    targets = torch.tensor([0, 1, 1])
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    result = perceptual_ball(network, images, targets, (), margin_target=-3.0, pixel_weight=5.0)
    for row, label in enumerate(targets.tolist()):
        w = weight[label] - weight[1 - label]
        margin = w @ images[row].flatten() + bias[label] - bias[1 - label]
        expected = w * (-3.0 - margin) / (w @ w + 5.0 / w.numel())
        assert torch.allclose(result.delta[row].flatten(), expected, atol=1e-6)
        assert math.isclose(result.margin_before[row], margin, rel_tol=1e-9)
        assert math.isclose(result.margin[row], margin + w @ expected, rel_tol=1e-5)
    assert result.converged.all() and result.flipped.all()


def test_multilabel_pulls_every_region_down() -> None:
    """A fully convolutional network: the class must be gone from all regions, so the largest ends near T."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).double()
    images = torch.randn(2, 3, 9, 11, dtype=torch.double)
    settings = {"margin_target": -1.0, "pixel_weight": 1e-6, "multilabel": True, "max_iter": 300}
    result = perceptual_ball(network, images, 1, (), **settings)
    regions = network(images + result.delta)[:, 1].flatten(1)
    assert torch.allclose(result.margin, regions.max(1).values)
    assert ((regions.max(1).values + 1).abs() < 0.05).all()
    largest = network(images).flatten(2).amax(2).argmax(1)
    assert torch.equal(perceptual_ball(network, images, multilabel=True, max_iter=2).targets, largest)


def test_an_images_result_does_not_depend_on_its_neighbours(tiny: TinyNetwork, images: torch.Tensor) -> None:
    options = {"layers": [0, 1, 2], "layer_weight": 0.3, "max_iter": 25}
    together = perceptual_ball(tiny, images, **options)
    assert torch.allclose(perceptual_ball(tiny, images, batch_size=3, **options).delta, together.delta, atol=1e-9)
    for row in range(len(images)):
        alone = perceptual_ball(tiny, images[row : row + 1], **options)
        assert torch.allclose(together.delta[row], alone.delta[0], atol=1e-9)
        assert together.evaluations[row] == alone.evaluations[0]


def test_layers_that_can_be_read_once(tiny: TinyNetwork, images: torch.Tensor) -> None:
    settings = {"layer_weight": 0.3, "max_iter": 10, "batch_size": 1}
    expected = perceptual_ball(tiny, images[:3], layers=(0, 1), **settings)
    found = perceptual_ball(tiny, images[:3], layers=(index for index in (0, 1)), **settings)
    assert torch.equal(found.delta, expected.delta)


def test_target_defaults_to_the_prediction(tiny: TinyNetwork, images: torch.Tensor) -> None:
    tiny.eval()
    prediction = tiny(images).argmax(1)
    first, second = perceptual_ball(tiny, images, max_iter=5), perceptual_ball(tiny, images, prediction, max_iter=5)
    assert torch.equal(first.targets, prediction) and torch.equal(first.delta, second.delta)
    assert (first.margin_before > 0).all()
    assert not torch.allclose(perceptual_ball(tiny, images, 3, max_iter=5).delta, first.delta)


def test_holding_the_activations_holds_them(tiny: TinyNetwork, images: torch.Tensor) -> None:
    def change(delta: torch.Tensor) -> float:
        with freeze(tiny):
            before, after = trace(tiny, images)[2][2], trace(tiny, images + delta)[2][2]
        return float((after - before).square().mean())

    free = perceptual_ball(tiny, images, layers=(), max_iter=60).delta
    held = perceptual_ball(tiny, images, layers=2, layer_weight=1000.0, normalize_layers=False, max_iter=60).delta
    assert change(held) < 0.5 * change(free)


def test_breakdown_in_one_image_spares_the_others() -> None:
    torch.manual_seed(0)

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 2).double()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            flat = images.flatten(1)
            moved = (flat[:, 0] > 50) & (flat[:, 1] != 0)  # the marked image, once it has changed
            return self.linear(flat) + torch.where(moved, torch.nan, 0.0)[:, None]

    network = Fragile()
    images = torch.randn(3, 3, 2, 2, dtype=torch.double)
    images[1, 0, 0, 0], images[1, 0, 0, 1] = 100, 0
    result = perceptual_ball(network, images, layers=(), max_iter=20)
    assert result.failed.tolist() == [False, True, False]
    assert torch.equal(result.delta[1], torch.zeros_like(result.delta[1]))  # the start is the best finite iterate
    assert result.margin.isfinite().all() and not result.flipped[1]
    alone = perceptual_ball(network, images[[0, 2]], layers=(), max_iter=20)
    assert torch.allclose(result.delta[[0, 2]], alone.delta, atol=1e-12)


@pytest.mark.parametrize("error_at", [None, 1, 4])
def test_no_trace_is_left_on_the_model(tiny: TinyNetwork, images: torch.Tensor, error_at: int | None) -> None:
    tiny.train()
    tiny.norm.eval()
    tiny.first.weight.requires_grad = False
    calls, forward = [], tiny.forward

    def failing(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == error_at:
            raise KeyboardInterrupt
        return forward(inputs)

    tiny.forward = failing
    before = model_state(tiny)
    if error_at:
        with pytest.raises(KeyboardInterrupt):
            perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=10)
    else:
        perceptual_ball(tiny, images, layers=[0, 1, 2], max_iter=10)
    assert_same_state(before, model_state(tiny))


def test_inputs_and_gradient_mode_are_left_alone(tiny: TinyNetwork, images: torch.Tensor) -> None:
    copy = images.clone()
    with torch.no_grad():
        result = perceptual_ball(tiny, images, layers=0, max_iter=3)
        assert not torch.is_grad_enabled()
    assert torch.equal(images, copy) and not result.delta.requires_grad
    with torch.inference_mode():
        made_here = images.clone()
        inside = perceptual_ball(tiny, images, 2, layers=0, max_iter=3)
    assert torch.equal(perceptual_ball(tiny, made_here, layers=0, max_iter=3).delta, result.delta)
    assert torch.equal(perceptual_ball(tiny, images, 2, layers=0, max_iter=3).delta, inside.delta)


def test_callback_sees_every_step(tiny: TinyNetwork, images: torch.Tensor) -> None:
    seen = []
    result = perceptual_ball(
        tiny, images, layers=0, max_iter=6, callback=lambda step, rows, delta: seen.append((step, rows, delta.clone()))
    )
    assert [step for step, _, _ in seen] == list(range(7))
    assert torch.equal(seen[0][2], torch.zeros_like(images))
    assert torch.equal(seen[-1][2], result.delta)


def test_path_ends_at_the_result(tiny: TinyNetwork, images: torch.Tensor) -> None:
    result, path = perturbation_path(tiny, images, layers=0, max_iter=6, batch_size=3)
    assert path.shape == (7, *images.shape) and not path[0].any()
    assert torch.equal(path[-1], result.delta)
    assert torch.allclose(path[4], perceptual_ball(tiny, images, layers=0, max_iter=4).delta, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_finds_what_the_cpu_finds(tiny: TinyNetwork, images: torch.Tensor) -> None:
    options = {"layers": [0, 1, 2], "layer_weight": 0.3, "max_iter": 25}
    expected = perceptual_ball(tiny, images, **options)
    result = perceptual_ball(tiny.cuda(), images.cuda(), **options)
    assert result.delta.is_cuda and torch.allclose(result.delta.cpu(), expected.delta, atol=1e-6)
    assert torch.equal(result.evaluations.cpu(), expected.evaluations)


NAN_IMAGE = torch.zeros(2, 3, 8, 8, dtype=torch.double)
NAN_IMAGE[1, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(3, 8, 8, dtype=torch.double)}, r"shape \(B, C, H, W\), not \(3, 8, 8\)"),
        ({"inputs": torch.zeros(2, 8, 8, 3, dtype=torch.double)}, r"not \(2, 8, 8, 3\)"),
        ({"inputs": torch.zeros(0, 3, 8, 8, dtype=torch.double)}, "not"),
        ({"inputs": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "floating-point images, not torch.uint8"),
        ({"inputs": torch.zeros(2, 3, 8, 8)}, "float32 on cpu but the network's weights are torch.float64"),
        ({"inputs": [1, 2]}, "not list"),
        ({"inputs": NAN_IMAGE}, r"NaN or infinity in the images \[1\]"),
        ({"targets": 5}, "5 classes"),
        ({"targets": -1}, "5 classes"),
        ({"targets": torch.tensor([0])}, "targets must be None, one class index, or 2 of them"),
        ({"targets": torch.tensor([0.0, 1.0])}, "one class index"),
        ({"targets": "cat"}, "targets must be"),
        ({"layers": 3}, "layer 3 is out of range: the network has 3 activations"),
        ({"layers": "conv"}, "no layer 'conv'"),
        ({"margin_target": 1.0}, "margin_target must be below 0"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, not 0"),
        ({"max_iter": 0}, "max_iter must be a whole number, at least 1, not 0"),
    ],
)
def test_bad_input_is_one_sentence(tiny: TinyNetwork, change: dict, message: str) -> None:
    arguments = {"inputs": torch.zeros(2, 3, 8, 8, dtype=torch.double)} | change
    with pytest.raises(InputError, match=message) as caught:
        perceptual_ball(tiny, **arguments)
    assert "\n" not in str(caught.value)


def test_networks_whose_output_is_no_logits(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match="two classes or more"):
        perceptual_ball(nn.Conv2d(3, 5, 3).double(), images)
    with pytest.raises(InputError, match="two classes or more"):
        perceptual_ball(nn.Sequential(nn.Flatten(), nn.Linear(432, 1)).double(), images)


def test_a_search_that_does_not_begin_is_said(images) -> None:
    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(432, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1e-7 * self.head(images.flatten(1))

    with pytest.warns(UserWarning, match="zero everywhere for 4 of 4 images.*nothing was searched for"):
        assert not perceptual_ball(Faint().double(), images, layers=()).delta.any()


def test_a_search_that_breaks_down_is_said(images) -> None:
    class Nan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(432, 5).double()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images.flatten(1)) * torch.nan

    for call in (
        lambda: perceptual_ball(Nan(), images, layers=()),
        lambda: explain(Nan(), images, method="no_perceptual"),
    ):
        with pytest.warns(UserWarning, match="the search broke down in 4 of 4 problems"):
            call()
