"""Networks that return more than logits: what is plainly meant is taken, by everything; else there is a sentence."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import PerChannelMinMaxObserver

from perceptual_lib import Classifier, InputError, explain, perceptual_ball
from perceptual_lib.core.saliency import class_gradient, relative_changes
from perceptual_lib.evaluation.insertion_deletion.protocol import insertion_deletion


@dataclass
class Output:
    """As those of Hugging Face's models."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


Pair = namedtuple("Pair", "scores features")

RETURNS = {
    "tuple": lambda logits, features: (logits, features),
    "tuple, features first": lambda logits, features: (features, logits),
    "list of one": lambda logits, features: [logits],
    "named tuple": lambda logits, features: Pair(logits, features),
    "dict": lambda logits, features: {"out": logits, "aux": features},
    "dict by name": lambda logits, features: {"probabilities": logits.softmax(1), "logits": logits},
    "object": lambda logits, features: Output(logits, (features,)),
    "tuple with nothing": lambda logits, features: (None, logits),
    "logits, then more in a dictionary": lambda logits, features: (logits, {"embedding": features.mean(1)}),
    "logits, then others in a list": lambda logits, features: (logits, [2 * logits, features.mean(1)]),
    "scores of an image beside boxes": lambda logits, features: {"scores": logits, "boxes": features.flatten(2)},
    "a head beside maps": lambda logits, features: ({"cls": logits}, [features]),
}


class Returning(nn.Module):
    def __init__(self, network: nn.Module, pack) -> None:
        super().__init__()
        self.inner, self.pack = network, pack

    def forward(self, images: Tensor):
        return self.pack(self.inner(images), images.mean(1))


