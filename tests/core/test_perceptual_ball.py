"""Several choices of layers at once find what one call for each finds, with fewer passes of the network."""

import pytest
import torch
from stand_ins import TinyNetwork, assert_same_state, model_state
from torch import nn

from perceptual_lib import InputError, class_gradient, perceptual_ball, perturbations_by_layers

CHOICES = [[], "0-2", "1-2", 2, [0, 2]]
SETTINGS = {"layer_weight": 0.3, "max_iter": 15}


class Smooth(nn.Module):
    """A network on which the search converges; it counts the images that it is shown."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(256, 2)
        self.layers = nn.Sequential(*layers).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.layers(images)


EACH = torch.tensor([4, 0, 1, 1])


@pytest.mark.parametrize(
    ("normalize", "targets", "batch_size"),
    [(True, None, None), (False, 3, 2), (True, EACH, 2), (False, EACH, None)],
    ids=["prediction", "one", "each", "each at once"],
)
def test_same_as_one_call_for_each(tiny: TinyNetwork, images: torch.Tensor, normalize, targets, batch_size) -> None:
    settings = SETTINGS | {"normalize_layers": normalize}
    found = perturbations_by_layers(tiny, images, CHOICES, targets, batch_size=batch_size, **settings)
    assert len(found) == len(CHOICES)
    for layers, result in zip(CHOICES, found, strict=True):
        alone = perceptual_ball(tiny, images, targets, layers, **settings)
        assert torch.allclose(result.delta, alone.delta, rtol=0, atol=1e-9)
        assert torch.allclose(result.margin, alone.margin) and torch.allclose(result.margin_before, alone.margin_before)
        for fact in ("targets", "evaluations", "converged", "failed"):
            assert torch.equal(getattr(result, fact), getattr(alone, fact)), fact


def test_layers_that_can_be_read_once(tiny: TinyNetwork, images: torch.Tensor) -> None:
    expected = perturbations_by_layers(tiny, images[:2], [(0, 2), [1]], **SETTINGS)
    found = perturbations_by_layers(tiny, images[:2], (iter(layers) for layers in ((0, 2), [1])), **SETTINGS)
    assert all(torch.equal(ours.delta, theirs.delta) for ours, theirs in zip(found, expected, strict=True))


def test_choices_that_end_early_leave_the_batch(images: torch.Tensor) -> None:
    """It sees the image once for the references, once at the start, once for each later evaluation and at the end."""
    network, choices = Smooth(), [[], 0, 1, "0-1"]
    class_gradient(network, images[:1])  # the first call of all looks at the network
    network.seen = 0
    found = perturbations_by_layers(network, images[:1], choices, layer_weight=100.0)
    shared, network.seen = network.seen, 0
    evaluations = [int(result.evaluations) for result in found]
    assert len(set(evaluations)) > 1 and all(result.converged for result in found)
    assert shared == 1 + 1 + sum(each - 1 for each in evaluations) + len(choices)
    for layers in choices:
        perceptual_ball(network, images[:1], layers=layers, layer_weight=100.0)
    assert network.seen == sum(evaluations) + 2 * len(choices) > shared


@pytest.mark.parametrize("layers", [["0-2"], CHOICES])
def test_the_model_is_left_as_it_was(tiny: TinyNetwork, images: torch.Tensor, layers) -> None:
    tiny.train()
    before = model_state(tiny)
    perturbations_by_layers(tiny, images, layers, **SETTINGS)
    assert_same_state(before, model_state(tiny))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choices": []}, "no layers to choose from"),
        ({"choices": [0], "layers": "0-1"}, "the layers to hold are the choices"),
        ({"choices": ["7-9"]}, "layer 7 is out of range"),
        ({"choices": [0], "max_iter": 0}, "at least 1"),
        ({"choices": [0], "margin_target": 1.0}, "below 0"),
        ({"choices": [0], "targets": 9}, "out of range"),
    ],
)
def test_bad_input_is_one_sentence(tiny: TinyNetwork, images: torch.Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        perturbations_by_layers(tiny, images, **arguments)


def test_too_little_memory_halves_the_choices(images: torch.Tensor) -> None:
    class Small(TinyNetwork):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    torch.manual_seed(0)
    small = Small().double()
    with pytest.warns(UserWarning, match="halves") as warned:
        found = perturbations_by_layers(small, images[:1], CHOICES, **SETTINGS)
    assert len(warned) == 1  # 5 -> 3 + 2
    alone = perceptual_ball(small, images[:1], layers=CHOICES[-1], **SETTINGS)
    assert torch.allclose(found[-1].delta, alone.delta, rtol=0, atol=1e-9)