@pytest.mark.parametrize("pack", RETURNS.values(), ids=RETURNS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_plainly_meant_is_taken(tiny, images, pack, wrapped) -> None:
    network = Returning(tiny, pack)
    network = Classifier(network) if wrapped else network
    for method, settings in {
        "gradient": {},
        "guided_backprop": {},
        "grad_cam": {},
        "smoothgrad": {"samples": 3},
        "rise": {"samples": 8},
        "perceptual": {"layers": [0, 1], "max_iter": 2},
        "excitation_backprop": {},
    }.items():
        found = explain(network, images, method=method, **settings)
        torch.testing.assert_close(found, explain(tiny, images, method=method, **settings))
    torch.testing.assert_close(class_gradient(network, images), class_gradient(tiny, images))
    assert torch.equal(
        perceptual_ball(network, images, max_iter=1).margin, perceptual_ball(tiny, images, max_iter=1).margin
    )
    maps = images.square().mean(1)
    torch.testing.assert_close(insertion_deletion(network, images, maps), insertion_deletion(tiny, images, maps))


AMBIGUOUS = {
    "two of one kind": lambda logits, features: (logits, 2 * logits),
    "a dict of several": lambda logits, features: {"main": logits, "other": logits[:, :2]},
    "features alone": lambda logits, features: (features, features),
    "several heads in one": lambda logits, features: {
        "heads": {"a": logits, "b": logits[:, :2]},
        "embedding": features,
    },
    "a head beside features": lambda logits, features: ({"cls": logits}, features.mean(1)),
    "no tensor": lambda logits, features: {"label": "cat"},
    "nothing": lambda logits, features: None,
}


def test_an_objective_of_whole_numbers_has_no_gradient_and_gets_a_sentence(tiny, images) -> None:
    for objective in (lambda scores: scores[:, 0] > 0, lambda scores: scores.argmax(1)):
        with pytest.raises(InputError, match=r"one number for each of \d images, not torch.(bool|int64) \(\d,\)"):
            explain(tiny, images, objective=objective, method="rise", samples=3)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_objects_that_are_detected_are_no_classes(tiny, images, count, scripted) -> None:
    """With one of them its boxes have the shape of logits. Scripted detectors return losses, too."""

    def pack(logits: Tensor, features: Tensor) -> list[dict[str, Tensor]]:
        boxes = logits[:1, :4].expand(count, 4)
        found = [{"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "scores": boxes[:, 0]}]
        return ({}, found) if scripted else found

    with pytest.raises(InputError, match="objects that it detected.*objective="):
        explain(Returning(tiny, pack), images[:1], 0, method="gradient")


@pytest.mark.parametrize("pack", AMBIGUOUS.values(), ids=AMBIGUOUS)
@pytest.mark.parametrize("method", ["gradient", "perceptual", "rise", "grad_cam"])
def test_what_is_not_plain_gets_a_sentence(tiny, images, pack, method) -> None:
    with pytest.raises(InputError, match="must return a tensor of logits, not .* wrap it"):
        explain(Returning(tiny, pack), images, 0, method=method)


def test_properties_say_what_is_wrong_with_the_network(tiny) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(images)

    with pytest.raises(InputError, match="fails on a blank image .* no attribute 'head'"):
        _ = Classifier(Broken()).activations
    with pytest.raises(InputError, match="fails on a blank image"):
        _ = Classifier(Broken()).settings


# ---- what people do to networks


def small(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_weights_made_in_inference_mode_are_one_sentence_and_left_alone() -> None:
    with torch.inference_mode():
        network = small()
    with pytest.raises(InputError, match="made inside torch.inference_mode.*make it outside"):
        explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")
    assert all(each.requires_grad for each in network.parameters())


def test_buffers_that_a_network_writes_are_put_back() -> None:
    class Observer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            self.largest.copy_(torch.maximum(self.largest, values.detach().abs().max()))
            return values

    network = small(Observer())
    explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")
    assert network[2].largest == 0


class Rebinding(nn.Module):
    """Counts as some do, with a new tensor each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return values


@pytest.mark.parametrize("counter", [Rebinding, PerChannelMinMaxObserver])
def test_buffers_that_a_network_replaces_or_lets_grow_are_put_back(counter) -> None:
    network = small(counter())
    before = {name: (each, each.clone()) for name, each in network.named_buffers()}
    explain(network, torch.rand(1, 3, 8, 8), 1, method="gradient")
    after = dict(network.named_buffers())
    assert before.keys() == after.keys() and all(each.requires_grad for each in network.parameters())
    assert all(after[name] is each and torch.equal(each, value) for name, (each, value) in before.items())


def test_a_gate_of_one_number_an_image_is_an_activation() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.gate = small(), nn.Linear(5, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores = self.inner(images)
            return scores * nn.functional.softplus(self.gate(scores).squeeze(1))[:, None]

    network, images = Gated(), torch.rand(2, 3, 8, 8)
    assert perceptual_ball(network, images, 1, layers=(0, 1), max_iter=3).delta.isfinite().all()
    assert relative_changes(network, images, 0.1 * images).shape == (2, 2)


def test_a_module_whose_call_passes_hooks_by_is_traced() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward(images)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.inner[2:](self.inner[0](images).relu())

    assert perceptual_ball(Direct(), torch.rand(1, 3, 8, 8), 1, layers=0, max_iter=2).delta.isfinite().all()


def test_changes_of_a_network_without_activations_are_one_sentence() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with pytest.raises(InputError, match="no activation of the network is seen"):
        relative_changes(network, torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2))


def test_a_first_parameter_of_integers_a_narrow_grey_image_and_numbers_of_numpy() -> None:
    network = small()
    network[0] = nn.Conv2d(1, 4, 3)
    network.order = nn.Parameter(torch.arange(5), requires_grad=False)
    assert next(network.parameters()).dtype == torch.int64
    images = torch.rand(4, 1, 8, 3)
    settings = {"layers": 0, "max_iter": 2}
    found = perceptual_ball(network, images, 1, batch_size=np.int64(3), **settings).delta
    torch.testing.assert_close(found, perceptual_ball(network, images, 1, batch_size=3, **settings).delta)
    assert explain(network, images, 1, method="rise", samples=3, batch_size=np.int64(2)).shape == (4, 8, 3)
    assert len(Classifier(network, input_size=(8, 3), mean=[0.5], std=[0.5]).activations) == 1


def test_torchs_default_device_is_not_ours() -> None:
    network, images = small(), torch.rand(1, 3, 8, 8)
    for method, settings in {"rise": {"samples": 4}, "smoothgrad": {"samples": 2}}.items():
        expected = explain(network, images, 1, method=method, **settings)
        with torch.device("meta"):
            assert torch.equal(explain(network, images, 1, method=method, **settings), expected)
